"""The network that screens: on 256 levels, close to the trained one, its depthwise gradients right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.architectures import blueprint
from models.architectures.depthwise import depthwise
from models.architectures.eight_bit import on_levels
from models.architectures.network import LOOK_COUNTS, Network, to_eight_bit
from models.engines.torch import pack


@pytest.fixture(scope="module")
def trained() -> Network:
    """The tiny network with every view, its normalisations having seen something."""
    torch.manual_seed(0)
    network = Network(replace(blueprint("tiny"), views=("cells", "field", "look")), 4)
    for _ in range(30):
        network(pixels(8), pixels(8))
    return network.eval()


def pixels(count: int) -> torch.Tensor:
    return 2 * torch.rand(count, 3, 64, 64) - 1


def test_it_says_what_the_trained_network_says(trained: Network) -> None:
    shown = pixels(32)
    screening = to_eight_bit(trained, shown, shown)
    fresh = pixels(16)
    with torch.inference_mode():
        expected, found = trained(fresh, fresh).views, screening(fresh, fresh).views
    expected = expected * torch.tensor([1.0, 1.0, LOOK_COUNTS])[:, None]
    for view in range(3):
        whole, rounded = expected[:, view], found[:, view]
        assert (whole - rounded).abs().max() < 0.2 * whole.std()
        assert (whole - rounded).mean().abs() < 0.1 * whole.std()


def test_its_weights_are_whole_numbers_and_what_leaves_a_block_lies_on_256_levels(trained: Network) -> None:
    screening = to_eight_bit(trained, pixels(8), pixels(8))
    stored = pack(screening)
    convolutions = {name: array for name, array in stored.items() if array.ndim == 4}
    assert convolutions
    assert all(array.dtype == np.int8 and np.abs(array).max() == 127 for array in convolutions.values())
    left: list[tuple[torch.Tensor, float]] = []
    assert screening.field is not None
    assert screening.look is not None
    trunks = (screening.cells, screening.field, screening.look)
    blocks = [named for trunk in trunks for named in trunk.blocks.named_children()]
    for name, block in blocks:
        step = float(block.get_buffer("step")) if "step" in dict(block.named_buffers()) else 6 / 255
        block.register_forward_hook(lambda _, __, result, step=step, name=name: left.append((result, step)))
    with torch.inference_mode():
        screening(pixels(2), pixels(2))
    assert len(left) == len(blocks)
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
