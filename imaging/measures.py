"""Outline, shape and colour of each nucleus of a label image, in pixels of the original."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, pi, sqrt
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from imaging.leukocyte import Leukocyte
from imaging.pieces import Box, Labels, Nuclei, Pixels, as_pixels


def measure(
    nuclei: Nuclei, balanced: Pixels, stain: Pixels, *, scale: tuple[float, float], size: tuple[int, int]
) -> tuple[Leukocyte, ...]:
    """Measure the nuclei; `scale` is original pixels per working pixel in x and in y, `size` the original's size.

    `balanced` is white-balanced RGB uint8 (h, w, 3), `stain` uint8 (h, w), both at the working scale.
    """
    return tuple(
        _one(index, box, nuclei.labels, balanced, stain, scale=scale, size=size)
        for index, box in enumerate(nuclei.boxes, start=1)
    )


def _one(
    index: int,
    box: Box,
    labels: Labels,
    balanced: Pixels,
    stain: Pixels,
    *,
    scale: tuple[float, float],
    size: tuple[int, int],
) -> Leukocyte:
    x, y, w, h = box
    window = slice(y, y + h), slice(x, x + w)
    mask = as_pixels(cv2.inRange(labels[window], index, index))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = contours[0] if len(contours) == 1 else cv2.convexHull(np.concatenate(contours))
    moments = cv2.moments(mask, binaryImage=True)
    area = moments["m00"]
    hull = cv2.convexHull(contour)
    # A contour runs through pixel centres; the hull gets the half pixel around them, the perimeter a full turn of it.
    hull_area = cv2.contourArea(hull) + cv2.arcLength(hull, closed=True) / 2 + 1
    # A chain of steps on a grid is 5 % longer than the curve it follows, on average (Proffitt & Rosen 1979).
    perimeter = sum(0.95 * cv2.arcLength(lobe, closed=True) + pi for lobe in contours)
    mean_stain, spread = cv2.meanStdDev(stain[window], mask=mask)
    red, green, blue, _ = cv2.mean(balanced[window], mask=mask)
    per_pixel = scale[0] * scale[1]
    left, top = int(x * scale[0]), int(y * scale[1])
    right, bottom = min(size[0], ceil((x + w) * scale[0])), min(size[1], ceil((y + h) * scale[1]))
    return Leukocyte(
        index=index,
        box=(left, top, right - left, bottom - top),
        centre=(
            (x + moments["m10"] / area + 0.5) * scale[0] - 0.5,
            (y + moments["m01"] / area + 0.5) * scale[1] - 0.5,
        ),
        area=area * per_pixel,
        outline=_outline(contour, (x, y), scale, size),
        measures={
            "perimeter": perimeter * sqrt(per_pixel),
            "diameter": 2 * sqrt(area * per_pixel / pi),
            "circularity": min(1.0, 4 * pi * area / perimeter**2),
            "solidity": min(1.0, area / hull_area),
            "eccentricity": _eccentricity(moments),
            "lobes": float(len(contours)),
            "mean_r": red,
            "mean_g": green,
            "mean_b": blue,
            "stain": float(mean_stain[0, 0]),
            "texture": float(spread[0, 0]),
            "touches_border": float(x == 0 or y == 0 or x + w == labels.shape[1] or y + h == labels.shape[0]),
        },
    )


def _outline(
    contour: npt.NDArray[Any], corner: tuple[int, int], scale: tuple[float, float], size: tuple[int, int]
) -> Labels:
    """The contour, nowhere off by more than 0.7 working pixels, in pixels of the original: int32 (n, 2)."""
    points = cv2.approxPolyDP(contour, 0.7, closed=True)[:, 0, :] if len(contour) > 3 else contour[:, 0, :]
    original = (points + np.array(corner) + 0.5) * np.array(scale) - 0.5
    outline: Labels = np.clip(np.rint(original), 0, np.array(size) - 1).astype(np.int32)
    return outline


def _eccentricity(moments: Mapping[str, float]) -> float:
    area = moments["m00"]
    xx, yy, xy = moments["mu20"] / area, moments["mu02"] / area, moments["mu11"] / area
    spread = sqrt((xx - yy) ** 2 + 4 * xy**2)
    major, minor = xx + yy + spread, xx + yy - spread
    return sqrt(max(0.0, 1 - minor / major)) if major > 0 else 0.0
