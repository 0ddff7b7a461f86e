"""Reports of an evaluation: JSON for machines, Markdown for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from allq.classes import CLASSES
from models.aggregate import apply_rule
from models.artefact import SlideRule
from models.metrics import confusion, figures, intervals, share_interval
from models.predictions import Predictions

FIGURES: Final = {
    "accuracy": "four-class accuracy",
    "accuracy_unflagged": "four-class accuracy of unflagged fields",
    "sides_right": "benign/ALL right",
    "sensitivity": "sensitivity, ALL against benign",
    "specificity": "specificity, ALL against benign",
    "sensitivity_at_99_specificity": "sensitivity at ≥ 99 % specificity",
    "auroc": "AUROC, ALL against benign",
    "ece": "expected calibration error (15 bins)",
    "brier": "Brier score (sum over classes)",
    "flagged": "fields flagged for a person",
    "silent_errors": "silent errors (benign/ALL wrong, not flagged)",
    "missed_unflagged": "ALL fields called benign and not flagged",
    "without_leukocytes": "fields in which no leukocyte was found",
}
_DRAWS: Final = 20
_PLAIN: Final = frozenset({"auroc", "ece", "brier"})
"""Figures that aren't shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an evaluation found."""

    protocol: str
    about: Mapping[str, Any]
    """data, fingerprint, model or training options, folds, seed"""
    summary: Mapping[str, Any]
    """as made by `summarise`"""
    parts: Sequence[Mapping[str, Any]] = ()
    """of each fold or stream: name, fields and figures"""

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready document."""
        return {
            "protocol": self.protocol,
            "about": dict(self.about),
            **dict(self.summary),
            "parts": [dict(part) for part in self.parts],
        }

    def as_markdown(self) -> str:
        """The same for people."""
        return "\n".join(_markdown(self)) + "\n"


def summarise(
    predictions: Predictions,
    *,
    resamplings: int,
    seed: int,
    classes: Sequence[str] = CLASSES,
    rule: SlideRule,
) -> dict[str, Any]:
    """Figures with intervals, confusion, classes, flags, and slide calls of groups taken as slides."""
    counts = confusion(predictions.labels, predictions.calls, len(classes))
    return {
        "fields": len(predictions.labels),
        "groups": len(np.unique(predictions.groups)),
        "figures": {
            name: {"value": value, "low": low, "high": high}
            for name, (value, low, high) in intervals(predictions, resamplings=resamplings, seed=seed).items()
        },
        "confusion": {
            truth: dict(zip(classes, row.tolist(), strict=True)) for truth, row in zip(classes, counts, strict=True)
        },
        "classes": {
            name: {
                "fields": int(counts[number].sum()),
                "recall": _ratio(int(counts[number, number]), int(counts[number].sum())),
                "precision": _ratio(int(counts[number, number]), int(counts[:, number].sum())),
            }
            for number, name in enumerate(classes)
        },
        "flags": _flags(predictions),
        "leukocytes": _leukocytes(predictions),
        "pseudo_slides": _pseudo_slides(predictions, classes, rule),
        "half_slides": _pseudo_slides(predictions, classes, rule, draws=_DRAWS, seed=seed),
    }


def part_figures(predictions: Predictions, name: str, chosen: np.ndarray[Any, np.dtype[np.intp]]) -> dict[str, Any]:
    """A fold or a stream by itself; with an interval for its silent errors, where it has several groups."""
    values = figures(predictions, chosen)
    silent = ((predictions.calls > 0) != (predictions.labels > 0)) & ~predictions.flagged
    return {
        "name": name,
        "fields": len(chosen),
        **{key: None if np.isnan(value) else value for key, value in values.items()},
        "silent_errors_interval": share_interval(silent[chosen], predictions.groups[chosen]),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _flags(predictions: Predictions) -> dict[str, dict[str, float | int]]:
    """Rate and yield of each flag: how many fields carry it, and how many of those would be called wrongly."""
    wrong = predictions.calls != predictions.labels
    names = sorted({flag for flags in predictions.flags for flag in flags})
    found: dict[str, dict[str, float | int]] = {}
    for name in names:
        has = np.array([name in flags for flags in predictions.flags])
        found[name] = {"fields": int(has.sum()), "share": float(has.mean()), "errors_caught": int((has & wrong).sum())}
    return found


def _leukocytes(predictions: Predictions) -> dict[str, float | int | None]:
    seen = predictions.leukocytes > 0
    field = 1 - predictions.probabilities[seen, 0]
    mean = predictions.mean_suspicion[seen]
    varied = len(field) > 1 and float(field.std()) > 0 and float(mean.std()) > 0
    return {
        "leukocytes": int(predictions.leukocytes.sum()),
        "suspects": int(predictions.suspects.sum()),
        "correlation_with_field": float(np.corrcoef(field, mean)[0, 1]) if varied else None,
        "mean_gap_to_field": float(np.abs(field - mean).mean()) if len(field) else None,
    }


def _pseudo_slides(
    predictions: Predictions, classes: Sequence[str], rule: SlideRule, *, draws: int = 0, seed: int = 0
) -> dict[str, dict[str, int]]:
    """Slide calls of groups taken as slides, counted by the group's class; groups of several classes left out.

    With `draws`, each group gives so many slides of half of its fields, drawn at random.
    """
    random = np.random.default_rng(seed)
    calls: dict[str, Counter[str]] = {}
    for group in np.unique(predictions.groups):
        whole = np.flatnonzero(predictions.groups == group)
        labels = np.unique(predictions.labels[whole])
        if len(labels) > 1:
            continue
        halves = (random.choice(whole, max(1, len(whole) // 2), replace=False) for _ in range(draws))
        for chosen in halves if draws else [whole]:
            called = apply_rule(predictions.summaries(chosen, classes), rule=rule, classes=classes)
            calls.setdefault(classes[int(labels[0])], Counter())[called.call] += 1
    return {name: dict(sorted(counts.items())) for name, counts in calls.items()}


def _markdown(report: Report) -> list[str]:
    summary = report.summary
    lines = [f"# Evaluation: {report.protocol}", ""]
    lines += [
        f"- {name.replace('_', ' ')}: {value}" for name, value in report.about.items() if not isinstance(value, dict)
    ]
    lines += [f"- fields: {summary['fields']:,}, in {summary['groups']:,} groups", ""]
    lines += [
        "Intervals are 95 %, from resampling whole groups.",
        "",
        "| figure | value | 95 % interval |",
        "|---|---|---|",
    ]
    for name, label in FIGURES.items():
        figure = summary["figures"][name]
        value, low, high = (shown(name, figure[key]) for key in ("value", "low", "high"))
        lines.append(f"| {label} | {value} | {low} – {high} |")
    classes = list(summary["confusion"])
    lines += ["", "Truth in rows, calls in columns:", "", f"| | {' | '.join(classes)} | recall | precision |"]
    lines.append("|---" * (len(classes) + 3) + "|")
    for truth, row in summary["confusion"].items():
        own = summary["classes"][truth]
        cells = [str(row[name]) for name in classes]
        lines.append(f"| {truth} | {' | '.join(cells)} | {shown('', own['recall'])} | {shown('', own['precision'])} |")
    lines += ["", "| flag | fields | share | wrong calls among them |", "|---|---|---|---|"]
    for name, flag in summary["flags"].items():
        lines.append(f"| {name} | {flag['fields']} | {shown('', flag['share'])} | {flag['errors_caught']} |")
    leukocytes = summary["leukocytes"]
    lines += [
        "",
        f"{leukocytes['leukocytes']:,} leukocytes, {leukocytes['suspects']:,} of them suspect; their mean suspicion in "
        f"a field against the field's: correlation {shown('auroc', leukocytes['correlation_with_field'])}, "
        f"mean gap {shown('auroc', leukocytes['mean_gap_to_field'])}.",
        "",
        f"Groups taken as slides; and {_DRAWS} slides of each group, of half of its fields drawn at random:",
        "",
        "| truth | slide calls | of half slides |",
        "|---|---|---|",
    ]
    for truth, calls in summary["pseudo_slides"].items():
        whole, halves = (
            ", ".join(f"{name}: {count}" for name, count in counts.items())
            for counts in (calls, summary["half_slides"][truth])
        )
        lines.append(f"| {truth} | {whole} | {halves} |")
    lines += _changed(summary)
    if report.parts:
        lines += ["", "| left out | fields | accuracy | benign/ALL right | flagged | silent errors | AUROC |"]
        lines.append("|---" * 7 + "|")
        for part in report.parts:
            lines.append(
                f"| {part['name']} | {part['fields']} | {shown('', part['accuracy'])} "
                f"| {shown('', part['sides_right'])} | {shown('', part['flagged'])} "
                f"| {shown('', part['silent_errors'])} | {shown('auroc', part['auroc'])} |"
            )
    return lines


def _changed(summary: Mapping[str, Any]) -> list[str]:
    """What became of the calls when one thing about a field was changed."""
    if not summary.get("interventions"):
        return []
    lines = [
        "",
        "One thing about each field changed, the model asked again (`models/interventions.py`):",
        "",
        "| change | fields | call unchanged | unchanged or flagged | flagged | silent errors |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in summary["interventions"].items():
        shares = (
            f"{shown('', found[key])} ({100 * found['intervals'][key][0]:.1f}–{100 * found['intervals'][key][1]:.1f})"
            for key in ("unchanged", "unchanged_or_flagged", "flagged", "silent_errors")
        )
        lines.append(f"| {name} | {found['fields']} | {' | '.join(shares)} |")
    asked = {name: found for name, found in summary["removed_suspects"].items() if found["fields"]}
    if asked:
        lines += [
            "",
            "Of fields called suspect some leukocytes painted out and the others left, the model asked again:",
            "",
            "| without | fields | suspicion: before, after | log-odds: before, after | called benign | not called |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {found['fields']} | {found['suspicion_before']:.3f}, {found['suspicion']:.3f} "
                f"| {found['log_odds_before']:.2f}, {found['log_odds']:.2f} | {shown('', found['benign'])} "
                f"| {shown('', found['no_call'])} |"
                for name, found in asked.items()
            ),
        ]
    return lines


def shown(name: str, value: float | None) -> str:
    """A figure as people read it: a share in per cent, a score with four digits, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4f}" if name in _PLAIN else f"{100 * value:.2f} %"
