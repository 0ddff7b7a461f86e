"""Whether a field's picture can be judged at all: sharpness and exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from imaging.flags import BADLY_EXPOSED, BLURRED
from imaging.histograms import histogram
from imaging.parameters import QualityParameters
from imaging.pieces import Pixels, as_pixels
from imaging.reduction import reduced

SIDE: Final = 320
"""Sharpness is measured with the longer side reduced to this, so that it doesn't depend on the camera's resolution …"""
NUCLEUS: Final = 24
"""… or, where nuclei are known, with them reduced to this diameter, so that magnification doesn't matter either."""
WHITE: Final = 254
"""A channel from this level on is at the camera's limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Measures of one field and the flags that follow from them."""

    sharpness: float
    """The steepest edges' curvature relative to the contrast: about 0.05 far out of focus, 0.3 in focus."""
    contrast: float
    """Grey levels between the darkest and the brightest 2 %."""
    background: float
    """Grey level of the bright background."""
    burnt: float
    """Share of pixels that are white in all channels."""
    flags: tuple[str, ...]


DEFAULT: Final = QualityParameters()


def assess(rgb: Pixels, parameters: QualityParameters = DEFAULT, *, nucleus_diameter: float | None = None) -> Quality:
    """Measure RGB uint8 (h, w, 3); `nucleus_diameter`, in pixels of `rgb`, is that of a typical leukocyte, if known."""
    height, width = rgb.shape[:2]
    shrink = max(height, width) / SIDE
    if nucleus_diameter is not None:
        shrink = max(shrink, min(nucleus_diameter / NUCLEUS, min(height, width) / 64))
    size = (max(1, round(width / shrink)), max(1, round(height / shrink))) if shrink > 1 else (width, height)
    green = reduced(as_pixels(cv2.extractChannel(rgb, 1)), size)  # where stain and haemoglobin both absorb
    levels = np.cumsum(histogram(green)) / green.size
    dark, bright = (float(np.searchsorted(levels, share)) for share in (0.02, 0.98))
    contrast = bright - dark
    # A little smoothing first: noise is sharp, too.
    curvature = cv2.convertScaleAbs(cv2.Laplacian(cv2.GaussianBlur(green, (3, 3), 0), cv2.CV_16S))
    steep = np.cumsum(histogram(as_pixels(curvature))) / green.size
    sharpness = float(np.searchsorted(steep, 0.99)) / max(contrast, 1.0)
    burnt = _burnt(rgb, green, size)
    flags = []
    if contrast >= parameters.least_contrast and sharpness < parameters.least_sharpness:
        flags.append(BLURRED)
    if bright < parameters.least_background or burnt > parameters.most_burnt:
        flags.append(BADLY_EXPOSED)
    return Quality(sharpness=sharpness, contrast=contrast, background=bright, burnt=burnt, flags=tuple(flags))


def _burnt(rgb: Pixels, green: Pixels, size: tuple[int, int]) -> float:
    """The share of pixels of `rgb`, reduced to `size`, that are white; `green` is reduced already."""
    if green.shape == rgb.shape[:2]:
        return float(cv2.countNonZero(cv2.inRange(rgb, (WHITE,) * 3, (255,) * 3))) / green.size
    white = cv2.inRange(green, (WHITE,), (255,))
    for channel in (0, 2):
        if cv2.countNonZero(white) == 0:
            return 0.0  # the other channels needn't be reduced
        plane = reduced(as_pixels(cv2.extractChannel(rgb, channel)), size)
        white = cv2.bitwise_and(white, cv2.inRange(plane, (WHITE,), (255,)))
    return float(cv2.countNonZero(white)) / green.size
