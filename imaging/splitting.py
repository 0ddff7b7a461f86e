"""Touching nuclei taken apart where the neck between them is narrow."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Peaks = npt.NDArray[np.float64]


def split(component: Mask, *, neck: float, least_area: float) -> Labels:
    """Return labels int32 (h, w), 1 to n, of the parts of one component, uint8 (h, w) of 0 and 1.

    Two maxima of the distance to the edge are two nuclei when the distance on the straight line between them sinks
    below `neck` times the lower maximum; each part keeps at least `least_area` pixels. A pixel belongs to the inscribed
    circle of least power, so that a seam is the chord in which the two circles intersect.
    """
    padded = cv2.copyMakeBorder(component, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    padded = cv2.copyMakeBorder(padded, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[2:-2, 2:-2].astype(np.float32, copy=False)
    peaks = _peaks(distance, neck)
    whole = component.astype(np.int32)
    if len(peaks) < 2:
        return whole
    rows, columns = np.nonzero(component)
    while len(peaks) > 1:
        power = (columns[:, None] - peaks[:, 0]) ** 2 + (rows[:, None] - peaks[:, 1]) ** 2 - peaks[:, 2] ** 2
        nearest = power.argmin(axis=1)
        areas = np.bincount(nearest, minlength=len(peaks))
        smallest = int(areas.argmin())
        if areas[smallest] >= least_area:
            whole[rows, columns] = nearest + 1
            return whole
        # A part too small for a nucleus goes back to its neighbours.
        peaks = np.delete(peaks, smallest, axis=0)
    return whole


def _peaks(distance: npt.NDArray[np.float32], neck: float) -> Peaks:
    """Return x, y, height (n, 3) of the maxima of `distance` with a narrow neck to every higher one that was kept."""
    top = float(distance.max())
    smooth = cv2.GaussianBlur(distance, (0, 0), max(0.7, 0.06 * top))
    window = 2 * max(1, round(0.3 * top)) + 1
    maxima = (smooth == cv2.dilate(smooth, np.ones((window, window), np.uint8))) & (distance > 0.25 * top)
    rows, columns = np.nonzero(maxima)
    heights = distance[rows, columns]
    kept: list[tuple[int, int, float]] = []
    for which in np.argsort(-heights, kind="stable")[:64]:
        x, y, height = int(columns[which]), int(rows[which]), float(heights[which])
        if all(_saddle(distance, (x, y), (ox, oy)) < neck * height for ox, oy, _ in kept):
            kept.append((x, y, height))
    return np.array(kept, np.float64).reshape(-1, 3)


def _saddle(distance: npt.NDArray[np.float32], start: tuple[int, int], end: tuple[int, int]) -> float:
    """The least value of `distance` on the straight line between two pixels (x, y)."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1])) + 1
    columns = np.rint(np.linspace(start[0], end[0], steps)).astype(np.intp)
    rows = np.rint(np.linspace(start[1], end[1], steps)).astype(np.intp)
    return float(distance[rows, columns].min())
