"""A network on levels in half precision, without losing its whole numbers: for the tensor cores of a card.

Half precision keeps whole numbers up to 2048 as they are. Levels (at most 255) and weights (at most 127) are such
numbers, so what a convolution multiplies is exact, and so are its sums in single precision as long as they stay below
2^24, in whatever order a device adds them up. All that is rounded is each sum as it leaves the convolution, to eleven
bits, on its way to one of 256 levels. Weights times their scale, as autocast would take them, would be rounded before.

What the means of an embedding and the head are taken of stays in single precision. docs/decisions/0011 has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.blueprint import LEAST_LEVEL, MOST_LEVEL, RELU6_STEP, Block, Convolution, same_padding
from models.architectures.eight_bit import EightBitBlock, EightBitConvolution
from models.architectures.network import Network


class HalfConvolution(nn.Module):
    """Convolution of levels: what leaves it is in steps of `step_out`, before it is rounded to a level."""

    weight: Tensor
    gain: Tensor
    bias: Tensor

    def __init__(self, described: Convolution, whole: EightBitConvolution, step_in: Tensor, step_out: Tensor) -> None:
        super().__init__()
        self._described = described
        gain = whole.scale.double() * step_in.double() / step_out.double()
        # The part of the gain that is a power of two goes to the weights, where it costs no bit: sums then have the
        # size of levels, far from the ends of half precision. Above 2^-15 no weight is too small to be kept whole.
        power = torch.exp2(torch.log2(gain.clamp_min(1e-30)).round().clamp(-15, 0))
        self.register_buffer("weight", (whole.weight.double() * power[:, None, None, None]).half())
        self.register_buffer("gain", (gain / power).float()[:, None, None])
        self.register_buffer("bias", (whole.bias.double() / step_out.double()).float()[:, None, None])

    def forward(self, levels: Tensor) -> Tensor:
        """Half (N, inputs, H, W) to single precision (N, outputs, ceil(H / stride), ceil(W / stride))."""
        described = self._described
        top, bottom = same_padding(levels.shape[2], described.kernel, described.stride)
        left, right = same_padding(levels.shape[3], described.kernel, described.stride)
        if top or bottom or left or right:
            levels = functional.pad(levels, (left, right, top, bottom))
        return self._convolved(levels).float() * self.gain + self.bias

    def _convolved(self, levels: Tensor) -> Tensor:
        stride, groups = self._described.stride, self._described.groups
        if levels.device.type == "cpu":  # as a card does it: products and sums exact, then one rounding
            whole = functional.conv2d(levels.float(), self.weight.float(), None, stride, groups=groups)
            return whole.half()
        return functional.conv2d(levels, self.weight, None, stride, groups=groups)


class HalfBlock(nn.Module):
    """A block of levels: takes the values of levels and gives those of its own, as the block does that it replaces.

    With `exactly` what leaves it is in single precision, else in half: near enough to name the level again.
    """

    step_in: Tensor
    step_out: Tensor

    def __init__(self, described: Block, whole: EightBitBlock, step_in: Tensor, *, exactly: bool) -> None:
        super().__init__()
        self._described, self.tapped, self._exactly = described, whole.tapped, exactly
        relu6 = torch.full_like(step_in, RELU6_STEP)
        step = relu6 if described.ends_active else whole.step
        self.register_buffer("step_in", step_in.clone())
        self.register_buffer("step_out", step.clone())
        for convolution, eight_bit in zip(described.convolutions, whole.convolutions(), strict=True):
            own = relu6 if convolution.active else step
            self.add_module(convolution.name, HalfConvolution(convolution, eight_bit, step_in, own))
            step_in = own

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        levels = torch.round(pixels.float() / self.step_in).half()
        result = levels
        for convolution in self._described.convolutions:
            summed = self.get_submodule(convolution.name)(result)
            if convolution.active:
                result = torch.clamp(torch.round(summed), 0, 255).half()
        if not self._described.ends_active:
            if self._described.residual:
                summed = summed + levels.float() * (self.step_in / self.step_out)
            result = torch.clamp(torch.round(summed), LEAST_LEVEL, MOST_LEVEL).half()
        values = result.float() * self.step_out
        return values if self._exactly else values.half()


def halve(network: Network) -> Network:
    """Put the blocks of a network on levels, ready to evaluate, in half precision; in place.

    Its first block, whose input is not on levels, stays in single precision, and so do the means of tapped blocks and
    the head.
    """
    described = network.described
    first, *others = described.blocks
    last = described.first_blocks[-1]
    if network.field is not None and network.look is not None:
        lent = _step_of(last, network.field.blocks[last.name])
        _halve(network.look.blocks, described.later_blocks, lent)
    for trunk in (network.cells, network.field):
        if trunk is not None:
            _halve(trunk.blocks, others, _step_of(first, trunk.blocks[first.name]))
    return network.eval()


def _halve(blocks: nn.ModuleDict, described: Sequence[Block], step: Tensor) -> None:
    """Replace these blocks, in a row up to the last; what enters them is on levels of this step."""
    for block in described:
        whole = blocks[block.name]
        if not isinstance(whole, EightBitBlock):
            raise TypeError(f"The block {block.name} is not on levels.")
        blocks[block.name] = HalfBlock(block, whole, step, exactly=block.tapped or block is described[-1])
        step = _step_of(block, whole)


def _step_of(described: Block, whole: nn.Module) -> Tensor:
    """The step of the levels that leave a block, (1,)."""
    return torch.full((1,), RELU6_STEP) if described.ends_active else whole.get_buffer("step").detach().cpu()
