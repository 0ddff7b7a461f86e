from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from allq.classes import CLASSES
from models.architectures import blueprint
from models.architectures.eight_bit import EightBitConvolution
from models.architectures.network import Network, to_eight_bit
from models.artefact import Model
from models.engines.half import HalfConvolution, halve
from models.engines.torch import TorchEngine, restore


@pytest.fixture(scope="module")
def views() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return 2 * torch.rand(6, 3, 96, 96) - 1, 2 * torch.rand(6, 3, 64, 64) - 1


def screening(seed: int) -> Network:
    """A network whose weights were drawn, not trained, with every view that there is."""
    torch.manual_seed(seed)
    described = replace(blueprint("tiny"), views=("cells", "field", "look"))
    trained = Network(described, len(CLASSES)).eval()
    return to_eight_bit(trained, 2 * torch.rand(4, 3, 96, 96) - 1, 2 * torch.rand(4, 3, 64, 64) - 1)


def test_a_convolution_multiplies_the_same_whole_numbers() -> None:
    described = blueprint("tiny").blocks[1].convolutions[0]
    whole = EightBitConvolution(described)
    torch.manual_seed(0)
    whole.weight.copy_(torch.randint(-127, 128, whole.weight.shape, dtype=torch.int8))
    whole.scale.uniform_(1e-4, 2e-2)
    half = HalfConvolution(described, whole, torch.tensor([0.05]), torch.tensor([6 / 255]))
    ratio = half.weight.double() / whole.weight.double()
    ratio = torch.where(whole.weight == 0, 1.0, ratio).flatten(1)
    powers = ratio.amin(1)
    assert torch.equal(
        torch.where(whole.weight.flatten(1) == 0, powers[:, None], ratio), powers[:, None].expand_as(ratio)
    )
    assert torch.equal(torch.log2(powers), torch.log2(powers).round())
    restored = powers * half.gain.flatten().double()
    assert torch.allclose(restored, whole.scale.double() * 0.05 / (6 / 255), rtol=1e-6)


def test_half_precision_says_what_single_precision_says(untrained: Model, views: tuple[torch.Tensor, ...]) -> None:
    single = restore(untrained.configuration, untrained.arrays())
    half = halve(restore(untrained.configuration, untrained.arrays()))  # type: ignore[arg-type]
    with torch.inference_mode():
        expected, found = single(*views), half(*views)
    assert found.logits.dtype == found.embedding.dtype == torch.float32
    spread = float(expected.logits.std())
    assert float((found.logits - expected.logits).abs().max()) < 0.05 * spread
    assert torch.equal(found.logits.argmax(1), expected.logits.argmax(1))
    assert torch.allclose(found.embedding, expected.embedding, atol=0.02 * float(expected.embedding.std()))


def test_half_precision_says_of_every_view_what_single_precision_says(views: tuple[torch.Tensor, ...]) -> None:
    single, half = screening(4), halve(screening(4))
    with torch.inference_mode():
        expected, found = single(*views), half(*views)
    assert found.views.shape == (6, 3, len(CLASSES))
    for view in range(3):
        spread = float(expected.views[:, view].std())
        assert float((found.views[:, view] - expected.views[:, view]).abs().max()) < 0.1 * spread
    assert torch.allclose(found.embedding, expected.embedding, atol=0.02 * float(expected.embedding.std()))


def test_every_value_between_blocks_is_on_its_level(views: tuple[torch.Tensor, ...]) -> None:
    network = halve(screening(3))
    first, *others = network.described.blocks
    pixels = views[0]
    with torch.inference_mode():
        pixels = network.cells.blocks[first.name](pixels)
        for block in others:
            pixels = network.cells.blocks[block.name](pixels)
            step = network.cells.blocks[block.name].get_buffer("step_out")
            levels = pixels.float() / step
            assert float((levels - levels.round()).abs().max()) < 0.13
            assert float(levels.min()) > -128.5
            assert float(levels.max()) < 255.5


def test_the_whole_network_compiles_into_one_graph(views: tuple[torch.Tensor, ...]) -> None:
    network = halve(screening(5))
    compiled = torch.compile(network, fullgraph=True, dynamic=False, backend="eager")
    with torch.inference_mode():
        assert torch.equal(compiled(*views).logits, network(*views).logits)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler here")
def test_what_the_engine_compiles_is_rounded_where_it_is_meant_to_be(
    views: tuple[torch.Tensor, ...], untrained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused, two operations would be rounded once: a hundredth of a level after two blocks, and more after each."""
    with monkeypatch.context() as patch:  # the engine says how to compile: of the whole network that takes long
        patch.setattr(torch, "compile", lambda function, **_: function)
        TorchEngine(untrained, batch=1, threads=1, compiled=True)
    network = halve(screening(3))
    first, second, *_ = network.described.blocks
    blocks = network.cells.blocks

    def begin(pixels: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = blocks[second.name](blocks[first.name](pixels))
        return result

    with torch.inference_mode():
        pixels = views[0][:1]
        compiled = torch.compile(begin, fullgraph=True, dynamic=False)
        assert torch.equal(compiled(pixels), begin(pixels))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_card_gives_the_sums_that_the_cpu_gives_to_the_last_bit() -> None:
    network = screening(7)
    described = network.described.blocks[1].convolutions[-1]
    whole = network.cells.blocks["block00"].convolutions()[-1]
    half = HalfConvolution(described, whole, torch.tensor([6 / 255]), torch.tensor([0.05]))
    levels = torch.randint(0, 256, (4, described.inputs, 20, 20)).half()
    with torch.inference_mode():
        assert torch.equal(half(levels), half.cuda()(levels.cuda()).cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("count", [1, 8, 21])
def test_a_card_says_what_the_cpu_says(untrained: Model, count: int) -> None:
    random = np.random.default_rng(0)
    cells, fields = (random.integers(0, 255, (count, side, side, 3), np.uint8) for side in (96, 64))
    expected = TorchEngine(untrained, batch=16, threads=1).run(cells, fields)
    engine = TorchEngine(untrained, batch=16, threads=1, cuda=True)
    found = engine.run(cells, fields)
    assert engine.name == "torch-cuda-f16"
    assert found.logits.shape == expected.logits.shape
    assert np.abs(found.logits - expected.logits).max() < 0.05 * expected.logits.std()
    assert [maps.shape for maps in found.class_maps] == [maps.shape for maps in expected.class_maps]
