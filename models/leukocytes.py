"""Which leukocytes make a field suspect: the class maps, read where each nucleus lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.segment import Segmentation
from models.artefact import LeukocyteRule
from models.calibration import suspect_margin

GRID: Final = 64
"""Side of the grid on which nuclei and class maps are laid over each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuclei:
    """The nuclei of one field on the grid."""

    labels: NDArray[np.uint16]
    """(GRID, GRID): 0, or the leukocyte's number from 1 on"""
    centres: NDArray[np.uint8]
    """(L, 2): row and column on the grid"""

    def __len__(self) -> int:
        return len(self.centres)


def lay_out(segmentation: Segmentation) -> Nuclei:
    """Lay the nuclei of a whole field on the grid, as the field is squashed to the network's input."""
    height, width = segmentation.nuclei.shape
    labels = segmentation.nuclei.take(_middles(height, width))
    down, across = (GRID / segmentation.scale / side for side in (height, width))
    centres = np.array([leukocyte.centre for leukocyte in segmentation.leukocytes], dtype=np.float64).reshape(-1, 2)
    on_grid = centres[:, ::-1] * (down, across)
    return Nuclei(labels=labels.astype(np.uint16), centres=np.clip(on_grid, 0, GRID - 1).astype(np.uint8))


@lru_cache(maxsize=64)
def _middles(height: int, width: int) -> NDArray[np.intp]:
    """Where in an image, read row by row, the middles of the cells of the grid are: (GRID, GRID)."""
    down, across = (((np.arange(GRID) + 0.5) * side / GRID).astype(np.intp) for side in (height, width))
    return down[:, None] * width + across


def margins(class_maps: Sequence[NDArray[np.float32]], nuclei: Nuclei) -> NDArray[np.float64]:
    """Log-odds of "not benign" of each leukocyte, (L,), from class maps (classes, h, w) of each view.

    The maps are interpolated to the grid and averaged over the views and the nucleus; a nucleus too small for the grid
    takes the value at its centre.
    """
    count = len(nuclei)
    if count == 0:
        return np.zeros(0)
    # OpenCV lays the maps' cells over the field by their outer edges, as the network's strides do.
    views = [
        [cv2.resize(each, (GRID, GRID), interpolation=cv2.INTER_LINEAR) for each in of_view] for of_view in class_maps
    ]
    maps = [sum(same[1:], same[0]) / len(same) for same in zip(*views, strict=True)]
    # Most of the grid is no nucleus, and isn't summed.
    places = np.flatnonzero(nuclei.labels)
    labels = nuclei.labels.ravel()[places] - 1
    pixels = np.bincount(labels, minlength=count)
    means = np.empty((count, len(maps)))
    for index, each in enumerate(maps):
        means[:, index] = np.bincount(labels, weights=each.ravel()[places], minlength=count)
    means /= np.maximum(pixels, 1)[:, None]
    for lost in np.flatnonzero(pixels == 0):
        row, column = nuclei.centres[lost]
        means[lost] = [each[row, column] for each in maps]
    return suspect_margin(means)


def count_suspects(suspicions: NDArray[np.float64], rule: LeukocyteRule, *, suspect_field: bool) -> int:
    """How many leukocytes of a field reach the rule's threshold; none in a field that isn't called suspect itself.

    A count that contradicts the field's call would be read as a finding. Each leukocyte's suspicion is kept anyway.
    """
    return int((suspicions >= rule.suspect).sum()) if suspect_field else 0
