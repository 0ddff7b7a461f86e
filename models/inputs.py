"""From a decoded field to what a network takes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def to_square(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The whole field, RGB uint8 (H, W, 3), squashed to (side, side, 3) as the training images were."""
    if rgb.shape[:2] == (side, side):
        return rgb
    shrinks = rgb.shape[0] >= side and rgb.shape[1] >= side
    resized = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized, dtype=np.uint8)
