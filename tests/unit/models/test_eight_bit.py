"""The network that screens: on 256 levels, close to the trained one, its depthwise gradients right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.architectures import blueprint
from models.architectures.depthwise import depthwise
from models.architectures.eight_bit import on_levels
from models.architectures.network import Network, to_eight_bit
from models.engines.torch import pack


@pytest.fixture(scope="module")
def trained() -> Network:
    """The tiny network with normalisations that have seen something."""
    torch.manual_seed(0)
    network = Network(blueprint("tiny"), 4)
    for _ in range(30):
        network.cells.logits(pixels(8))
    return network.eval()


def pixels(count: int) -> torch.Tensor:
    return 2 * torch.rand(count, 3, 64, 64) - 1


def test_it_says_what_the_trained_network_says(trained: Network) -> None:
    shown = pixels(32)
    screening = to_eight_bit(trained, shown, shown)
    fresh = pixels(16)
    with torch.inference_mode():
        whole, rounded = trained(fresh, fresh).logits, screening(fresh, fresh).logits
    assert (whole - rounded).abs().max() < 0.2 * whole.std()
    assert (whole - rounded).mean().abs() < 0.1 * whole.std()


def test_its_weights_are_whole_numbers_and_what_leaves_a_block_lies_on_256_levels(trained: Network) -> None:
    screening = to_eight_bit(trained, pixels(8), pixels(8))
    stored = pack(screening)
    convolutions = {name: array for name, array in stored.items() if array.ndim == 4}
    assert convolutions
    assert all(array.dtype == np.int8 and np.abs(array).max() == 127 for array in convolutions.values())
    left: list[tuple[torch.Tensor, float]] = []
    for name, block in screening.cells.blocks.named_children():
        step = float(block.get_buffer("step")) if "step" in dict(block.named_buffers()) else 6 / 255
        block.register_forward_hook(lambda _, __, result, step=step, name=name: left.append((result, step)))
    with torch.inference_mode():
        screening.cells(pixels(2))
    for result, step in left:
        levels = result / step
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert levels.max() - levels.min() <= 255.01


def test_levels_end_where_they_end_and_halves_go_to_even_numbers() -> None:
    values = torch.tensor([-1.0, 0.5, 1.5, 2.4, 9.0])
    assert on_levels(values, 1.0, 0, 3).tolist() == [0, 0, 2, 2, 3]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_the_gradients_of_a_depthwise_convolution_are_torchs(kernel: int, stride: int) -> None:
    torch.manual_seed(kernel)
    padding = kernel // 2 if stride == 1 else 0
    seen = torch.randn(2, 6, 13, 15, requires_grad=True)
    weight = torch.randn(6, 1, kernel, kernel, requires_grad=True)
    ours = depthwise(seen, weight, stride=stride, padding=padding)
    theirs = functional.conv2d(seen, weight, None, stride, padding, groups=6)
    assert torch.allclose(ours, theirs, atol=1e-5)
    looked_for = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, [seen, weight], looked_for),
        torch.autograd.grad(theirs, [seen, weight], looked_for),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-4)
