"""Leukocytes as a compact binary for the database, and back: some 90 bytes each.

    b"ALK" version:u8, then zlib over:
        count:varint, and for each leukocyte
        index x y w h:varint  centre_x centre_y area:f32  suspicion:u16 (0..65535 for 0..1)
        measures: a f32 for each name of imaging.measures.MEASURES, in that order
        points:varint, first point x y:zigzag varint, then the steps dx dy to each next point:zigzag varint

All numbers little-endian. A new set of measures means a new version.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imaging.leukocyte import MEASURES, Leukocyte

MAGIC: Final = b"ALK\x01"
_FIXED: Final = struct.Struct(f"<3fH{len(MEASURES)}f")
_measures_of: Final = itemgetter(*MEASURES)
MOST_BYTES: Final = 64 << 20
"""A blob that unpacks to more is refused: no field has so many leukocytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedLeukocyte:
    """One leukocyte as stored. Lengths in pixels of the original image."""

    index: int
    box: tuple[int, int, int, int]
    centre: tuple[float, float]
    area: float
    suspicion: float
    outline: npt.NDArray[np.int32]
    """Closed polygon, int32 (n, 2) of x, y."""
    measures: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The keys of `results --level leukocyte`, with plain lists and rounded numbers."""
        return {
            "index": self.index,
            "box": list(self.box),
            "centre": [round(value, 2) for value in self.centre],
            "area": round(self.area, 1),
            "suspicion": round(self.suspicion, 4),
            "outline": self.outline.tolist(),
            "measures": {name: round(value, 4) for name, value in self.measures.items()},
        }


def pack(leukocytes: Sequence[Leukocyte], suspicions: Sequence[float]) -> bytes:
    """Return the leukocytes with their suspicions (0 to 1, one each) as bytes. Raises ValueError when counts differ."""
    if len(leukocytes) != len(suspicions):
        raise ValueError(f"{len(leukocytes)} leukocytes, but {len(suspicions)} suspicions")
    out = [_varint(len(leukocytes))]
    starts = [0, *accumulate(len(leukocyte.outline) for leukocyte in leukocytes)]
    steps = _zigzag_steps([leukocyte.outline for leukocyte in leukocytes], starts)
    for leukocyte, suspicion, start, end in zip(leukocytes, suspicions, starts, starts[1:], strict=False):
        out += (
            _varints((leukocyte.index, *leukocyte.box)),
            _FIXED.pack(
                *leukocyte.centre,
                leukocyte.area,
                round(min(max(suspicion, 0.0), 1.0) * 65535),
                *_measures_of(leukocyte.measures),
            ),
            _varint(end - start),
            _varints(steps[2 * start : 2 * end]),
        )
    return MAGIC + zlib.compress(b"".join(out), 6)


def _zigzag_steps(outlines: Sequence[npt.NDArray[np.int32]], starts: Sequence[int]) -> list[int]:
    """x, y, x, y, … of all outlines: of each its first point, then the steps to each next; zigzag. All at once, as
    numpy costs by the call.
    """
    if not outlines:
        return []
    points = np.concatenate(outlines).astype(np.int64)
    steps = np.empty_like(points)
    steps[1:] = points[1:] - points[:-1]
    first = [start for start, end in pairwise(starts) if start < end]
    steps[first] = points[first]
    values: list[int] = ((steps << 1) ^ (steps >> 63)).ravel().tolist()
    return values


def unpack(blob: bytes) -> list[PackedLeukocyte]:
    """Return what `pack` was given. Raises ValueError for bytes that `pack` never wrote."""
    if blob[:4] != MAGIC:
        raise ValueError("not a blob of leukocytes, or one of a newer version")
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(blob[4:], MOST_BYTES)
        if not decompressor.eof:
            raise ValueError("a blob of leukocytes is cut off or too large")
        reader = _Reader(data)
        return [_one(reader) for _ in range(next(reader.varints))]
    except (zlib.error, struct.error, StopIteration) as error:
        raise ValueError("a blob of leukocytes is damaged") from error


def _one(reader: _Reader) -> PackedLeukocyte:
    index, x, y, w, h = (next(reader.varints) for _ in range(5))
    centre_x, centre_y, area, suspicion, *measures = _FIXED.unpack(reader.take(_FIXED.size))
    points = next(reader.varints)
    zigzag = np.array([next(reader.varints) for _ in range(2 * points)], np.int64).reshape(-1, 2)
    outline = np.cumsum((zigzag >> 1) ^ -(zigzag & 1), axis=0).astype(np.int32)
    return PackedLeukocyte(
        index=index,
        box=(x, y, w, h),
        centre=(centre_x, centre_y),
        area=area,
        suspicion=suspicion / 65535,
        outline=outline,
        measures=dict(zip(MEASURES, measures, strict=True)),
    )


class _Reader:
    """Takes varints and runs of bytes from the front of `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.varints: Iterator[int] = self._varints()

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _varints(self) -> Iterator[int]:
        value = shift = 0
        while self._at < len(self._data):
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                yield value
                value = shift = 0


def _varints(values: Iterable[int]) -> bytes:
    try:
        return b"".join(map(_SHORT.__getitem__, values))
    except KeyError:
        return b"".join(map(_varint, values))


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT: Final = {value: _varint(value) for value in range(1 << 12)}
"""What nearly all numbers of a field are written as."""
