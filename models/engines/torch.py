"""PyTorch, on a CUDA device or on the CPU.

On the CPU in single precision. On CUDA in half precision: networks on levels so that their whole numbers stay whole
(`models.engines.half`), others by autocast; channels last, compiled into CUDA graphs, in batches of one size, through
pinned memory. What was shown of this on a CPU, and that none of it was run on a card, stands in docs/decisions/0011.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from allq.errors import ModelDamaged
from allq.logging import logger
from allq.memory import ran_out_of_memory
from imaging.batched.transfer import fetched, sent
from models.architectures.make import make_network
from models.architectures.network import FieldNetwork, Network, Output
from models.artefact import Arrays, Model, ModelConfiguration
from models.engines.base import NetworkOutput, Pixels, join
from models.engines.choose import card_failed, require_cuda
from models.engines.half import halve

log = logger(__name__)

_FEW: Final = 8
"""A batch of at most so many fields, as of a slide that can't wait, is not filled up to the largest size."""

_WARM_UP: Final = 3
"""Calls until a CUDA graph is recorded: compile, allocate, record."""


class TorchEngine:
    """The network as a torch module, channels last in memory."""

    def __init__(
        self, model: Model, *, batch: int, threads: int, cuda: bool = False, compiled: bool | None = None
    ) -> None:
        """At most `batch` fields at a time; `compiled`, which a card's is by default, in batches of fixed sizes.

        Raises SettingsError where no card is, ModelDamaged for weights that don't fit.
        """
        if cuda:
            require_cuda()
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
        self._sizes: tuple[int, ...] = ()
        """that batches are filled up to, ascending; none where the network takes a batch of any size"""
        self._sides = model.configuration.input_sizes
        if cuda if compiled is None else compiled:
            self._compile()

    @property
    def name(self) -> str:
        """`torch-cpu-f32` or `torch-cuda-f16`."""
        return f"torch-{self._device.type}-{'f16' if self._device.type == 'cuda' else 'f32'}"

    def run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        """Leukocytes on glass and whole fields, RGB uint8 (N, S, S, 3) each, N ≥ 1.

        A batch that lacks memory is run again in halves, and no later one is larger than those for which it sufficed.
        Raises what the device raised when a single field is too many.
        """
        outputs: list[NetworkOutput] = []
        done = 0
        while done < len(cells):
            part = slice(done, done + self._batch)
            try:
                outputs.append(self._run(cells[part], fields[part]))
            except (MemoryError, RuntimeError) as error:
                tried = self._filled_size(len(cells[part]))
                if tried == 1 or not _lacked_memory(error):
                    raise
            else:
                done += self._batch
                continue
            # Not within the handler: the exception would keep alive what the failed attempt had allocated.
            self._halve(tried)
            if self._sizes:
                self._compile()
        return join(outputs)

    def fewer(self, count: int) -> int:
        """None: `run` has tried them by itself."""
        return 0

    @torch.inference_mode()
    def _run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        count = len(cells)
        views = (sent(self._filled_up(view), self._device) for view in (cells, fields))
        output = self._forward(*views)
        arrays = fetched(output.logits, output.embedding, output.views, *output.class_maps)
        logits, embeddings, by_view, *maps = (array[:count].astype(np.float32, copy=False) for array in arrays)
        return NetworkOutput(logits=logits, embeddings=embeddings, class_maps=tuple(maps), views=by_view)

    def _filled_up(self, view: Pixels) -> Pixels:
        """The fields, and as many empty ones as make a batch of a size that there is a graph for."""
        lacking = self._filled_size(len(view)) - len(view)
        return np.concatenate([view, np.zeros((lacking, *view.shape[1:]), np.uint8)]) if lacking else view

    def _filled_size(self, count: int) -> int:
        return next((size for size in self._sizes if size >= count), count)

    def _halve(self, tried: int) -> None:
        """Keep to half of so many fields at a time."""
        self._batch = (tried + 1) // 2
        log.warning("the network lacks memory: smaller batches from now on", fields=self._batch)
        if self._sizes:  # graphs of larger batches would hold on to memory that other streams could use
            torch.compiler.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _eager(self, cells: Tensor, fields: Tensor) -> Output:
        with torch.autocast(self._device.type, torch.float16, enabled=self._autocast):
            output: Output = self._network(self._network.scale(cells), self._network.scale(fields))
        return output

    def _compile(self) -> None:
        """Compile the network into a CUDA graph for each size of batch, tried; leave it as it is where no compiler is.

        Where memory lacks for a size, it is half of it from then on. For a single field that is left for `run` to say.
        """
        while True:
            self._sizes = tuple(sorted({min(_FEW, self._batch), self._batch}))
            # Fused, what is computed in half precision would be rounded less often than `models.engines.half` means it.
            torch._inductor.config.emulate_precision_casts = True
            self._forward = torch.compile(self._eager, fullgraph=True, dynamic=False, mode="reduce-overhead")
            size = 0
            try:
                for size in self._sizes:
                    self._warm_up(size)
                return
            except (MemoryError, RuntimeError, OSError) as error:
                lacked_memory, problem = _lacked_memory(error), str(error).partition("\n")[0]
                if card_failed(error) and not lacked_memory:
                    raise
            if not lacked_memory:
                log.warning("the network runs without being compiled: slower, with the same results", problem=problem)
                self._forward, self._sizes = self._eager, ()
                return
            if size == 1:
                return
            self._halve(size)

    @torch.inference_mode()
    def _warm_up(self, size: int) -> None:
        sides = self._sides.cells, self._sides.field
        blank = [torch.zeros(size, side, side, 3, dtype=torch.uint8, device=self._device) for side in sides]
        for _ in range(_WARM_UP):
            self._forward(*blank)


def _lacked_memory(error: BaseException) -> bool:
    """Whether that was the reason; while a graph is recorded, torch says on top of it that the recording failed."""
    reason: BaseException | None = error
    while reason is not None and not ran_out_of_memory(reason):
        reason = reason.__context__
    return reason is not None


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
