"""Networks as torch modules: what all have in common, and the module of a blueprint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.blocks import BlockModule
from models.architectures.blueprint import Block, Blueprint, View
from models.architectures.eight_bit import EightBitBlock, Features, convert

LOOK_COUNTS: Final = 0.95
"""What looks at "look" counts this much in the network that screens, beside the others' 1 (docs/decisions/0009)."""


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
    """the first parts on its way, which may keep their start weights"""
    borrowed: int = 0
    """how many of `start` belong to a learner before it, and keep the weights that they have from there"""


class Trunk(nn.Module):
    """Blocks and the classes' layer of a blueprint: what looks at one view. `eight_bit` screens, else it is trained."""

    def __init__(
        self,
        described: Blueprint,
        classes: int,
        *,
        eight_bit: bool = False,
        later_only: bool = False,
        dropout: float = 0.2,
    ) -> None:
        """`later_only`: it begins where another's first blocks end."""
        super().__init__()
        blocks = described.later_blocks if later_only else described.blocks
        self.blocks = nn.ModuleDict(
            {
                block.name: EightBitBlock(block) if eight_bit else BlockModule(block, described.epsilon)
                for block in blocks
            }
        )
        self.classify = nn.Linear(described.features, classes)
        self.dropout = nn.Dropout(dropout)
        self._first = () if later_only else tuple(block.name for block in described.first_blocks)

    def first(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) to what leaves the first blocks, and to embeddings (N, E)."""
        means: list[Tensor] = []
        for name in self._first:
            block = self.blocks[name]
            pixels = block(pixels)
            if block.tapped:
                means.append(pixels.mean((2, 3)))
        return pixels, torch.cat(means, dim=1)

    def read(self, begun: Tensor) -> tuple[Tensor, Tensor]:
        """What leaves the first blocks to logits (N, classes) and class maps (N, classes, h, w)."""
        features = self._later(begun)
        maps = functional.conv2d(features, self.classify.weight[:, :, None, None], self.classify.bias)
        return self._head(features), maps

    def logits(self, begun: Tensor) -> Tensor:
        """What leaves the first blocks to logits (N, classes)."""
        return self._head(self._later(begun))

    def first_blocks(self) -> tuple[nn.Module, ...]:
        """In their order."""
        return tuple(self.blocks[name] for name in self._first)

    def later_blocks(self) -> tuple[nn.Module, ...]:
        """In their order."""
        return tuple(block for name, block in self.blocks.items() if name not in self._first)

    def _later(self, begun: Tensor) -> Tensor:
        for block in self.later_blocks():
            begun = block(begun)
        return begun

    def _head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.dropout(features.mean((2, 3))))
        return logits


class FieldNetwork(nn.Module):
    """What every network has: it takes two pictures of each field, scaled, and returns an Output."""

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
    """A blueprint's network: a trunk for each view.

    The logits are the mean of the views'. The embedding is that of the trunk that sees fields, or, with
    one trunk, of the only one.
    """

    def __init__(self, described: Blueprint, classes: int, *, eight_bit: bool = False) -> None:
        super().__init__(described.mean, described.deviation)
        self.described, self.classes = described, classes
        self.cells = Trunk(described, classes, eight_bit=eight_bit)
        self.field = Trunk(described, classes, eight_bit=eight_bit) if "field" in described.views else None
        looks = "look" in described.views
        self.look = Trunk(described, classes, eight_bit=eight_bit, later_only=True) if looks else None

    def forward(self, cells: Tensor, fields: Tensor) -> Output:
        """Leukocytes and whole fields (N, 3, S, S), scaled, to Output."""
        found = [self.cells.read(self.cells.first(cells)[0])]
        begun, embedding = self._of_fields.first(fields)
        found += [trunk.read(begun) for trunk in (self.field, self.look) if trunk is not None]
        views = torch.stack([logits for logits, _ in found], dim=1)
        return Output(views.mean(1), embedding, tuple(maps for _, maps in found), views)

    def describe(self, fields: Tensor) -> Tensor:
        """(N, 3, S, S) to embeddings (N, E)."""
        return self._of_fields.first(fields)[1]

    def learners(self) -> tuple[Learner, ...]:
        """Each trunk; what looks at "look" after the field's, whose first blocks it borrows."""
        learners = [_whole("cells", self.cells)]
        if self.field is not None:
            learners.append(_whole("field", self.field))
        if self.look is not None:
            lent = self._of_fields.first_blocks()
            learners.append(
                Learner(
                    name="look",
                    module=self.look,
                    inputs=("look",),
                    logits=self._look,
                    start=(*lent, *self.look.later_blocks()),
                    borrowed=len(lent),
                )
            )
        return tuple(learners)

    @property
    def _of_fields(self) -> Trunk:
        return self.cells if self.field is None else self.field

    def _look(self, pixels: Tensor) -> Tensor:
        assert self.look is not None  # noqa: S101 - only its learner asks
        with torch.no_grad():
            begun, _ = self._of_fields.first(pixels)
        return self.look.logits(begun)


def _whole(view: View, trunk: Trunk) -> Learner:
    return Learner(
        name=view,
        module=trunk,
        inputs=(view,),
        logits=lambda pixels: trunk.logits(trunk.first(pixels)[0]),
        start=tuple(trunk.blocks.values()),
    )


def to_eight_bit(network: Network, cells: Tensor, fields: Tensor) -> Network:
    """The network that screens, of a trained one that is ready to evaluate; `cells` and `fields` as `forward` takes.

    These fields set the levels: some hundred that it was trained on.
    """
    described = network.described
    result = Network(described, network.classes, eight_bit=True).eval()

    def become(trained: Trunk, screening: Trunk, blocks: tuple[Block, ...], begun: Features) -> Features:
        screening.classify.load_state_dict(trained.classify.state_dict())
        return convert(trained.blocks, screening.blocks, blocks, described.epsilon, begun)

    become(network.cells, result.cells, described.blocks, Features(cells, cells))
    if network.field is not None and result.field is not None:
        begun = become(network.field, result.field, described.first_blocks, Features(fields, fields))
        become(network.field, result.field, described.later_blocks, begun)
        if network.look is not None and result.look is not None:
            become(network.look, result.look, described.later_blocks, begun)
            for weights in result.look.classify.parameters():
                weights.data.mul_(LOOK_COUNTS)
    return result
