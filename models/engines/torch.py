"""PyTorch, on a CUDA device or on the CPU.

In single precision, so that values on 256 levels stay on them; a network without levels runs in half precision on CUDA.
None of it was run on CUDA: no device was at hand.
"""

from __future__ import annotations

import numpy as np
import torch

from allq.errors import ModelDamaged, SettingsError
from models.architectures.make import make_network
from models.architectures.network import FieldNetwork, Network
from models.artefact import Arrays, Model, ModelConfiguration
from models.engines.base import NetworkOutput, Pixels, join


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
        self._half = cuda and not isinstance(network, Network)
        # TensorFloat-32 keeps ten bits of what is multiplied: too few for weights times their scale.
        torch.backends.cudnn.allow_tf32 = False
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def name(self) -> str:
        """`torch-cpu-f32`, `torch-cuda-f32` or `torch-cuda-f16`."""
        return f"torch-{self._device.type}-{'f16' if self._half else 'f32'}"

    def run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        """Leukocytes on glass and whole fields, RGB uint8 (N, S, S, 3) each, N ≥ 1."""
        parts = [slice(start, start + self._batch) for start in range(0, len(cells), self._batch)]
        return join([self._run(cells[part], fields[part]) for part in parts])

    @torch.inference_mode()
    def _run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        views = [torch.from_numpy(np.ascontiguousarray(view)).to(self._device) for view in (cells, fields)]
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            output = self._network(*(self._network.scale(view) for view in views))
        return NetworkOutput(
            logits=output.logits.float().cpu().numpy(),
            embeddings=output.embedding.float().cpu().numpy(),
            class_maps=tuple(maps.float().cpu().numpy() for maps in output.class_maps),
            views=output.views.float().cpu().numpy(),
        )


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
