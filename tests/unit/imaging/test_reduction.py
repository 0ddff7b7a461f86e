from __future__ import annotations

import cv2
import numpy as np
import pytest

from imaging.reduction import reduced


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((224, 224), (192, 192)),
        ((224, 224), (128, 128)),
        ((224, 224), (160, 160)),
        ((224, 224), (32, 32)),
        ((225, 210), (75, 150)),  # width and height by themselves
        ((224, 130), (192, 130)),
        ((320, 240), (160, 120)),  # an even period
        ((251, 233), (192, 192)),  # none to speak of
    ],
)
def test_a_reduced_image_is_opencvs(channels: int, before: tuple[int, int], after: tuple[int, int]) -> None:
    random = np.random.default_rng(channels)
    shape = (before[1], before[0], channels) if channels > 1 else before[::-1]
    for low, high in ((0, 256), (250, 256), (0, 3)):
        image = random.integers(low, high, shape, dtype=np.uint8)
        expected = cv2.resize(image, after, interpolation=cv2.INTER_AREA)
        found = reduced(image, after)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        assert np.array_equal(found, expected)


def test_an_image_of_that_size_is_left_as_it_is() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    assert reduced(image, (30, 20)) is image
