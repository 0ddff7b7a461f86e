"""Images reduced by the mean over areas: what OpenCV's INTER_AREA gives, in half the time where whole numbers do."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from imaging.pieces import Pixels, as_pixels

_LONGEST_PERIOD: Final = 15
"""Pixels after which the weights repeat. The product of two, times 255, has to fit in 16 bits."""

Weighted = tuple[npt.NDArray[np.intp], npt.NDArray[np.uint16]]
"""For each pixel of the result one of the image that it takes in, (n,), and by how much, (n, 1)."""


def reduced(image: Pixels, size: tuple[int, int]) -> Pixels:
    """An image (h, w) or (h, w, n) at `size` (width, height), no side longer than before; itself where it has that.

    Where, say, 7 pixels become 6, each of these is a sum of its neighbours times whole numbers, over 7 across and 7
    down. Such sums over an odd number are never halfway between two levels, so that how OpenCV rounds its floating
    point doesn't matter: the results are equal.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    period, other = width // gcd(width, size[0]), height // gcd(height, size[1])
    if not (period % 2 and other % 2 and max(period, other) <= _LONGEST_PERIOD):
        return as_pixels(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    # Rows are summed; columns are, too, when they have been made rows of.
    down = _summed(image.astype(np.uint16), size[1])
    across = _summed(as_wide(cv2.transpose(down)), size[0])
    return as_pixels(cv2.transpose(cv2.convertScaleAbs(across, alpha=1 / (period * other))))


def as_wide(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint16]:
    """The same array, known to be uint16: OpenCV's annotations don't say so."""
    return array.astype(np.uint16, copy=False)


def _summed(image: npt.NDArray[np.uint16], side: int) -> npt.NDArray[np.uint16]:
    """The rows of an image (h, …) summed to `side` rows, each the period times too large."""
    (first, weight), *others = _weights(image.shape[0], side)
    flat = image.reshape(image.shape[0], -1)
    total = flat.take(first, axis=0)
    total *= weight
    for rows, weight in others:
        more = flat.take(rows, axis=0)
        more *= weight
        total += more
    return total.reshape(side, *image.shape[1:])


@lru_cache(maxsize=256)
def _weights(before: int, after: int) -> list[Weighted]:
    """What to take in so that `before` pixels become `after`, in whole parts of a pixel of the image."""
    common = gcd(before, after)
    length, parts = before // common, after // common
    # In parts: a pixel of the result reaches over `length`, one of the image over `parts`.
    first = np.arange(after) * length // parts
    most = max(-(-(index + 1) * length // parts) - index * length // parts for index in range(parts))
    found = []
    for pixel in (first + step for step in range(most)):
        start, end = np.arange(after) * length, (np.arange(after) + 1) * length
        overlap = np.minimum(end, (pixel + 1) * parts) - np.maximum(start, pixel * parts)
        weight = np.maximum(overlap, 0).astype(np.uint16)[:, None]
        found.append((np.minimum(pixel, before - 1).astype(np.intp), weight))
    return found
