"""Outline, shape and colour of each nucleus of a field, in pixels of the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, pi, sqrt

import cv2
import numpy as np

from imaging.leukocyte import Leukocyte
from imaging.pieces import Contour, Labels, Piece, Pixels, colour_of


def measure(
    nuclei: Sequence[Piece], layers: Pixels, *, scale: tuple[float, float], size: tuple[int, int]
) -> tuple[Leukocyte, ...]:
    """Measure the nuclei; `scale` is original pixels per working pixel in x and in y, `size` the original's size.

    `layers` is uint8 (h, w, 4) at the working scale: white-balanced red, green, blue, and the stain.
    """
    outlines = _outlines([_around(nucleus) for nucleus in nuclei], scale, size)
    return tuple(
        _one(index, nucleus, outline, layers, scale=scale, size=size)
        for index, (nucleus, outline) in enumerate(zip(nuclei, outlines, strict=True), start=1)
    )


def _around(nucleus: Piece) -> Contour:
    """The contour of a nucleus; the hull of its lobes where there are several."""
    if len(nucleus.contours) == 1:
        return nucleus.contours[0]
    hull: Contour = cv2.convexHull(np.concatenate(nucleus.contours)).astype(np.int32, copy=False)
    return hull


def _one(
    index: int,
    nucleus: Piece,
    outline: Labels,
    layers: Pixels,
    *,
    scale: tuple[float, float],
    size: tuple[int, int],
) -> Leukocyte:
    x, y, w, h = nucleus.box
    moments = cv2.moments(nucleus.mask)
    area = nucleus.area
    # A chain of steps on a grid is 5 % longer than the curve it follows, on average (Proffitt & Rosen 1979); it runs
    # through pixel centres, and gets a full turn of the half pixel around them.
    perimeter = sum(0.95 * cv2.arcLength(lobe, closed=True) + pi for lobe in nucleus.contours)
    colour = nucleus.colour or colour_of(layers, nucleus.mask, nucleus.box, area)
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
        outline=outline,
        measures={
            "perimeter": perimeter * sqrt(per_pixel),
            "diameter": 2 * sqrt(area * per_pixel / pi),
            "circularity": min(1.0, 4 * pi * area / perimeter**2),
            "solidity": nucleus.solidity,
            "eccentricity": _eccentricity(moments),
            "lobes": float(len(nucleus.contours)),
            "mean_r": colour.red,
            "mean_g": colour.green,
            "mean_b": colour.blue,
            "stain": colour.stain,
            "texture": colour.texture,
            "touches_border": float(x == 0 or y == 0 or x + w == layers.shape[1] or y + h == layers.shape[0]),
        },
    )


def _outlines(contours: Sequence[Contour], scale: tuple[float, float], size: tuple[int, int]) -> Iterator[Labels]:
    """The contours, nowhere off by more than 0.7 working pixels, in pixels of the original: int32 (n, 2) each."""
    if not contours:
        return
    polygons = [cv2.approxPolyDP(each, 0.7, closed=True) if len(each) > 3 else each for each in contours]
    # All at once: there are a dozen of them, and each operation on so few numbers is mostly overhead.
    points = (np.concatenate(polygons)[:, 0] + 0.5) * scale - 0.5
    outlines = np.minimum(np.maximum(np.rint(points), 0), np.array(size) - 1).astype(np.int32)
    start = 0
    for polygon in polygons:
        yield outlines[start : start + len(polygon)]
        start += len(polygon)


def _eccentricity(moments: Mapping[str, float]) -> float:
    area = moments["m00"]
    xx, yy, xy = moments["mu20"] / area, moments["mu02"] / area, moments["mu11"] / area
    spread = sqrt((xx - yy) ** 2 + 4 * xy**2)
    major, minor = xx + yy + spread, xx + yy - spread
    return sqrt(max(0.0, 1 - minor / major)) if major > 0 else 0.0
