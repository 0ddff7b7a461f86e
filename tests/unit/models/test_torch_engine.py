"""A network that lacks memory, on the CPU as on a card: the compiler is a stand-in, batches are of fixed sizes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch

from models.artefact import Model
from models.engines.base import NetworkOutput
from models.engines.torch import TorchEngine


class Card:
    """Has room for batches of at most `room` fields; notes the sizes that were tried."""

    def __init__(self) -> None:
        self.room = 1024
        self.tried: list[int] = []
        self.error: Callable[[], None] = self.lacks_memory

    def compile(self, forward: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        """In place of torch.compile."""

        def limited(*views: torch.Tensor) -> Any:
            self.tried.append(len(views[0]))
            if len(views[0]) > self.room:
                self.error()
            return forward(*views)

        return limited

    @staticmethod
    def lacks_memory() -> None:
        """As torch's allocator says it."""
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    @staticmethod
    def fails_to_record() -> None:
        """As torch says it while a graph is recorded: ending the recording fails as well, and that is raised."""
        try:
            Card.lacks_memory()
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    @property
    def refused(self) -> list[int]:
        """Sizes that there was no room for, in their order."""
        return [size for size in self.tried if size > self.room]

    def sizes(self) -> list[int]:
        """What was tried since the last call, each once where it was tried several times in a row."""
        sizes = [size for size, _ in groupby(self.tried)]
        self.tried.clear()
        return sizes


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setattr(torch, "compile", card.compile)
    return card


def views(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    cells, fields = (random.integers(0, 255, (count, side, side, 3), np.uint8) for side in (96, 64))
    return cells, fields


def same(found: NetworkOutput, expected: NetworkOutput) -> bool:
    return np.allclose(found.logits, expected.logits, atol=1e-4) and np.allclose(
        found.embeddings, expected.embeddings, atol=1e-4
    )


@pytest.mark.parametrize(
    ("room", "refused"),
    [(64, []), (63, [64]), (20, [64, 32]), (8, [64, 32, 16]), (3, [64, 8, 4]), (1, [64, 8, 4, 2])],
)
def test_a_batch_without_room_is_halved_and_every_half_is_tried(
    untrained: Model, card: Card, room: int, refused: list[int]
) -> None:
    expected = TorchEngine(untrained, batch=64, threads=1).run(*views(70))
    engine = TorchEngine(untrained, batch=64, threads=1, compiled=True)
    card.tried.clear()
    card.room = room  # another process has taken the rest
    assert same(engine.run(*views(70)), expected)
    assert card.refused == refused
    kept = max(card.tried[-1:] + [size for size in card.tried if size <= room])
    assert kept in {64, 32, 16, 8, 2, 1}
    assert 2 * kept > room or kept == 64
    card.tried.clear()
    assert same(engine.run(*views(70)), expected)
    assert card.refused == []
    assert max(card.tried) == kept


def test_later_batches_have_the_size_that_there_was_room_for_and_rests_are_filled_up(
    untrained: Model, card: Card
) -> None:
    engine = TorchEngine(untrained, batch=64, threads=1, compiled=True)
    assert card.tried == [8] * 3 + [64] * 3
    card.tried.clear()
    card.room = 20
    engine.run(*views(64))
    assert card.sizes() == [64, 8, 32, 8, 16]
    engine.run(*views(41))
    assert card.tried == [16, 16, 16]
    card.tried.clear()
    card.room = 1024
    engine.run(*views(36))
    assert card.tried == [16, 16, 8]


def test_sizes_without_room_for_their_graphs_are_halved_before_the_first_field(untrained: Model, card: Card) -> None:
    card.room, card.error = 16, Card.fails_to_record
    engine = TorchEngine(untrained, batch=64, threads=1, compiled=True)
    assert card.sizes() == [8, 64, 8, 32, 8, 16]
    engine.run(*views(64))
    assert card.tried == [16] * 4


def test_a_single_field_without_room_is_an_error_each_time_and_nothing_is_remembered_of_it(
    untrained: Model, card: Card
) -> None:
    card.room = 0
    engine = TorchEngine(untrained, batch=16, threads=1, compiled=True)
    assert card.sizes() == [8, 4, 2, 1]
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            engine.run(*views(5))
        assert card.sizes() == [1]
    card.room = 1
    assert len(engine.run(*views(5)).logits) == 5


def test_without_a_compiler_the_network_runs_as_it_is_and_nothing_is_filled_up(untrained: Model, card: Card) -> None:
    def lacks_compiler() -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    card.room, card.error = 0, lacks_compiler
    engine = TorchEngine(untrained, batch=16, threads=1, compiled=True)
    assert card.sizes() == [8]
    assert same(engine.run(*views(5)), TorchEngine(untrained, batch=16, threads=1).run(*views(5)))
    assert card.tried == []


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        ("Triton Error [CUDA]: an illegal memory access was encountered", False),
        ("CUDA driver error: an illegal memory access was encountered", False),
        ("Triton Error [CUDA]: device kernel image is invalid", True),
        ("CUDA driver error: invalid argument", True),
    ],
)
def test_a_compiled_networks_error_is_raised_where_the_card_failed_else_it_runs_uncompiled(
    untrained: Model, card: Card, said: str, goes_on: bool
) -> None:
    def breaks() -> None:
        raise RuntimeError(said)

    card.room, card.error = 0, breaks
    if goes_on:
        assert len(TorchEngine(untrained, batch=16, threads=1, compiled=True).run(*views(5)).logits) == 5
    else:
        with pytest.raises(RuntimeError, match="illegal"):
            TorchEngine(untrained, batch=16, threads=1, compiled=True)


def test_tritons_lack_of_memory_halves_the_batch(untrained: Model, card: Card) -> None:
    def lacks_memory() -> None:
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    card.room, card.error = 8, lacks_memory
    engine = TorchEngine(untrained, batch=16, threads=1, compiled=True)
    assert card.refused == [16]
    assert len(engine.run(*views(20)).logits) == 20


def test_an_error_that_is_none_of_memory_is_raised_at_once(untrained: Model, card: Card) -> None:
    def breaks() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = TorchEngine(untrained, batch=16, threads=1, compiled=True)
    card.tried.clear()
    card.room, card.error = 0, breaks
    with pytest.raises(RuntimeError, match="illegal"):
        engine.run(*views(5))
    assert card.tried == [8]


def test_a_batch_of_the_cpu_that_does_not_fit_is_halved_and_so_are_later_ones(untrained: Model, card: Card) -> None:
    expected = TorchEngine(untrained, batch=16, threads=1).run(*views(20))
    engine = TorchEngine(untrained, batch=16, threads=1)
    engine._forward = card.compile(engine._forward)
    card.room = 5
    assert same(engine.run(*views(20)), expected)
    assert card.tried == [16, 8, 4, 4, 4, 4, 4]
    card.tried.clear()
    engine.run(*views(20))
    assert card.tried == [4] * 5


def test_compiled_again_for_a_smaller_batch_the_network_says_the_same(
    untrained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch counts how often it compiles a function anew, and refuses at some number: each halving begins at none."""
    compile_, run = torch.compile, TorchEngine._run
    monkeypatch.setattr(torch, "compile", lambda forward, **_: compile_(forward, fullgraph=True, backend="eager"))
    expected = TorchEngine(untrained, batch=16, threads=1).run(*views(11))

    def narrow(self: TorchEngine, cells: Any, fields: Any) -> NetworkOutput:
        if self._filled_size(len(cells)) > 2:
            raise torch.OutOfMemoryError("so many don't fit")
        return run(self, cells, fields)

    monkeypatch.setattr(TorchEngine, "_run", narrow)
    with torch._dynamo.config.patch(recompile_limit=2):
        engine = TorchEngine(untrained, batch=16, threads=1, compiled=True)
        assert same(engine.run(*views(11)), expected)
    assert engine._sizes == (2,)
