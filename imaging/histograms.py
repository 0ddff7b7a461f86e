"""Counts of grey levels, and the level that so many pixels reach: ranks without sorting."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from imaging.pieces import Pixels

Counts = npt.NDArray[np.float64]


def histogram(image: Pixels, channel: int = 0, mask: Pixels | None = None) -> Counts:
    """Pixels at each level (256,) of a channel of uint8 (h, w) or (h, w, n); `mask` is uint8 (h, w)."""
    return np.asarray(cv2.calcHist([image], [channel], mask, [256], [0, 256]), np.float64).ravel()


def level_of_rank(counts: Counts, rank: float) -> int:
    """The level of the pixel of this rank, counted from 0, in the order of their levels."""
    return int(np.cumsum(counts).searchsorted(rank, side="right"))
