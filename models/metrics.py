"""Figures of merit of predictions. Pure numpy; a figure that can't be had (a class is missing) is NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.calibration import brier, expected_calibration_error
from models.predictions import Predictions

Confusion = NDArray[np.int_]


def confusion(labels: NDArray[np.int_], calls: NDArray[np.intp], classes: int) -> Confusion:
    """(classes, classes) counts: rows the truth, columns the call."""
    counts = np.zeros((classes, classes), dtype=np.int_)
    np.add.at(counts, (labels, calls), 1)
    return counts


def auroc(suspicion: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(suspicion, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def sensitivity_at(suspicion: NDArray[np.float64], positive: NDArray[np.bool_], *, specificity: float) -> float:
    """Share of positives above the lowest threshold that keeps at least `specificity` of the negatives below it."""
    negatives = np.sort(suspicion[~positive])
    if not len(negatives) or not positive.any():
        return float("nan")
    allowed = int(np.floor((1 - specificity) * len(negatives) + 1e-9))
    return float((suspicion[positive] > negatives[len(negatives) - 1 - allowed]).mean())


def figures(predictions: Predictions, chosen: NDArray[np.intp]) -> dict[str, float]:
    """Every figure that gets an interval, over the chosen fields (which may repeat)."""
    labels, probabilities = predictions.labels[chosen], predictions.probabilities[chosen]
    calls, flagged = probabilities.argmax(axis=1), predictions.flagged[chosen]
    suspect, called_suspect = labels > 0, calls > 0
    suspicion = 1 - probabilities[:, 0]
    wrong_side = suspect != called_suspect
    assessable = predictions.leukocytes[chosen] > 0
    return {
        "accuracy": _mean(calls == labels),
        "accuracy_unflagged": _mean((calls == labels)[~flagged]),
        "sides_right": _mean(~wrong_side),
        "sensitivity": _mean(called_suspect[suspect]),
        "specificity": _mean(~called_suspect[~suspect]),
        "sensitivity_at_99_specificity": sensitivity_at(suspicion, suspect, specificity=0.99),
        "auroc": auroc(suspicion, suspect),
        "ece": expected_calibration_error(probabilities.max(axis=1), calls == labels),
        "brier": brier(probabilities, labels),
        "flagged": _mean(flagged),
        "silent_errors": _mean(wrong_side & ~flagged),
        "missed_unflagged": _mean((wrong_side & suspect & ~flagged)[suspect]),
        "without_leukocytes": _mean(~assessable),
    }


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")


def share_interval(
    values: NDArray[np.bool_], groups: NDArray[np.str_], *, resamplings: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the share of `values` (N,) that are true, from resampling whole `groups` (N,)."""
    _, group = np.unique(groups, return_inverse=True)
    true, all_of_them = np.bincount(group, weights=values), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(len(true), size=(resamplings, len(true)))
    low, high = np.quantile(true[drawn].sum(1) / all_of_them[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def intervals(
    predictions: Predictions, *, resamplings: int, seed: int
) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Each figure with its 95 % interval, from resampling whole groups (fields of one group are not independent).

    None where a figure can't be had; an interval is None where most resamplings can't have it.
    """
    everything = np.arange(len(predictions.labels))
    values = figures(predictions, everything)
    _, group = np.unique(predictions.groups, return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamplings):
        chosen = np.concatenate([members[number] for number in random.integers(len(members), size=len(members))])
        for name, value in figures(predictions, chosen).items():
            if not np.isnan(value):
                drawn[name].append(value)
    found: dict[str, tuple[float | None, float | None, float | None]] = {}
    for name, value in values.items():
        sample = drawn[name]
        if np.isnan(value) or not sample or len(sample) < resamplings / 2:
            found[name] = (None if np.isnan(value) else value, None, None)
        else:
            low, high = np.quantile(sample, [0.025, 0.975])
            found[name] = (value, float(low), float(high))
    return found
