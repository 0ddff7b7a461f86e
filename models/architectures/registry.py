"""The architectures by name. Importing this imports no framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from allq.errors import ModelError
from models.architectures.blueprint import Block, Blueprint, Convolution, InputSizes, inverted_residual


def _inverted_residuals(
    stages: tuple[tuple[int, int, int, int, int], ...], *, inputs: int, tapped: frozenset[int]
) -> tuple[Block, ...]:
    """Blocks of stages (repeats, kernel, stride, expansion, outputs); `tapped` numbers the blocks from 0."""
    blocks: list[Block] = []
    for repeats, kernel, stride, expansion, outputs in stages:
        for repeat in range(repeats):
            block = inverted_residual(
                f"block{len(blocks):02}",
                inputs=inputs,
                outputs=outputs,
                kernel=kernel,
                stride=stride if repeat == 0 else 1,
                expansion=expansion,
            )
            blocks.append(replace(block, tapped=len(blocks) in tapped))
            inputs = outputs
    return tuple(blocks)


def _single(name: str, *, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> Block:
    convolution = Convolution(name="only", inputs=inputs, outputs=outputs, kernel=kernel, stride=stride)
    return Block(name=name, convolutions=(convolution,))


def _efficientnet_lite0() -> Blueprint:
    """EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 (Tan & Le, ICML 2019; Liu 2020).

    Two early blocks are tapped: what a smear looks like (stain, grain, focus) is read early in a network and is gone
    from its last features, which were trained to tell classes apart and nothing else.
    """
    stages = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    return Blueprint(
        name="efficientnet-lite0",
        blocks=(
            _single("stem", inputs=3, outputs=32, kernel=3, stride=2),
            *_inverted_residuals(stages, inputs=32, tapped=frozenset({2, 4})),
            _single("head", inputs=320, outputs=1280),
        ),
        epsilon=1e-3,
        views=("cells", "field", "look"),
        mean=(127.0, 127.0, 127.0),
        deviation=(128.0, 128.0, 128.0),
    )


def _tiny() -> Blueprint:
    """Some 80,000 weights: enough for synthetic smears, small enough for tests and a demo."""
    stages = ((1, 3, 1, 1, 16), (2, 3, 2, 4, 24), (2, 3, 2, 4, 40), (1, 3, 1, 4, 48))
    return Blueprint(
        name="tiny",
        blocks=(
            _single("stem", inputs=3, outputs=16, kernel=3, stride=2),
            *_inverted_residuals(stages, inputs=16, tapped=frozenset({0, 2, 4})),
            _single("head", inputs=48, outputs=128),
        ),
        epsilon=1e-3,
        views=("cells",),
        mean=(127.0, 127.0, 127.0),
        deviation=(128.0, 128.0, 128.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How an architecture is shown a field."""

    input_sizes: InputSizes
    """those that it is made for"""
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


_BLUEPRINTS: Final[dict[str, Callable[[], Blueprint]]] = {"efficientnet-lite0": _efficientnet_lite0, "tiny": _tiny}

TWO_CHANNELS: Final = "two-channel-densenet201"
"""The network of the dataset's paper: a torch module without a blueprint."""


def names() -> tuple[str, ...]:
    """Every architecture that can be trained."""
    return (*_BLUEPRINTS, TWO_CHANNELS)


def has_blueprint(name: str) -> bool:
    """Whether any engine can build it; else torch alone can. Raises ModelError for an unknown name."""
    if name not in names():
        raise ModelError(f"There is no architecture {name!r}; allq knows {', '.join(names())}.")
    return name in _BLUEPRINTS


def blueprint(name: str) -> Blueprint:
    """The blueprint of that name. Raises ModelError for an unknown name and for one without a blueprint."""
    if not has_blueprint(name):
        raise ModelError(f"The architecture {name} runs in torch only: set ALLQ_ENGINE=torch.")
    return _BLUEPRINTS[name]()


def seen_by(name: str) -> Seen:
    """What that architecture is shown. Raises ModelError for an unknown name."""
    if not has_blueprint(name):
        imagenet = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
        return Seen(input_sizes=InputSizes(cells=224, field=224), mean=imagenet[0], deviation=imagenet[1])
    described = blueprint(name)
    return Seen(input_sizes=InputSizes(cells=192, field=128), mean=described.mean, deviation=described.deviation)
