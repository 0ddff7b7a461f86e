"""The size of a red cell in the field at hand: the yardstick that every smear carries with it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from imaging.histograms import picked, pixels_of_each
from imaging.overlays import Overlays
from imaging.pieces import SQUARE, Pixels, as_pixels
from imaging.reduction import reduced

RED_CELL_SIDE = 160
"""The yardstick is taken at this image size at most: it needs no more."""
_NEIGHBOURS = np.ones((5, 5), np.uint8)
_INNER = slice(2, -2), slice(2, -2)


@dataclass(frozen=True, kw_only=True, slots=True)
class RedCells:
    """How large the red cells of a field are."""

    radius: float
    """In pixels."""
    crowded: bool
    """They lie so close that they may have been measured as one: a radius not to be relied on."""


def red_cells(green: Pixels, nuclei: Pixels, overlays: Overlays) -> RedCells | None:
    """Measure the red cells of a white-balanced green channel, or return None where there are fewer than four.

    `nuclei` is 255 where stain was found and else 0; both are uint8 (h, w). Red cells are what is darker than the
    background and no nucleus; each maximum of the distance to their edge is one radius, so that overlapping cells
    measure as well as single ones. Pallor is filled, which in a crowd fills the gaps between cells, too: without it a
    ring measures too small, with it a crowd too large, and the two together bound the radius.
    """
    height, width = nuclei.shape
    density = as_pixels(cv2.bitwise_not(green))
    # Nuclei are left out before the threshold: beside them pale red cells would pass for background.
    left_out = as_pixels(cv2.dilate(nuclei, SQUARE))
    overlays.fill(left_out, 255)
    shrink = max(1.0, max(height, width) / RED_CELL_SIDE)
    if shrink > 1:
        size = round(width / shrink), round(height / shrink)
        density = reduced(density, size)
        left_out = as_pixels(cv2.resize(left_out, size, interpolation=cv2.INTER_NEAREST))
    density = as_pixels(cv2.subtract(density, left_out))
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
    maxima = (smooth == cv2.dilate(smooth, _NEIGHBOURS)) & (distance > 1.7)
    radii = np.sort(distance[_INNER][maxima[_INNER]].astype(np.float64))
    if len(radii) < 4:
        return None
    # Slivers have small radii and little area.
    weight = np.cumsum(radii**2)
    return float(radii[int(np.searchsorted(weight, weight[-1] / 2))])


def _without_small_holes(mask: Pixels) -> Pixels:
    """Fill holes below 0.3 % of the image: the pallor of red cells and not the gaps between them."""
    count, numbers = cv2.connectedComponentsWithAlgorithm(1 - mask, 8, cv2.CV_32S, cv2.CCL_BBDT)
    if count < 2:
        return mask
    labels = numbers.astype(np.int32, copy=False)
    areas = pixels_of_each(labels)
    small = areas < 0.003 * mask.size
    small[labels[0]] = small[labels[:, 0]] = False
    small[0] = False  # what isn't a hole
    return as_pixels(cv2.bitwise_or(mask, picked(labels, small)))
