"""From labelled fields to a model's folder: fit, calibrate, learn what is known, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from allq.classes import CLASSES
from allq.errors import UsageError
from allq.version import __version__
from imaging.parameters import RIM, QualityParameters, SegmentationParameters
from models.architectures.network import FieldNetwork, Network, to_eight_bit
from models.architectures.registry import seen_by
from models.artefact import Model, ModelConfiguration, NoveltyRule, Provenance, SlideRule, write
from models.augment import Augmentation
from models.card import card
from models.data import LabelledField, fingerprint, read_labelled, split_folds
from models.engines.base import NetworkOutput, join
from models.engines.torch import pack
from models.fit import fit_network
from models.flags import flags
from models.heldout import Calibration, HeldOut, calibrate, cautious, cross_calibrate, stored
from models.leukocytes import margins
from models.novelty import Novelty, fit_novelty
from models.options import Progress, TrainOptions, silent
from models.predictions import from_held_out
from models.report import summarise
from models.scenes import Shares
from models.views import Views, view_all

_LEVEL_FIELDS: Final = 64
"""Fields that set the levels of the network that screens."""


def train(data: Path, out: Path, options: TrainOptions, progress: Progress = silent) -> Model:
    """Train a model on the labelled folder `data` and write it to the folder `out`.

    Stopped and called again with the same data and options, it goes on after its last whole epoch. Raises UsageError
    when the data or the calibration can't be used, ModelError when ImageNet weights are wanted and aren't installed.
    """
    fields = read_labelled(data, options.groups)
    labels = np.array([field.label for field in fields])
    if missing := [name for number, name in enumerate(CLASSES) if not (labels == number).any()]:
        raise UsageError(f"{data} has no images of {', '.join(missing)}: a model needs all classes.")
    held_out = None
    if options.calibration is not None:
        held_out = stored(options.calibration, fingerprint(fields), options.architecture)
    if held_out is None:
        folds = max(2, round(1 / options.holdout))
        chosen = split_folds(fields, protocol="group", folds=folds, seed=options.seed)[0]
    views = view_all(fields, progress=progress)
    inside = np.arange(len(fields)) if held_out is not None else chosen.train
    work = options.work or out.with_name(f"{out.name}.work")
    known = [fields[index] for index in inside]
    network = fit_network(
        views.take(inside), known, options, checkpoint=work / "network.pt", progress=progress, stage="training"
    )
    network = as_stored(network, views.take(inside), options)
    novelty = learn_known(network, views.take(inside), known, options, progress)
    threshold = 1.0
    if held_out is None:
        held_out = hold_out(
            network,
            novelty,
            fields=fields,
            views=views,
            test=chosen.test,
            fold=0,
            options=options,
            progress=progress,
        )
        # A network has seen its training fields: where early blocks were trained too, new fields lie further off.
        threshold = max(threshold, float(np.quantile(held_out.novelty, 1 - NoveltyRule().share)))
        held_out = replace(held_out, novelty_threshold=np.full(len(held_out.labels), threshold, np.float32))
    return write_model(
        out,
        network,
        novelty,
        fields,
        options,
        calibration=calibrate(held_out),
        data=data.name,
        novel=threshold,
        metrics=_metrics(held_out),
    )


def write_model(
    out: Path,
    network: FieldNetwork,
    novelty: Novelty,
    fields: Sequence[LabelledField],
    options: TrainOptions,
    *,
    calibration: Calibration,
    data: str,
    novel: float = 1.0,
    metrics: dict[str, Any] | None = None,
) -> Model:
    """Write a trained network to the folder `out` as a model with this calibration; `fields` are what it comes from."""
    configuration = _configuration(
        options,
        calibration=calibration,
        novel=novel,
        provenance=Provenance(
            data=data,
            fingerprint=fingerprint(fields),
            fields=len(fields),
            groups=len({field.group for field in fields}),
            training=_recorded(options),
        ),
        metrics=metrics or {},
    )
    text = card(configuration) if metrics else ""
    return write(out, configuration, {**pack(network), **novelty.arrays()}, text)


def as_stored(network: FieldNetwork, views: Views, options: TrainOptions) -> FieldNetwork:
    """The network as it is stored and screens, so that all that is fitted next sees it so.

    On 256 levels, set by some of the fields it was trained on, where it has a blueprint; else with its convolutions
    rounded to half precision.
    """
    if not isinstance(network, Network):
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.copy_(parameter.half().float())
        return network
    chosen = np.unique(np.linspace(0, len(views.pixels) - 1, _LEVEL_FIELDS).astype(int)).tolist()
    cells, whole = (network.scale(torch.from_numpy(view)) for view in views.shown(chosen, options.sizes))
    return to_eight_bit(network, cells, whole)


def look_through(
    network: FieldNetwork, views: Views, options: TrainOptions, progress: Progress, stage: str
) -> NetworkOutput:
    """Run fields through the network, without augmentation."""
    outputs: list[NetworkOutput] = []
    count = len(views.pixels)
    with torch.inference_mode():
        for start in range(0, count, 32):
            part = range(start, min(start + 32, count))
            output = network(*(network.scale(torch.from_numpy(view)) for view in views.shown(part, options.sizes)))
            outputs.append(
                NetworkOutput(
                    logits=output.logits.numpy(),
                    embeddings=output.embedding.numpy(),
                    class_maps=tuple(maps.numpy() for maps in output.class_maps),
                    views=output.views.numpy(),
                )
            )
            progress(stage, part.stop, count)
    return join(outputs)


def learn_known(
    network: FieldNetwork, views: Views, fields: Sequence[LabelledField], options: TrainOptions, progress: Progress
) -> Novelty:
    """The novelty statistics of the training fields."""
    rule = NoveltyRule()
    return fit_novelty(
        describe(network, views, options, progress),
        [field.group for field in fields],
        np.array([field.label > 0 for field in fields]).astype(int),
        neighbours=rule.neighbours,
        share=rule.share,
    )


def describe(network: FieldNetwork, views: Views, options: TrainOptions, progress: Progress) -> NDArray[np.float32]:
    """The embeddings (N, D) of the fields."""
    found: list[NDArray[np.float32]] = []
    count = len(views.pixels)
    with torch.inference_mode():
        for start in range(0, count, 64):
            part = range(start, min(start + 64, count))
            _, whole = views.shown(part, options.sizes)
            found.append(network.describe(network.scale(torch.from_numpy(whole))).numpy())
            progress("learning what is known", part.stop, count)
    return np.concatenate(found)


def hold_out(
    network: FieldNetwork,
    novelty: Novelty,
    *,
    fields: Sequence[LabelledField],
    views: Views,
    test: NDArray[np.intp],
    fold: int,
    options: TrainOptions,
    progress: Progress,
) -> HeldOut:
    """What the network says of the fields `test`, which it was not trained on."""
    seen = views.take(test)
    output = look_through(network, seen, options, progress, "held-out fields")
    chosen = [fields[index] for index in test]
    found = [margins(output.maps(index), nuclei) for index, nuclei in enumerate(seen.nuclei)]
    leukocytes = np.array([len(nuclei) for nuclei in seen.nuclei])
    sides = np.where(leukocytes > 0, output.logits.argmax(axis=1) > 0, -1)
    return HeldOut(
        fingerprint=fingerprint(fields),
        architecture=options.architecture,
        files=np.array([field.file for field in chosen]),
        groups=np.array([field.group for field in chosen]),
        streams=np.array([field.stream for field in chosen]),
        labels=np.array([field.label for field in chosen]),
        folds=np.full(len(chosen), fold),
        logits=output.logits,
        views=output.views,
        novelty=novelty.score(output.embeddings, sides),
        novelty_threshold=np.ones(len(chosen), np.float32),
        quality=np.array([" ".join(flags) for flags in seen.quality]),
        leukocytes=leukocytes,
        margins=np.concatenate(found).astype(np.float32),
    )


def _metrics(held_out: HeldOut) -> dict[str, Any]:
    """Of fields held out: with folds, each calibrated on the others."""
    several = len(np.unique(held_out.folds)) > 1
    parts = list(cross_calibrate(held_out)) if several else [(np.arange(len(held_out.labels)), calibrate(held_out))]
    how = (
        f"{len(parts)} folds by group, each calibrated on the others"
        if several
        else (
            "groups kept from training; temperature and thresholds were set on them, so calibration and flags are a "
            "little on the good side"
        )
    )
    rule = cautious(calibration for _, calibration in parts)
    return {"how": how, **summarise(from_held_out(held_out, parts), resamplings=1000, seed=0, rule=rule)}


def _configuration(
    options: TrainOptions,
    *,
    calibration: Calibration,
    novel: float,
    provenance: Provenance,
    metrics: dict[str, Any],
) -> ModelConfiguration:
    described = seen_by(options.architecture)
    quality = QualityParameters()
    return ModelConfiguration(
        name=options.name,
        architecture=options.architecture,
        classes=CLASSES,
        input_sizes=options.sizes,
        rim=RIM,
        mean=described.mean,
        deviation=described.deviation,
        temperature=calibration.temperature,
        leukocyte=calibration.leukocyte,
        novelty=NoveltyRule(),
        slide=replace(SlideRule(), false_suspect_share=calibration.false_suspect_share),
        flags=flags(novel=novel, uncertain=calibration.uncertain, quality=quality),
        segmentation=SegmentationParameters(),
        quality=quality,
        synthetic=options.synthetic,
        provenance=provenance,
        metrics=metrics,
        code_version=__version__,
        weights_sha256="",
    )


def _recorded(options: TrainOptions) -> dict[str, Any]:
    """The options without the paths and the threads of this machine, and what is drawn in training."""
    chosen = {
        name: value
        for name, value in asdict(replace(options, input_sizes=options.sizes)).items()
        if name not in {"groups", "calibration", "work", "threads"}
    }
    return {**chosen, "augmentation": asdict(Augmentation()), "scenes": asdict(Shares())}
