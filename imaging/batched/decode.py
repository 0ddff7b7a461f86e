"""Many files decoded at once: plain JPEGs by the card (nvJPEG, through torchvision), all others by the CPU.

What the card is given has been looked at by `imaging.jpeg`, its pixel count included; what it refuses, or gives back in
another size than the header says, the CPU decodes as well. So every error that a field can have comes from
`imaging.decode`, in the same words on every machine.

Decoders differ in how they enlarge colour. A card's is tried with a picture before its first file: colour that it
repeats is interpolated afterwards (`imaging.batched.chroma`), and a decoder not near the CPU's even then is not used.
Colour and reduction are done for all files of one size and sampling at once; each has the pixels that it has alone.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from allq.errors import FieldError
from allq.logging import logger
from allq.memory import ran_out_of_memory
from imaging.batched.chroma import interpolated
from imaging.batched.resize import boxes
from imaging.batched.transfer import halving, sent, staged
from imaging.decode import Decoded, decode, reduction
from imaging.jpeg import PlainJpeg, plain_jpeg
from imaging.whole import plain_jpeg as whole_jpeg

log = logger(__name__)

_MOST_PIXELS: Final = 64 << 20
"""Pixels that are decoded at once: 192 MiB of them. A file with more is for the CPU, which decodes at reduced size."""

_MOST_TOGETHER: Final = 8 << 20
"""Pixels that are given their colour, or reduced, at once: each takes up to 79 bytes meanwhile, so 632 MiB.

A file with more is done alone.
"""

_NEAR: Final = 0.5
"""Levels by which a card's decoder may part from the CPU's on average, on a picture full of edges of colour."""

OnHost = Callable[[Callable[[bytes], Decoded | FieldError], Sequence[bytes]], Iterator[Decoded | FieldError]]
"""`map`, in whatever threads there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedTensor:
    """A field's pixels on a device: RGB uint8 (3, h, w), upright; smaller than the original when reduced.

    `width` and `height` are those of the original image, upright.
    """

    pixels: Tensor
    width: int
    height: int


def decode_together(
    files: Sequence[bytes],
    *,
    max_pixels: int,
    reduce_to: int,
    device: torch.device,
    on_host: OnHost = map,
) -> list[DecodedTensor | FieldError]:
    """Decode the bytes of image files, each to what `imaging.decode.decode` says of it, or to the error it raises.

    A JPEG reduced on the card is the mean of boxes of pixels, on the CPU a part of its frequencies: nearly the same.
    """
    found: list[DecodedTensor | FieldError | None] = [None] * len(files)
    for places, plain in _parcels(files, min(max_pixels, _MOST_PIXELS)):
        decoder = _tried(device)
        if not decoder.usable:
            break
        images = _on_card([files[place] for place in places], plain, device, repeats=decoder.repeats)
        _reduce(images, plain, reduce_to)
        for place, header, pixels in zip(places, plain, images, strict=True):
            if pixels is not None:
                found[place] = DecodedTensor(pixels=pixels, width=header.width, height=header.height)

    def decoded(data: bytes) -> Decoded | FieldError:
        try:
            return decode(data, max_pixels=max_pixels, reduce_to=reduce_to)
        except FieldError as error:
            return error

    left = [place for place, image in enumerate(found) if image is None]
    for place, image in zip(left, on_host(decoded, [files[place] for place in left]), strict=True):
        found[place] = image if isinstance(image, FieldError) else _uploaded(image, device)
    return [image for image in found if image is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decoder:
    """What was found out of a device's decoder."""

    usable: bool
    repeats: bool


@lru_cache(maxsize=8)
def _tried(device: torch.device) -> _Decoder:
    """Decode a picture on the device, and say how near that is to what the CPU makes of it."""
    content = io.BytesIO()
    rows, columns = np.mgrid[:64, :64] / 64
    edges = np.stack([255 * (columns > rows), 200 * (columns + rows > 1) + 20, 255 * (columns % 0.3 > 0.1)], axis=2)
    Image.fromarray(edges.astype(np.uint8)).save(content, "JPEG", quality=90, subsampling="4:2:0")
    data = content.getvalue()
    headers = [PlainJpeg(width=64, height=64, sampling=(2, 2))]
    reference = sent(decode(data, max_pixels=_MOST_PIXELS).pixels, device).permute(2, 0, 1).float()
    apart = []
    for repeats in (False, True):
        (pixels,) = _on_card([data], headers, device, repeats=repeats)
        apart.append(float("inf") if pixels is None else float((pixels.float() - reference).abs().mean()))
    found = _Decoder(usable=min(apart) <= _NEAR, repeats=apart[1] < apart[0])
    if not found.usable:
        log.warning("the card's JPEG decoder is not used, the CPU's is", levels_apart=min(apart))
    return found


def _uploaded(image: Decoded, device: torch.device) -> DecodedTensor:
    pixels = sent(image.pixels, device).permute(2, 0, 1).contiguous()
    return DecodedTensor(pixels=pixels, width=image.width, height=image.height)


def _parcels(files: Sequence[bytes], max_pixels: int) -> Iterator[tuple[list[int], list[PlainJpeg]]]:
    """The places and headers of the plain JPEGs among the files, so many at a time as may be decoded at once."""
    places: list[int] = []
    headers: list[PlainJpeg] = []
    pixels = 0
    for place, data in enumerate(files):
        header = plain_jpeg(data, max_pixels=max_pixels)
        if header is None or not _whole(data):
            continue
        size = header.width * header.height
        if places and pixels + size > _MOST_PIXELS:
            yield places, headers
            places, headers, pixels = [], [], 0
        places.append(place)
        headers.append(header)
        pixels += size
    if places:
        yield places, headers


def _whole(data: bytes) -> bool:
    try:
        whole_jpeg(data)
    except (ValueError, EOFError, FieldError):
        return False  # the CPU's decoder says what is wrong
    return True


def _on_card(
    files: Sequence[bytes], headers: Sequence[PlainJpeg], device: torch.device, *, repeats: bool
) -> list[Tensor | None]:
    """RGB uint8 (3, h, w) of each file, None for those that the card does not decode to the size of their header.

    `repeats`: its decoder repeats samples of colour, and they are to be interpolated.
    """
    try:
        return _decoded([staged(data, device) for data in files], headers, device, repeats=repeats)
    except RuntimeError:  # of any of the files, or of the memory for all: torchvision does not tell them apart
        if len(files) == 1:
            return [None]
    middle = len(files) // 2
    first = _on_card(files[:middle], headers[:middle], device, repeats=repeats)
    return first + _on_card(files[middle:], headers[middle:], device, repeats=repeats)


def _decoded(
    files: list[Tensor], headers: Sequence[PlainJpeg], device: torch.device, *, repeats: bool
) -> list[Tensor | None]:
    if device.type == "cuda":
        # torchvision decodes on a stream of its own, into memory of the current one, without waiting for what is still
        # to be done there with it.
        torch.cuda.current_stream(device).synchronize()
    # Deprecated since torchvision 0.29 in favour of torchcodec; pyproject.toml keeps a version that has it.
    images: list[Tensor | None] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    for place, (header, image) in enumerate(zip(headers, images, strict=True)):
        if image is None or image.shape != (3, header.height, header.width):
            images[place] = None
    mended = [place for place, header in enumerate(headers) if repeats and header.sampling != (1, 1)]
    if mended:
        lumas = decode_jpeg([files[place] for place in mended], mode=ImageReadMode.GRAY, device=device)
        _mend(images, dict(zip(mended, lumas, strict=True)), headers)
    return images


def _mend(images: list[Tensor | None], lumas: dict[int, Tensor], headers: Sequence[PlainJpeg]) -> None:
    """Interpolate the repeated colour of the images that `lumas` has the brightness of."""

    def mended(header: PlainJpeg, places: Sequence[int]) -> Sequence[Tensor]:
        brightness = torch.stack([lumas[place] for place in places])
        return interpolated(_stacked(images, places), brightness, header.sampling).unbind()

    _of_a_kind(images, headers, lumas, mended)


def _reduce(images: list[Tensor | None], headers: Sequence[PlainJpeg], reduce_to: int) -> None:
    """Reduce the images as far as their size allows."""
    factors = [reduction((header.width, header.height), reduce_to) for header in headers]

    def reduced(_: PlainJpeg, places: Sequence[int]) -> Sequence[Tensor]:
        return boxes(_stacked(images, places), factors[places[0]]).unbind()

    _of_a_kind(images, headers, [place for place, factor in enumerate(factors) if factor > 1], reduced)


def _of_a_kind(
    images: list[Tensor | None],
    headers: Sequence[PlainJpeg],
    wanted: Iterable[int],
    work: Callable[[PlainJpeg, Sequence[int]], Sequence[Tensor]],
) -> None:
    """Put what `work` makes of the wanted images in their places, in one go for many with equal headers.

    Where memory lacks for so many, it is done in halves; an image without room even by itself becomes None.
    """
    alike: dict[PlainJpeg, list[int]] = defaultdict(list)
    for place in wanted:
        if images[place] is not None:
            alike[headers[place]].append(place)
    for header, places in alike.items():
        at_once = max(1, _MOST_TOGETHER // (header.width * header.height))
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            made = halving(partial(work, header), some, ends=lambda error: not ran_out_of_memory(error))
            for place, image in zip(some, made, strict=True):
                images[place] = image if isinstance(image, Tensor) else None


def _stacked(images: Sequence[Tensor | None], places: Sequence[int]) -> Tensor:
    return torch.stack([image for place in places if (image := images[place]) is not None])
