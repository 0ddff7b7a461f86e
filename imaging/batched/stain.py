"""White balance, stain and threshold of a batch of fields: as `imaging.stain` and `imaging.segment` have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from imaging.parameters import SegmentationParameters, StainParameters
from imaging.stain import gaussian

_LEVELS: Final = 256
_HALF_STEP: Final = 2.0**-17
"""`imaging.stain.stain_channel` says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StainedBatch:
    """Fields of one size, white-balanced, their stain, and where that is a nucleus's."""

    layers: Tensor
    """uint8 (N, h, w, 4): red, green, blue, stain"""
    masks: Tensor
    """bool (N, h, w): stain above the threshold of nuclei"""
    found: Tensor
    """bool (N,): whether there is any"""
    below: Tensor
    """float64 (N,): mean stain of the class below"""


def stained(rgb: Tensor, covered: Tensor, parameters: SegmentationParameters) -> StainedBatch:
    """Take the stain of RGB uint8 (N, 3, h, w), of which overlays cover bool (N, h, w), and threshold it."""
    white = white_point(rgb, covered, parameters.stain.white_percentile)
    red, green, blue = white_balanced(rgb, white).unbind(1)
    stain = stain_channel(red, green, blue, parameters.stain)
    stain = torch.where(covered, torch.zeros_like(stain), stain)
    threshold, found, below = _thresholds(stain, green, blue, covered, parameters)
    return StainedBatch(
        layers=torch.stack([red, green, blue, stain], dim=3),
        masks=(stain > threshold[:, None, None]) & found[:, None, None],
        found=found,
        below=below,
    )


def white_point(rgb: Tensor, covered: Tensor | None, percentile: float) -> Tensor:
    """The level, int64 (N, 3), of the empty background of RGB uint8 (N, 3, h, w): a percentile over a grid."""
    height, width = rgb.shape[2:]
    step = max(1, round((height * width / 4096) ** 0.5))
    samples = rgb[:, :, ::step, ::step].flatten(2)
    count = samples.shape[2]
    hidden = torch.zeros(len(rgb), 1, dtype=torch.int64, device=rgb.device)
    if covered is not None:
        under = covered[:, ::step, ::step].flatten(1)
        hidden = under.sum(1, keepdim=True) % count
        samples = torch.where((under & (hidden > 0))[:, None], 0, samples)  # and come first in the order
    free = count - hidden
    rank = hidden + torch.minimum(free - 1, (free.double() * percentile / 100).long())
    ordered = samples.sort(dim=2).values
    return ordered.gather(2, rank[:, None].expand(-1, 3, 1))[:, :, 0].long().clamp_min(1)


def white_balanced(rgb: Tensor, white: Tensor) -> Tensor:
    """RGB uint8 (N, 3, h, w) with the levels `white`, (N, 3), moved to 255."""
    levels = torch.arange(_LEVELS, device=rgb.device, dtype=torch.float64)
    # A number over a tensor would be that number times a rounded reciprocal.
    gains = torch.full_like(white, 255, dtype=torch.float64) / white
    tables = torch.clamp(levels * gains[:, :, None] + 0.5, max=255).to(torch.uint8)
    first = torch.arange(white.numel(), device=rgb.device, dtype=torch.int32).view(*white.shape, 1, 1) * _LEVELS
    return tables.flatten()[(rgb.int() + first).flatten()].view(rgb.shape)


def stain_channel(red: Tensor, green: Tensor, blue: Tensor, parameters: StainParameters) -> Tensor:
    """The stain of white-balanced channels; uint8 (N, h, w) all. Each step is rounded as OpenCV rounds it."""
    red, green, blue = red.float(), green.float(), blue.float()
    violet = _rounded(
        parameters.blue_over_green * (blue - green).clamp_min(0)
        + parameters.red_over_green * (red - green).clamp_min(0)
    )
    stain = _rounded(parameters.red_absorption * (255 - red) + violet)
    stain = _rounded(stain - parameters.green_over_red * (green - red).clamp_min(0))
    return (blurred(stain, parameters.blur) if parameters.blur else stain).to(torch.uint8)


def blurred(planes: Tensor, deviation: float) -> Tensor:
    """Whole numbers 0 to 255, float (N, h, w), smoothed by a Gaussian; halves are rounded up.

    The sums are multiples of 2^-16 below 256: exact in single precision.
    """
    weights = gaussian(deviation).ravel().tolist()
    half = len(weights) // 2
    height, width = planes.shape[1:]
    padded = functional.pad(planes[:, None], (half, half, half, half), mode="reflect")[:, 0]
    across = padded[:, :, :width] * weights[0]
    for place, weight in enumerate(weights[1:], start=1):
        across = across + padded[:, :, place : place + width] * weight
    down = across[:, :height] * weights[0]
    for place, weight in enumerate(weights[1:], start=1):
        down = down + across[:, place : place + height] * weight
    return _rounded(down + _HALF_STEP)


def _rounded(values: Tensor) -> Tensor:
    return torch.round(values).clamp(0, 255)


def _thresholds(
    stain: Tensor, green: Tensor, blue: Tensor, covered: Tensor, parameters: SegmentationParameters
) -> tuple[Tensor, Tensor, Tensor]:
    """Threshold, whether nuclei were found, and the mean stain below, (N,) each: `imaging.segment.threshold`.

    All fields go through its rounds together, and each keeps the first that is good.
    """
    counts = _by_level(stain, torch.ones_like(stain))
    of_green, of_blue = _by_level(stain, green), _by_level(stain, blue)
    counts[:, 0] -= covered.flatten(1).sum(1)
    area = counts.sum(1)
    levels = torch.arange(_LEVELS, device=stain.device, dtype=torch.float64)
    running = torch.ones_like(area, dtype=torch.bool)
    found, threshold, below = torch.zeros_like(running), torch.full_like(area, 255), torch.zeros_like(area)
    for _ in range(3):
        running = running & (counts.sum(1) >= 0.0005 * area)
        upper, middle = three_classes(counts)
        upper = upper.clamp_min(parameters.least_threshold)
        above = levels > torch.floor(upper)[:, None]
        counts = torch.where(above, counts, 0)
        pixels = counts.sum(1)
        running = running & (pixels > 0)
        some = pixels.clamp_min(1)
        mean_green, mean_blue = (torch.where(above, sums, 0).sum(1) / some for sums in (of_green, of_blue))
        violet = (255 - mean_green) / (255 - mean_blue + 4.0)
        level = (counts * levels).sum(1) / some
        crowded = (pixels > parameters.most_share * area) & (violet < parameters.crowded_violet)
        nuclear = (violet >= parameters.least_violet) & (level * (violet - 0.9) >= parameters.least_evidence)
        good = running & nuclear & ~crowded
        threshold, below = torch.where(good, upper, threshold), torch.where(good, middle, below)
        found, running = found | good, running & ~good
    return threshold, found, below


def _by_level(stain: Tensor, values: Tensor) -> Tensor:
    """Sums of uint8 `values` (N, h, w) over the pixels at each level of `stain`: float64 (N, 256)."""
    first = torch.arange(len(stain), device=stain.device)[:, None, None] * _LEVELS
    sums = torch.zeros(len(stain) * _LEVELS, device=stain.device, dtype=torch.int64)
    sums.index_add_(0, (stain.long() + first).flatten(), values.long().flatten())
    return sums.view(-1, _LEVELS).double()


def three_classes(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Split histograms (N, 256) in three as `imaging.stain.three_classes` does: upper threshold and middle mean."""
    levels = torch.arange(_LEVELS, device=counts.device)
    weight, moment = counts.cumsum(1), (counts * levels).cumsum(1)
    total, whole = weight[:, -1:], moment[:, -1:]
    top = (weight < total).sum(1, keepdim=True)
    low = moment**2 / weight.clamp_min(1e-9)
    high = (whole - moment) ** 2 / (total - weight).clamp_min(1e-9)

    def best(firsts: Tensor, seconds: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Levels, (N,) each, of the best pair of `firsts` (N, F) and `seconds` (N, S) up to `most` (N, 1)."""
        one, other = firsts.clamp(0, 255), seconds.clamp(0, 255)
        between = weight.gather(1, other)[:, None] - weight.gather(1, one)[:, :, None]
        score = (moment.gather(1, other)[:, None] - moment.gather(1, one)[:, :, None]) ** 2 / between.clamp_min(1e-9)
        score = score + low.gather(1, one)[:, :, None] + high.gather(1, other)[:, None]
        score = torch.where(between <= 0, -1.0, score)
        real = ((firsts >= 0) & (firsts <= most))[:, :, None] & ((seconds >= 0) & (seconds <= most))[:, None]
        score = torch.where(real, score, -2.0).flatten(1)
        # The first of equals, which argmax doesn't promise on every device.
        places = torch.arange(score.shape[1], device=score.device)
        first = torch.where(score == score.amax(1, keepdim=True), places, score.shape[1]).amin(1)
        row, column = first // seconds.shape[1], first % seconds.shape[1]
        return (
            one.gather(1, row[:, None])[:, 0],
            other.gather(1, column[:, None])[:, 0],
        )

    coarse = torch.arange(3, _LEVELS, 4, device=counts.device).expand(len(counts), -1)
    first, second = best(coarse, coarse, top + 3)
    near = torch.arange(-4, 5, device=counts.device)
    first, second = best(first[:, None] + near, second[:, None] + near, torch.full_like(top, 254))
    rows = torch.arange(len(counts), device=counts.device)
    between = (weight[rows, second] - weight[rows, first]).clamp_min(1e-9)
    middle = (moment[rows, second] - moment[rows, first]) / between
    empty = total[:, 0] <= 0
    return torch.where(empty, 255.0, second.double()), torch.where(empty, 0.0, middle)
