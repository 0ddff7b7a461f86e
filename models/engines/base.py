"""What every engine takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOutput:
    """What the network says of N fields, all float32.

    The mean of `class_maps` over h and w, and of these means, is `logits`.
    """

    logits: NDArray[np.float32]
    """(N, classes)"""
    embeddings: NDArray[np.float32]
    """(N, E)"""
    class_maps: tuple[NDArray[np.float32], ...]
    """of each view: (N, classes, h, w)"""
    views: NDArray[np.float32]
    """(N, V, classes): the logits of each view by itself"""

    def maps(self, index: int) -> list[NDArray[np.float32]]:
        """The class maps of one field: (classes, h, w) of each view."""
        return [view[index] for view in self.class_maps]


class Engine(Protocol):
    """A network that is loaded and ready."""

    @property
    def name(self) -> str:
        """What runs it, where and at which precision: `openvino-cpu-i8`."""

    def run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        """Leukocytes on glass and whole fields, RGB uint8 (N, S, S, 3), N ≥ 1, S the model's input size of each."""

    def fewer(self, count: int) -> int:
        """The most fields, less than `count`, that a call takes less memory for; 0 where none does."""


def on_card(engine: Engine) -> bool:
    """Whether the engine runs on a CUDA device, as its name says."""
    return engine.name.split("-")[1:2] == ["cuda"]


def join(outputs: list[NetworkOutput]) -> NetworkOutput:
    """Outputs of consecutive fields as one."""
    if len(outputs) == 1:
        return outputs[0]
    return NetworkOutput(
        logits=np.concatenate([output.logits for output in outputs]),
        embeddings=np.concatenate([output.embeddings for output in outputs]),
        class_maps=tuple(np.concatenate(maps) for maps in zip(*(output.class_maps for output in outputs), strict=True)),
        views=np.concatenate([output.views for output in outputs]),
    )
