"""Counts of grey levels and of labels, and the level that so many pixels reach: ranks without sorting."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from imaging.pieces import Pixels, as_pixels

Counts = npt.NDArray[np.float64]


def histogram(image: Pixels, channel: int = 0, mask: Pixels | None = None) -> Counts:
    """Pixels at each level (256,) of a channel of uint8 (h, w) or (h, w, n); `mask` is uint8 (h, w)."""
    return np.asarray(cv2.calcHist([image], [channel], mask, [256], [0, 256]), np.float64).ravel()


def level_of_rank(counts: Counts, rank: float) -> int:
    """The level of the pixel of this rank, counted from 0, in the order of their levels."""
    return int(counts.cumsum().searchsorted(rank, side="right"))


def pixels_of_each(labels: npt.NDArray[np.integer]) -> Counts:
    """How many pixels have each label, from 0 to the highest at least."""
    # Most images have few labels, and OpenCV counts bytes in half the time.
    return histogram(labels.astype(np.uint8)) if _fit_a_byte(labels) else np.bincount(labels.ravel()).astype(np.float64)


def picked(labels: npt.NDArray[np.integer], which: npt.NDArray[np.bool_]) -> Pixels:
    """Uint8 (h, w): 1 where the label is one of those set in `which`, which has a place for each that occurs."""
    if len(which) == 256 and _fit_a_byte(labels):
        return as_pixels(cv2.LUT(labels.astype(np.uint8), which.view(np.uint8)))
    return as_pixels(which[labels])


def _fit_a_byte(labels: npt.NDArray[np.integer]) -> bool:
    return int(labels.max(initial=0)) < 256
