"""Figures of docs/segmentation.md: nucleus Dice, leukocyte counts, touching nuclei, empty fields, time per image.

    python benchmarks/segmentation.py [--data FOLDER] [--json]

FOLDER holds `wbc-masks/` and `other-fields/` (default: ALLQ_TEST_DATA or ../shared/data beside the repository). Without
it only the synthetic figures are measured. One thread.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.classes import CLASSES
from benchmarks import measuring
from imaging.decode import decode
from imaging.overlays import find_bar
from imaging.segment import Segmentation, segment
from imaging.synthetic import STYLES, render_field
from worker.memory import keep_freed_memory

DEFAULT_DATA = Path(os.environ.get("ALLQ_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
NUCLEUS = 255


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    """RGB uint8 (h, w, 3) of a file."""
    return decode(path.read_bytes(), max_pixels=50_000_000).pixels


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Twice the common area over the sum of both (Dice 1945)."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def masks(folder: Path) -> dict[str, Any]:
    """Nucleus Dice against expert masks, an image at a time, everything that was segmented counted."""
    scores = []
    for path in sorted(folder.glob("*-mask.png")):
        image = path.with_name(path.name.replace("-mask", ""))
        scores.append(dice(segment(pixels(image)).nuclei > 0, pixels(path)[:, :, 0] == NUCLEUS))
    return {
        "images": len(scores),
        "mean": float(np.mean(scores)),
        "median": float(np.median(scores)),
        "least": min(scores),
        "under_0.8": sum(score < 0.8 for score in scores),
    }


def counts(folder: Path) -> dict[str, Any]:
    """Leukocytes per image against the boxes of kind WBC."""
    with (folder / "boxes.csv").open(newline="") as lines:
        truth = Counter(row["file"] for row in csv.DictReader(lines) if row["kind"] == "WBC")
    errors = np.array(
        [len(segment(pixels(path)).leukocytes) - truth[path.name] for path in sorted(folder.glob("*.jpg"))]
    )
    return {
        "images": len(errors),
        "exact": float((errors == 0).mean()),
        "within_1": float((np.abs(errors) <= 1).mean()),
        "mean_error": float(errors.mean()),
    }


def empty(folder: Path) -> dict[str, Any]:
    """How many images of a folder without (or nearly without) leukocytes have any found in them."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in {".jpg", ".png"}]
    return {"images": len(paths), "with_leukocytes": sum(bool(segment(pixels(path)).leukocytes) for path in paths)}


def matched(found: Segmentation, truth: npt.NDArray[np.int32]) -> tuple[int, int, int]:
    """True nuclei, found nuclei, and pairs of them that overlap by more than half of their union (so one to one)."""
    first, second = int(truth.max()), len(found.leukocytes)
    together = np.zeros((first + 1, second + 1), np.int64)
    np.add.at(together, (truth.ravel(), found.nuclei.ravel()), 1)
    union = together.sum(axis=1, keepdims=True) + together.sum(axis=0, keepdims=True) - together
    return first, second, int((together / np.maximum(union, 1) > 0.5)[1:, 1:].sum())


def synthetic(fields: int = 400, touching: float = 0.6) -> dict[str, Any]:
    """F1 of single nuclei on rendered fields in which most nuclei touch another; and empty fields."""
    names = sorted(STYLES)
    totals = {name: np.zeros(3, np.int64) for name in names}
    overlaps, false_alarms = [], 0
    for seed in range(fields):
        style = names[seed % len(names)]
        rng = np.random.default_rng([2, seed])
        field = render_field(rng, klass=CLASSES[seed // len(names) % 4], style=STYLES[style], touching=touching)
        found = segment(field.pixels)
        totals[style] += matched(found, field.nuclei)
        overlaps.append(dice(found.nuclei > 0, field.nuclei > 0))
    for seed in range(fields // 4):
        rng = np.random.default_rng([3, seed])
        bare = render_field(rng, klass="benign", style=STYLES[names[seed % len(names)]], leukocytes=(0, 0))
        false_alarms += bool(segment(bare.pixels).leukocytes)
    whole = np.sum(list(totals.values()), axis=0)

    def f1(sums: npt.NDArray[np.int64]) -> float:
        return float(2 * sums[2] / (sums[0] + sums[1]))

    return {
        "fields": fields,
        "nuclei": int(whole[0]),
        "f1": f1(whole),
        "f1_by_style": {name: f1(sums) for name, sums in totals.items()},
        "dice": float(np.mean(overlaps)),
        "empty_fields": fields // 4,
        "empty_with_leukocytes": false_alarms,
    }


def scale_bars(folder: Path) -> dict[str, Any]:
    """How often the scale bar that every Taleqani image has is found, and how often one is seen where none is."""
    paths = [path for kind in ("Benign", "Early", "Pre", "Pro") for path in sorted((folder / kind).glob("*.jpg"))[::4]]
    images = [pixels(path) for path in paths]
    return {
        "images": len(images),
        "found": float(np.mean([find_bar(image) is not None for image in images])),
        # A mirrored image has its bar in the left corner: anything seen in the right one is wrong.
        "false": float(np.mean([find_bar(np.ascontiguousarray(image[:, ::-1])) is not None for image in images])),
    }


def speed(images: list[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """Milliseconds of processor time an image on one thread: the best of five runs of each."""
    times = []
    for image in images:
        runs = []
        for _ in range(5):
            # Not the wall clock: other work on the machine would count.
            start = time.thread_time()
            found = segment(image)
            runs.append(time.thread_time() - start)
        times.append((min(runs) * 1000, len(found.leukocytes)))
    milliseconds, leukocytes = np.array(times).T
    return {
        "images": len(images),
        "size": list(images[0].shape[1::-1]),
        "mean_ms": float(milliseconds.mean()),
        "median_ms": float(np.median(milliseconds)),
        "leukocytes_per_image": float(leukocytes.mean()),
    }


def measure(data: Path) -> dict[str, Any]:
    """Every figure, by name."""
    cv2.setNumThreads(1)  # as in a worker
    keep_freed_memory()
    results: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {measuring.processor()}, Python {platform.python_version()}, "
        f"OpenCV {cv2.__version__}",
    }
    if data.is_dir():
        for name in ("zheng1", "zheng2"):
            results[f"dice {name}"] = masks(data / "wbc-masks" / name)
        others = data / "other-fields"
        results["count bccd"] = counts(others / "bccd")
        for name in ("chula-rbc12", "dsb2018-fluor-dark"):
            results[f"no smear or no leukocytes: {name}"] = empty(others / name)
        results["scale bars"] = scale_bars(data / "taleqani")
        paths = [path for path in sorted((data / "taleqani").glob("*/*.jpg"))[::40] if path.parent.is_dir()]
        results["time 224x224"] = speed([pixels(path) for path in paths])
    results["synthetic touching nuclei"] = synthetic()
    rendered = (
        render_field(np.random.default_rng(seed), klass=CLASSES[seed % 4], style=style)
        for seed, style in enumerate(list(STYLES.values()) * 8)
    )
    results["time 320x240 synthetic"] = speed([field.pixels for field in rendered])
    return results


def rows(results: dict[str, Any]) -> Iterator[str]:
    """The figures as lines for a terminal of 80 columns or a little more."""
    for name, value in results.items():
        if not isinstance(value, dict):
            yield f"{name:28} {value}"
            continue
        yield name
        for key, figure in value.items():
            text = f"{figure:.4f}" if isinstance(figure, float) else str(figure)
            if isinstance(figure, dict):
                text = "  ".join(f"{part} {number:.3f}" for part, number in figure.items())
            yield f"    {key:24} {text}"


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    results = measure(options.data)
    print(json.dumps(results, indent=2) if options.json else "\n".join(rows(results)))


if __name__ == "__main__":
    main()
