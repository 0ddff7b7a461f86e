"""Pixels between host and device, through pinned memory where the device is a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from allq.memory import ran_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def staged(data: bytes, device: torch.device) -> Tensor:
    """Bytes as uint8 (n,) in host memory that `device` can read by itself."""
    buffer = torch.empty(len(data), dtype=torch.uint8, pin_memory=device.type == "cuda")
    buffer.numpy()[:] = np.frombuffer(data, np.uint8)
    return buffer


def sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on `device`; what is done next on the current stream comes after it has arrived."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def fetched(*tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """Tensors as arrays, all of them at one wait for the current stream."""
    if not any(tensor.is_cuda for tensor in tensors):
        return tuple(tensor.contiguous().numpy() for tensor in tensors)
    hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(hosts, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return tuple(host.numpy() for host in hosts)


def halving(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    *,
    ends: Callable[[Exception], bool] = lambda _: False,
) -> list[Result | Exception]:
    """What `work` makes of the items; where it fails for so many at once, of one half after the other.

    So an item that fails by itself costs no other. In its place stands its error: a MemoryError where the device has
    not enough memory even for it alone. An error that `ends` all is raised.
    """
    if not items:
        return []
    try:
        return list(work(items))
    except Exception as error:
        if ends(error):
            raise
        lacked_memory = ran_out_of_memory(error)
        if len(items) == 1 and not lacked_memory:
            return [error]
    # Not within the handler: the exception would keep alive what the failed attempt had allocated.
    if lacked_memory and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) == 1:
        return [MemoryError("the device has no room for it, even by itself")]
    middle = len(items) // 2
    return halving(work, items[:middle], ends=ends) + halving(work, items[middle:], ends=ends)
