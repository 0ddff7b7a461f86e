"""Which fields of a batch may carry a scale bar or a black surround: nearly all don't, and need no closer look."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from imaging.batched.morphology import dilated, opened
from imaging.parameters import OverlayParameters

_LEAST_INK: Final = 4
"""Pixels of ink up to which `imaging.overlays` sees none."""


def may_have_bar(rgb: Tensor, parameters: OverlayParameters) -> Tensor:
    """Bool (N,): where the lower right corner of RGB uint8 (N, 3, h, w) holds ink."""
    height, width = rgb.shape[2:]
    zone = rgb[:, :, int(height * (1 - parameters.zone)) :, int(width * (1 - parameters.zone)) :].to(torch.int16)
    red, green, blue = zone.unbind(1)
    brighter, darker = torch.maximum(green, blue), torch.minimum(green, blue)
    brightest, darkest = torch.maximum(red, brighter), torch.minimum(red, darker)
    pure = parameters.saturated
    black = (brightest < parameters.black) & (brightest - darkest < parameters.neutral)
    red_ink = (red > 120) & (red - brighter > (15 * red // 100).clamp_min(pure))
    green_ink = green - torch.maximum(red, blue) > pure
    cyan_ink = darker - red > 2 * pure
    ink = black | red_ink | green_ink | cyan_ink
    wide = dilated(opened(ink, max(3, round(parameters.pen * width))))
    return (ink & ~wide).flatten(1).sum(1) > _LEAST_INK


def may_have_surround(rgb: Tensor, parameters: OverlayParameters) -> Tensor:
    """Bool (N,): where enough of the edge of RGB uint8 (N, 3, h, w) is dark."""
    dark = (rgb < parameters.dark).all(1)
    edge = torch.cat([dark[:, 0], dark[:, -1], dark[:, :, 0], dark[:, :, -1]], dim=1)
    return edge.sum(1) >= parameters.least_surround * edge.shape[1]
