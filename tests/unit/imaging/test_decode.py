import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allq.errors import FailureCode, FieldError
from imaging.decode import Decoded, decode
from imaging.formats import ImageFormat

LIMIT = 50_000_000


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colour gradients, so that JPEG changes little; red top left, brighter to the right."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([255 - 2 * y, 3 * x % 256, np.full_like(x, 90)], axis=2).clip(0, 255).astype(np.uint8)
    )


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def failure(data: bytes, max_pixels: int = LIMIT) -> FailureCode:
    with pytest.raises(FieldError) as caught:
        decode(data, max_pixels=max_pixels)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("kind", list(ImageFormat))
def test_every_format_gives_rgb_pixels(kind: ImageFormat) -> None:
    decoded = decode(
        encoded(picture(), kind.value, **({"lossless": True} if kind is ImageFormat.WEBP else {})), max_pixels=LIMIT
    )
    assert (decoded.format, decoded.width, decoded.height) == (kind, 64, 48)
    assert decoded.pixels.dtype == np.uint8 and decoded.pixels.flags.c_contiguous and decoded.pixels.flags.writeable
    tolerance = 12 if kind is ImageFormat.JPEG else 0
    assert np.abs(decoded.pixels.astype(int) - np.asarray(picture()).astype(int)).max() <= tolerance


@pytest.mark.parametrize("kind", list(ImageFormat))
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_corrupt_and_never_half_grey(kind: ImageFormat, keep: float) -> None:
    noisy = Image.fromarray(np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    data = encoded(noisy, kind.value)
    assert failure(data[: int(len(data) * keep)]) is FailureCode.CORRUPT


def test_a_size_over_the_limit_is_refused_before_decoding() -> None:
    assert failure(encoded(picture(400, 400), "png"), max_pixels=100_000) is FailureCode.TOO_LARGE
    assert failure(encoded(picture(400, 400), "webp"), max_pixels=100_000) is FailureCode.TOO_LARGE
    bomb = bytearray(encoded(picture(), "bmp"))
    bomb[18:26] = (60_000).to_bytes(4, "little") + (60_000).to_bytes(4, "little")
    assert failure(bytes(bomb)) is FailureCode.TOO_LARGE


def test_a_huge_image_within_the_limit_raises_no_bomb_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode(encoded(Image.new("1", (20_000, 10_000)), "png"), max_pixels=200_000_000, reduce_to=None)
    assert decoded.width == 20_000


def test_images_under_32_pixels_a_side_are_too_small() -> None:
    assert failure(encoded(picture(64, 31), "png")) is FailureCode.TOO_SMALL
    assert decode(encoded(picture(32, 32), "png"), max_pixels=LIMIT).width == 32


def test_what_is_no_image_is_told_apart_from_what_is_not_read() -> None:
    assert failure(b"") is FailureCode.NOT_AN_IMAGE
    assert failure(b"%!PS lorem ipsum dolor") is FailureCode.NOT_AN_IMAGE
    assert failure(encoded(picture(), "gif")) is FailureCode.UNSUPPORTED
    assert failure(encoded(Image.new("F", (40, 40)), "tiff")) is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "tiff", "png", "webp"])
def test_the_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    decoded = decode(data, max_pixels=LIMIT)
    assert (decoded.width, decoded.height) == expected.size
    assert np.array_equal(decoded.pixels, np.asarray(expected))
    assert expected.size == ((48, 64) if orientation >= 5 else (64, 48))


def grey16(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image.convert("L"),
        grey16,
        lambda image: image.convert("1"),
        lambda image: image.convert("LA"),
        lambda image: image.convert("P"),
        lambda image: image.convert("RGBA"),
    ],
)
def test_other_pixel_kinds_become_rgb(convert: Callable[[Image.Image], Image.Image]) -> None:
    image = convert(picture())
    decoded = decode(encoded(image, "png"), max_pixels=LIMIT)
    expected = np.asarray(picture().convert("L") if image.mode.startswith("I") else image.convert("RGB")).astype(int)
    expected = np.repeat(expected[:, :, None], 3, axis=2) if expected.ndim == 2 else expected
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 1


def test_cmyk_jpegs_become_rgb() -> None:
    decoded = decode(encoded(picture().convert("CMYK"), "jpeg", quality=95), max_pixels=LIMIT)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(picture()).astype(int)).max() <= 30


def test_sixteen_bit_rgb_keeps_its_high_byte() -> None:
    import cv2

    deep = (np.asarray(picture()).astype(np.uint16) << 8) + 77
    for suffix in (".png", ".tif"):
        data = cv2.imencode(suffix, deep[:, :, ::-1])[1].tobytes()
        assert np.array_equal(decode(data, max_pixels=LIMIT).pixels, np.asarray(picture()))


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    assert decode(encoded(clear, "png"), max_pixels=LIMIT).pixels.min() == 255


def test_the_first_page_and_the_first_frame_are_taken() -> None:
    other = Image.new("RGB", (64, 48), "blue")
    pages = encoded(picture(), "tiff", save_all=True, append_images=[other])
    frames = encoded(picture(), "webp", save_all=True, append_images=[other], lossless=True)
    for data in (pages, frames):
        assert np.array_equal(decode(data, max_pixels=LIMIT).pixels, np.asarray(picture()))


@given(width=st.integers(46, 900), height=st.integers(46, 900), wanted=st.integers(32, 700))
@settings(max_examples=40, deadline=None)
def test_a_reduced_jpeg_is_never_smaller_than_asked_and_tells_its_original_size(
    width: int, height: int, wanted: int
) -> None:
    decoded = decode(encoded(Image.new("RGB", (width, height)), "jpeg"), max_pixels=LIMIT, reduce_to=wanted)
    assert (decoded.width, decoded.height) == (width, height)
    longest = max(decoded.pixels.shape[:2])
    assert longest >= min(wanted, width, height)


HEADS = [encoded(picture(), kind.value) for kind in ImageFormat]


@given(
    base=st.sampled_from(HEADS),
    cut=st.floats(0, 1),
    patches=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_any_damage_gives_pixels_or_a_field_error(base: bytes, cut: float, patches: list[tuple[float, bytes]]) -> None:
    data = bytearray(base)
    for where, patch in patches:
        start = int(where * min(len(data), 200))
        data[start : start + len(patch)] = patch
    survives(bytes(data[: max(1, int(len(data) * cut))]))


@given(data=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_pixels_or_a_field_error(data: bytes) -> None:
    survives(data)


@given(head=st.sampled_from([head[:16] for head in HEADS]), data=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_behind_a_good_signature_give_pixels_or_a_field_error(head: bytes, data: bytes) -> None:
    survives(head + data)


def survives(data: bytes) -> None:
    try:
        result = decode(data, max_pixels=4_000_000)
    except FieldError:
        return
    assert isinstance(result, Decoded)
    assert result.pixels.shape == (result.height, result.width, 3)
