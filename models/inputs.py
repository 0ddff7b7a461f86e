"""From a decoded field to what a network takes: its leukocytes on plain glass, and the whole field."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.layers import balanced, cell_mask, on_glass
from imaging.parameters import RIM, QualityParameters
from imaging.quality import Quality, assess
from imaging.reduction import reduced
from imaging.segment import Segmentation

Pixels = NDArray[np.uint8]

CACHED_SIDE: Final = 224
"""Side of the squares that training keeps in memory, in pixels; every field passes through that size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """A field squashed to a square of CACHED_SIDE, as the training images were, without overlays."""

    pixels: Pixels
    """RGB (CACHED_SIDE, CACHED_SIDE, 3)"""
    balanced: Pixels
    """the same with its background moved to white"""
    cells: Pixels
    """(CACHED_SIDE, CACHED_SIDE): 1 on leukocytes"""


def to_cached(cleaned: Pixels, segmentation: Segmentation, *, rim: float = RIM) -> Square:
    """Squash a field, RGB uint8 (H, W, 3) without overlays, and its leukocytes, nuclei with a ring of `rim` radii.

    By way of CACHED_SIDE, as in training: resampled once instead of twice, a field would be sharper than any that the
    network has seen, and would count as novel.
    """
    pixels = to_square(cleaned, CACHED_SIDE)
    return Square(
        pixels=pixels, balanced=balanced(pixels), cells=cell_mask(sampled(segmentation.nuclei, CACHED_SIDE), rim=rim)
    )


def cells_view(square: Square, side: int) -> Pixels:
    """The leukocytes on plain glass, RGB uint8 (side, side, 3)."""
    return to_square(on_glass(square.balanced, square.cells), side)


def field_view(square: Square, side: int) -> Pixels:
    """The whole field, its colours as they are: RGB uint8 (side, side, 3)."""
    return to_square(square.pixels, side)


def to_square(rgb: Pixels, side: int) -> Pixels:
    """The whole field, RGB uint8 (H, W, 3), squashed to (side, side, 3)."""
    if rgb.shape[:2] == (side, side):
        return rgb
    if rgb.shape[0] >= side and rgb.shape[1] >= side:
        return np.ascontiguousarray(reduced(rgb, (side, side)))
    return np.ascontiguousarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def sampled(labels: NDArray[np.int32], side: int) -> NDArray[np.int32]:
    """Labels (h, w) at the nearest pixels of a square: (side, side)."""
    height, width = labels.shape
    if (height, width) == (side, side):
        return labels
    rows = ((np.arange(side) + 0.5) * height / side).astype(int)
    columns = ((np.arange(side) + 0.5) * width / side).astype(int)
    nearest: NDArray[np.int32] = labels[rows[:, None], columns[None, :]]
    return nearest


def judge(rgb: Pixels, segmentation: Segmentation, width: int, parameters: QualityParameters) -> Quality:
    """The quality of a decoded field, RGB uint8 (H, W, 3), whose original is `width` pixels wide.

    Sharpness is measured on nuclei of a known size where there are any, whatever the magnification.
    """
    diameters = [leukocyte.measures["diameter"] for leukocyte in segmentation.leukocytes]
    nucleus = median(diameters) * rgb.shape[1] / width if diameters else None
    return assess(rgb, parameters, nucleus_diameter=nucleus)
