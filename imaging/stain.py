"""The stain channel: one number a pixel that is high in the nuclei of leukocytes, whatever the white of the lamp."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imaging.parameters import StainParameters

Pixels = npt.NDArray[np.uint8]


def white_point(rgb: Pixels, valid: npt.NDArray[np.bool_] | None, percentile: float) -> npt.NDArray[np.float64]:
    """Return the colour (3,) of the empty background: a percentile of each channel over a grid of valid pixels."""
    step = max(1, round((rgb.shape[0] * rgb.shape[1] / 4096) ** 0.5))
    sample = rgb[::step, ::step].reshape(-1, 3)
    if valid is not None:
        kept = sample[valid[::step, ::step].ravel()]
        sample = kept if len(kept) else sample
    rank = min(len(sample) - 1, int(len(sample) * percentile / 100))
    white: npt.NDArray[np.float64] = np.maximum(np.partition(sample, rank, axis=0)[rank], 1).astype(np.float64)
    return white


def white_balanced(rgb: Pixels, white: npt.NDArray[np.float64]) -> Pixels:
    """Return RGB uint8 (h, w, 3) with `white` moved to 255 in every channel."""
    table = np.minimum(np.arange(256)[:, None] * (255.0 / white) + 0.5, 255).astype(np.uint8)
    return cv2.LUT(rgb, table.reshape(1, 256, 3)).astype(np.uint8, copy=False)


def stain_channel(balanced: Pixels, parameters: StainParameters) -> Pixels:
    """Return the stain uint8 (h, w) of white-balanced RGB uint8 (h, w, 3)."""
    red, green, blue = cv2.split(balanced)
    violet = cv2.addWeighted(
        cv2.subtract(blue, green), parameters.blue_over_green, cv2.subtract(red, green), parameters.red_over_green, 0
    )
    stain = cv2.addWeighted(cv2.bitwise_not(red), parameters.red_absorption, violet, 1.0, 0)
    stain = cv2.addWeighted(stain, 1.0, cv2.subtract(green, red), -parameters.green_over_red, 0)
    if parameters.blur:
        stain = cv2.GaussianBlur(stain, (0, 0), parameters.blur)
    return stain.astype(np.uint8, copy=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreeClasses:
    """The two thresholds of a three-class Otsu split (a class is `> threshold`) and the means of the classes."""

    lower: float
    upper: float
    means: tuple[float, float, float]


def three_classes(histogram: npt.NDArray[np.float64]) -> ThreeClasses:
    """Split a histogram (256,) in three so that the variance between classes is largest (Otsu 1979; Liao 2001).

    Searched in steps of four levels first, then level by level around the best pair.
    """
    weight = np.cumsum(histogram)
    moment = np.cumsum(histogram * np.arange(256))
    if weight[-1] <= 0:
        return ThreeClasses(lower=255, upper=255, means=(0, 0, 0))
    coarse = np.arange(3, 256, 4)
    first, second = _best_pair(weight, moment, coarse, coarse)
    first, second = _best_pair(weight, moment, _around(first), _around(second))
    low, middle, high = weight[first], weight[second] - weight[first], weight[-1] - weight[second]
    means = (
        moment[first] / max(low, 1e-9),
        (moment[second] - moment[first]) / max(middle, 1e-9),
        (moment[-1] - moment[second]) / max(high, 1e-9),
    )
    return ThreeClasses(
        lower=float(first), upper=float(second), means=(float(means[0]), float(means[1]), float(means[2]))
    )


def _around(level: int) -> npt.NDArray[np.intp]:
    return np.arange(max(0, level - 4), min(254, level + 4) + 1)


def _best_pair(
    weight: npt.NDArray[np.float64],
    moment: npt.NDArray[np.float64],
    firsts: npt.NDArray[np.intp],
    seconds: npt.NDArray[np.intp],
) -> tuple[int, int]:
    """The pair of thresholds (first < second) of largest variance between classes, from cumulated histograms."""
    low = moment[firsts] ** 2 / np.maximum(weight[firsts], 1e-9)
    high = (moment[-1] - moment[seconds]) ** 2 / np.maximum(weight[-1] - weight[seconds], 1e-9)
    between = weight[seconds] - weight[firsts][:, None]
    score = low[:, None] + high + (moment[seconds] - moment[firsts][:, None]) ** 2 / np.maximum(between, 1e-9)
    score[(between <= 0) | (seconds <= firsts[:, None])] = -1
    row, column = divmod(int(score.argmax()), len(seconds))
    return int(firsts[row]), int(seconds[column])
