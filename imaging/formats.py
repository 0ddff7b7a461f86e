"""Image formats, told by first bytes or claimed by a name. Imports nothing heavy: `submit` asks it of every file."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

HEAD_BYTES: Final = 16
"""How many leading bytes `sniff` wants; fewer are fine for a file that is shorter."""


class ImageFormat(StrEnum):
    """The formats that are screened."""

    JPEG = "jpeg"
    PNG = "png"
    TIFF = "tiff"
    BMP = "bmp"
    WEBP = "webp"


_BMP_HEADERS: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Sizes of the information header that BMP writers use; `BM` alone also begins many a text."""


def sniff(head: bytes) -> ImageFormat | None:
    """Return the format whose signature `head` (the first 16 bytes or more of a file) carries, or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageFormat.PNG
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00\x08\x00", b"MM\x00+\x00\x08")):
        return ImageFormat.TIFF
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ImageFormat.WEBP
    # At byte 14 the information header begins with its own size (little-endian; 16 bytes hold its low half).
    if head.startswith(b"BM") and int.from_bytes(head[14:16], "little") in _BMP_HEADERS:
        return ImageFormat.BMP
    return None


_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def named_as_image(name: str) -> bool:
    """True when a file's name, by its suffix, says that it is in one of the formats that are screened."""
    return name.lower().endswith(_SUFFIXES)


_FOREIGN: Final = (
    (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE (Zeiss ZVI or Olympus OIB)"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"8BPS", "Photoshop"),
)


def foreign(head: bytes) -> str | None:
    """Return the name of a picture format that is recognised but not screened, or None."""
    return next((name for offset, magic, name in _FOREIGN if head[offset : offset + len(magic)] == magic), None)
