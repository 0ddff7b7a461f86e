"""One network for each fold, and what it says of the fields that its fold left out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allq.errors import UsageError
from allq.settings import Settings
from models.architectures.network import FieldNetwork
from models.classifier import Classifier
from models.data import WITHOUT, Fold, LabelledField, split_folds
from models.fit import fit_network
from models.heldout import HELD_OUT, Calibration, HeldOut, join
from models.interventions import Outcome, intervene, join_outcomes, remove_suspects, subjects, weighted
from models.novelty import Novelty
from models.options import EvaluateOptions, Progress, TrainOptions
from models.train import as_stored, hold_out, learn_known, write_model
from models.views import view_all


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRun:
    """The networks of all folds, and what each says of the fields that it was not trained on."""

    held_out: HeldOut
    folds: list[Fold]
    networks: list[tuple[FieldNetwork, Novelty]]
    training: TrainOptions

    @property
    def names(self) -> list[str]:
        """Of the folds."""
        return [fold.name for fold in self.folds]


def run_folds(fields: Sequence[LabelledField], options: EvaluateOptions, progress: Progress) -> FoldRun:
    """Train a network for each fold; held-out output is written to the work folder as `held-out.npz`."""
    folds = split_folds(fields, protocol=options.protocol, folds=options.folds, seed=options.seed)
    if options.only:
        folds = [fold for fold in folds if fold.name.removeprefix(WITHOUT) in options.only]
        if len(folds) < len(set(options.only)):
            raise UsageError(f"There is no stream of that name: {', '.join(options.only)}.")
    work = (options.work or Path("allq-evaluation")) / f"{options.protocol}-seed{options.seed}"
    training = replace(options.training, seed=options.seed)
    views = view_all(fields, progress=progress)
    parts: list[HeldOut] = []
    networks: list[tuple[FieldNetwork, Novelty]] = []
    for number, fold in enumerate(folds):
        stage = f"fold {fold.name}"
        known = [fields[index] for index in fold.train]
        network = fit_network(
            views.take(fold.train),
            known,
            training,
            checkpoint=work / f"{fold.name.replace(' ', '-')}.pt",
            progress=progress,
            stage=f"{stage}: training",
        )
        network = as_stored(network, views.take(fold.train), training)
        novelty = learn_known(network, views.take(fold.train), known, training, progress)
        networks.append((network, novelty))
        parts.append(
            hold_out(
                network,
                novelty,
                fields=fields,
                views=views,
                test=fold.test,
                fold=number,
                options=training,
                progress=progress,
            )
        )
    held_out = join(parts)
    held_out.save(work / HELD_OUT)
    return FoldRun(held_out=held_out, folds=folds, networks=networks, training=training)


def intervene_in_folds(
    run: FoldRun,
    fields: Sequence[LabelledField],
    calibrations: Sequence[tuple[NDArray[np.intp], Calibration]],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Change the fields that each fold left out, and ask its network again: see `models.interventions`."""
    outcomes: dict[str, list[Outcome]] = {}
    suspects: list[dict[str, dict[str, float | int]]] = []
    with tempfile.TemporaryDirectory() as place:
        for number, (fold, (network, novelty), (_, calibration)) in enumerate(
            zip(run.folds, run.networks, calibrations, strict=True)
        ):
            model = write_model(
                Path(place) / f"fold{number}",
                network,
                novelty,
                fields,
                run.training,
                calibration=calibration,
                data=fold.name,
            )
            classifier = Classifier.load(model, settings)
            changed = subjects(classifier, [fields[index] for index in fold.test], progress)
            for name, outcome in intervene(classifier, changed, changed, progress).items():
                outcomes.setdefault(name, []).append(outcome)
            suspects.append(remove_suspects(classifier, changed, progress))
    return {
        "interventions": {name: join_outcomes(parts).as_json() for name, parts in outcomes.items()},
        "removed_suspects": weighted(suspects),
    }
