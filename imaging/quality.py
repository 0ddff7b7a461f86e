"""Whether a field's picture can be judged at all: sharpness and exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from imaging.parameters import QualityParameters

Pixels = npt.NDArray[np.uint8]

BLURRED: Final = "blurred"
BADLY_EXPOSED: Final = "badly-exposed"
SIDE: Final = 320
"""Sharpness is measured with the longer side reduced to this, so that it doesn't depend on the camera's resolution …"""
NUCLEUS: Final = 24
"""… or, where nuclei are known, with them reduced to this diameter, so that magnification doesn't matter either."""


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
    if shrink > 1:
        size = max(1, round(width / shrink)), max(1, round(height / shrink))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    green = cv2.extractChannel(rgb, 1)  # where stain and haemoglobin both absorb: the channel of most contrast
    histogram = np.cumsum(np.bincount(green.ravel(), minlength=256)) / green.size
    dark, bright = (float(np.searchsorted(histogram, share)) for share in (0.02, 0.98))
    contrast = bright - dark
    # A little smoothing first: noise is sharp, too.
    curvature = cv2.Laplacian(cv2.GaussianBlur(green, (3, 3), 0), cv2.CV_16S)
    steep = np.cumsum(np.bincount(np.minimum(np.abs(curvature), 255).ravel(), minlength=256)) / green.size
    sharpness = float(np.searchsorted(steep, 0.99)) / max(contrast, 1.0)
    burnt = float(cv2.countNonZero(cv2.inRange(rgb, (254, 254, 254), (255, 255, 255)))) / green.size
    flags = []
    if contrast >= parameters.least_contrast and sharpness < parameters.least_sharpness:
        flags.append(BLURRED)
    if bright < parameters.least_background or burnt > parameters.most_burnt:
        flags.append(BADLY_EXPOSED)
    return Quality(sharpness=sharpness, contrast=contrast, background=bright, burnt=burnt, flags=tuple(flags))
