"""What other thresholds and weights of the looks would have given, from the stored outputs of the networks.

    python benchmarks/tradeoffs.py [--reports docs/model]

Nothing is trained and no image is read: the held-out outputs beside the model's report are calibrated as there. For
each choice: accuracy, fields flagged and unflagged ALL fields called benign, by group; silent errors of each stream
that was left out of training; wrong calls of the random split. A look that counts nothing is left out of
`views-disagree`, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.model_report import REPORTS
from models.heldout import Calibration, HeldOut, calibrate, cross_calibrate
from models.predictions import Predictions, from_held_out

LOOKS = ("leukocytes", "field", "look")
"""In the order of the stored logits; the third as it counts in the shipped model."""


def weighted(held_out: HeldOut, weights: Sequence[float]) -> HeldOut:
    """The same with the looks counting so much, relative to the shipped model."""
    kept = [index for index, weight in enumerate(weights) if weight > 0]
    views = held_out.views * np.array(weights, np.float32)[None, :, None]
    return replace(held_out, logits=(views.sum(1) / len(kept)).astype(np.float32), views=held_out.views[:, kept])


def left_out(by_group: HeldOut, by_stream: HeldOut) -> Iterator[tuple[NDArray[np.intp], Calibration]]:
    """Each left-out stream, calibrated on the fields held out by group without its own."""
    for fold in np.unique(by_stream.folds):
        inside = np.flatnonzero(by_stream.folds == fold)
        known = np.flatnonzero(~np.isin(by_group.streams, by_stream.streams[inside]))
        yield inside, calibrate(by_group.take(known))


def line(
    name: str,
    by_group: HeldOut,
    by_stream: HeldOut,
    by_random: HeldOut,
    *,
    novel: float = 1.0,
    uncertain: float | None = None,
) -> str:
    """One choice as a line of a Markdown table."""

    def chosen(parts: Iterator[tuple[NDArray[np.intp], Calibration]]) -> list[tuple[NDArray[np.intp], Calibration]]:
        return [
            (inside, found if uncertain is None else replace(found, uncertain=uncertain)) for inside, found in parts
        ]

    def stricter(held_out: HeldOut) -> HeldOut:
        return replace(held_out, novelty_threshold=held_out.novelty_threshold * np.float32(novel))

    group = from_held_out(stricter(by_group), chosen(cross_calibrate(by_group)))
    stream = from_held_out(stricter(by_stream), chosen(left_out(by_group, by_stream)))
    silent = _other_side(stream) & ~stream.flagged
    missed = int((_other_side(group) & ~group.flagged & (group.labels > 0)).sum())
    wrong = int((by_random.logits.argmax(1) != by_random.labels).sum())
    streams = ", ".join(f"{each} {silent[stream.streams == each].sum()}" for each in np.unique(stream.streams))
    return (
        f"| {name} | {(group.calls == group.labels).mean():.2%} | {group.flagged.mean():.2%} | {missed} | {streams} "
        f"| {wrong} |"
    )


def _other_side(predictions: Predictions) -> NDArray[np.bool_]:
    return np.asarray((predictions.calls > 0) != (predictions.labels > 0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, default=REPORTS)
    given = parser.parse_args()
    stored = [HeldOut.load(given.reports / f"by-{name}-held-out.npz") for name in ("group", "stream", "random")]
    print("| choice | by group: right | flagged | ALL missed | streams left out: silent errors | random: wrong |")
    print("|---|---|---|---|---|---|")
    print(line("as shipped", *stored))
    for novel in (0.97, 0.95, 0.93, 0.9):
        print(line(f"`novel` from {novel} on", *stored, novel=novel))
    for uncertain in (0.96, 0.975, 0.98):
        print(line(f"`uncertain` below {uncertain}", *stored, uncertain=uncertain))
    for weights in ((1, 1, 0), (0, 1, 1), (1, 0, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (0, 0, 1)):
        name = " : ".join(f"{weight:g}" for weight in weights)
        print(line(f"{', '.join(LOOKS)} {name}", *(weighted(each, weights) for each in stored)))


if __name__ == "__main__":
    main()
