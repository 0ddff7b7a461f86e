"""Depthwise convolution on a CPU whose gradients don't take most of the training time.

oneDNN has fast kernels for the weights' gradient of a 3×3 window and none for 5×5, nor for the input's gradient of a
strided one in bfloat16. A 5×5 window is four overlapping windows of 3×3; a strided gradient is taken in single
precision. The results are the same sums; benchmarks/depthwise.py measures what is gained.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

_FAST: Final = 3
"""Side of the window whose gradient is fast."""


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(pixels, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(pixels, weight.to(pixels.dtype), None, stride, padding, 1, pixels.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        pixels, weight = ctx.saved_tensors
        by_pixels = _by_pixels(gradient, pixels, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        by_weight = _by_weight(gradient, pixels, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return by_pixels, by_weight, None, None


def depthwise(pixels: Tensor, weight: Tensor, *, stride: int, padding: int) -> Tensor:
    """(N, C, H, W) with weights (C, 1, k, k), each channel by itself, in the precision of `pixels`."""
    with torch.autocast(pixels.device.type, enabled=False):
        result: Tensor = _Depthwise.apply(pixels, weight, stride, padding)
    return result


def _by_pixels(gradient: Tensor, pixels: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    kind = torch.float32 if stride > 1 else pixels.dtype
    found = _backward(gradient.to(kind), pixels.to(kind), weight.to(kind), stride, padding, wanted=0)
    return found.to(pixels.dtype)


def _by_weight(gradient: Tensor, pixels: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    side = weight.shape[-1]
    if side <= _FAST or side % 2 == 0:
        return _backward(gradient, pixels, weight.to(pixels.dtype), stride, padding, wanted=1).to(weight.dtype)
    padded = functional.pad(pixels, (padding,) * 4)
    height, width = gradient.shape[2:]
    part = weight[:, :, :_FAST, :_FAST].to(pixels.dtype).contiguous()
    found = torch.empty_like(weight)
    starts = range(0, side - _FAST + 1, _FAST - 1)
    for top, left in product(starts, starts):
        below, right = top + stride * (height - 1) + _FAST, left + stride * (width - 1) + _FAST
        seen = padded[:, :, top:below, left:right].contiguous(memory_format=torch.channels_last)
        found[:, :, top : top + _FAST, left : left + _FAST] = _backward(gradient, seen, part, stride, 0, wanted=1)
    return found


def _backward(gradient: Tensor, pixels: Tensor, weight: Tensor, stride: int, padding: int, *, wanted: int) -> Tensor:
    mask = [number == wanted for number in range(3)]
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, pixels, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], pixels.shape[1], mask
    )[wanted]
    return found
