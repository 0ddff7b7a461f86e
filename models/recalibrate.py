"""A model fitted to another laboratory's labelled fields without training: the weights stay as they are.

Temperature, thresholds and leukocyte rule are fitted to the new fields; the looks of the new fields join those that the
model knows, and the levels of novelty are set so that both are known.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np

from allq.errors import UsageError
from allq.settings import Settings
from allq.version import __version__
from models.artefact import Model, Provenance, find, write
from models.calibration import softmax
from models.card import card
from models.classifier import Classifier, PreparedField
from models.data import LabelledField, fingerprint, read_labelled, read_pixels, split_folds
from models.engines.base import NetworkOutput, join
from models.flags import flags
from models.heldout import HeldOut, calibrate, cautious, cross_calibrate
from models.leukocytes import margins
from models.novelty import Novelty
from models.options import Progress, silent
from models.predictions import from_held_out
from models.report import summarise

LEAST_FIELDS: Final = 50
"""Fewer say too little of how often a probability is right."""

_LEAST_GROUPS: Final = 3


def recalibrate(
    data: Path,
    out: Path,
    *,
    name: str,
    settings: Settings,
    model: str | None = None,
    groups: Path | None = None,
    progress: Progress = silent,
) -> Model:
    """Fit `model` (None: ALLQ_MODEL or the default) to the labelled folder `data`; write the result to `out`.

    The figures on its card come from parts of the groups, each calibrated on the others. Raises UsageError when there
    are too few fields or groups, or no benign ones.
    """
    fields = read_labelled(data, groups)
    count = len({field.group for field in fields})
    if len(fields) < LEAST_FIELDS or count < _LEAST_GROUPS:
        raise UsageError(
            f"{data} has {len(fields)} images in {count} groups: {LEAST_FIELDS} in {_LEAST_GROUPS} are needed at least."
        )
    labels = np.array([field.label for field in fields])
    if (labels > 0).all() or (labels == 0).all():
        raise UsageError(f"{data} has only one side of benign and ALL: both are needed to calibrate.")
    original = find(settings, model)
    classifier = Classifier.load(original, settings)
    output, prepared = _look(classifier, fields, progress)
    known = Novelty.from_arrays(original.arrays(), neighbours=original.configuration.novelty.neighbours)
    novelty = known.extended(
        output.embeddings,
        [field.group for field in fields],
        (labels > 0).astype(int),
        share=original.configuration.novelty.share,
    )
    held_out = _held_out(original, fields, output, prepared, novelty)
    fitted = calibrate(held_out)
    parts = list(cross_calibrate(held_out))
    rule = cautious(calibration for _, calibration in parts)
    metrics = {
        "how": f"{held_out.folds.max() + 1} parts by group, each calibrated on the others; "
        "the novelty statistics know them all",
        **summarise(from_held_out(held_out, parts), resamplings=1000, seed=0, rule=rule),
    }
    before = original.configuration
    configuration = replace(
        before,
        name=name,
        temperature=fitted.temperature,
        leukocyte=fitted.leukocyte,
        slide=replace(before.slide, false_suspect_share=fitted.false_suspect_share),
        flags=flags(novel=1.0, uncertain=fitted.uncertain, quality=before.quality),
        provenance=Provenance(
            data=data.name,
            fingerprint=fingerprint(fields),
            fields=len(fields),
            groups=count,
            training={
                "calibrated from": f"{original.name} {original.id}",
                "trained on": before.provenance.fingerprint,
                **asdict(before)["provenance"]["training"],
            },
        ),
        metrics=metrics,
        code_version=__version__,
    )
    return write(out, configuration, {**original.arrays(), **novelty.arrays()}, card(configuration))


def _look(
    classifier: Classifier, fields: list[LabelledField], progress: Progress
) -> tuple[NetworkOutput, list[PreparedField]]:
    outputs: list[NetworkOutput] = []
    everything: list[PreparedField] = []
    for start in range(0, len(fields), 32):
        prepared = [
            classifier.prepare(read_pixels(field, classifier.decode_side)) for field in fields[start : start + 32]
        ]
        outputs.append(classifier.infer(prepared))
        everything += prepared
        progress("classifying", len(everything), len(fields))
    return join(outputs), everything


def _held_out(
    model: Model,
    fields: list[LabelledField],
    output: NetworkOutput,
    prepared: list[PreparedField],
    novelty: Novelty,
) -> HeldOut:
    leukocytes = np.array([len(field.nuclei) for field in prepared])
    calls = softmax(output.logits).argmax(axis=1)
    parts = np.zeros(len(fields), int)
    groups = len({field.group for field in fields})
    for number, fold in enumerate(split_folds(fields, protocol="group", folds=min(5, groups), seed=0)):
        parts[fold.test] = number
    found = [margins(output.maps(index), field.nuclei) for index, field in enumerate(prepared)]
    return HeldOut(
        fingerprint=fingerprint(fields),
        architecture=model.configuration.architecture,
        files=np.array([field.file for field in fields]),
        groups=np.array([field.group for field in fields]),
        streams=np.array([field.stream for field in fields]),
        labels=np.array([field.label for field in fields]),
        folds=parts,
        logits=output.logits,
        views=output.views,
        novelty=novelty.score(output.embeddings, np.where(leukocytes > 0, calls > 0, -1)),
        novelty_threshold=np.ones(len(fields), np.float32),
        quality=np.array([" ".join(field.quality.flags) for field in prepared]),
        leukocytes=leukocytes,
        margins=np.concatenate(found).astype(np.float32),
    )
