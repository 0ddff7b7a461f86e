"""docs/model/README.md: every bar of the model, measured; and the figures drawn beside it.

    python benchmarks/model_report.py [--data FOLDER] [--model NAME] [--reports docs/model]

Figures of protocols that train (random, group, stream) are read from the stored results in the reports' folder, which
`python -m models.release FOLDER/taleqani --also stream --also random` makes; all else is measured anew with the shipped
weights on one thread. FOLDER is laid out as docs/model.md says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.settings import Settings
from benchmarks import measuring
from benchmarks import segmentation as segmenting
from imaging.decode import decode
from models.aggregate import upper_bound
from models.artefact import CARD, Model, find
from models.classifier import Classifier
from models.heldout import HeldOut, cross_calibrate
from models.metrics import auroc
from models.outside import look_outside
from models.predictions import Predictions, from_held_out

DEFAULT_DATA = Path(os.environ.get("ALLQ_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORTS = Path(__file__).parents[1] / "docs" / "model"
_PLAIN = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""No block of metadata in a drawing: the same figures give the same file."""
_STREAMS = 7
"""Streams of the Taleqani images."""


_EVERY_BAR = "## Every bar\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of the table. `value` None: reported, or not measured."""

    what: str
    bar: str
    shown: str
    met: bool | None

    def line(self) -> str:
        """Markdown."""
        verdict = {True: "met", False: "**missed**", None: "reported"}[self.met]
        return f"| {self.what} | {self.bar} | {self.shown} | {verdict} |"


def percent(value: float, digits: int = 2) -> str:
    """A share."""
    return f"{100 * value:.{digits}f} %"


def least(what: str, value: float, bar: float, *, interval: Sequence[float | None] = (), digits: int = 2) -> Bar:
    """A share that should be at least `bar`."""
    return Bar(
        what=what,
        bar=f"≥ {100 * bar:g} %",
        shown=percent(value, digits) + _interval(interval),
        met=round(value, 6) >= bar,
    )


def most(what: str, value: float, bar: float, *, interval: Sequence[float | None] = ()) -> Bar:
    """A share that should be at most `bar`."""
    return Bar(what=what, bar=f"≤ {100 * bar:g} %", shown=percent(value) + _interval(interval), met=value <= bar)


def _interval(interval: Sequence[float | None], *, scale: float = 100, digits: int = 2) -> str:
    if len(interval) < 2 or None in interval:
        return ""
    low, high = (scale * float(value or 0) for value in interval)
    return f" ({low:.{digits}f}–{high:.{digits}f})"


def figure(report: dict[str, Any], name: str) -> tuple[float, list[float | None]]:
    """A figure of a stored report, and its interval."""
    found = report["figures"][name]
    return found["value"], [found["low"], found["high"]]


def trained(reports: Path) -> Iterator[Bar]:
    """The bars of the protocols that train, from their stored reports."""
    paths = (reports / f"by-{name}.json" for name in ("random", "group", "stream"))
    random, group, stream = (json.loads(path.read_text()) if path.is_file() else None for path in paths)
    if group is None:
        raise SystemExit(f"{reports} has no by-group.json: make it with python -m models.release.")
    if random is None:
        yield Bar(what="four-class accuracy, random 5-fold", bar="≥ 99.9 %", shown="not run", met=False)
    else:
        value, interval = figure(random, "accuracy")
        yield least("four-class accuracy, random 5-fold", value, 0.999, interval=interval)
    value, interval = figure(group, "accuracy")
    yield least("four-class accuracy, by group, 5-fold", value, 0.995, interval=interval)
    value, interval = figure(group, "sensitivity_at_99_specificity")
    yield least("benign/ALL by group: sensitivity at specificity ≥ 99 %", value, 0.998, interval=interval)
    (error, of_error), (brier, of_brier) = figure(group, "ece"), figure(group, "brier")
    yield Bar(
        what="calibration by group: ECE (15 bins) / Brier",
        bar="≤ 0.01 / ≤ 0.02",
        shown=" / ".join(
            f"{value:.4f}{_interval(interval, scale=1, digits=4)}"
            for value, interval in ((error, of_error), (brier, of_brier))
        ),
        met=error <= 0.01 and brier <= 0.02,
    )
    (flagged, of_flagged), missed = figure(group, "flagged"), figure(group, "missed_unflagged")[0]
    yield Bar(
        what="fields flagged, by group; unflagged ALL fields called benign",
        bar="≤ 5 %; none",
        shown=f"{percent(flagged)}{_interval(of_flagged)}; {round(missed * _suspects(group))}",
        met=flagged <= 0.05 and missed == 0,
    )
    yield from _left_out(stream)
    yield from _changed(group["interventions"])


def _left_out(stream: dict[str, Any] | None) -> Iterator[Bar]:
    what = "one stream left out: silent errors, each stream"
    if stream is None:
        yield Bar(what=what, bar="≤ 1 %", shown="not run", met=False)
        return
    silent = {part["name"].removeprefix("without "): part["silent_errors"] for part in stream["parts"]}
    shown = ", ".join(
        f"{part['name'].removeprefix('without ')} {percent(part['silent_errors'])}"
        f"{_interval(part['silent_errors_interval'])}"
        for part in stream["parts"]
    )
    missing = "" if len(silent) == _STREAMS else f" (only {len(silent)} of {_STREAMS} streams were run)"
    yield Bar(what=what, bar="≤ 1 %", shown=shown + missing, met=max(silent.values()) <= 0.01 and not missing)
    areas = [part["auroc"] for part in stream["parts"] if part["auroc"] is not None]
    pooled, interval = figure(stream, "auroc")
    yield Bar(
        what="one stream left out: benign/ALL AUROC, mean over streams with both sides",
        bar="reported",
        shown=f"{np.mean(areas):.4f}" if areas else "undefined, each stream has one side",
        met=None,
    )
    if pooled is not None:
        yield Bar(
            what="the same over all left-out fields together, each stream by its own network",
            bar="reported",
            shown=f"{pooled:.4f}{_interval(interval, scale=1, digits=4)}",
            met=None,
        )


def _changed(changed: dict[str, dict[str, Any]]) -> Iterator[Bar]:
    found = changed["cells painted out"]
    interval = found["intervals"]["flagged"]
    yield least("cells painted out: flagged or no call", found["flagged"], 0.99, interval=interval)
    for name in ("cells on another stream's smear", "cells on plain glass"):
        yield from _steady(name, changed[name])
    for name, shown in (
        ("scale bar removed", "scale bar removed"),
        ("scale bar in another style", "scale bar painted over and one of another of four styles added"),
    ):
        interval = changed[name]["intervals"]["unchanged"]
        yield least(f"{shown}: call unchanged", changed[name]["unchanged"], 0.995, interval=interval)
    settled = ("cells", "scale bar")
    for name, outcome in changed.items():
        if not name.startswith(settled) or "%" in name:
            yield from _steady(name, outcome)


def _suspects(report: dict[str, Any]) -> int:
    return sum(sum(row.values()) for truth, row in report["confusion"].items() if truth != "benign")


def _steady(name: str, outcome: dict[str, Any]) -> Iterator[Bar]:
    unchanged, either = outcome["unchanged"], outcome["unchanged_or_flagged"]
    intervals = [_interval(outcome["intervals"][key]) for key in ("unchanged", "unchanged_or_flagged")]
    yield Bar(
        what=f"{name}: call unchanged; or flagged",
        bar="≥ 95 %; ≥ 99 %",
        shown=f"{percent(unchanged)}{intervals[0]}; {percent(either)}{intervals[1]}",
        met=unchanged >= 0.95 and either >= 0.99,
    )


def elsewhere(classifier: Classifier, data: Path, held_out: HeldOut) -> Iterator[Bar]:
    """Images from elsewhere: flagged, and told from held-out fields by their novelty."""
    found = look_outside(classifier, data / "other-fields")
    images, flagged = sum(each.images for each in found), sum(each.flagged for each in found)
    lowest = 1 - upper_bound(images - flagged, images)  # one-sided, 95 %
    yield least("other laboratories' smears and non-smears: flagged", flagged / images, 0.99, interval=(lowest, 1.0))
    foreign = np.concatenate([each.novelty for each in found])
    scores = np.concatenate([foreign, held_out.novelty])
    known = np.concatenate([np.ones(len(foreign), bool), np.zeros(len(held_out.novelty), bool)])
    area = auroc(scores.astype(np.float64), known)
    yield Bar(
        what="the same: novelty AUROC against held-out fields", bar="≥ 0.99", shown=f"{area:.4f}", met=area >= 0.99
    )


def leukocytes(data: Path) -> Iterator[Bar]:
    """Segmentation."""
    dice = {name: segmenting.masks(data / "wbc-masks" / name)["mean"] for name in ("zheng1", "zheng2")}
    images = [segmenting.pixels(path) for path in sorted((data / "taleqani").glob("*/*.jpg"))[::40]]
    cost = segmenting.speed(images)["mean_ms"]
    yield Bar(
        what="nucleus Dice on expert masks, zheng1 / zheng2; one 224×224 image on one thread",
        bar="≥ 0.95 / ≥ 0.965; ≤ 1.5 ms",
        shown=f"{dice['zheng1']:.3f} / {dice['zheng2']:.3f}; {cost:.2f} ms",
        met=dice["zheng1"] >= 0.95 and dice["zheng2"] >= 0.965 and cost <= 1.5,
    )
    found = segmenting.counts(data / "other-fields" / "bccd")
    images, near = found["images"], round(found["within_1"] * found["images"])
    exact = 1 - upper_bound(images - near, images, confidence=0.975), upper_bound(near, images, confidence=0.975)
    yield least("leukocytes within ±1 of bccd", found["within_1"], 0.95, interval=exact)
    f1 = segmenting.synthetic()["f1"]
    yield Bar(what="F1 of single nuclei, touching synthetic cells", bar="≥ 0.95", shown=f"{f1:.3f}", met=f1 >= 0.95)


def cost(classifier: Classifier, data: Path) -> Bar:
    """The network on one core: the best of five passes over 256 fields."""
    paths = sorted((data / "taleqani").glob("*/*.jpg"))[::10][:256]
    prepared = [classifier.prepare(decode(path.read_bytes(), max_pixels=10**7)) for path in paths]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for start in range(0, len(prepared), 32):
            classifier.infer(prepared[start : start + 32])
        times.append((time.perf_counter() - began) / len(prepared))
    each = 1000 * min(times)
    return Bar(
        what=f"network cost per field, one core ({classifier.engine_name})",
        bar="≤ 5 ms",
        shown=f"{each:.2f} ms",
        met=each <= 5,
    )


def draw(predictions: Predictions, folder: Path) -> None:
    """risk-coverage.svg and reliability.svg, of the fields held out by group."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "allq"
    confidence = predictions.probabilities.max(axis=1)
    wrong = predictions.calls != predictions.labels
    risk = Figure(figsize=(5, 3.4), layout="constrained")
    axes = risk.subplots()
    for name, doubt in (
        ("confidence alone", 1 - confidence),
        ("novelty alone", predictions.novelty),
        ("flags first, then confidence", predictions.flagged + (1 - confidence)),
    ):
        order = np.argsort(doubt, kind="stable")
        coverage = np.arange(1, len(order) + 1) / len(order)
        axes.plot(100 * coverage, 100 * np.cumsum(wrong[order]) / np.arange(1, len(order) + 1), label=name)
    axes.axvline(100 * (1 - predictions.flagged.mean()), color="0.6", linestyle=":", label="unflagged fields")
    axes.set(xlabel="fields kept, least doubtful first (%)", ylabel="wrong among them (%)", xlim=(70, 100))
    axes.legend(frameon=False)
    risk.savefig(folder / "risk-coverage.svg", metadata=_PLAIN)
    reliability = Figure(figsize=(3.6, 3.4), layout="constrained")
    axes = reliability.subplots()
    which = np.minimum((confidence * 15).astype(int), 14)
    bins = np.unique(which)
    axes.plot([0.25, 1], [0.25, 1], color="0.7")
    axes.scatter(
        [confidence[which == number].mean() for number in bins],
        [1 - wrong[which == number].mean() for number in bins],
        s=[8 + 20 * np.log10((which == number).sum()) for number in bins],
    )
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0.25, 1.02), ylim=(0, 1.05))
    reliability.savefig(folder / "reliability.svg", metadata=_PLAIN)


def page(bars: Sequence[Bar], model: Model, reports: Path) -> str:
    """The whole of README.md."""
    stored = [name for name in ("random", "group", "stream") if (reports / f"by-{name}.md").is_file()]
    links = ", ".join(f"[{name}](by-{name}.md)" for name in stored)
    missed = [bar.what for bar in bars if bar.met is False]
    lines = [
        "# What the model was measured to do",
        "",
        f"Written by `make model-report`: {model.name} {model.id[:12]}, {datetime.now(UTC):%Y-%m-%d}, {machine()}.",
        "In brackets: 95 % intervals, from resampling groups (images from elsewhere: exact and one-sided; leukocytes "
        "counted: exact). Where nothing, or everything, was seen, resampling gives an interval without width: it says "
        "nothing of rare errors. Choices were made on these same folds and streams, so the figures are a little on the "
        "good side ([../model.md](../model.md)). Protocols that train are read from the stored results beside this "
        f"page ({links}), made by "
        "`python -m models.release DATA --also stream --also random --threads 1`.",
        "",
        "| what | bar | measured | |",
        "|---|---|---|---|",
        *(bar.line() for bar in bars),
        "",
        f"{sum(bar.met is True for bar in bars)} of {sum(bar.met is not None for bar in bars)} bars are met. Missed: "
        f"{'; '.join(missed) or 'none'}. What was tried stands in "
        "[../model.md](../model.md#what-falls-short-and-what-was-tried).",
        "",
        "![wrong calls among the fields kept, against the share kept](risk-coverage.svg)",
        "![confidence against the share right](reliability.svg)",
    ]
    return "\n".join(lines) + "\n"


def write_into_card(bars: Sequence[Bar], model: Model) -> None:
    """Put the table of bars into the model's card, before what `models.release` writes at its end."""
    path = model.path / CARD
    head, mark, rest = path.read_text(encoding="utf-8").partition("## Images from elsewhere\n")
    table = "\n".join(["| what | bar | measured | |", "|---|---|---|---|", *(bar.line() for bar in bars)])
    path.write_text(f"{head.partition(_EVERY_BAR)[0]}{_EVERY_BAR}{table}\n\n{mark}{rest}", encoding="utf-8")


def machine() -> str:
    """Processor and interpreter."""
    return f"{measuring.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--model", default=None)
    parser.add_argument("--reports", type=Path, default=REPORTS)
    given = parser.parse_args()
    if not given.data.is_dir():
        parser.error(f"{given.data} is not a folder: give the images with --data, or ALLQ_TEST_DATA.")
    cv2.setNumThreads(1)
    settings = Settings()
    model = find(settings, given.model)
    stored = json.loads((given.reports / "by-group.json").read_text(encoding="utf-8"))
    if model.configuration.metrics.get("figures") != stored["figures"]:
        parser.error(f"The stored results in {given.reports} are not those of {model.name}: name the one they are of.")
    classifier = Classifier.load(model, settings)
    held_out = HeldOut.load(given.reports / "by-group-held-out.npz")
    bars = [
        *trained(given.reports),
        *elsewhere(classifier, given.data, held_out),
        *leukocytes(given.data),
        cost(classifier, given.data),
    ]
    if given.reports == REPORTS:
        write_into_card(bars, model)
    predictions = from_held_out(held_out, cross_calibrate(held_out))
    draw(predictions, given.reports)
    (given.reports / "README.md").write_text(page(bars, model, given.reports), encoding="utf-8")
    print("\n".join(bar.line() for bar in bars))


if __name__ == "__main__":
    main()
