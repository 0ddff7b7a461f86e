"""How good a way of training, or a finished model, is on fields it has not seen."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allq.settings import Settings, current
from allq.version import __version__
from models.artefact import SlideRule, find
from models.classifier import Assessment, Classifier
from models.data import LabelledField, fingerprint, read_labelled, read_pixels
from models.heldout import Calibration, HeldOut, calibrate, cautious, cross_calibrate, stored
from models.interventions import intervene, remove_suspects, subjects
from models.options import EvaluateOptions, Progress, silent
from models.predictions import Predictions, from_assessments, from_held_out
from models.report import Report, part_figures, summarise


def evaluate(
    data: Path, options: EvaluateOptions, progress: Progress = silent, *, settings: Settings | None = None
) -> Report:
    """Evaluate on the labelled folder `data`.

    `random`, `group` and `stream` train a network for each fold and look at the fields it left out; stopped and called
    again they go on where they were. `folder` asks a finished model. Raises UsageError and ModelError.
    """
    fields = read_labelled(data, options.groups)
    if options.protocol == "folder":
        return _of_model(data, fields, options, progress, settings or current())
    # Only these protocols train: a finished model is evaluated without torch.
    from models.folds import intervene_in_folds, run_folds  # noqa: PLC0415

    run = run_folds(fields, options, progress)
    held_out, names = run.held_out, run.names
    calibrations = _calibrations(held_out, options)
    predictions = from_held_out(held_out, calibrations)
    changed: dict[str, Any] = {}
    if options.interventions and options.protocol == "group":
        changed = intervene_in_folds(run, fields, calibrations, settings or current(), progress)
    return _report(
        predictions,
        options,
        about={
            "data": data.name,
            "fingerprint": held_out.fingerprint,
            "folds": len(names),
            **({"streams left out": ", ".join(options.only)} if options.only else {}),
            "seed": options.seed,
            "code_version": __version__,
            "calibrated": _how_calibrated(options, len(names)),
            "training": _recorded(options),
        },
        parts={name: np.flatnonzero(held_out.folds == number) for number, name in enumerate(names)},
        changed=changed,
        rule=cautious(calibration for _, calibration in calibrations),
    )


def _of_model(
    data: Path, fields: list[LabelledField], options: EvaluateOptions, progress: Progress, settings: Settings
) -> Report:
    classifier = Classifier.load(find(settings, options.model), settings)
    assessments: list[Assessment] = []
    for start in range(0, len(fields), settings.inference_batch):
        prepared = [
            classifier.prepare(read_pixels(field, classifier.decode_side))
            for field in fields[start : start + settings.inference_batch]
        ]
        assessments += classifier.classify(prepared)
        progress("classifying", len(assessments), len(fields))
    predictions = from_assessments(fields, assessments)
    changed: dict[str, Any] = {}
    if options.interventions:
        found = subjects(classifier, fields, progress)
        outcomes = intervene(classifier, found, found, progress)
        changed = {
            "interventions": {name: outcome.as_json() for name, outcome in outcomes.items()},
            "removed_suspects": remove_suspects(classifier, found, progress),
        }
    streams = sorted(set(predictions.streams.tolist()) - {""})
    content = fingerprint(fields)
    provenance = classifier.model.configuration.provenance
    return _report(
        predictions,
        options,
        about={
            "data": data.name,
            "fingerprint": content,
            "model": f"{classifier.model.name} {classifier.model.id[:12]}",
            "synthetic": classifier.model.configuration.synthetic,
            "exactly the data it was trained on": content == provenance.fingerprint,
            "engine": classifier.engine_name,
            "code_version": __version__,
        },
        parts={name: np.flatnonzero(predictions.streams == name) for name in streams},
        changed=changed,
        rule=classifier.model.configuration.slide,
    )


def _calibrations(held_out: HeldOut, options: EvaluateOptions) -> list[tuple[NDArray[np.intp], Calibration]]:
    """Each fold's calibration, fitted on the other folds.

    With a stream left out, the other left-out streams say nothing of the fields a network knows: there the calibration
    is that of an evaluation by group (`training.calibration`), without its fields of the stream, where one is given.
    """
    if options.protocol != "stream" or options.training.calibration is None:
        if options.protocol == "stream" and len(np.unique(held_out.folds)) == 1:
            # A stream alone has no other to be calibrated on, and not itself: then it is not calibrated at all.
            return [(np.arange(len(held_out.labels)), Calibration())]
        return list(cross_calibrate(held_out))
    by_group = stored(options.training.calibration, held_out.fingerprint, held_out.architecture)
    found = []
    for fold in np.unique(held_out.folds):
        inside = np.flatnonzero(held_out.folds == fold)
        known = np.flatnonzero(~np.isin(by_group.streams, held_out.streams[inside]))
        found.append((inside, calibrate(by_group.take(known))))
    return found


def _how_calibrated(options: EvaluateOptions, folds: int) -> str:
    if options.protocol != "stream":
        return "each fold on the others"
    if options.training.calibration is not None:
        return "on the fields held out by group, without the stream's own"
    return "each stream on the other left-out streams" if folds > 1 else "not at all: there is no other stream"


def _report(
    predictions: Predictions,
    options: EvaluateOptions,
    *,
    about: dict[str, Any],
    parts: dict[str, NDArray[np.intp]],
    changed: dict[str, Any],
    rule: SlideRule,
) -> Report:
    return Report(
        protocol=options.protocol,
        about=about,
        summary={**summarise(predictions, resamplings=options.bootstrap, seed=options.seed, rule=rule), **changed},
        parts=[part_figures(predictions, name, chosen) for name, chosen in parts.items()],
    )


def _recorded(options: EvaluateOptions) -> dict[str, Any]:
    from models.augment import Augmentation  # noqa: PLC0415  # with what trains, as above
    from models.scenes import Shares  # noqa: PLC0415

    ours = {"name", "groups", "calibration", "work", "threads", "holdout", "synthetic"}
    training = replace(options.training, input_sizes=options.training.sizes)
    return {
        **{name: value for name, value in asdict(training).items() if name not in ours},
        "augmentation": asdict(Augmentation()),
        "scenes": asdict(Shares()),
    }
