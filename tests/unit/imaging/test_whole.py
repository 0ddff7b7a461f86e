"""Damage that decoders gloss over is found, and what is no damage is let pass."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from allq.errors import FailureCode, FieldError
from imaging.decode import LARGE, decode
from tests.hostile.pictures import HEIGHT, WIDTH, encoded, pictures, smear, tiled_tiff

SOUND = {picture.name: picture.data for picture in pictures()}
LIMIT = 200_000_000


def reason(data: bytes) -> tuple[FailureCode, str]:
    with pytest.raises(FieldError) as caught:
        decode(data, max_pixels=LIMIT)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("name", [name for name in SOUND if name.startswith("jpeg")])
@pytest.mark.parametrize("reduce_to", [None, 28, 50])
def test_a_jpeg_has_the_very_pixels_that_pillow_decodes(name: str, reduce_to: int | None) -> None:
    with Image.open(io.BytesIO(SOUND[name])) as image:
        factor = {None: 1, 28: 4, 50: 2}[reduce_to]
        image.draft(image.mode, (WIDTH // factor, HEIGHT // factor))
        wanted = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(SOUND[name], max_pixels=LIMIT, reduce_to=reduce_to).pixels, wanted)


def test_a_jpeg_closed_before_its_end_is_corrupt() -> None:
    data = SOUND["jpeg-plain"]
    code, sentence = reason(data[: len(data) // 2].rstrip(b"\xff") + b"\xff\xd9")
    assert code is FailureCode.CORRUPT and "premature end" in sentence


def test_a_progressive_jpeg_without_its_last_scan_is_corrupt() -> None:
    data = SOUND["jpeg-progressive"]
    last = data.rindex(b"\xff\xda")
    assert reason(data[:last] + b"\xff\xd9") == (
        FailureCode.CORRUPT,
        "The JPEG file is damaged or cut off: some of its scans are missing.",
    )


def test_a_png_whose_rest_was_never_written_is_corrupt() -> None:
    data = SOUND["png-rgb"]
    assert reason(data[:9000] + bytes(len(data) - 9000))[0] is FailureCode.CORRUPT
    flipped = bytearray(data)
    flipped[-30] ^= 1
    assert "a checksum is wrong" in reason(bytes(flipped))[1]


def test_a_tiff_that_lacks_tiles_is_corrupt() -> None:
    data = bytearray(tiled_tiff(smear()))
    wider = data.replace(WIDTH.to_bytes(4, "little"), (2 * WIDTH).to_bytes(4, "little"))
    assert "parts of its picture are missing" in reason(bytes(wider))[1]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
@pytest.mark.parametrize("reduce_to", [None, 500])
def test_a_large_picture_made_rgb_in_bands_is_the_same_as_in_one_piece(mode: str, reduce_to: int | None) -> None:
    rng = np.random.default_rng(3)
    pixels = np.kron(rng.integers(0, 256, (73, 90, 3), np.uint8), np.ones((24, 24, 1), np.uint8))
    image = Image.fromarray(pixels).convert(mode)
    decoded = decode(encoded(image, "tiff"), max_pixels=LIMIT, reduce_to=reduce_to)
    wanted = np.asarray(image.convert("RGB"))
    if reduce_to is not None:
        wanted = cv2.resize(wanted, (image.width // 4, image.height // 4), interpolation=cv2.INTER_AREA)
    assert (decoded.width, decoded.height) == image.size and image.width * image.height < LARGE
    assert np.array_equal(decoded.pixels, wanted)


def test_a_strip_is_no_field() -> None:
    assert reason(encoded(Image.new("RGB", (40, 800)), "png"))[0] is FailureCode.UNSUPPORTED
