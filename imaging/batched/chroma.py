"""Colour enlarged as the CPU's decoder does it, from what a card's decoder gives.

Most JPEG files keep one sample of colour (Cb, Cr) for two or four pixels. libjpeg-turbo, and so `imaging.decode`,
interpolates between samples in whole numbers; nvJPEG, as torchvision sets it up, repeats them, which shifts the edges
of nuclei more than anything else that a card does otherwise. With the brightness (Y) of the same file, each repeated
sample can be read off its pixels again as the whole number that it was, unless all of them are cut off at an end of a
channel; then everything is put together anew as libjpeg-turbo does it, to the last bit.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_BITS: Final = 16
_HALF: Final = 1 << (_BITS - 1)
_RED, _BLUE = 1.40200, 1.77200
_GREEN_OF_BLUE, _GREEN_OF_RED = 0.34414, 0.71414
"""What a step of Cr adds to red, of Cb to blue, and what both take from green (ITU-T T.871)."""


def interpolated(rgb: Tensor, luma: Tensor, sampling: tuple[int, int]) -> Tensor:
    """RGB uint8 (N, 3, H, W) with its colour, repeated over `sampling` pixels (across, down), interpolated.

    `luma` is the brightness of the same files, uint8 (N, 1, H, W).
    """
    return together(luma[:, 0], samples(rgb, luma, sampling), sampling)


def samples(rgb: Tensor, luma: Tensor, sampling: tuple[int, int]) -> Tensor:
    """The samples of colour that RGB uint8 (N, 3, H, W) repeats: Cb and Cr around 0, int32 (N, 2, rows, columns)."""
    apart = rgb.float() - luma.float()
    whole = ((rgb > 0) & (rgb < 255)).float()
    block = sampling[::-1]
    share = functional.avg_pool2d(whole, block, ceil_mode=True)
    red, green, blue = (functional.avg_pool2d(apart * whole, block, ceil_mode=True) / share.clamp_min(1e-6)).unbind(1)
    has_red, has_green, has_blue = (share > 0).unbind(1)
    # Of a channel that is cut off all over the block, only the least that it can be is known.
    most = functional.max_pool2d(apart, block, ceil_mode=True)
    least = -functional.max_pool2d(-apart, block, ceil_mode=True)
    red_end, _, blue_end = torch.where(most.abs() > least.abs(), most, least).unbind(1)
    by_blue = torch.where(has_blue, blue, blue_end) / _BLUE
    by_red = torch.where(has_red, red, red_end) / _RED
    red_by_green = -(green + _GREEN_OF_BLUE * by_blue) / _GREEN_OF_RED
    blue_by_green = -(green + _GREEN_OF_RED * by_red) / _GREEN_OF_BLUE
    by_red = torch.where(~has_red & has_green & has_blue, red_by_green, by_red)
    by_blue = torch.where(~has_blue & has_green & has_red, blue_by_green, by_blue)
    # Of two such channels green knows the sum: what it lacks is shared out so that neither moves further than it must.
    lacking = -green - _GREEN_OF_BLUE * by_blue - _GREEN_OF_RED * by_red
    lacking = torch.where(has_green & ~has_red & ~has_blue, lacking / (_GREEN_OF_BLUE**2 + _GREEN_OF_RED**2), 0)
    by_blue, by_red = by_blue + _GREEN_OF_BLUE * lacking, by_red + _GREEN_OF_RED * lacking
    return torch.round(torch.stack([by_blue, by_red], dim=1)).clamp(-128, 127).int()


def together(luma: Tensor, colour: Tensor, sampling: tuple[int, int]) -> Tensor:
    """RGB uint8 (N, 3, H, W) of brightness, uint8 (N, H, W), and colour around 0, int32 (N, 2, rows, columns).

    `sampling` is (across, down): how many pixels have one sample. Source: libjpeg-turbo, jdsample.c and jdcolor.c.
    """
    height, width = luma.shape[1:]
    colour = colour + 128
    if sampling == (2, 2):
        colour = _interleaved(_down(colour), (8, 7), 4)
    elif sampling == (2, 1):
        colour = _interleaved(colour, (1, 2), 2)
    elif sampling == (1, 2):
        colour = _interleaved(colour.mT, (1, 2), 2).mT
    return _rgb(luma.int(), *(colour[:, :, :height, :width] - 128).unbind(1))


def _down(colour: Tensor) -> Tensor:
    """Sums of three parts of each row and one of the nearer neighbour; twice as many rows."""
    above, below = _neighbours(colour, 2)
    return torch.stack([3 * colour + above, 3 * colour + below], dim=3).flatten(2, 3)


def _interleaved(colour: Tensor, roundings: tuple[int, int], bits: int) -> Tensor:
    """Columns between columns: three parts of the nearer, one of the other, with the roundings in turn."""
    before, after = _neighbours(colour, 3)
    return (
        torch.stack([3 * colour + before + roundings[0], 3 * colour + after + roundings[1]], dim=4).flatten(3) >> bits
    )


def _neighbours(colour: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """What comes before and after along an axis; beyond the edge the edge again."""
    length = colour.shape[axis]
    first, last = colour.narrow(axis, 0, 1), colour.narrow(axis, length - 1, 1)
    before = torch.cat([first, colour.narrow(axis, 0, length - 1)], dim=axis)
    after = torch.cat([colour.narrow(axis, 1, length - 1), last], dim=axis)
    return before, after


def _rgb(luma: Tensor, blue: Tensor, red: Tensor) -> Tensor:
    """Whole numbers (N, H, W), colour around 0, to RGB uint8 (N, 3, H, W) (ITU-T T.871, in 16 bits)."""
    planes = [
        luma + (red * _fixed(_RED) + _HALF >> _BITS),
        luma + (blue * -_fixed(_GREEN_OF_BLUE) + _HALF + red * -_fixed(_GREEN_OF_RED) >> _BITS),
        luma + (blue * _fixed(_BLUE) + _HALF >> _BITS),
    ]
    return torch.stack(planes, dim=1).clamp(0, 255).to(torch.uint8)


def _fixed(value: float) -> int:
    return int(value * (1 << _BITS) + 0.5)
