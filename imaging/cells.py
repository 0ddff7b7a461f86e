"""The size of a red cell in the field at hand: the yardstick that every smear carries with it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

RED_CELL_SIDE = 160
"""The yardstick is taken at this image size at most: it needs no more."""


def red_cell_radius(balanced: Pixels, nuclei: Pixels, valid: npt.NDArray[np.bool_]) -> float | None:
    """Return the typical radius of the red cells in pixels, or None where there are fewer than four.

    `balanced` is RGB uint8 (h, w, 3), `nuclei` uint8 (h, w), non-zero where stain was found. Red cells are what is
    darker than the background and no nucleus; each maximum of the distance to their edge is one radius, so that
    overlapping cells measure as well as single ones. Pallor is filled.
    """
    height, width = nuclei.shape
    shrink = max(1.0, max(height, width) / RED_CELL_SIDE)
    if shrink > 1:
        size = round(width / shrink), round(height / shrink)
        balanced = cv2.resize(balanced, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        nuclei = cv2.resize(nuclei, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
        valid = cv2.resize(valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    density = cv2.bitwise_not(balanced[:, :, 1])
    density[~valid] = 0
    level, dense = cv2.threshold(density, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if level < 8:
        return None
    _, dense = cv2.threshold(density, 0.6 * level, 1, cv2.THRESH_BINARY)
    dense[cv2.dilate(nuclei, np.ones((3, 3), np.uint8)) > 0] = 0
    dense = _without_small_holes(dense.astype(np.uint8, copy=False))
    distance = cv2.distanceTransform(dense, cv2.DIST_L2, 3)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1.0)
    maxima = (smooth == cv2.dilate(smooth, np.ones((5, 5), np.uint8))) & (distance > 1.7)
    inner = maxima[2:-2, 2:-2]
    radii = distance[2:-2, 2:-2][inner]
    if len(radii) < 4:
        return None
    # Slivers and rings have small radii and little area: weighed by area, the median is a whole cell's.
    ordered = np.sort(radii.astype(np.float64))
    weight = np.cumsum(ordered**2)
    median = float(ordered[np.searchsorted(weight, weight[-1] / 2)])
    return median * shrink


def _without_small_holes(mask: Pixels) -> Pixels:
    """Fill holes below 1 % of the image: the pallor of red cells and not the gaps between them."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    if count < 2:
        return mask
    small = stats[:, cv2.CC_STAT_AREA] < 0.003 * mask.size
    small[0] = False
    touching = (stats[:, cv2.CC_STAT_LEFT] == 0) | (stats[:, cv2.CC_STAT_TOP] == 0)
    filled: Pixels = (mask | (small & ~touching)[labels]).astype(np.uint8)
    return filled
