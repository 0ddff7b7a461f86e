"""One network for each fold, and what it says of the fields that its fold left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from imaging.parameters import QualityParameters, SegmentationParameters
from models.data import LabelledField, load_pixels, split_folds
from models.fit import fit_network
from models.heldout import HELD_OUT, HeldOut, join
from models.looks import look_at
from models.options import EvaluateOptions, Progress
from models.train import halve, hold_out, learn_known


def run_folds(
    fields: Sequence[LabelledField], options: EvaluateOptions, progress: Progress
) -> tuple[HeldOut, list[str]]:
    """The held-out output of every field, and the folds' names; written to the work folder as `held-out.npz`."""
    folds = split_folds(fields, protocol=options.protocol, folds=options.folds, seed=options.seed)
    work = (options.work or Path("allq-evaluation")) / f"{options.protocol}-seed{options.seed}"
    training = replace(options.training, seed=options.seed)
    looks = look_at(fields, segmentation=SegmentationParameters(), quality=QualityParameters(), progress=progress)
    pixels = load_pixels(fields, progress=progress)
    labels = np.array([field.label for field in fields])
    parts: list[HeldOut] = []
    for number, fold in enumerate(folds):
        stage = f"fold {fold.name}"
        network = fit_network(
            pixels[fold.train],
            labels[fold.train],
            training,
            checkpoint=work / f"fold{number}.pt",
            progress=progress,
            stage=f"{stage}: training",
        )
        halve(network)
        novelty, threshold = learn_known(
            network, pixels[fold.train], [fields[index] for index in fold.train], training, progress
        )
        parts.append(
            hold_out(
                network,
                novelty,
                threshold,
                fields=fields,
                pixels=pixels,
                looks=looks,
                test=fold.test,
                fold=number,
                options=training,
                progress=progress,
            )
        )
    held_out = join(parts)
    held_out.save(work / HELD_OUT)
    return held_out, [fold.name for fold in folds]
