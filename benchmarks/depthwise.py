"""What the gradients of the network's depthwise convolutions cost, by torch and by `models.architectures.depthwise`.

    python benchmarks/depthwise.py [--architecture efficientnet-lite0] [--side 128] [--batch 32] [--threads 2]

Forward and backward of one convolution of each shape that the blueprint has, the best of five, in bfloat16 where the
processor computes with it and else in single precision.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from models.architectures import blueprint
from models.architectures.depthwise import depthwise


def milliseconds(convolve: Callable[[Tensor, Tensor], Tensor], seen: Tensor, weight: Tensor) -> float:
    """Forward and backward once, the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        result = convolve(seen, weight)
        torch.autograd.grad(result, [seen, weight], torch.ones_like(result))
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def by_torch(seen: Tensor, weight: Tensor, *, stride: int, padding: int) -> Tensor:
    """The convolution as torch has it."""
    return functional.conv2d(seen, weight.to(seen.dtype), None, stride, padding, groups=seen.shape[1])


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="efficientnet-lite0")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kind = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    print(f"{kind}, {given.threads} threads, {platform.machine()}, torch {torch.__version__}, ", end="")
    print(f"{datetime.now(UTC):%Y-%m-%d}\n")
    print("| channels | side | window | stride | torch, ms | ours, ms |\n|---|---|---|---|---|---|")
    side, total = given.side, [0.0, 0.0]
    for block in blueprint(given.architecture).blocks:
        for convolution in block.convolutions:
            if convolution.groups > 1:
                channels, kernel, stride = convolution.inputs, convolution.kernel, convolution.stride
                seen = torch.randn(given.batch, channels, side, side).to(kind, memory_format=torch.channels_last)
                weight = torch.randn(channels, 1, kernel, kernel)
                ways = (partial(way, stride=stride, padding=kernel // 2) for way in (by_torch, depthwise))
                costs = [milliseconds(way, seen.requires_grad_(), weight.requires_grad_()) for way in ways]
                total = [before + cost for before, cost in zip(total, costs, strict=True)]
                print(f"| {channels} | {side} | {kernel} | {stride} | {costs[0]:.1f} | {costs[1]:.1f} |")
            side = -(-side // convolution.stride)
    print(f"| all | | | | {total[0]:.0f} | {total[1]:.0f} |")


if __name__ == "__main__":
    main()
