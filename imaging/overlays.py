"""Burned-in scale bars and the black surround of eyepiece pictures: where they are, and away with them.

A scale bar names the microscope, and so the laboratory and often the diagnosis, better than any cell does; a network
that sees it learns it. Bars stand in the lower right corner as black, red, green or cyan lines and figures, with or
without a white box behind. All functions are pure and take RGB uint8 (h, w, 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from imaging.histograms import histogram, level_of_rank
from imaging.parameters import OverlayParameters
from imaging.pieces import SQUARE, Pixels, as_pixels, components, window

Mask = npt.NDArray[np.bool_]
Window = tuple[slice, slice]


DEFAULT: Final = OverlayParameters()


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlays:
    """What covers the smear in one image (h, w). Found once, used by whoever looks at the same image."""

    shape: tuple[int, int]
    bar: Window | None
    """Rows and columns of the box around a scale bar and its figures."""
    surround: Mask | None
    """True (h, w) over the black surround of an eyepiece picture."""

    def __bool__(self) -> bool:
        return self.bar is not None or self.surround is not None

    def fill(self, image: npt.NDArray[np.uint8] | Mask, value: float) -> None:
        """Set all that is covered in an image (h, w) to `value`, in place."""
        if self.surround is not None:
            image[self.surround] = value
        if self.bar is not None:
            image[self.bar] = value

    def mask(self) -> Mask:
        """True (h, w) where the smear is covered."""
        covered = np.zeros(self.shape, np.bool_)
        self.fill(covered, True)
        return covered


def find_overlays(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Overlays:
    """Find what a scale bar and a black surround cover."""
    return Overlays(shape=rgb.shape[:2], bar=find_bar(rgb, parameters), surround=find_surround(rgb, parameters))


def without_overlays(rgb: Pixels, overlays: Overlays | None = None) -> Pixels:
    """Return a copy with scale bar and surround painted in the colour of the empty background beside them.

    `overlays` are those of the same image; without them they are looked for.
    """
    overlays = find_overlays(rgb) if overlays is None else overlays
    painted = rgb.copy()
    if not overlays:
        return painted
    free = np.full(rgb.shape[:2], 255, np.uint8)
    overlays.fill(free, 0)
    if overlays.surround is not None:
        painted[overlays.surround] = _background(rgb, free)
    if overlays.bar is not None:
        rows, columns = overlays.bar
        height, width = rows.stop - rows.start, columns.stop - columns.start
        around = (
            slice(max(0, rows.start - 2 * height), rows.start + 2 * height),
            slice(max(0, columns.start - 2 * width), columns.start + 2 * width),
        )
        painted[overlays.bar] = _background(rgb[around], free[around])
    return painted


def find_bar(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Window | None:
    """Rows and columns of the box around a scale bar and its figures in the lower right corner, or None."""
    height, width = rgb.shape[:2]
    left, top = int(width * (1 - parameters.zone)), int(height * (1 - parameters.zone))
    zone = rgb[top:, left:]
    box = _ink_box(zone, (width, height), parameters)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    ticks = round(max(parameters.ticks * (x1 - x0), 0.036 * width)) if x1 - x0 < 0.12 * width else 0
    x0, y0, x1, y1 = _white_box(zone, (max(0, x0 - ticks), y0, min(zone.shape[1], x1 + ticks), y1), parameters)
    margin = max(1, round(parameters.margin * max(width, height)))
    return (
        slice(max(0, top + y0 - margin), min(height, top + y1 + 2 * margin)),
        slice(max(0, left + x0 - margin), min(width, left + x1 + margin)),
    )


def find_surround(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Mask | None:
    """True (h, w) over the black surround connected to the image's edge, or None."""
    height, width = rgb.shape[:2]
    darkest, dark = (0, 0, 0), (parameters.dark - 1,) * 3
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])[None]
    if cv2.countNonZero(cv2.inRange(edge, darkest, dark)) < parameters.least_surround * edge.shape[1]:
        return None  # nearly every image: the rest is looked at only for a dark edge
    _, labels = cv2.connectedComponents(cv2.inRange(rgb, darkest, dark), connectivity=4)
    outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    surround = np.isin(labels, outer[outer > 0])
    if not parameters.least_surround <= surround.mean() <= parameters.most_surround:
        return None
    # The eyepiece's rim is a soft shadow several pixels wide.
    rim = max(1, round(0.012 * max(height, width)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
    return cv2.dilate(surround.astype(np.uint8), kernel).astype(np.bool_)


def _ink(zone: Pixels, width: int, parameters: OverlayParameters) -> Pixels:
    """255 where `zone`, a part of an image `width` pixels wide, has the colour and the fineness of ink."""
    red, green, blue = cv2.split(zone)
    brighter, darker = cv2.max(green, blue), cv2.min(green, blue)
    brightest, darkest = cv2.max(red, brighter), cv2.min(red, darker)
    pure = parameters.saturated
    # Differences of uint8 stop at 0, which no threshold reaches.
    black = cv2.bitwise_not(
        cv2.bitwise_or(
            _above(brightest, parameters.black - 1), _above(cv2.subtract(brightest, darkest), parameters.neutral - 1)
        )
    )
    red_ink = cv2.compare(cv2.subtract(red, brighter), cv2.LUT(red, _red_excess(pure)), cv2.CMP_GT)
    green_ink = _above(cv2.subtract(green, cv2.max(red, blue)), pure)
    cyan_ink = _above(cv2.subtract(darker, red), 2 * pure)
    ink = cv2.bitwise_or(cv2.bitwise_or(black, red_ink), cv2.bitwise_or(green_ink, cyan_ink))
    # Red cells and shadows can have the colour of ink, but ink is drawn with a pen: wider things are no ink.
    pen = max(3, round(parameters.pen * width))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pen, pen))
    wide = cv2.dilate(cv2.morphologyEx(ink, cv2.MORPH_OPEN, kernel), SQUARE)
    return as_pixels(cv2.subtract(ink, wide))


def _above(plane: npt.NDArray[Any], level: float) -> Pixels:
    return as_pixels(cv2.threshold(plane, level, 255, cv2.THRESH_BINARY)[1])


@cache
def _red_excess(pure: int) -> Pixels:
    """For each level of red, by how much ink must exceed green and blue; 255, by which nothing does, below 121."""
    red = np.arange(256)
    return as_pixels(np.where(red > 120, np.maximum(pure, 15 * red // 100), 255))


def _ink_box(zone: Pixels, size: tuple[int, int], parameters: OverlayParameters) -> tuple[int, int, int, int] | None:
    """Bounds x0, y0, x1, y1 within `zone` of the ink that can be a scale bar, or None."""
    width, height = size
    ink = _ink(zone, width, parameters)
    most = 4
    if cv2.countNonZero(ink) <= most:
        return None
    # Figures, ticks and line belong together: join what is closer than a figure's width.
    gap = max(3, round(0.05 * width) | 1)
    joined = cv2.morphologyEx(
        cv2.copyMakeBorder(ink, gap, gap, gap, gap, cv2.BORDER_CONSTANT), cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8)
    )[gap:-gap, gap:-gap]
    best: tuple[int, int, int, int] | None = None
    for part in components(as_pixels(joined), least=most, most=joined.size):
        x, y, w, h = part.box
        near = x + w >= zone.shape[1] - parameters.reach * width and y + h >= zone.shape[0] - parameters.reach * height
        shaped = w >= 0.02 * width and w >= 1.1 * h and h <= 0.2 * height
        if not (near and shaped):
            continue
        inked = cv2.countNonZero(cv2.bitwise_and(ink[window(part.box)], ink[window(part.box)], mask=part.mask))
        if inked > most:
            best, most = (x, y, x + w, y + h), inked
    return best


def _white_box(
    zone: Pixels, box: tuple[int, int, int, int], parameters: OverlayParameters
) -> tuple[int, int, int, int]:
    """Widen `box` to the white rectangle that it stands in, if it does."""
    x0, y0, x1, y1 = box
    white = cv2.inRange(zone, (parameters.white,) * 3, (255, 255, 255))
    white[y0:y1, x0:x1] = 255
    # A white background may touch the box; opening cuts bridges narrower than the ink is high.
    side = max(3, (min(y1 - y0, x1 - x0) // 2) | 1)
    opened = cv2.morphologyEx(white, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    middle = (x0 + x1) // 2, (y0 + y1) // 2
    if opened[middle[::-1]] == 0:
        return box
    area, _, _, (x, y, w, h) = cv2.floodFill(opened, None, middle, (1,), flags=8)
    inside = x > 0 and y > 0 and area >= 0.9 * w * h and w <= 3 * (x1 - x0) and h <= 4 * (y1 - y0)
    return (min(x, x0), min(y, y0), max(x + w, x1), max(y + h, y1)) if inside else box


def _background(rgb: Pixels, free: Pixels) -> npt.NDArray[np.uint8]:
    """The colour (3,) of the empty background where `free` is 255: the median of the brighter part."""
    pixels = cv2.countNonZero(free)
    if pixels == 0:
        return np.array([235, 235, 235], np.uint8)
    # By green, what stain and haemoglobin both darken: from the 70th percentile on.
    level = level_of_rank(histogram(rgb, 1, free), ceil(0.7 * (pixels - 1)))
    bright = as_pixels(cv2.bitwise_and(free, _above(cv2.extractChannel(rgb, 1), level - 1)))
    pixels = cv2.countNonZero(bright)
    colour = []
    for channel in range(3):
        counts = histogram(rgb, channel, bright)
        middle = level_of_rank(counts, (pixels - 1) // 2) + level_of_rank(counts, pixels // 2)
        colour.append(middle // 2)
    return np.array(colour, np.uint8)
