"""PyTorch, on a CUDA device or on the CPU.

On the CPU in single precision. On CUDA in half precision: networks on levels so that their whole numbers stay whole
(`models.engines.half`), others by autocast; channels last, compiled into CUDA graphs, in batches of one size, through
pinned memory. What was shown of this on a CPU, and that none of it was run on a card, stands in docs/decisions/0011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from allq.errors import ModelDamaged, SettingsError
from allq.logging import logger
from imaging.batched.transfer import fetched, halving, sent
from models.architectures.make import make_network
from models.architectures.network import FieldNetwork, Network, Output
from models.artefact import Arrays, Model, ModelConfiguration
from models.engines.base import NetworkOutput, Pixels, join
from models.engines.half import halve

log = logger(__name__)

_FEW: Final = 8
"""A batch of at most so many fields, as of a slide that can't wait, is not filled up to the largest size."""

_WARM_UP: Final = 3
"""Calls until a CUDA graph is recorded: compile, allocate, record."""


class TorchEngine:
    """The network as a torch module, channels last in memory."""

    def __init__(self, model: Model, *, batch: int, threads: int, cuda: bool = False) -> None:
        if cuda and not torch.cuda.is_available():
            raise SettingsError("Torch finds no CUDA device: set ALLQ_DEVICE=cpu, or mend the driver.")
        torch.set_num_threads(threads)
        self._batch = batch
        self._device = torch.device("cuda" if cuda else "cpu")
        try:
            network = restore(model.configuration, model.arrays())
        except (KeyError, RuntimeError) as error:
            raise ModelDamaged(f"The weights of model {model.name} don't fit its architecture: {error}.") from None
        self._autocast = cuda and not isinstance(network, Network)
        if cuda and isinstance(network, Network):
            network = halve(network)
        # TensorFloat-32 keeps ten bits of what is multiplied: too few for what is not on levels.
        torch.backends.cudnn.allow_tf32 = False
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Callable[[Tensor, Tensor], Output] = self._eager
        self._sizes: tuple[int, ...] = (batch,)
        if cuda:
            sides = model.configuration.input_sizes
            self._sizes = (min(_FEW, batch), batch)
            self._forward = self._compiled(sides.cells, sides.field)

    @property
    def name(self) -> str:
        """`torch-cpu-f32` or `torch-cuda-f16`."""
        return f"torch-{self._device.type}-{'f16' if self._device.type == 'cuda' else 'f32'}"

    def run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        """Leukocytes on glass and whole fields, RGB uint8 (N, S, S, 3) each, N ≥ 1.

        A batch for which the device lacks memory is halved, and so is every later one.
        """

        def part(places: Sequence[int]) -> list[NetworkOutput]:
            return [self._run(cells[places[0] : places[-1] + 1], fields[places[0] : places[-1] + 1])]

        outputs: list[NetworkOutput] = []
        done = 0
        while done < len(cells):
            places = range(done, min(done + self._batch, len(cells)))
            found = halving(part, places)
            if len(found) > 1:
                self._batch = -(-len(places) // len(found))
                self._sizes = tuple(sorted({min(size, self._batch) for size in self._sizes}))
                log.warning("the card lacks memory: smaller batches from now on", fields=self._batch)
            outputs += found
            done = places.stop
        return join(outputs)

    @torch.inference_mode()
    def _run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        count = len(cells)
        views = (sent(self._filled_up(view), self._device) for view in (cells, fields))
        output = self._forward(*views)
        arrays = fetched(output.logits, output.embedding, output.views, *output.class_maps)
        logits, embeddings, by_view, *maps = (array[:count].astype(np.float32, copy=False) for array in arrays)
        return NetworkOutput(logits=logits, embeddings=embeddings, class_maps=tuple(maps), views=by_view)

    def _filled_up(self, view: Pixels) -> Pixels:
        """The fields, and on a card as many empty ones as make a batch of a size that it has a graph for."""
        size = next((size for size in self._sizes if size >= len(view)), len(view))
        if self._device.type == "cpu" or size == len(view):
            return view
        return np.concatenate([view, np.zeros((size - len(view), *view.shape[1:]), np.uint8)])

    def _eager(self, cells: Tensor, fields: Tensor) -> Output:
        with torch.autocast(self._device.type, torch.float16, enabled=self._autocast):
            output: Output = self._network(self._network.scale(cells), self._network.scale(fields))
        return output

    def _compiled(self, *sides: int) -> Callable[[Tensor, Tensor], Output]:
        """The network compiled into a CUDA graph for each size of batch, tried; as it is where no compiler is."""
        compiled: Callable[[Tensor, Tensor], Output] = torch.compile(
            self._eager, fullgraph=True, dynamic=False, mode="reduce-overhead"
        )
        try:
            for size in self._sizes:
                blank = [torch.zeros(size, side, side, 3, dtype=torch.uint8, device=self._device) for side in sides]
                with torch.inference_mode():
                    for _ in range(_WARM_UP):
                        compiled(*blank)
        except torch.OutOfMemoryError:
            return compiled  # for `run` to make its batches smaller
        except (RuntimeError, OSError) as error:
            problem = str(error).partition("\n")[0]
            log.warning("the network runs without being compiled: slower, with the same results", problem=problem)
            return self._eager
        return compiled


def restore(configuration: ModelConfiguration, arrays: Arrays) -> FieldNetwork:
    """The module of a model's configuration with its weights, ready to evaluate.

    Raises RuntimeError when weights are missing or of another shape.
    """
    network = make_network(configuration.architecture, len(configuration.classes), eight_bit=True)
    weights = {
        name: torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)
        for name, array in arrays.items()
        if not name.startswith("novelty.")
    }
    missing = network.load_state_dict(weights, strict=False).missing_keys
    if wanting := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise RuntimeError(f"{wanting[0]} is missing")
    network.get_buffer("mean").copy_(torch.tensor(configuration.mean).view(1, 3, 1, 1))
    network.get_buffer("deviation").copy_(torch.tensor(configuration.deviation).view(1, 3, 1, 1))
    return network.eval()


def pack(network: FieldNetwork) -> Arrays:
    """A network's weights by name: convolutions that aren't whole numbers in half precision, all else as it is."""
    return {
        name: (value.half() if value.ndim == 4 and value.is_floating_point() else value).detach().cpu().numpy()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
