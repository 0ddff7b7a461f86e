"""The torch module of a blueprint."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.blueprint import Block, Blueprint, Convolution, same_padding


class Output(NamedTuple):
    """What a network says of N fields. The mean of `class_maps` over h and w is `logits`."""

    logits: Tensor
    """(N, classes) float"""
    embedding: Tensor
    """(N, E) float: means of the tapped blocks and of the head's features"""
    class_maps: Tensor
    """(N, classes, h, w) float"""


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
        if self.stride > 1:
            top, bottom = same_padding(pixels.shape[2], self.kernel, self.stride)
            left, right = same_padding(pixels.shape[3], self.kernel, self.stride)
            pixels = functional.pad(pixels, (left, right, top, bottom))
        normalised = self.norm(self.conv(pixels))
        return functional.relu6(normalised, inplace=True) if self.active else normalised


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
        for name in self.order:
            result = self.get_submodule(name)(result)
        return result + pixels if self.residual else result


class Network(nn.Module):
    """A blueprint's module for a number of classes. Takes scaled pixels (N, 3, H, W), returns an Output."""

    def __init__(self, described: Blueprint, classes: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({block.name: BlockModule(block, described.epsilon) for block in described.blocks})
        self.classify = nn.Linear(described.features, classes)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.tensor(described.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(described.deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Output:
        """Scaled pixels (N, 3, H, W) float to Output."""
        means: list[Tensor] = []
        for block in self.blocks.values():
            pixels = block(pixels)
            if block.tapped:
                means.append(pixels.mean((2, 3)))
        features = pixels.mean((2, 3))
        class_maps = functional.conv2d(pixels, self.classify.weight[:, :, None, None], self.classify.bias)
        logits = self.classify(self.dropout(features))
        return Output(logits, torch.cat([*means, features], dim=1), class_maps)

    def scale(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) to what `forward` takes: float (N, 3, H, W), channels last in memory."""
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        return (pixels.permute(0, 3, 1, 2).float() - mean) / deviation
