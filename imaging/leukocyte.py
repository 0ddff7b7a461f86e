"""A leukocyte and the names of its measures. No OpenCV here: results are read without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MEASURES = (
    "perimeter",
    "diameter",
    "circularity",
    "solidity",
    "eccentricity",
    "lobes",
    "mean_r",
    "mean_g",
    "mean_b",
    "stain",
    "texture",
    "touches_border",
)
"""Names of the measures, in the order in which they are stored.

Lengths are in original pixels; `circularity` is 4π·area/perimeter² (1 for a disc), `solidity` area over convex area,
`eccentricity` that of the ellipse of equal second moments; the mean colours are white-balanced, 0 to 255; `stain` is
the mean of the stain channel and `texture` its standard deviation (coarse chromatin has more); `touches_border` is 0
or 1.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leukocyte:
    """One leukocyte by its nucleus. Lengths in pixels of the original image."""

    index: int
    """1, 2, …: its label in `Segmentation.nuclei`."""
    box: tuple[int, int, int, int]
    """x, y, width, height."""
    centre: tuple[float, float]
    area: float
    outline: npt.NDArray[np.int32]
    """Closed polygon, int32 (n, 2) of x, y, first point not repeated; around all lobes where there are several."""
    measures: Mapping[str, float]
