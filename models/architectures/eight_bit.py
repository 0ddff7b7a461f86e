"""The network that screens: weights and activations on 256 levels, made from a trained one.

Normalisations are folded into the convolutions before them. A convolution's weights are whole numbers from −127 to 127
times a scale for each output; what leaves it lies on 256 levels, between 0 and 6 after a ReLU6, else between −128 and
127 steps of its block. So the sums are of whole numbers, exact wherever a processor has instructions for them
(Jacob et al., CVPR 2018); engines part where a value lies in the middle between two levels, and by what follows from
that (docs/decisions/0007). This is what is evaluated, calibrated and stored, not a faster approximation of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.blocks import BlockModule, ConvolutionModule
from models.architectures.blueprint import (
    LEAST_LEVEL,
    MOST_LEVEL,
    MOST_WEIGHT,
    RELU6_STEP,
    Block,
    Convolution,
    same_padding,
)


class EightBitConvolution(nn.Module):
    """Convolution and, if it is active, ReLU6. Weights int8 (outputs, inputs / groups, k, k)."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, described: Convolution) -> None:
        super().__init__()
        self._described = described
        kernel = described.kernel
        self.register_buffer(
            "weight",
            torch.zeros(described.outputs, described.inputs // described.groups, kernel, kernel, dtype=torch.int8),
        )
        self.register_buffer("scale", torch.ones(described.outputs))
        self.register_buffer("bias", torch.zeros(described.outputs))

    def summed(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to what comes before the ReLU6: (N, outputs, ceil(H / stride), ceil(W / stride))."""
        described = self._described
        top, bottom = same_padding(pixels.shape[2], described.kernel, described.stride)
        left, right = same_padding(pixels.shape[3], described.kernel, described.stride)
        if top or bottom or left or right:
            pixels = functional.pad(pixels, (left, right, top, bottom))
        return functional.conv2d(
            pixels,
            self.weight.float() * self.scale[:, None, None, None],
            self.bias,
            described.stride,
            groups=described.groups,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        return self.settled(self.summed(pixels))

    def settled(self, summed: Tensor) -> Tensor:
        """`summed` after the ReLU6, if there is one."""
        return on_levels(summed, RELU6_STEP, 0, 255) if self._described.active else summed


class EightBitBlock(nn.Module):
    """Convolutions in a row, with a shortcut past them where the blueprint has one."""

    step: Tensor

    def __init__(self, described: Block) -> None:
        super().__init__()
        self._described, self.tapped = described, described.tapped
        for convolution in described.convolutions:
            self.add_module(convolution.name, EightBitConvolution(convolution))
        if not described.ends_active:
            self.register_buffer("step", torch.ones(1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        result = pixels
        for convolution in self.convolutions():
            result = convolution(result)
        return self.settled(result + pixels if self._described.residual else result)

    def convolutions(self) -> list[EightBitConvolution]:
        """In their order."""
        described = self._described.convolutions
        return [cast("EightBitConvolution", self.get_submodule(convolution.name)) for convolution in described]

    def settled(self, summed: Tensor) -> Tensor:
        """The block's last sum on its levels; as it is where it comes from a ReLU6, which has put it on some."""
        return summed if self._described.ends_active else on_levels(summed, self.step, LEAST_LEVEL, MOST_LEVEL)


def on_levels(values: Tensor, step: float | Tensor, least: int, most: int) -> Tensor:
    """The nearest of the levels `least` to `most` times `step`; halves go to even numbers."""
    return torch.clamp(torch.round(values / step), least, most) * step


def fold(convolution: ConvolutionModule, epsilon: float) -> dict[str, Tensor]:
    """The weights of an EightBitConvolution that does what a convolution and its normalisation do."""
    parts: dict[str, Tensor] = {name: value.detach().double() for name, value in convolution.state_dict().items()}
    gain = parts["norm.weight"] / torch.sqrt(parts["norm.running_var"] + epsilon)
    weight = parts["conv.weight"] * gain[:, None, None, None]
    scale = (weight.abs().amax((1, 2, 3)) / MOST_WEIGHT).clamp_min(1e-12)
    return {
        "weight": torch.round(weight / scale[:, None, None, None]).clamp(-MOST_WEIGHT, MOST_WEIGHT).to(torch.int8),
        "scale": scale.float(),
        "bias": (parts["norm.bias"] - parts["norm.running_mean"] * gain).float(),
    }


class Features(NamedTuple):
    """The same fields on their way through blocks, (N, channels, H, W) each."""

    trained: Tensor
    screening: Tensor


@torch.inference_mode()
def convert(
    trained: nn.ModuleDict, screening: nn.ModuleDict, blocks: Sequence[Block], epsilon: float, pixels: Features
) -> Features:
    """Give the blocks `screening` what they need to do what the blocks `trained` do, as some fields show it.

    Returns what leaves the last block. Both look at the same fields, convolution by convolution. Each bias takes up by
    how much rounded weights miss on average (Nagel et al., ICCV 2019), which counts where most of a view is one colour;
    a block's levels reach as far as half of the fields do.
    """
    seen, close = pixels
    for block in blocks:
        whole, eight = cast("BlockModule", trained[block.name]), cast("EightBitBlock", screening[block.name])
        before, close_before = seen, close
        for part, rounded in zip(whole.convolutions(), eight.convolutions(), strict=True):
            rounded.load_state_dict(fold(part, epsilon))
            seen, close = part.summed(seen), rounded.summed(close)
            missed = (seen - close).mean((0, 2, 3))
            rounded.bias.add_(missed)
            seen, close = part.settled(seen), rounded.settled(close + missed[:, None, None])
        if block.residual:
            seen, close = seen + before, close + close_before
        if not block.ends_active:
            reach = seen.abs().amax((1, 2, 3)).median().clamp_min(1e-6)
            eight.step.fill_(float(reach) / MOST_LEVEL)
            close = eight.settled(close)
    return Features(trained=seen, screening=close)
