"""The size of a red cell in the field at hand: the yardstick that every smear carries with it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imaging.pieces import Pixels, as_pixels, labelled

_SQUARE = np.ones((3, 3), np.uint8)
RED_CELL_SIDE = 160
"""The yardstick is taken at this image size at most: it needs no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RedCells:
    """How large the red cells of a field are."""

    radius: float
    """In pixels."""
    crowded: bool
    """They lie so close that they may have been measured as one: a radius not to be relied on."""


def red_cells(balanced: Pixels, nuclei: Pixels, valid: npt.NDArray[np.bool_]) -> RedCells | None:
    """Measure the red cells of white-balanced RGB uint8 (h, w, 3), or return None where there are fewer than four.

    `nuclei` is uint8 (h, w), non-zero where stain was found. Red cells are what is darker than the background and no
    nucleus; each maximum of the distance to their edge is one radius, so that overlapping cells measure as well as
    single ones. Pallor is filled, which in a crowd fills the gaps between cells, too: without it a ring measures too
    small, with it a crowd too large, and the two together bound the radius.
    """
    height, width = nuclei.shape
    density = cv2.bitwise_not(cv2.extractChannel(balanced, 1))
    # Nuclei are left out before the threshold: beside them pale red cells would pass for background.
    left_out = cv2.dilate(nuclei, _SQUARE)
    left_out[~valid] = 1
    shrink = max(1.0, max(height, width) / RED_CELL_SIDE)
    if shrink > 1:
        size = round(width / shrink), round(height / shrink)
        density = cv2.resize(density, size, interpolation=cv2.INTER_AREA)
        left_out = cv2.resize(left_out, size, interpolation=cv2.INTER_NEAREST)
    density[left_out > 0] = 0
    level, _ = cv2.threshold(density, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if level < 8:
        return None
    _, dense = cv2.threshold(density, 0.6 * level, 1, cv2.THRESH_BINARY)
    dense = as_pixels(dense)
    open_radius, filled_radius = _typical_radius(dense), _typical_radius(_without_small_holes(dense))
    if open_radius is None or filled_radius is None:
        return None
    return RedCells(radius=min(filled_radius, 1.7 * open_radius) * shrink, crowded=filled_radius > 1.8 * open_radius)


def _typical_radius(dense: Pixels) -> float | None:
    """The radius of the discs in a mask: the median, weighed by area, of the maxima of the distance to its edge."""
    distance = cv2.distanceTransform(dense, cv2.DIST_L2, 3)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1.0)
    maxima = (smooth == cv2.dilate(smooth, np.ones((5, 5), np.uint8))) & (distance > 1.7)
    radii = np.sort(distance[2:-2, 2:-2][maxima[2:-2, 2:-2]].astype(np.float64))
    if len(radii) < 4:
        return None
    # Slivers have small radii and little area.
    weight = np.cumsum(radii**2)
    return float(radii[int(np.searchsorted(weight, weight[-1] / 2))])


def _without_small_holes(mask: Pixels) -> Pixels:
    """Fill holes below 1 % of the image: the pallor of red cells and not the gaps between them."""
    labels, stats = labelled(1 - mask)
    if len(stats) < 2:
        return mask
    small = stats[:, cv2.CC_STAT_AREA] < 0.003 * mask.size
    small[0] = False
    touching = (stats[:, cv2.CC_STAT_LEFT] == 0) | (stats[:, cv2.CC_STAT_TOP] == 0)
    filled: Pixels = (mask | (small & ~touching)[labels]).astype(np.uint8)
    return filled
