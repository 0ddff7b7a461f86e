"""From a decoded field to what a network takes."""

from __future__ import annotations

from statistics import median
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.parameters import QualityParameters
from imaging.quality import Quality, assess
from imaging.segment import Segmentation

CACHED_SIDE: Final = 224
"""Side of the cleaned squares that training keeps in memory, in pixels; every field passes through that size."""


def to_input(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The whole field, RGB uint8 (H, W, 3), as the network takes it: (side, side, 3).

    By way of CACHED_SIDE, as in training: resampled once instead of twice, a field would be sharper than any that the
    network has seen, and would count as novel.
    """
    return to_square(to_square(rgb, CACHED_SIDE), side)


def to_square(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The whole field, RGB uint8 (H, W, 3), squashed to (side, side, 3) as the training images were."""
    if rgb.shape[:2] == (side, side):
        return rgb
    shrinks = rgb.shape[0] >= side and rgb.shape[1] >= side
    resized = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized, dtype=np.uint8)


def judge(rgb: NDArray[np.uint8], segmentation: Segmentation, width: int, parameters: QualityParameters) -> Quality:
    """The quality of a decoded field, RGB uint8 (H, W, 3), whose original is `width` pixels wide.

    Sharpness is measured on nuclei of a known size where there are any, whatever the magnification.
    """
    diameters = [leukocyte.measures["diameter"] for leukocyte in segmentation.leukocytes]
    nucleus = median(diameters) * rgb.shape[1] / width if diameters else None
    return assess(rgb, parameters, nucleus_diameter=nucleus)
