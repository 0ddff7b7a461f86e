"""Burned-in scale bars and the black surround of eyepiece pictures: where they are, and away with them.

A scale bar names the microscope, and so the laboratory and often the diagnosis, better than any cell does; a network
that sees it learns it. Bars stand in the lower right corner as black, red, green or cyan lines and figures, with or
without a white box behind. All functions are pure and take RGB uint8 (h, w, 3).
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from imaging.parameters import OverlayParameters
from imaging.pieces import Pixels, as_pixels, labelled

Mask = npt.NDArray[np.bool_]


DEFAULT: Final = OverlayParameters()


def overlay_mask(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Mask:
    """True (h, w) where a scale bar or a black surround covers the smear."""
    return scale_bar_mask(rgb, parameters) | surround_mask(rgb, parameters)


def without_overlays(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Pixels:
    """Return a copy with scale bar and surround painted in the colour of the empty background beside them."""
    bar = scale_bar_mask(rgb, parameters)
    surround = surround_mask(rgb, parameters)
    if not bar.any() and not surround.any():
        return rgb.copy()
    painted = rgb.copy()
    covered = bar | surround
    if surround.any():
        painted[surround] = _background(rgb[~covered])
    if bar.any():
        x, y, width, height = cv2.boundingRect(bar.astype(np.uint8))
        around = slice(max(0, y - 2 * height), y + 2 * height), slice(max(0, x - 2 * width), x + 2 * width)
        painted[bar] = _background(rgb[around][~covered[around]])
    return painted


def scale_bar_mask(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Mask:
    """True (h, w) over the box around a scale bar and its figures in the lower right corner; all False without one."""
    height, width = rgb.shape[:2]
    mask = np.zeros((height, width), np.bool_)
    left, top = int(width * (1 - parameters.zone)), int(height * (1 - parameters.zone))
    zone = rgb[top:, left:]
    box = _ink_box(zone, (width, height), parameters)
    if box is None:
        return mask
    x0, y0, x1, y1 = box
    ticks = round(max(parameters.ticks * (x1 - x0), 0.036 * width)) if x1 - x0 < 0.12 * width else 0
    x0, y0, x1, y1 = _white_box(zone, (max(0, x0 - ticks), y0, min(zone.shape[1], x1 + ticks), y1), parameters)
    margin = max(1, round(parameters.margin * max(width, height)))
    mask[max(0, top + y0 - margin) : top + y1 + 2 * margin, max(0, left + x0 - margin) : left + x1 + margin] = True
    return mask


def surround_mask(rgb: Pixels, parameters: OverlayParameters = DEFAULT) -> Mask:
    """True (h, w) over the black surround connected to the image's edge; all False without one."""
    height, width = rgb.shape[:2]
    none = np.zeros((height, width), np.bool_)
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    if (edge < parameters.dark).all(axis=1).mean() < parameters.least_surround:
        return none  # nearly every image: the rest is looked at only for a dark edge
    dark = cv2.inRange(rgb, (0, 0, 0), (parameters.dark - 1,) * 3) // 255
    _, labels = cv2.connectedComponents(dark, connectivity=4)
    outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    surround = np.isin(labels, outer[outer > 0])
    if not parameters.least_surround <= surround.mean() <= parameters.most_surround:
        return none
    # The eyepiece's rim is a soft shadow several pixels wide.
    rim = max(1, round(0.012 * max(height, width)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
    return cv2.dilate(surround.astype(np.uint8), kernel).astype(np.bool_)


def _ink(zone: Pixels, width: int, parameters: OverlayParameters) -> Pixels:
    """1 where `zone`, a part of an image `width` pixels wide, has the colour and the fineness of ink."""
    red, green, blue = (zone[:, :, channel].astype(np.int16) for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    darkest = np.minimum(np.minimum(red, green), blue)
    black = (brightest < parameters.black) & (brightest - darkest < parameters.neutral)
    pure = parameters.saturated
    red_ink = (red - np.maximum(green, blue) > np.maximum(pure, 0.15 * red)) & (red > 120)
    green_ink = green - np.maximum(red, blue) > pure
    cyan_ink = np.minimum(green, blue) - red > 2 * pure
    ink = (black | red_ink | green_ink | cyan_ink).astype(np.uint8)
    # Red cells and shadows can have the colour of ink, but ink is drawn with a pen: wider things are no ink.
    pen = max(3, round(parameters.pen * width))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pen, pen))
    wide = cv2.dilate(cv2.morphologyEx(ink, cv2.MORPH_OPEN, kernel), np.ones((3, 3), np.uint8))
    fine: Pixels = cv2.subtract(ink, wide).astype(np.uint8, copy=False)
    return fine


def _ink_box(zone: Pixels, size: tuple[int, int], parameters: OverlayParameters) -> tuple[int, int, int, int] | None:
    """Bounds x0, y0, x1, y1 within `zone` of the ink that can be a scale bar, or None."""
    width, height = size
    ink = _ink(zone, width, parameters)
    # Figures, ticks and line belong together: join what is closer than a figure's width.
    gap = max(3, round(0.05 * width) | 1)
    joined = cv2.morphologyEx(
        cv2.copyMakeBorder(ink, gap, gap, gap, gap, cv2.BORDER_CONSTANT), cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8)
    )[gap:-gap, gap:-gap]
    labels, stats = labelled(as_pixels(joined))
    best: tuple[int, int, int, int] | None = None
    most = 0
    for label in range(1, len(stats)):
        x, y, w, h, _ = (int(value) for value in stats[label])
        inked = int(ink[y : y + h, x : x + w][labels[y : y + h, x : x + w] == label].sum())
        near = x + w >= zone.shape[1] - parameters.reach * width and y + h >= zone.shape[0] - parameters.reach * height
        shaped = w >= 0.02 * width and w >= 1.1 * h and h <= 0.2 * height
        if near and shaped and inked > max(most, 4):
            best, most = (x, y, x + w, y + h), inked
    return best


def _white_box(
    zone: Pixels, box: tuple[int, int, int, int], parameters: OverlayParameters
) -> tuple[int, int, int, int]:
    """Widen `box` to the white rectangle that it stands in, if it does."""
    x0, y0, x1, y1 = box
    white = cv2.inRange(zone, (parameters.white,) * 3, (255, 255, 255)) // 255
    white[y0:y1, x0:x1] = 1
    # A white background may touch the box; opening cuts bridges narrower than the ink is high.
    side = max(3, (min(y1 - y0, x1 - x0) // 2) | 1)
    opened = cv2.morphologyEx(white, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    labels, stats = labelled(as_pixels(opened))
    if len(stats) == 1:
        return box
    label = int(labels[(y0 + y1) // 2, (x0 + x1) // 2])
    if label == 0:
        return box
    x, y, w, h, area = (int(value) for value in stats[label])
    inside = x > 0 and y > 0 and area >= 0.9 * w * h and w <= 3 * (x1 - x0) and h <= 4 * (y1 - y0)
    return (min(x, x0), min(y, y0), max(x + w, x1), max(y + h, y1)) if inside else box


def _background(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The colour (3,) of the empty background among `pixels` (n, 3): the median of the brighter part."""
    if not len(pixels):
        return np.array([235, 235, 235], np.uint8)
    brightness = pixels[:, 1]  # green: what stain and haemoglobin both darken
    bright = pixels[brightness >= np.percentile(brightness, 70)]
    colour: npt.NDArray[np.uint8] = np.median(bright, axis=0).astype(np.uint8)
    return colour
