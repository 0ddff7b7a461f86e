"""The architectures by name. Importing this imports no framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from allq.errors import ModelError
from models.architectures.blueprint import Block, Blueprint, Convolution, inverted_residual


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

    The last block of each resolution is tapped: what a smear looks like (stain, grain, focus) is read early in the
    network and is gone from its last features, which were trained to tell classes apart and nothing else.
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
            *_inverted_residuals(stages, inputs=32, tapped=frozenset({2, 4, 7, 10})),
            _single("head", inputs=320, outputs=1280),
        ),
        epsilon=1e-3,
        known_by=24 + 40,
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
        known_by=16 + 24 + 40,
        mean=(127.0, 127.0, 127.0),
        deviation=(128.0, 128.0, 128.0),
    )


_ARCHITECTURES: Final[dict[str, Callable[[], Blueprint]]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "tiny": _tiny,
}


def names() -> tuple[str, ...]:
    """Every architecture that can be trained."""
    return tuple(_ARCHITECTURES)


def blueprint(name: str) -> Blueprint:
    """The architecture of that name, or ModelError naming those there are."""
    try:
        return _ARCHITECTURES[name]()
    except KeyError:
        raise ModelError(f"There is no architecture {name!r}; allq knows {', '.join(names())}.") from None
