"""From labelled fields to a model's folder: fit, calibrate, learn what is known, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allq.classes import CLASSES
from allq.errors import UsageError
from allq.version import __version__
from imaging.parameters import QualityParameters, SegmentationParameters
from models.architectures.network import Network
from models.architectures.registry import blueprint
from models.artefact import Model, ModelConfiguration, NoveltyRule, Provenance, SlideRule, write
from models.card import card
from models.data import LabelledField, fingerprint, load_pixels, read_labelled, split_folds
from models.engines.base import NetworkOutput, join
from models.engines.torch import pack
from models.fit import fit_network
from models.flags import flags
from models.heldout import Calibration, HeldOut, calibrate, cross_calibrate, stored
from models.inputs import to_input
from models.leukocytes import margins
from models.looks import Look, look_at
from models.novelty import Novelty, fit_novelty
from models.options import Progress, TrainOptions, silent
from models.predictions import from_held_out
from models.report import summarise


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
    looks: list[Look] = []
    if held_out is None:
        folds = max(2, round(1 / options.holdout))
        chosen = split_folds(fields, protocol="group", folds=folds, seed=options.seed)[0]
        looks = look_at(fields, segmentation=SegmentationParameters(), quality=QualityParameters(), progress=progress)
    pixels = load_pixels(fields, progress=progress)
    inside = np.arange(len(fields)) if held_out is not None else chosen.train
    work = options.work or out.with_name(f"{out.name}.work")
    network = fit_network(
        pixels[inside], labels[inside], options, checkpoint=work / "network.pt", progress=progress, stage="training"
    )
    halve(network)
    novelty, threshold = learn_known(network, pixels[inside], [fields[index] for index in inside], options, progress)
    if held_out is None:
        held_out = hold_out(
            network,
            novelty,
            threshold,
            fields=fields,
            pixels=pixels,
            looks=looks,
            test=chosen.test,
            fold=0,
            options=options,
            progress=progress,
        )
        # A network has seen its training fields: where early blocks were trained too, new fields lie further off.
        threshold = max(threshold, float(np.quantile(held_out.novelty, 1 - novelty_rule(options).share)))
        held_out = replace(held_out, novelty_threshold=np.full(len(held_out.labels), threshold, np.float32))
    configuration = _configuration(
        options,
        calibration=calibrate(held_out),
        novel=threshold,
        provenance=Provenance(
            data=data.name,
            fingerprint=fingerprint(fields),
            fields=len(fields),
            groups=len({field.group for field in fields}),
            training=_recorded(options),
        ),
        metrics=_metrics(held_out),
    )
    return write(out, configuration, {**pack(network), **novelty.arrays()}, card(configuration))


def halve(network: Network) -> None:
    """Round the convolutions to half precision, as they are stored: what is fitted next sees the stored network."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.half().float())


def look_through(
    network: Network, pixels: NDArray[np.uint8], side: int, progress: Progress, stage: str
) -> NetworkOutput:
    """Run fields RGB uint8 (N, H, W, 3) through the network, without augmentation."""
    outputs: list[NetworkOutput] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 32):
            inputs = np.stack([to_input(field, side) for field in pixels[start : start + 32]])
            output = network(network.scale(torch.from_numpy(inputs)))
            outputs.append(
                NetworkOutput(
                    logits=output.logits.numpy(),
                    embeddings=output.embedding.numpy(),
                    class_maps=output.class_maps.numpy(),
                )
            )
            progress(stage, min(start + 32, len(pixels)), len(pixels))
    return join(outputs)


def learn_known(
    network: Network,
    pixels: NDArray[np.uint8],
    fields: Sequence[LabelledField],
    options: TrainOptions,
    progress: Progress,
) -> tuple[Novelty, float]:
    """The novelty statistics of the training fields, and the threshold of the flag `novel`."""
    output = look_through(network, pixels, options.input_size, progress, "learning what is known")
    rule = novelty_rule(options)
    return fit_novelty(
        output.embeddings,
        [field.group for field in fields],
        dimensions=rule.dimensions,
        neighbours=rule.neighbours,
        share=rule.share,
    )


def hold_out(
    network: Network,
    novelty: Novelty,
    threshold: float,
    *,
    fields: Sequence[LabelledField],
    pixels: NDArray[np.uint8],
    looks: Sequence[Look],
    test: NDArray[np.intp],
    fold: int,
    options: TrainOptions,
    progress: Progress,
) -> HeldOut:
    """What the network says of the fields `test`, which it was not trained on."""
    output = look_through(network, pixels[test], options.input_size, progress, "held-out fields")
    chosen = [fields[index] for index in test]
    seen = [looks[index] for index in test]
    found = [margins(maps, look.nuclei) for maps, look in zip(output.class_maps, seen, strict=True)]
    return HeldOut(
        fingerprint=fingerprint(fields),
        architecture=options.architecture,
        files=np.array([field.file for field in chosen]),
        groups=np.array([field.group for field in chosen]),
        streams=np.array([field.stream for field in chosen]),
        labels=np.array([field.label for field in chosen]),
        folds=np.full(len(chosen), fold),
        logits=output.logits,
        novelty=novelty.score(output.embeddings),
        novelty_threshold=np.full(len(chosen), threshold, np.float32),
        quality=np.array([" ".join(look.quality) for look in seen]),
        leukocytes=np.array([len(look.nuclei) for look in seen]),
        margins=np.concatenate(found).astype(np.float32),
    )


def novelty_rule(options: TrainOptions) -> NoveltyRule:
    """How a model trained so tells what is new."""
    return NoveltyRule(dimensions=blueprint(options.architecture).known_by)


def _metrics(held_out: HeldOut) -> dict[str, Any]:
    """Of fields held out: with folds, each calibrated on the others."""
    several = len(np.unique(held_out.folds)) > 1
    parts = list(cross_calibrate(held_out)) if several else [(np.arange(len(held_out.labels)), calibrate(held_out))]
    how = f"{len(parts)} folds by group, each calibrated on the others" if several else "groups kept from training"
    return {"how": how, **summarise(from_held_out(held_out, parts), resamplings=1000, seed=0)}


def _configuration(
    options: TrainOptions,
    *,
    calibration: Calibration,
    novel: float,
    provenance: Provenance,
    metrics: dict[str, Any],
) -> ModelConfiguration:
    described = blueprint(options.architecture)
    quality = QualityParameters()
    return ModelConfiguration(
        name=options.name,
        architecture=options.architecture,
        classes=CLASSES,
        input_size=options.input_size,
        mean=described.mean,
        deviation=described.deviation,
        temperature=calibration.temperature,
        leukocyte=calibration.leukocyte,
        novelty=novelty_rule(options),
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
    """The options without the paths and the threads of this machine."""
    return {
        name: value
        for name, value in asdict(options).items()
        if name not in {"groups", "calibration", "work", "threads"}
    }
