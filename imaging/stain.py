"""The stain channel: one number a pixel that is high in the nuclei of leukocytes, whatever the white of the lamp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from imaging.histograms import Counts, histogram, level_of_rank
from imaging.overlays import Overlays
from imaging.parameters import StainParameters
from imaging.pieces import Pixels, as_pixels

_LEVELS = np.arange(256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stained:
    """A field, white-balanced, and its stain; uint8 (h, w) each."""

    green: Pixels
    blue: Pixels
    stain: Pixels
    """0 where overlays cover the smear."""
    layers: Pixels
    """(h, w, 4): red, green, blue and stain together, for the means of all four in one call."""


def stained(rgb: Pixels, overlays: Overlays, parameters: StainParameters) -> Stained:
    """White-balance RGB uint8 (h, w, 3) and take its stain."""
    planes = [as_pixels(plane) for plane in cv2.split(rgb)]
    red, green, blue = white_balanced(planes, white_point(planes, overlays, parameters.white_percentile))
    stain = stain_channel(red, green, blue, parameters)
    overlays.fill(stain, 0)
    return Stained(green=green, blue=blue, stain=stain, layers=as_pixels(cv2.merge([red, green, blue, stain])))


def white_point(planes: Sequence[Pixels], overlays: Overlays, percentile: float) -> tuple[int, ...]:
    """Return the level of the empty background in each plane, uint8 (h, w): a percentile over a grid of pixels."""
    height, width = overlays.shape
    step = max(1, round((height * width / 4096) ** 0.5))
    samples = np.stack([plane[::step, ::step] for plane in planes]).reshape(len(planes), -1)
    covered = 0
    if overlays:
        under = overlays.mask()[::step, ::step].ravel()
        covered = int(np.count_nonzero(under)) % len(under)
        if covered:
            samples[:, under] = 0  # and come first in the order
    free = samples.shape[1] - covered
    rank = covered + min(free - 1, int(free * percentile / 100))
    return tuple(max(1, level_of_rank(histogram(sample), rank)) for sample in samples)


def white_balanced(planes: Sequence[Pixels], white: Sequence[int]) -> list[Pixels]:
    """Return the planes, uint8 (h, w), with the levels `white` moved to 255."""
    return [_scaled(plane, level) for plane, level in zip(planes, white, strict=True)]


def _scaled(plane: Pixels, white: int) -> Pixels:
    table = _table(white)
    return as_pixels(cv2.convertScaleAbs(plane, alpha=255.0 / white) if table is None else cv2.LUT(plane, table))


@cache
def _table(white: int) -> Pixels | None:
    """The levels (256,) that `white` moves to; None where OpenCV gets them by a product, in half the time.

    It does unless one falls halfway between two levels, as with about half of the even whites.
    """
    table = np.minimum(_LEVELS * (255.0 / white) + 0.5, 255).astype(np.uint8)
    product = cv2.convertScaleAbs(_LEVELS.astype(np.uint8), alpha=255.0 / white).ravel()
    return None if np.array_equal(table, product) else table


def stain_channel(red: Pixels, green: Pixels, blue: Pixels, parameters: StainParameters) -> Pixels:
    """Return the stain of white-balanced channels; uint8 (h, w) all."""
    violet = cv2.addWeighted(
        cv2.subtract(blue, green), parameters.blue_over_green, cv2.subtract(red, green), parameters.red_over_green, 0
    )
    stain = cv2.addWeighted(cv2.bitwise_not(red), parameters.red_absorption, violet, 1.0, 0)
    stain = cv2.addWeighted(stain, 1.0, cv2.subtract(green, red), -parameters.green_over_red, 0)
    if parameters.blur:
        kernel = gaussian(parameters.blur)
        # Halves are rounded up: the sums are multiples of 2^-16, and half a step more tips nothing else.
        stain = cv2.sepFilter2D(stain, -1, kernel, kernel, delta=2**-17)
    return as_pixels(stain)


@cache
def gaussian(deviation: float) -> npt.NDArray[np.float32]:
    """A Gaussian (n, 1) in steps of 1/256, as in cv2.GaussianBlur, which takes three times as long as sepFilter2D."""
    size = round(6 * deviation + 1) | 1
    steps = np.rint(256 * cv2.getGaussianKernel(size, deviation))
    steps[size // 2] += 256 - steps.sum()
    return (steps / 256).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreeClasses:
    """A three-class Otsu split: a class is `> threshold`."""

    upper: float
    """The threshold of the highest class."""
    middle: float
    """The mean of the class below it."""


def three_classes(counts: Counts) -> ThreeClasses:
    """Split a histogram (256,) in three so that the variance between classes is largest (Otsu 1979; Liao 2001).

    Searched in steps of four levels first, then level by level around the best pair.
    """
    weight = np.cumsum(counts)
    moment = np.cumsum(counts * _LEVELS)
    if weight[-1] <= 0:
        return ThreeClasses(upper=255, middle=0)
    # Each class adds its moment² / weight. Above the highest level there is nothing to part.
    top = int(weight.searchsorted(weight[-1]))
    low = moment**2 / np.maximum(weight, 1e-9)
    high = (moment[-1] - moment) ** 2 / np.maximum(weight[-1] - weight, 1e-9)

    def best(firsts: slice, seconds: slice) -> tuple[int, int]:
        between = weight[seconds] - weight[firsts, None]
        score = (moment[seconds] - moment[firsts, None]) ** 2 / np.maximum(between, 1e-9)
        score += low[firsts, None] + high[seconds]
        score[between <= 0] = -1
        row, column = divmod(int(score.argmax()), score.shape[1])
        return int(_LEVELS[firsts][row]), int(_LEVELS[seconds][column])

    coarse = slice(3, top + 4, 4)
    first, second = best(coarse, coarse)
    first, second = best(_around(first), _around(second))
    mean = (moment[second] - moment[first]) / max(weight[second] - weight[first], 1e-9)
    return ThreeClasses(upper=float(second), middle=float(mean))


def _around(level: int) -> slice:
    return slice(max(0, level - 4), min(254, level + 4) + 1)
