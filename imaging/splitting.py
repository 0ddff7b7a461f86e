"""Touching nuclei taken apart where the neck between them is narrow."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from imaging.pieces import Pixels

Peaks = npt.NDArray[np.float64]
Plane = npt.NDArray[np.float32]
Powers = npt.NDArray[np.float64]


def split(component: Pixels, *, neck: float, least_area: float) -> Pixels:
    """Return labels uint8 (h, w), 1 to n, of the parts of one component, uint8 (h, w) of 0 and 1.

    Two maxima of the distance to the edge are two nuclei when the distance on the straight line between them sinks
    below `neck` times the lower maximum; each part keeps at least `least_area` pixels. A pixel belongs to the inscribed
    circle of least power, so that a seam is the chord in which the two circles intersect.
    """
    padded = cv2.copyMakeBorder(component, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    padded = cv2.copyMakeBorder(padded, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[2:-2, 2:-2].astype(np.float32, copy=False)
    peaks = _peaks(distance, neck)
    if len(peaks) < 2:
        return component
    powers = _powers(peaks, component.shape)
    while len(powers) > 1:
        labels = component * _nearest(powers)
        areas = np.bincount(labels.ravel(), minlength=len(powers) + 1)[1:]
        smallest = int(areas.argmin())
        if areas[smallest] >= least_area:
            return labels
        # A part too small for a nucleus goes back to its neighbours.
        powers = np.delete(powers, smallest, axis=0)
    return component


def _powers(peaks: Peaks, shape: tuple[int, ...]) -> Powers:
    """The power of each pixel for each circle x, y, radius (n, 3), without the terms that all circles share."""
    x, y, radius = peaks.T[:, :, None, None]
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    powers: Powers = (-2 * x * columns) + (x**2 + y**2 - radius**2 - 2 * y * rows)
    return powers


def _nearest(powers: Powers) -> Pixels:
    """Return the number, from 1 on, of the circle of least power, of several the first: uint8 (h, w)."""
    nearest: Pixels = (powers[1] < powers[0]).view(np.uint8) + np.uint8(1)
    least = powers[0]
    for number, power in enumerate(powers[2:], start=3):
        least = np.minimum(least, powers[number - 2])
        np.copyto(nearest, number, where=power < least)
    return nearest


def _peaks(distance: Plane, neck: float) -> Peaks:
    """Return x, y, height (n, 3) of the maxima of `distance` with a narrow neck to every higher one that was kept."""
    top = float(distance.max())
    smooth = cv2.GaussianBlur(distance, (0, 0), max(0.7, 0.06 * top))
    window = 2 * max(1, round(0.3 * top)) + 1
    maxima = (smooth == cv2.dilate(smooth, np.ones((window, window), np.uint8))) & (distance > 0.25 * top)
    places = np.flatnonzero(maxima)
    heights = distance.ravel()[places]
    kept: list[tuple[int, int, float]] = []
    for which in np.argsort(-heights, kind="stable")[:64]:
        y, x = divmod(int(places[which]), distance.shape[1])
        height = float(heights[which])
        if all(_sinks(distance, (x, y), (ox, oy), neck * height) for ox, oy, _ in kept):
            kept.append((x, y, height))
    return np.array(kept, np.float64).reshape(-1, 3)


def _sinks(distance: Plane, start: tuple[int, int], end: tuple[int, int], level: float) -> bool:
    """Whether `distance` falls below `level` on the straight line between two pixels (x, y)."""
    (x, y), across, down = start, end[0] - start[0], end[1] - start[1]
    steps = max(abs(across), abs(down), 1)
    across_step, down_step = across / steps, down / steps
    # Most necks are near the middle: one pixel says so in a tenth of the time.
    middle = steps // 2
    if distance.item(round(middle * down_step + y), round(middle * across_step + x)) < level:
        return True
    along = np.arange(steps + 1)
    columns = np.rint(along * across_step + x).astype(np.intp)
    rows = np.rint(along * down_step + y).astype(np.intp)
    return float(distance[rows, columns].min()) < level
