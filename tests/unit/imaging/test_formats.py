import subprocess
import sys

import cv2
import numpy as np
import pytest

from imaging.formats import ImageFormat, foreign, sniff


@pytest.mark.parametrize(
    "suffix, kind", [(".jpg", "jpeg"), (".png", "png"), (".tif", "tiff"), (".bmp", "bmp"), (".webp", "webp")]
)
def test_a_format_is_told_by_its_first_sixteen_bytes(suffix: str, kind: str) -> None:
    data = cv2.imencode(suffix, np.zeros((40, 40, 3), np.uint8))[1].tobytes()
    assert sniff(data[:16]) == ImageFormat(kind)


@pytest.mark.parametrize(
    "head", [b"", b"B", b"BM", b"BMW is a car, not a bitmap", b"RIFF1234WAVEfmt ", b"\x00" * 16, b"<html>"]
)
def test_other_content_is_no_image(head: bytes) -> None:
    assert sniff(head) is None


def test_formats_that_are_pictures_but_not_read_have_a_name() -> None:
    assert foreign(b"GIF89a..........") == "GIF"
    assert foreign(b"ZISRAWFILE\0\0\0\0\0\0") == "Zeiss CZI"
    assert foreign(b"hello") is None


def test_importing_formats_loads_neither_opencv_nor_pillow_nor_numpy() -> None:
    code = "import sys, imaging.formats; print(sorted({'cv2', 'PIL', 'numpy', 'torch'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
