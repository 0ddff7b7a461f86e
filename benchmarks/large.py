"""Large JPEG fields, decoded at reduced scale, against decoding them whole and resizing.

They are made of fields of the folder given; of rendered ones only where none was given.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.measuring import Bench, Figure
from benchmarks.scaling.field_kinds import CAMERA, camera_field, smooth_field

if TYPE_CHECKING:
    from imaging.decode import Decoded
    from models.classifier import Assessment, Classifier

BARS = ("reduced", "reduced-calls", "reduced-smooth")
_TIMED = 12
_AT_ONCE = 32


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """How many times faster, on one thread by its own clock, and the share of equal calls."""
    import cv2

    from imaging.decode import decode
    from models.artefact import find
    from models.classifier import Classifier

    cv2.setNumThreads(1)
    settings = measuring.settings_of(bench.place)
    given = measuring.given(bench.folder)
    paths = given or measuring.images(bench.folder)
    images = "fields of the folder given" if given else ""
    classifier = Classifier.load(find(settings, bench.model), settings)

    def reduced(data: bytes) -> Decoded:
        return decode(data, max_pixels=settings.max_pixels, reduce_to=classifier.decode_side)

    def whole(data: bytes) -> Decoded:
        return whole_and_resized(data, settings.max_pixels, classifier.decode_side)

    for bar, fields in (("reduced", camera_fields), ("reduced-smooth", smooth_fields)):
        if bar not in wanted:
            continue
        measuring.say(f"decoding fields of {CAMERA[0]}×{CAMERA[1]}, {bar}")
        some = list(fields(paths, _TIMED))
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
        yield replace(measuring.figure(bar, ratios, note=f"{note}; the whole field {rest:.1f} ms"), images=images)
    if "reduced-calls" in wanted:
        some_paths = measuring.evenly(paths, bench.scale.compared)
        yield replace(compared(classifier, some_paths, camera_field, reduced, whole).figure, images=images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Of how many fields (`total`) decoded in two ways the calls are `equal`, of how many the numbers of leukocytes
    (`counts`), and of how many the calls differ unless both are flagged (`unnoticed`).
    """

    total: int
    equal: int
    unnoticed: int = 0
    counts: int = 0

    @property
    def figure(self) -> Figure:
        """The share of equal calls, in percent, with its interval."""
        from models.aggregate import upper_bound

        # Two-sided of Clopper and Pearson: a fortieth on either side.
        low = 100 - 100 * upper_bound(self.total - self.equal, self.total, confidence=0.975)
        high = 100 * upper_bound(self.equal, self.total, confidence=0.975)
        note = (
            f"{self.equal:,} of {self.total:,} fields, each made of another; {self.unnoticed} of the others without a "
        )
        note += f"flag; 95 % interval {low:.2f} to {high:.3f} %, as if fields were independent"
        value = 100 * self.equal / self.total
        return Figure(bar="reduced-calls", value=value, interval=(low, high), note=note)


def compared(
    classifier: Classifier,
    paths: Sequence[Path],
    enlarged: Callable[[bytes, int], bytes],
    one: Callable[[bytes], Decoded],
    other: Callable[[bytes], Decoded],
) -> Compared:
    """What becomes of fields decoded in one way and in the other.

    Large fields are made of those at `paths` by `enlarged`, which also gets their number.
    """
    equal, unnoticed, total, counts = 0, 0, 0, 0
    numbered = enumerate(paths)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while part := list(islice(numbered, _AT_ONCE)):
            files = list(pool.map(lambda each: enlarged(each[1].read_bytes(), each[0]), part))
            found: list[list[Assessment]] = []
            leukocytes: list[list[int]] = []
            for way in (one, other):
                prepared = list(pool.map(lambda data, way=way: classifier.prepare(way(data)), files))
                found.append(classifier.classify(prepared))
                leukocytes.append([len(each.segmentation.leukocytes) for each in prepared])
            differing = [(this, that) for this, that in zip(*found, strict=True) if this.call != that.call]
            equal += len(files) - len(differing)
            unnoticed += sum(not (this.flags and that.flags) for this, that in differing)
            total += len(files)
            counts += sum(this == that for this, that in zip(*leukocytes, strict=True))
            measuring.say(f"calls of large fields: {equal:,} of {total:,} equal, of {len(paths):,} in all")
    return Compared(equal=equal, total=total, unnoticed=unnoticed, counts=counts)


def whole_and_resized(data: bytes, max_pixels: int, side: int) -> Decoded:
    """A field decoded whole, then resized to the size to which it would be reduced."""
    import cv2
    import numpy as np

    from imaging.decode import decode

    found = decode(data, max_pixels=max_pixels)
    small = reduced_size(found.pixels.shape[1], found.pixels.shape[0], side)
    resized = cv2.resize(found.pixels, small, interpolation=cv2.INTER_AREA)
    return replace(found, pixels=np.asarray(resized, np.uint8))


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


def camera_fields(paths: Sequence[Path], count: int) -> Iterator[bytes]:
    """`count` of the fields, evenly (round and round where there are fewer), as a camera would have them."""
    for number, path in enumerate(_some(paths, count)):
        yield camera_field(path.read_bytes(), number)


def smooth_fields(paths: Sequence[Path], count: int) -> Iterator[bytes]:
    """The same without a camera's noise."""
    for path in _some(paths, count):
        yield smooth_field(path.read_bytes())


def _some(paths: Sequence[Path], count: int) -> Iterator[Path]:
    return islice(cycle(measuring.evenly(paths, count)), count)
