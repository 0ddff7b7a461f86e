from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imaging.jpeg import PlainJpeg, plain_jpeg

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(content, "JPEG", **options)
    return content.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


@pytest.mark.parametrize(("subsampling", "sampling"), [(0, (1, 1)), (1, (2, 1)), (2, (2, 2))])
@pytest.mark.parametrize("progressive", [False, True])
def test_baseline_and_progressive_files_are_plain_and_have_their_size(
    subsampling: int, sampling: tuple[int, int], progressive: bool
) -> None:
    found = plain_jpeg(jpeg(subsampling=subsampling, progressive=progressive), max_pixels=64 * 48)
    assert found == PlainJpeg(width=64, height=48, sampling=sampling)


def test_a_file_with_more_pixels_than_allowed_is_not_for_the_card() -> None:
    assert plain_jpeg(jpeg(), max_pixels=64 * 48 - 1) is None


def test_only_upright_pictures_are_for_the_card() -> None:
    assert plain_jpeg(turned(1), max_pixels=10_000) is not None
    for orientation in range(2, 9):
        assert plain_jpeg(turned(orientation), max_pixels=10_000) is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_colours_other_than_ycbcr_are_not_for_the_card(mode: str) -> None:
    assert plain_jpeg(jpeg(mode), max_pixels=10_000) is None
    assert plain_jpeg(jpeg(keep_rgb=True), max_pixels=10_000) is None


def test_a_file_cut_off_anywhere_is_not_for_the_card() -> None:
    whole = jpeg()
    assert all(plain_jpeg(whole[:length], max_pixels=10_000) is None for length in range(len(whole)))


def test_a_second_size_hidden_behind_the_first_is_not_for_the_card() -> None:
    whole = jpeg()
    start = whole.index(b"\xff\xc0")
    frame = whole[start : start + 2 + int.from_bytes(whole[start + 2 : start + 4])]
    larger = frame[:5] + b"\xff\xff\xff\xff" + frame[9:]
    assert plain_jpeg(whole[:start] + larger + whole[start:], max_pixels=10_000) is None
    assert plain_jpeg(whole[:start] + frame + whole[start:], max_pixels=10_000) is None
    assert plain_jpeg(whole[:-2] + larger + whole[-2:], max_pixels=10_000) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff\xd9\xff\xd9"])
def test_other_bytes_are_not_for_the_card(data: bytes) -> None:
    assert plain_jpeg(data, max_pixels=10_000) is None


def test_no_change_of_a_byte_in_the_header_is_taken_for_more_pixels_than_allowed() -> None:
    whole = bytearray(jpeg())
    for place in range(min(700, len(whole))):
        changed = bytes(whole[:place]) + bytes([whole[place] ^ 0xFF]) + bytes(whole[place + 1 :])
        found = plain_jpeg(changed, max_pixels=10_000)
        assert found is None or found.width * found.height <= 10_000
