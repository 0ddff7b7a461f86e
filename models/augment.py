"""What a laboratory could have done otherwise with the same smear: stain, light, focus, orientation, compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.layers import on_glass

PATCHED: Final = 0.6
_EDGE = np.ones((3, 3), np.uint8)
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1.0) / 256.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far each property is varied."""

    stain_gain: float = 0.25
    """optical density of each channel times 1 ± this"""
    stain_mix: float = 0.08
    """share of each channel's density that leaks into another"""
    stain_shift: float = 0.06
    """added to each channel's density: light and white balance"""
    strength: float = 0.20
    """density of all channels together times 1 ± this: staining time, exposure"""
    scale: float = 0.15
    """cells larger or smaller by 1 ± this"""
    shift: float = 0.06
    """of the side, in either direction"""
    blur: float = 0.25
    """share of fields that are blurred"""
    jpeg: float = 0.25
    """share of fields that are compressed anew, at quality 35 to 90"""


def augment(
    rgb: NDArray[np.uint8], side: int, random: np.random.Generator, how: Augmentation | None = None
) -> NDArray[np.uint8]:
    """One field, RGB uint8 (H, W, 3), varied at random: RGB uint8 (side, side, 3).

    Colours are varied in optical density, where stains add up (Beer-Lambert; Tellez et al., MedIA 2019).
    """
    how = how or Augmentation()
    turned = _turn(rgb, side, random, how)
    varied = vary_stain(turned, random, how)
    if random.random() < how.blur:
        varied = cv2.GaussianBlur(varied, (0, 0), random.uniform(0.3, 1.1)).astype(np.uint8)
    if random.random() < how.jpeg:
        _, packed = cv2.imencode(".jpg", varied, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(35, 91))])
        varied = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)  # channels are in the order they had
    return np.ascontiguousarray(varied)


def cut_out(balanced: NDArray[np.uint8], cells: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """The leukocytes of a white-balanced field on plain glass, cut out a little wider or tighter, harder or softer."""
    return on_glass(balanced, reshaped(cells, random), softness=float(random.uniform(0.6, 1.6)))


def reshaped(cells: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """The mask of leukocytes, uint8 (H, W), as it is, a pixel wider or a pixel tighter."""
    edge = int(random.integers(3))
    if not edge:
        return cells
    return (cv2.dilate if edge == 1 else cv2.erode)(cells, _EDGE).astype(np.uint8, copy=False)


def with_patch(rgb: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """In PATCHED of all cases a copy of `rgb` with a box at its edge in the colour of its background.

    10 to 30 % of the side long. Where a scale bar was painted over, such a box tells the style of the bar, and with it
    the stream: it must mean nothing.
    """
    if random.random() >= PATCHED:
        return rgb
    rgb = rgb.copy()
    side = len(rgb)
    long, short = int(side * random.uniform(0.1, 0.3)), int(side * random.uniform(0.05, 0.2))
    width, height = (long, short) if random.random() < 0.5 else (short, long)
    left, top = int(random.integers(side - width)), int(random.integers(side - height))
    edge = int(random.integers(4))
    left = {0: 0, 1: side - width}.get(edge, left)
    top = {2: 0, 3: side - height}.get(edge, top)
    background = np.percentile(rgb[::8, ::8].reshape(-1, 3), random.uniform(75, 95), axis=0)
    rgb[top : top + height, left : left + width] = background.astype(np.uint8)
    return rgb


def vary_stain(rgb: NDArray[np.uint8], random: np.random.Generator, how: Augmentation) -> NDArray[np.uint8]:
    """The same field under other stain and light; RGB uint8 in and out."""
    mixing = random.uniform(-how.stain_mix, how.stain_mix, (3, 3)).astype(np.float32)
    np.fill_diagonal(mixing, 1 + random.uniform(-how.stain_gain, how.stain_gain, 3))
    mixing *= np.float32(1 + random.uniform(-how.strength, how.strength))
    offsets = random.uniform(-how.stain_shift, how.stain_shift, 3).astype(np.float32)
    density = cv2.transform(_DENSITY[rgb], np.hstack([mixing, offsets[:, None]]))
    return np.clip(np.exp(-density) * 256.0 - 1.0, 0, 255).astype(np.uint8)


def _turn(rgb: NDArray[np.uint8], side: int, random: np.random.Generator, how: Augmentation) -> NDArray[np.uint8]:
    """Quarter turns, mirroring, scale and shift in one resampling; beyond the edge the field is mirrored."""
    height, width = rgb.shape[:2]
    turn = np.array([[1, 0], [0, 1]], np.float32)
    if random.random() < 0.5:
        turn = np.array([[-1, 0], [0, 1]], np.float32)
    for _ in range(int(random.integers(4))):
        turn = np.array([[0, -1], [1, 0]], np.float32) @ turn
    magnified = 1 + random.uniform(-how.scale, how.scale)
    stretch = np.diag([side / width * magnified, side / height * magnified]).astype(np.float32)
    matrix = turn @ stretch
    centre = side / 2 + random.uniform(-how.shift, how.shift, 2) * side
    offset = centre - matrix @ np.array([width / 2, height / 2], np.float32)
    return cv2.warpAffine(
        rgb,
        np.hstack([matrix, offset[:, None]]).astype(np.float32),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.uint8)
