"""Networks as torch modules: what all have in common, and the module of a blueprint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.blocks import BlockModule
from models.architectures.blueprint import Blueprint
from models.architectures.eight_bit import EightBitBlock, convert

View = Literal["cells", "field"]
"""The leukocytes on plain glass, or the whole field."""


class Output(NamedTuple):
    """What a network says of N fields. The mean of `class_maps` over h and w, and of these means, is `logits`."""

    logits: Tensor
    """(N, classes) float"""
    embedding: Tensor
    """(N, E) float: means of the tapped blocks over the field"""
    class_maps: tuple[Tensor, ...]
    """of each view: (N, classes, h, w) float"""
    views: Tensor
    """(N, V, classes) float: the logits of each view by itself; their mean is `logits`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """A part of a network that is trained by itself."""

    name: str
    module: nn.Module
    inputs: tuple[View, ...]
    """what `logits` takes, scaled (N, 3, S, S) each"""
    logits: Callable[..., Tensor]
    start: tuple[nn.Module, ...]
    """its first parts, which may keep their start weights"""


class Trunk(nn.Module):
    """A blueprint's module: what looks at one view. With `eight_bit` it screens, without it can be trained."""

    def __init__(self, described: Blueprint, classes: int, *, eight_bit: bool = False, dropout: float = 0.2) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {
                block.name: EightBitBlock(block) if eight_bit else BlockModule(block, described.epsilon)
                for block in described.blocks
            }
        )
        self.classify = nn.Linear(described.features, classes)
        self.dropout = nn.Dropout(dropout)
        self._first_blocks = tuple(block.name for block in described.first_blocks)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) to logits (N, classes) and class maps (N, classes, h, w)."""
        features = self._features(pixels)
        maps = functional.conv2d(features, self.classify.weight[:, :, None, None], self.classify.bias)
        return self._head(features), maps

    def logits(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) to logits (N, classes)."""
        return self._head(self._features(pixels))

    def describe(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) to embeddings (N, E)."""
        means: list[Tensor] = []
        for name in self._first_blocks:
            block = self.blocks[name]
            pixels = block(pixels)
            if block.tapped:
                means.append(pixels.mean((2, 3)))
        return torch.cat(means, dim=1)

    def _features(self, pixels: Tensor) -> Tensor:
        for block in self.blocks.values():
            pixels = block(pixels)
        return pixels

    def _head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.dropout(features.mean((2, 3))))
        return logits


class FieldNetwork(nn.Module):
    """What every network has: it takes two views of each field, scaled, and returns an Output."""

    def __init__(self, mean: tuple[float, float, float], deviation: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def forward(self, cells: Tensor, fields: Tensor) -> Output:
        """Leukocytes and whole fields (N, 3, S, S), scaled, to Output."""

    @abstractmethod
    def describe(self, fields: Tensor) -> Tensor:
        """Whole fields (N, 3, S, S), scaled, to embeddings (N, E)."""

    @abstractmethod
    def learners(self) -> tuple[Learner, ...]:
        """What is trained, each by itself."""

    def scale(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) to what `forward` takes: float (N, 3, H, W), channels last in memory."""
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        return (pixels.permute(0, 3, 1, 2).float() - mean) / deviation


class Network(FieldNetwork):
    """A blueprint's network: a trunk for the leukocytes and, with `two_views`, one for the whole field.

    The logits are the mean of the views'. The embedding is that of the trunk that sees fields, or, with
    one trunk, of the only one.
    """

    def __init__(self, described: Blueprint, classes: int, *, eight_bit: bool = False) -> None:
        super().__init__(described.mean, described.deviation)
        self.described, self.classes = described, classes
        self.cells = Trunk(described, classes, eight_bit=eight_bit)
        self.field = Trunk(described, classes, eight_bit=eight_bit) if described.two_views else None

    def forward(self, cells: Tensor, fields: Tensor) -> Output:
        """Leukocytes and whole fields (N, 3, S, S), scaled, to Output."""
        found = [trunk(seen) for (_, trunk), seen in zip(self.trunks(), (cells, fields), strict=False)]
        views = torch.stack([logits for logits, _ in found], dim=1)
        return Output(views.mean(1), self.describe(fields), tuple(maps for _, maps in found), views)

    def describe(self, fields: Tensor) -> Tensor:
        """(N, 3, S, S) to embeddings (N, E)."""
        trunk = self.cells if self.field is None else self.field
        return trunk.describe(fields)

    def trunks(self) -> list[tuple[View, Trunk]]:
        """Each trunk, by what it is shown."""
        trunks: list[tuple[View, Trunk]] = [("cells", self.cells)]
        if self.field is not None:
            trunks.append(("field", self.field))
        return trunks

    def learners(self) -> tuple[Learner, ...]:
        """Each trunk."""
        return tuple(
            Learner(name=name, module=trunk, inputs=(name,), logits=trunk.logits, start=tuple(trunk.blocks.values()))
            for name, trunk in self.trunks()
        )


def to_eight_bit(network: Network, cells: Tensor, fields: Tensor) -> Network:
    """The network that screens, of a trained one that is ready to evaluate; `cells` and `fields` as `forward` takes.

    These fields set the levels: some hundred that it was trained on.
    """
    result = Network(network.described, network.classes, eight_bit=True).eval()
    for (_, trained), (_, screening), pixels in zip(network.trunks(), result.trunks(), (cells, fields), strict=False):
        convert(trained.blocks, screening.blocks, network.described, pixels)
        screening.classify.load_state_dict(trained.classify.state_dict())
    return result
