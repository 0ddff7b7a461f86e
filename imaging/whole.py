"""Whether a picture's file is all there, by what its format itself says: where it ends, and what adds up.

Decoders are made to show what they can of a damaged file: grey where a JPEG breaks off, black where the rest of a PNG
was never written. A screening must not take that for a smear. Each check raises ValueError or EOFError with a clause
that says what is wrong. What formats don't say can't be seen: a flipped bit in a JPEG's or a WebP's picture that still
makes sense, or zeros in place of a bitmap's last rows.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg

from allq.errors import FailureCode, FieldError

MOST_SCANS: Final = 100
"""A progressive JPEG has about ten scans; each costs a pass over the whole picture, and thousands fit into a small
file."""

_END_OF_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_STANDALONE: Final = {0x01, *range(0xD0, 0xDA)}
_FRAMES: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_FRAMES_READ: Final = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_PROGRESSIVE: Final = {0xC2, 0xCA}
_COEFFICIENTS: Final = 64

_HARMLESS: Final = (
    "Invalid SOS parameters for sequential JPEG",
    "Warning: unknown JFIF revision",
    "Unknown Adobe color transform code",
)
"""What libjpeg remarks on habits of some cameras; it says nothing about the picture."""
_NOT_TOLD: Final = ("Could not determine subsampling", "Could not determine colorspace")
"""Rare sampling factors that the TurboJPEG interface has no name for."""

_PNG_KEPT: Final = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_PNG_HEAD: Final = 8

_COMPRESSION: Final = 259
_JPEG_TABLES: Final = 347
_TIFF_NEEDED: Final = {
    *range(256, 260),
    262,
    273,
    *range(277, 280),
    284,
    317,
    320,
    *range(322, 326),
    338,
    339,
    _JPEG_TABLES,
}
_TIFF_TYPES: Final = {1: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}
_COMPRESSIONS_READ: Final = {1, 5, 7, 8, 32946, 32773, 34925, 50000}
"""None, LZW, JPEG, deflate (two numbers), PackBits, LZMA, Zstandard. Fax codes end damaged lines in white and go on."""
_TIFF_JPEG: Final = 7
_SEPARATE_PLANES: Final = 2
_MOST_VALUES: Final = 1 << 20
"""A picture has no more strips or tiles; read one by one, the values of a large file would fill the memory."""
_LARGEST_BLOCK: Final = 64

_NEVER_WRITTEN: Final = bytes(512)
"""How a file ends whose space was reserved and whose last sectors never reached the disk; no picture's code does."""


def plain_jpeg(data: bytes) -> bytes:
    """The same JPEG up to its end and without metadata, once every scan that it needs was found (ITU T.81, annex B).

    Raises FieldError UNSUPPORTED for lossless and 12-bit files, and for more than `MOST_SCANS`.
    """
    # Of each component, the bit from which on each coefficient is known; 1 is never reached when it is never sent.
    missing: dict[int, list[int]] = {}
    progressive = False
    scans = 0
    kept = [data[:2]]
    for marker, start, end in _segments(data):
        if not _is_metadata(marker):
            kept.append(data[start:end])
        body = data[start + 4 : end]
        if marker in _FRAMES:
            if marker not in _FRAMES_READ or body[:1] != b"\x08":
                raise FieldError(FailureCode.UNSUPPORTED, "JPEG files that are lossless or of 12 bits are not read.")
            progressive = marker in _PROGRESSIVE
            missing = {component: [1] * _COEFFICIENTS for component in body[6::3]}
        elif marker == 0xDA:
            scans += 1
            if scans > MOST_SCANS:
                raise FieldError(
                    FailureCode.UNSUPPORTED,
                    f"The JPEG has more than {MOST_SCANS} scans: save it anew, not progressive.",
                )
            _note_scan(body, missing, progressive=progressive)
    if any(any(bits) for bits in missing.values()) or not scans:
        raise ValueError("some of its scans are missing")
    return b"".join(kept)


def _is_metadata(marker: int) -> bool:
    """Application data, but for what JFIF and Adobe say of the colours, and comments."""
    return marker == 0xFE or (0xE0 <= marker <= 0xEF and marker not in {0xE0, 0xEE})


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers up to the one that ends the image: each with where it begins and ends, its scan included."""
    at = 2
    while True:
        start = at
        if data[at : at + 1] != b"\xff":
            raise EOFError("it has no end") if at >= len(data) else ValueError("its segments don't follow each other")
        while data[at : at + 1] == b"\xff":
            at += 1
        if at + 3 > len(data) and data[at : at + 1] != b"\xd9":
            raise EOFError("it has no end")
        marker = data[at]
        at += 1
        if marker in _STANDALONE:
            yield marker, start, at
            if marker == 0xD9:
                return
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise ValueError("a segment has no length")
        at += length
        if at > len(data):
            raise EOFError("it has no end")
        if marker == 0xDA:
            end = _END_OF_SCAN.search(data, at)
            if end is None:
                raise EOFError("it has no end")
            at = end.start()
        yield marker, start, at


def _note_scan(body: bytes, missing: dict[int, list[int]], *, progressive: bool) -> None:
    components = body[1 : 1 + 2 * body[0] : 2] if body else b""
    parameters = body[1 + 2 * len(components) :]
    if not components or len(parameters) < 3 or any(component not in missing for component in components):
        raise ValueError("a scan has no description")
    first, last, bit = (parameters[0], parameters[1], parameters[2] & 15) if progressive else (0, _COEFFICIENTS - 1, 0)
    for component in components:
        missing[component][first : last + 1] = [bit] * (min(last, _COEFFICIENTS - 1) + 1 - first)


def jpeg_pixels(data: bytes, *, factor: int, size: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    """RGB pixels (h, w, 3) of a JPEG reduced by `factor`, its damage not glossed over; `size` is the whole's.

    Bit for bit what Pillow decodes, in half the time. None where the TurboJPEG interface can't do it: four colours and
    rare samplings. Raises ValueError for whatever libjpeg warns of.
    """
    return _strict(data, "RGB", factor, size)


def check_four_colours(data: bytes, *, size: tuple[int, int]) -> None:
    """Decode a CMYK JPEG for nothing but libjpeg's warnings. Raises ValueError."""
    _strict(data, "CMYK", 8, size)


def _strict(data: bytes, space: str, factor: int, size: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    width, height = (-(-side // factor) for side in size)
    try:
        pixels = simplejpeg.decode_jpeg(data, space, min_factor=factor, min_width=width, min_height=height)
    except ValueError as error:
        if str(error).startswith(_HARMLESS) or any(reason in str(error) for reason in _NOT_TOLD):
            return None
        raise
    return pixels if pixels.shape[:2] == (height, width) else None


def check_tiff(data: bytes) -> None:
    """See that the first directory of a TIFF or BigTIFF and all that it says of its picture lie within the file.

    The strips or tiles of JPEG-compressed ones are decoded for nothing but libjpeg's warnings (TIFF Technical Note 2).
    Raises ValueError and EOFError; FieldError UNSUPPORTED for compressions that are not read.
    """
    if data.startswith(b"MM\0+"):
        raise FieldError(FailureCode.UNSUPPORTED, "Big-endian BigTIFF files are not read: export as TIFF.")
    tags = _tiff_tags(data)
    (compression,) = tags.get(_COMPRESSION, (1,))[:1]
    if compression not in _COMPRESSIONS_READ:
        raise FieldError(
            FailureCode.UNSUPPORTED, f"TIFF files of compression {compression} are not read: export with LZW or none."
        )
    offsets, lengths = (tags.get(tile, tags.get(strip, ())) for tile, strip in ((324, 273), (325, 279)))
    if len(offsets) < _parts(tags):
        raise ValueError("parts of its picture are missing")
    for offset, length in zip(offsets, lengths, strict=False):
        if offset + length > len(data):
            raise EOFError("a part of its picture lies behind its end")
        if compression == _TIFF_JPEG:
            _check_abbreviated_jpeg(data[offset : offset + length], bytes(tags.get(_JPEG_TABLES, ())), tags)


def _parts(tags: Mapping[int, tuple[int, ...]]) -> int:
    """How many strips or tiles make up a picture of the size that the tags say."""

    def value(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0] if tags.get(tag) else default

    width, height = value(256, 0), value(257, 0)
    across, down = (value(322, 0), value(323, 0)) if 324 in tags else (width, value(278, height))
    if not (width and height and across and down):
        raise ValueError("it doesn't say how large its picture is")
    planes = value(277, 1) if value(284, 1) == _SEPARATE_PLANES else 1
    return -(-width // across) * -(-height // down) * planes


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Those of the first directory that the picture needs and that are whole numbers (TIFF 6.0, section 2)."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in {b"+\0", b"\0+"}
    count, entry, offset, inline = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    head, step = struct.calcsize(order + count), struct.calcsize(order + entry) + inline
    try:
        (start,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, data, start)
        if start + head + step * entries > len(data):
            raise EOFError("its directory is cut off")
        found = {}
        for at in range(start + head, start + head + step * entries, step):
            tag, kind, values = struct.unpack_from(order + entry, data, at)
            if tag in _TIFF_NEEDED and kind in _TIFF_TYPES:
                place = at + step - inline
                if values * struct.calcsize(order + _TIFF_TYPES[kind]) > inline:
                    (place,) = struct.unpack_from(order + offset, data, place)
                if tag in found or values > _MOST_VALUES:
                    raise ValueError("its directory makes no sense")
                found[tag] = struct.unpack_from(f"{order}{values}{_TIFF_TYPES[kind]}", data, place)
    except struct.error:
        raise EOFError("its directory is cut off") from None
    return found


def _check_abbreviated_jpeg(part: bytes, tables: bytes, tags: Mapping[int, tuple[int, ...]]) -> None:
    stream = tables[:-2] + part[2:] if tables else part
    stream = plain_jpeg(stream)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(stream)
    except ValueError as error:
        if any(reason in str(error) for reason in _NOT_TOLD):
            return
        raise
    # As wide and as high as a tile, or as the picture, filled up to whole blocks.
    for side, most in ((width, (256, 322)), (height, (257, 323))):
        if side > max(tags.get(tag, (0,))[0] for tag in most) + _LARGEST_BLOCK:
            raise ValueError("a part of it is larger than the whole")
    _strict(stream, "GRAY", 8, (width, height))


def plain_png(data: bytes) -> bytes:
    """The same PNG with nothing in it but its picture and orientation, once its checksums were found right.

    Text and profiles, of any size and packed or not, are never looked at. PNG specification, sections 5.3 to 5.6.
    """
    kept = [data[:_PNG_HEAD]]
    at = _PNG_HEAD
    name = b""
    while name != b"IEND":
        if at + 12 > len(data):
            raise EOFError("it has no end")
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise EOFError("it has no end")
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError("a checksum is wrong")
        if name[0] & 0x20 == 0 or name in _PNG_KEPT:
            kept.append(data[at:end])
        at = end
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


def check_webp(data: bytes) -> None:
    """See that a WebP's picture isn't a space that was reserved for it and never written (RFC 9649)."""
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"ANMF":
            at += 24  # its frame's own chunks follow
            continue
        if name in {b"VP8 ", b"VP8L"}:
            # A lossless picture of one colour can be nothing but zeros.
            if name == b"VP8 " and data[at + 8 : at + 8 + length].endswith(_NEVER_WRITTEN):
                raise ValueError("its end was never written")
            return
        at += 8 + length + length % 2
    raise EOFError("its picture is missing")
