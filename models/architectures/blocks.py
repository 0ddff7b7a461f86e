"""The parts of a blueprint's network that is trained."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.blueprint import Block, Convolution, same_padding
from models.architectures.depthwise import depthwise


class ConvolutionModule(nn.Module):
    """Convolution, batch normalisation, ReLU6."""

    def __init__(self, described: Convolution, epsilon: float) -> None:
        super().__init__()
        self.kernel, self.stride, self.active = described.kernel, described.stride, described.active
        self.conv = nn.Conv2d(
            described.inputs,
            described.outputs,
            described.kernel,
            described.stride,
            groups=described.groups,
            bias=False,
            padding=described.kernel // 2 if described.stride == 1 else 0,
        )
        self.norm = nn.BatchNorm2d(described.outputs, eps=epsilon, momentum=0.01)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        return self.settled(self.summed(pixels))

    def settled(self, summed: Tensor) -> Tensor:
        """`summed` after the ReLU6, if there is one."""
        return functional.relu6(summed, inplace=True) if self.active else summed

    def summed(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to what comes before the ReLU6: (N, outputs, ceil(H / stride), ceil(W / stride))."""
        if self.stride > 1:
            top, bottom = same_padding(pixels.shape[2], self.kernel, self.stride)
            left, right = same_padding(pixels.shape[3], self.kernel, self.stride)
            pixels = functional.pad(pixels, (left, right, top, bottom))
        normalised: Tensor = self.norm(self._convolved(pixels))
        return normalised

    def _convolved(self, pixels: Tensor) -> Tensor:
        learns = self.conv.weight.requires_grad and torch.is_grad_enabled()
        if learns and self.conv.groups == self.conv.in_channels > 1 and pixels.device.type == "cpu":
            return depthwise(pixels, self.conv.weight, stride=self.stride, padding=int(self.conv.padding[0]))
        convolved: Tensor = self.conv(pixels)
        return convolved


class BlockModule(nn.Module):
    """Convolutions in a row, with a shortcut past them where the blueprint has one."""

    def __init__(self, described: Block, epsilon: float) -> None:
        super().__init__()
        self.residual, self.tapped = described.residual, described.tapped
        self.order = tuple(convolution.name for convolution in described.convolutions)
        for convolution in described.convolutions:
            self.add_module(convolution.name, ConvolutionModule(convolution, epsilon))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        result = pixels
        for convolution in self.convolutions():
            result = convolution(result)
        return result + pixels if self.residual else result

    def convolutions(self) -> list[ConvolutionModule]:
        """In their order."""
        return [cast("ConvolutionModule", self.get_submodule(name)) for name in self.order]
