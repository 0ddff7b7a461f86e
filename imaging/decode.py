"""Bytes of a file in, upright RGB pixels out, or a FieldError that says why not.

A file is decoded whole or not at all: `imaging.whole` looks for what decoders gloss over, each in its format. Pillow
reads the headers, so that the size that is checked is the size that is allocated, and decodes; JPEGs are decoded by
TurboJPEG, whose warnings can be heard. Both release the GIL. Safe to call from many threads, of which one at a time
decodes a large picture.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

# The plugins are imported here so that threads don't race for Pillow's lazy loading of them.
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from allq.errors import FailureCode, FieldError
from imaging import whole
from imaging.formats import ImageFormat, foreign, sniff

MIN_SIDE: Final = 32
"""Below this many pixels a side there is nothing to screen."""

MOST_ELONGATED: Final = 20
"""A strip, this many times as long as wide or more, is no field of a microscope."""

LARGE: Final = 16_000_000
"""Of pictures with more pixels than this, a process decodes one at a time."""

_BAND: Final = 1 << 20
"""Pixels that are converted at a time, so that a large picture isn't in memory three times over."""

_READERS: Final[dict[ImageFormat, Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    ImageFormat.JPEG: JpegImagePlugin.JpegImageFile,
    ImageFormat.PNG: PngImagePlugin.PngImageFile,
    ImageFormat.TIFF: TiffImagePlugin.TiffImageFile,
    ImageFormat.BMP: BmpImagePlugin.BmpImageFile,
    ImageFormat.WEBP: WebPImagePlugin.WebPImageFile,
}
_turn: Final = threading.Lock()

# `decode` checks the size itself, against the operator's limit; Pillow's own check would warn on stderr.
Image.MAX_IMAGE_PIXELS = None
# Oddities in metadata (a malformed EXIF block, a missing TIFF tag) don't concern the pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")

_DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    EOFError,
    RuntimeError,
    AssertionError,
    Warning,
    struct.error,
    zlib.error,
)
"""What Pillow's parsers are known to raise on bytes that aren't what their header promises."""

_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A field's pixels: RGB uint8 (h, w, 3), contiguous, writable, upright; smaller than the original when reduced.

    `width` and `height` are those of the original image, upright.
    """

    pixels: npt.NDArray[np.uint8]
    format: ImageFormat
    width: int
    height: int


def decode(data: bytes, *, max_pixels: int, reduce_to: int | None = None) -> Decoded:
    """Decode the bytes of one image file: first page or frame, EXIF orientation applied, transparency on white.

    With `reduce_to` the picture comes at 1/2, 1/4 or 1/8 as long as its longest side stays at least that long. Colour
    profiles are not applied. Raises FieldError: NOT_AN_IMAGE, UNSUPPORTED, TOO_LARGE (more than `max_pixels`, seen in
    the header before anything is decoded), TOO_SMALL, CORRUPT (files that are cut off included); and MemoryError.
    """
    kind = _kind(data)
    plain = data
    try:
        if kind is ImageFormat.WEBP:
            # Pillow's WebP reader allocates its canvas on opening, so the size is read from the header before.
            _check_size(_webp_size(data), max_pixels)
            whole.check_webp(data)
        elif kind is ImageFormat.JPEG:
            # Before Pillow, which looks for the next segment byte by byte through whatever lies between.
            plain = whole.plain_jpeg(data)
        elif kind is ImageFormat.PNG:
            data = whole.plain_png(data)
        elif kind is ImageFormat.TIFF:
            whole.check_tiff(data)
        with _READERS[kind](io.BytesIO(data)) as image:
            size = image.size
            _check_size(size, max_pixels)
            factor = 1 if reduce_to is None else reduction(size, reduce_to)
            with _in_turn(size):
                pixels = _decoded(image, plain, kind, factor)
            orientation = _orientation(image)
            pixels = _upright(pixels, orientation)
    except _DECODER_ERRORS as error:
        if kind is ImageFormat.TIFF and _unknown(error):
            raise FieldError(
                FailureCode.UNSUPPORTED, f"TIFF files of this kind are not read ({_said(error)}): export as RGB."
            ) from error
        raise FieldError(
            FailureCode.CORRUPT, f"The {kind.upper()} file is damaged or cut off: {_said(error)}."
        ) from error
    if orientation >= 5:
        size = size[1], size[0]
    return Decoded(pixels=pixels, format=kind, width=size[0], height=size[1])


@contextmanager
def _in_turn(size: tuple[int, int]) -> Iterator[None]:
    if size[0] * size[1] <= LARGE:
        yield
    else:
        with _turn:
            yield


def _decoded(image: Image.Image, plain: bytes, kind: ImageFormat, factor: int) -> npt.NDArray[np.uint8]:
    """RGB uint8 (h, w, 3) of an opened image, reduced by `factor`, not yet upright."""
    if kind is ImageFormat.JPEG:
        size = image.size
        if image.mode == "CMYK":
            whole.check_four_colours(plain, size=size)
        elif (strict := whole.jpeg_pixels(plain, factor=factor, size=size)) is not None:
            return strict
        image.draft(image.mode, (size[0] // factor, size[1] // factor))
        factor = 1
    image.load()
    return _rgb(image, factor)


def _unknown(error: BaseException) -> bool:
    """Whether Pillow's TIFF reader met something it has no entry for: a compression or a kind of pixels."""
    return isinstance(error, SyntaxError) and ("unknown" in str(error) or isinstance(error.__cause__, KeyError))


def _kind(data: bytes) -> ImageFormat:
    kind = sniff(data[:16])
    if kind is None:
        if not data:
            raise FieldError(FailureCode.NOT_AN_IMAGE, "The file is empty.")
        if name := foreign(data[:16]):
            raise FieldError(FailureCode.UNSUPPORTED, f"{name} files are not read: export the field as TIFF or PNG.")
        raise FieldError(
            FailureCode.NOT_AN_IMAGE, "The file holds no JPEG, PNG, TIFF, BMP or WebP image, whatever its name says."
        )
    return kind


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise FieldError(
            FailureCode.TOO_LARGE,
            f"The image has {width:,} × {height:,} pixels, more than the {max_pixels:,} that ALLQ_MAX_PIXELS allows.",
        )
    if min(width, height) < MIN_SIDE:
        raise FieldError(
            FailureCode.TOO_SMALL, f"The image has {width} × {height} pixels; at least {MIN_SIDE} a side are needed."
        )
    if max(width, height) >= MOST_ELONGATED * min(width, height):
        raise FieldError(FailureCode.UNSUPPORTED, f"The image has {width:,} × {height:,} pixels: that is no field.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise EOFError("the header is cut off")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise ValueError("its first chunk holds no picture")


def reduction(size: tuple[int, int], reduce_to: int) -> int:
    """By what, 1, 2, 4 or 8, an image of this `size` is divided so that its longest side stays at least `reduce_to`."""
    return next((factor for factor in (8, 4, 2) if max(size) // factor >= reduce_to), 1)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 as it stands after loading (for TIFF, Pillow has then applied and removed it)."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:  # damaged metadata: the picture itself is fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # After the transposition 6 and 8 are rotations, 5 is done and 7 is the anti-diagonal.
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _rgb(image: Image.Image, factor: int) -> npt.NDArray[np.uint8]:
    """Pixels of a loaded image as RGB uint8 (h, w, 3), whatever its mode, reduced by `factor`."""
    width, height = image.size
    pixels = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    rows = max(1, _BAND // width // factor) * factor
    for top in range(0, height, rows):
        part = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        band = _rgb_band(part)
        if factor > 1:
            size = pixels.shape[1], -(-band.shape[0] // factor)
            band = np.asarray(cv2.resize(band, size, interpolation=cv2.INTER_AREA), np.uint8)
        pixels[top // factor : top // factor + len(band)] = band
    return pixels


def _rgb_band(image: Image.Image) -> npt.NDArray[np.uint8]:
    mode = image.mode
    if mode == "F":
        raise FieldError(
            FailureCode.UNSUPPORTED, "Floating-point pixels are not read: export the field with 8 bits a channel."
        )
    if mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        eight = (np.clip(grey, 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(eight[:, :, None], 3, axis=2)
    if mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, "white")
        canvas.alpha_composite(layer)
        image = canvas.convert("RGB")
    elif mode != "RGB":
        try:
            image = image.convert("RGB")
        except ValueError:
            raise FieldError(
                FailureCode.UNSUPPORTED, f"Pixels of the kind {mode} are not read: export as RGB."
            ) from None
    return np.asarray(image)


def _said(error: BaseException) -> str:
    """The decoder's own words as one printable clause."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return "".join(character for character in text if character.isprintable())[:200]
