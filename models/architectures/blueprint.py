"""A network as data: convolutions, inverted residual blocks, a linear head over the mean of all positions.

Every engine builds its own network from the same blueprint and the same named weights, so that none needs another's
framework at run time and no conversion can drift from the network that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MOST_WEIGHT: Final = 127
"""Weights of the network that screens are whole numbers from −127 to 127 (`models.architectures.eight_bit`)."""

RELU6_STEP: Final = 6 / 255
"""What leaves its ReLU6 is 0 to 255 times this."""

LEAST_LEVEL: Final = -128
MOST_LEVEL: Final = 127
"""What leaves a block that doesn't end in a ReLU6 is one of these times the block's own step."""


View = Literal["cells", "field", "look"]
"""The leukocytes on plain glass; the whole field; the whole field once more, by blocks that may go by its look.

What looks at "field" has been trained on leukocytes that were moved to other smears, so that it goes by them; what
looks at "look" on photographs as they are, where stain and camera tell something too.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSizes:
    """Sides of the two pictures of a field, in pixels."""

    cells: int
    """the leukocytes on plain glass: the texture of chromatin is fine"""
    field: int
    """the whole field"""

    def of(self, view: View) -> int:
        """The side of what a view is shown."""
        return self.cells if view == "cells" else self.field


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """Convolution without bias, batch normalisation and, if `active`, ReLU6. TensorFlow's "same" padding."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Convolutions in a row; with `residual` the block's input is added to its output.

    With `tapped` the mean of its output over all positions is a part of a field's embedding.
    """

    name: str
    convolutions: tuple[Convolution, ...]
    residual: bool = False
    tapped: bool = False

    @property
    def ends_active(self) -> bool:
        """Whether what leaves the block comes from a ReLU6."""
        return self.convolutions[-1].active and not self.residual

    @property
    def outputs(self) -> int:
        """Channels that leave the block."""
        return self.convolutions[-1].outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Blocks in a row, then the mean over all positions, then one linear layer: what looks at a field in one way.

    As the head is linear, it may be applied at each position as well: the mean of these class maps is the logits (class
    activation mapping, Zhou et al., CVPR 2016). A view of the whole field that passes through the first blocks, up to
    the last that is tapped, is described by the means of the tapped ones. Of "look" only the blocks after them are its
    own.
    """

    name: str
    blocks: tuple[Block, ...]
    epsilon: float
    views: tuple[View, ...]
    """each with weights of its own, "cells" first, "look" only with "field"; the mean of their logits gives the call"""
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @property
    def features(self) -> int:
        """Channels that reach the head."""
        return self.blocks[-1].outputs

    @property
    def first_blocks(self) -> tuple[Block, ...]:
        """The first blocks, up to the last that is tapped."""
        last = max(number for number, block in enumerate(self.blocks) if block.tapped)
        return self.blocks[: last + 1]

    @property
    def later_blocks(self) -> tuple[Block, ...]:
        """Those after the first."""
        return self.blocks[len(self.first_blocks) :]

    @property
    def embedding(self) -> int:
        """Length of a field's embedding: the tapped blocks' channels, in order."""
        return sum(block.outputs for block in self.blocks if block.tapped)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after one axis of `size`, as TensorFlow's "same" has it: the odd one comes after."""
    needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return needed // 2, needed - needed // 2


def inverted_residual(name: str, *, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> Block:
    """Expand, convolve each channel by itself, project (Sandler et al., MobileNetV2, CVPR 2018)."""
    wide = inputs * expansion
    expand = (Convolution(name="expand", inputs=inputs, outputs=wide),) if expansion > 1 else ()
    return Block(
        name=name,
        convolutions=(
            *expand,
            Convolution(name="depthwise", inputs=wide, outputs=wide, kernel=kernel, stride=stride, groups=wide),
            Convolution(name="project", inputs=wide, outputs=outputs, active=False),
        ),
        residual=stride == 1 and inputs == outputs,
    )
