"""A field taken apart: its leukocytes, and the smear without them.

A network that is to read leukocytes is shown leukocytes, on plain glass; and evaluation paints them out or puts them on
another smear, and looks at what the model says then. All functions are pure and take RGB uint8 (h, w, 3).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import ceil, pi
from statistics import median
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from imaging.histograms import pixels_of_each
from imaging.overlays import Overlays
from imaging.parameters import RIM, SegmentationParameters, StainParameters
from imaging.pieces import Pixels, as_pixels
from imaging.segment import segment
from imaging.stain import gaussian, white_balanced, white_point

_LEAST_RIM: Final = 2.5
"""Width of the ring around a nucleus in pixels, at the least."""

_SOFTNESS: Final = 1.0
"""Standard deviation in pixels of the seam between leukocytes and what is put behind them."""

_WHOLE: Final = 0.75
"""The ring around a nucleus, in radii, that holds the cytoplasm of nearly any leukocyte: what is painted out must not
colour what it is painted over with."""

_WIDEST_BRUSH: Final = 9
"""Widest ring, in pixels, that is painted with a brush: its cost grows with its square, a map of distances has its
price."""

_INPAINTED: Final = 112
"""Longer side at which holes are filled: the filling is smooth, and the cost grows with the hole's area."""


def cell_mask(nuclei: npt.NDArray[np.integer], *, rim: float = RIM) -> Pixels:
    """Grow the labelled nuclei (h, w) by `rim` radii of the median one: uint8 (h, w), 1 on leukocytes."""
    width = ring_width(nuclei, rim=rim)
    if width == 0:
        return np.zeros(nuclei.shape, np.uint8)
    reach = ceil(width)
    if reach > _WIDEST_BRUSH:
        return as_pixels((_distances((nuclei == 0).view(np.uint8)) <= width).view(np.uint8))
    # The distance is that along steps to neighbours: what is no further than `width` is what a brush of that shape
    # paints.
    brush = (_around_a_point(reach) <= width).view(np.uint8)
    return as_pixels(cv2.dilate((nuclei > 0).view(np.uint8), brush))


def ring_width(nuclei: npt.NDArray[np.integer], *, rim: float = RIM) -> float:
    """The width in pixels of the ring that `cell_mask` puts around labelled nuclei (h, w); 0 where there are none."""
    areas = [area for area in pixels_of_each(nuclei)[1:].tolist() if area > 0]
    if not areas:
        return 0.0
    return float(max(rim * (median(areas) / pi) ** 0.5, _LEAST_RIM))


def _distances(background: Pixels) -> npt.NDArray[np.float32]:
    """Of each pixel of uint8 (h, w) to the nearest 0 (Borgefors 1986)."""
    return cv2.distanceTransform(background, cv2.DIST_L2, 3).astype(np.float32, copy=False)


@cache
def _around_a_point(reach: int) -> npt.NDArray[np.float32]:
    """Distances (h, w) from the middle of a square that holds all up to `reach`: a step costs little less than 1."""
    side = 2 * (reach + 1) + 1
    point = np.ones((side, side), np.uint8)
    point[reach + 1, reach + 1] = 0
    distances = _distances(point)
    distances.setflags(write=False)
    return distances


def balanced(rgb: Pixels) -> Pixels:
    """The field with its empty background moved to white: what is left of the lamp and the camera is in the cells."""
    return balanced_like(rgb, rgb)


def balanced_like(rgb: Pixels, other: Pixels) -> Pixels:
    """The field with the colour of another field's empty background moved to white."""
    nothing = Overlays(shape=other.shape[:2], bar=None, surround=None)
    white = white_point([as_pixels(plane) for plane in cv2.split(other)], nothing, StainParameters().white_percentile)
    return as_pixels(cv2.merge(white_balanced([as_pixels(plane) for plane in cv2.split(rgb)], white)))


def on_glass(rgb: Pixels, cells: Pixels, *, softness: float = _SOFTNESS) -> Pixels:
    """Keep the leukocytes of a white-balanced field, `cells` uint8 (h, w), and make all else white."""
    weights = _weights(cells, softness)
    return as_pixels(cv2.add(cv2.multiply(rgb, weights, scale=1 / 255), cv2.bitwise_not(weights)))


def put_together(front: Pixels, cells: Pixels, background: Pixels, *, softness: float = _SOFTNESS) -> Pixels:
    """Lay `front`, where `cells` is set, over `background`; the seam is `softness` pixels wide (standard deviation)."""
    weights = _weights(cells, softness)
    behind = cv2.multiply(background, cv2.bitwise_not(weights), scale=1 / 255)
    return as_pixels(cv2.add(cv2.multiply(front, weights, scale=1 / 255), behind))


def _weights(cells: Pixels, softness: float) -> Pixels:
    """255 where `cells` is set, with an edge `softness` pixels wide: uint8 (h, w, 3), alike in all channels."""
    mask = cells * np.uint8(255)
    if softness == _SOFTNESS:
        # A third of the time of cv2.GaussianBlur. The sums are the same multiples of 2^-16, and of those that come of
        # a mask only 127.5, which is rounded up here and there, lies halfway between two levels.
        kernel = gaussian(softness)
        weight = cv2.sepFilter2D(mask, -1, kernel, kernel)
    else:
        weight = cv2.GaussianBlur(mask, (0, 0), softness)
    return as_pixels(cv2.merge((weight, weight, weight)))


def without_cells(rgb: Pixels, nuclei: npt.NDArray[np.integer], parameters: SegmentationParameters) -> Pixels:
    """The smear with its leukocytes, and all else that is stained like a nucleus, painted out.

    `rgb` without overlays, its `nuclei` (h, w). Stained things too small or too ragged for a leukocyte (platelets,
    debris, shrunken nuclei) go as well: nothing may be left that a network could take for a leukocyte.
    """
    loose = replace(parameters, least_area=0.05, least_share=0.02, least_solidity=0.2)
    stained = (segment(rgb, loose).nuclei > 0).astype(np.uint8)
    square = np.ones((5, 5), np.uint8)
    hole = cv2.bitwise_or(cell_mask(nuclei, rim=_WHOLE), as_pixels(cv2.dilate(stained, square)))
    return paint_out(rgb, as_pixels(cv2.dilate(hole, square)))


def paint_out(rgb: Pixels, hole: Pixels) -> Pixels:
    """Fill `hole`, uint8 (h, w), from what surrounds it (Telea, J Graph Tools 2004), with a soft edge."""
    if not hole.any():
        return rgb.copy()
    height, width = rgb.shape[:2]
    shrink = max(1.0, max(height, width) / _INPAINTED)
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    small_hole = cv2.resize(hole, size, interpolation=cv2.INTER_NEAREST)
    filled = cv2.resize(cv2.inpaint(small, small_hole, 3, cv2.INPAINT_TELEA), (width, height))
    return put_together(as_pixels(filled), hole, rgb, softness=1.5)
