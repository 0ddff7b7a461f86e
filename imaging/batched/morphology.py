"""Neighbourhoods of batches of masks: erosion and dilation as OpenCV does them, and the distance to what is set."""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_STRAIGHT: Final = round(0.955 * 65536)
_SLANTED: Final = round(1.3693 * 65536)
"""Steps of OpenCV's distance over a 3×3 neighbourhood (Borgefors 1986), in its fixed-point form."""


def opened(masks: Tensor, brush: int) -> Tensor:
    """Bool (N, h, w) without what is narrower than a disc `brush` pixels wide."""
    rows = _disc(brush)
    return _extreme(~_extreme(~masks, rows, brush), rows, brush)


def dilated(masks: Tensor) -> Tensor:
    """Bool (N, h, w), grown by one pixel to all sides."""
    return functional.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0


def within(masks: Tensor, widths: Tensor, *, furthest: float) -> Tensor:
    """Bool (N, h, w): where the distance to what is set in each mask is at most its width, float32 (N,).

    `furthest` is the greatest of the widths, known to the host, which so need not wait for the device.
    """
    steps = ceil(furthest / 0.955)
    far = torch.full_like(masks, 1 << 28, dtype=torch.int32)
    distance = torch.where(masks, torch.zeros_like(far), far)
    for _ in range(steps):
        padded = functional.pad(distance, (1, 1, 1, 1), value=1 << 28)
        up, middle, down = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
        straight = _least(up[:, :, 1:-1], down[:, :, 1:-1], middle[:, :, :-2], middle[:, :, 2:])
        slanted = _least(up[:, :, :-2], up[:, :, 2:], down[:, :, :-2], down[:, :, 2:])
        distance = _least(distance, straight + _STRAIGHT, slanted + _SLANTED)
    return distance.float() * 2.0**-16 <= widths[:, None, None]


def _least(first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.minimum(first, other)
    return first


Rows = tuple[tuple[int, int, int], ...]


@lru_cache(maxsize=64)
def _disc(brush: int) -> Rows:
    """OpenCV's ellipse in a square: of each row its distance from the anchor, and from where to where it is set."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (brush, brush))
    anchor = brush // 2
    found = []
    for row, line in enumerate(kernel):
        columns = np.flatnonzero(line)
        if len(columns):
            found.append((row - anchor, int(columns[0]) - anchor, int(columns[-1]) - anchor))
    return tuple(found)


def _extreme(masks: Tensor, rows: Rows, brush: int) -> Tensor:
    """Where a kernel of `rows` laid on a pixel meets anything set in bool (N, h, w); beyond the edge nothing is."""
    height, width = masks.shape[1:]
    padded = functional.pad(masks[:, None].float(), (brush, brush, brush, brush))
    runs: dict[tuple[int, int], Tensor] = {}
    result = torch.zeros_like(masks, dtype=torch.float32)
    for down, left, right in rows:
        if (left, right) not in runs:
            runs[left, right] = functional.max_pool2d(padded, (1, right - left + 1), 1)[:, 0]
        run = runs[left, right]
        result = torch.maximum(
            result, run[:, brush + down : brush + down + height, brush + left : brush + left + width]
        )
    return result > 0
