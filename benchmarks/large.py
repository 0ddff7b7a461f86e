"""Large JPEG fields, decoded at reduced scale, against decoding them whole and resizing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.measuring import Bench, Figure
from benchmarks.scaling.field_kinds import CAMERA, camera_field, smooth_field

if TYPE_CHECKING:
    from imaging.decode import Decoded
    from models.classifier import Assessment

BARS = ("reduced", "reduced-calls", "reduced-smooth")
_TIMED = 12
_AT_ONCE = 32


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """How many times faster, on one thread by its own clock, and the share of equal calls."""
    import cv2
    import numpy as np

    from imaging.decode import decode
    from models.artefact import find
    from models.classifier import Classifier

    cv2.setNumThreads(1)
    settings = measuring.settings_of(bench.place)
    classifier = Classifier.load(find(settings, bench.model), settings)

    def reduced(data: bytes) -> Decoded:
        return decode(data, max_pixels=settings.max_pixels, reduce_to=classifier.decode_side)

    def whole(data: bytes) -> Decoded:
        found = decode(data, max_pixels=settings.max_pixels)
        small = reduced_size(found.pixels.shape[1], found.pixels.shape[0], classifier.decode_side)
        resized = cv2.resize(found.pixels, small, interpolation=cv2.INTER_AREA)
        return replace(found, pixels=np.asarray(resized, np.uint8))

    for bar, fields in (("reduced", camera_fields), ("reduced-smooth", smooth_fields)):
        if bar not in wanted:
            continue
        measuring.say(f"decoding fields of {CAMERA[0]}×{CAMERA[1]}, {bar}")
        some = list(fields(bench.folder, _TIMED))
        times: dict[Callable[[bytes], object], list[float]] = {reduced: [], whole: []}
        for _ in range(bench.scale.repeat):
            for way, taken in times.items():
                taken.append(seconds(way, some))
        ratios = [one / other for one, other in zip(times[whole], times[reduced], strict=True)]
        each = {way: 1000 * min(taken) / _TIMED for way, taken in times.items()}
        pixels = reduced(some[0]).pixels.shape
        weight = statistics.mean(map(len, some)) / 1e6
        note = f"{each[reduced]:.1f} ms against {each[whole]:.1f} ms a field of {weight:.2f} MB"
        note += f", to {pixels[1]}×{pixels[0]}"
        rest = 1000 * seconds(lambda data: classifier.classify([classifier.prepare(reduced(data))]), some) / _TIMED
        yield measuring.figure(bar, ratios, note=f"{note}; the whole field {rest:.1f} ms")
    if "reduced-calls" in wanted:
        equal, unnoticed, total = 0, 0, 0
        files = camera_fields(bench.folder, bench.scale.large)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            while part := list(islice(files, _AT_ONCE)):
                found: list[list[Assessment]] = []
                for way in (reduced, whole):
                    prepared = list(pool.map(lambda data, way=way: classifier.prepare(way(data)), part))
                    found.append(classifier.classify(prepared))
                differing = [(one, other) for one, other in zip(*found, strict=True) if one.call != other.call]
                equal += len(part) - len(differing)
                unnoticed += sum(not (one.flags and other.flags) for one, other in differing)
                total += len(part)
                measuring.say(f"calls of large fields: {equal:,} of {total:,} equal, of {bench.scale.large:,} in all")
        note = f"{equal:,} of {total:,} fields; {unnoticed} of the others without a flag"
        yield Figure(bar="reduced-calls", value=100 * equal / total, note=note)


def reduced_size(width: int, height: int, side: int) -> tuple[int, int]:
    """The size to which `imaging.decode` reduces a JPEG: an eighth, a quarter or half, its longer side still `side`."""
    factor = next((f for f in (8, 4, 2) if max(width, height) // f >= side), 1)
    return -(-width // factor), -(-height // factor)


def seconds(way: Callable[[bytes], object], files: Sequence[bytes]) -> float:
    """Of this thread's processor time."""
    began = time.thread_time()
    for data in files:
        way(data)
    return time.thread_time() - began


def camera_fields(folder: Path, count: int) -> Iterator[bytes]:
    """`count` fields of the folder, evenly (round and round where it has fewer), as a camera would have them."""
    for number, path in enumerate(_some(folder, count)):
        yield camera_field(path.read_bytes(), number)


def smooth_fields(folder: Path, count: int) -> Iterator[bytes]:
    """The same without a camera's noise."""
    for path in _some(folder, count):
        yield smooth_field(path.read_bytes())


def _some(folder: Path, count: int) -> Iterator[Path]:
    return islice(cycle(measuring.images(folder, count)), count)
