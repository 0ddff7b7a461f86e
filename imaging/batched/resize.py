"""Images resized as OpenCV does, each way as one matrix product an axis."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SHARPNESS = -0.75
"""Of OpenCV's cubic interpolation."""

Matrix = npt.NDArray[np.float64]


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (N, C, H, W) to the `size` height, width: by area where both sides shrink, cubic elsewhere.

    As `models.inputs.to_square` has it; the same tensor where it has that size.
    """
    shrinks = images.shape[2] >= size[0] and images.shape[3] >= size[1]
    return _by(_area if shrinks else _cubic, images, size)


def reduced(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (N, C, H, W) to the `size` height, width, by area; no side may grow."""
    return _by(_area, images, size)


def boxes(images: Tensor, factor: int) -> Tensor:
    """uint8 (N, C, H, W) to means of boxes of `factor` pixels a side; those at the far edges may hold fewer."""
    if factor == 1:
        return images
    pooled = torch.nn.functional.avg_pool2d(images.float(), factor, ceil_mode=True)
    return torch.round(pooled).to(torch.uint8)


def _by(kind: object, images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    down = _on_device(kind, images.shape[2], size[0], images.device)
    across = _on_device(kind, images.shape[3], size[1], images.device)
    values = down @ (images.float() @ across.T)
    if kind is _area and images.shape[2:] == (2 * size[0], 2 * size[1]):
        values = torch.floor(
            values + 0.5
        )  # of four pixels OpenCV takes the mean in whole numbers, and rounds halves up
    return torch.round(values).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _on_device(kind: object, length: int, wanted: int, device: torch.device) -> Tensor:
    weights = _area(length, wanted) if kind is _area else _cubic(length, wanted)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


def _area(length: int, wanted: int) -> Matrix:
    """Weights (wanted, length): each pixel is the mean of what it covers."""
    edges = np.arange(wanted + 1) * (length / wanted)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(covered, 0)
    weights[weights < 1e-3] = 0  # as OpenCV has it
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _cubic(length: int, wanted: int) -> Matrix:
    """Weights (wanted, length) of a cubic convolution (Keys, IEEE Trans ASSP 1981); the edge repeats."""
    places = (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((wanted, length))
    for offset in range(-1, 3):
        away = np.abs(places - (first + offset))
        near = ((_SHARPNESS + 2) * away - (_SHARPNESS + 3)) * away**2 + 1
        far = ((away - 5) * away + 8) * away * _SHARPNESS - 4 * _SHARPNESS
        columns = np.clip(first + offset, 0, length - 1)
        np.add.at(weights, (np.arange(wanted), columns), np.where(away <= 1, near, far))
    return weights
