"""Which JPEG files a card may decode: plain ones, told by their markers before anything is allocated.

A card's decoder is given whole batches and says little of what went wrong. So it gets only files about which nothing
can be doubted; all others go to `imaging.decode`, which decodes them or says why not. No framework is needed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from imaging.decode import MIN_SIDE, MOST_ELONGATED

_BASELINE: Final = 0xC0
_PROGRESSIVE: Final = 0xC2
_TABLES: Final = frozenset({0xC4, 0xCC})
"""Markers among those of frames that begin none: Huffman tables and arithmetic conditioning."""

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - _TABLES - {0xC8}
_SCAN: Final = 0xDA
_END: Final = b"\xff\xd9"
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers without a length."""

_ANOTHER_FRAME: Final = re.compile(b"\xff[" + bytes(sorted(_FRAMES)) + b"]")
_SAMPLINGS: Final = frozenset({0x11, 0x12, 0x21, 0x22})
"""4:4:4, 4:4:0, 4:2:2 and 4:2:0: the first component's factors, the others having 0x11."""

_ADOBE: Final = b"Adobe"
_EXIF: Final = b"Exif\0\0"
_ORIENTATION: Final = (b"\x01\x12", b"\x12\x01")
"""The number of EXIF's entry for the orientation, in either order of bytes."""

_UPRIGHT: Final = (b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x01", b"\x12\x01\x03\x00\x01\x00\x00\x00\x01\x00")
"""That entry where it says that nothing has to be turned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainJpeg:
    """A file that a card may decode, and the size it says it has, in pixels."""

    width: int
    height: int
    sampling: tuple[int, int]
    """Pixels across and down for which there is one sample of colour."""


def plain_jpeg(data: bytes, *, max_pixels: int) -> PlainJpeg | None:
    """The size of a plain JPEG file of at most `max_pixels`; None for any other bytes.

    Plain is: baseline or progressive with 8 bits, YCbCr in one of the usual samplings, upright, one frame, whole to its
    end marker. Source: ITU-T T.81, annex B.
    """
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(_END):
        return None  # what comes after the end, or instead of it, is for the other decoder to judge
    found: PlainJpeg | None = None
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill
            position += 1
            continue
        if marker in _ALONE:
            return None
        body = data[position + 4 : position + 2 + int.from_bytes(data[position + 2 : position + 4])]
        if marker == _SCAN:
            return None if _ANOTHER_FRAME.search(data, position) else found
        if marker in _FRAMES:
            if found is not None or marker not in {_BASELINE, _PROGRESSIVE}:
                return None
            found = _frame(body, max_pixels)
            if found is None:
                return None
        elif _colours_otherwise(marker, body) or _may_lie(marker, body):
            return None
        position += 4 + len(body)
    return None


def _frame(body: bytes, max_pixels: int) -> PlainJpeg | None:
    if len(body) != 15 or body[0] != 8 or body[5] != 3:
        return None
    height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
    identities, samplings = body[6::3], body[7::3]
    usual = identities == b"\1\2\3" and samplings[0] in _SAMPLINGS and samplings[1:] == b"\x11\x11"
    sides = sorted((width, height))
    if not usual or sides[0] < MIN_SIDE or sides[1] >= MOST_ELONGATED * sides[0] or width * height > max_pixels:
        return None
    return PlainJpeg(width=width, height=height, sampling=(samplings[0] >> 4, samplings[0] & 15))


def _colours_otherwise(marker: int, body: bytes) -> bool:
    """Whether a segment says that the colours are not YCbCr."""
    return marker == 0xEE and body.startswith(_ADOBE) and body[11:12] != b"\1"


def _may_lie(marker: int, body: bytes) -> bool:
    """Whether a segment may say that the picture has to be turned."""
    if marker != 0xE1 or not body.startswith(_EXIF):
        return False
    return any(number in body for number in _ORIENTATION) and not any(entry in body for entry in _UPRIGHT)
