"""Which engine runs a model here. Imports only the one that is chosen."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from allq.errors import SettingsError
from allq.memory import ran_out_of_memory
from allq.settings import Settings
from models.architectures.registry import has_blueprint
from models.artefact import Model
from models.engines.base import Engine

_TORCH_SAYS: Final = ("CUDA error:", "cuDNN error:")
"""How torch begins what CUDA's runtime and libraries say of its own work: there is nothing simpler to fall back on."""

_DRIVER_SAYS: Final = ("CUDA driver error: ", "Triton Error [CUDA]: ")
"""How what loads and launches a compiled network's kernels begins what the driver says: torch's launcher, and Triton's
(`gpuAssert` in its backends/nvidia/driver.c)."""

_ENDS_CUDA: Final = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "hardware stack error",
    "device-side assert triggered",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "context is destroyed",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "Invalid access of peer GPU memory over nvlink or a hardware error",
    "tensor memory not completely freed",
    "the MPS client has been terminated by the server",
    "an async error has occured in external entity outside of CUDA",
    "no CUDA-capable device is detected",
    "unknown error",
)
"""The driver's sentences for errors after which a process gets nothing from CUDA any more: those of which CUresult
(docs.nvidia.com/cuda/cuda-driver-api) says that the process must end, or the context can't be used, and damaged or
missing hardware. Others are about one call or kernel, as an invalid image or argument: without being compiled the
network may run."""


def start(model: Model, settings: Settings) -> Engine:
    """Load `model` as the settings say; `auto` is torch where a CUDA device is, OpenVINO on the CPU elsewhere.

    Raises SettingsError when what is asked for isn't here, ModelDamaged when the weights can't be read.
    """
    cuda = uses_card(settings)
    engine = settings.engine
    if engine == "auto":
        graph = has_blueprint(model.configuration.architecture) and importlib.util.find_spec("openvino") is not None
        engine = "openvino" if graph and not cuda else "torch"
    if engine == "openvino":
        if settings.device == "cuda":
            raise SettingsError("OpenVINO has no CUDA device: set ALLQ_ENGINE=torch or ALLQ_DEVICE=cpu.")
        from models.engines.openvino import OpenVinoEngine  # noqa: PLC0415  # torch machines need not have it

        return OpenVinoEngine(model, batch=settings.inference_batch, threads=settings.threads)
    from models.engines.torch import TorchEngine  # noqa: PLC0415  # slow to import, and not needed by OpenVINO

    return TorchEngine(model, batch=settings.inference_batch, threads=settings.threads, cuda=cuda)


def uses_card(settings: Settings) -> bool:
    """Whether `start` puts models on a card: one is asked for, or torch can use one and nothing else is asked for.

    A driver alone is not enough: torch may have been built without CUDA, or have none that the driver can do with.
    """
    if settings.device == "auto":
        return settings.engine != "openvino" and _has_cuda()
    return settings.device == "cuda"


def require_cuda() -> None:
    """Raise SettingsError where torch can use no card."""
    if not _torch_finds_one():
        raise SettingsError("Torch finds no CUDA device: set ALLQ_DEVICE=cpu, or mend the driver.")


def card_failed(error: BaseException) -> bool:
    """Whether an error says that this process's card answers no more: whatever it is asked next fails, too.

    Lack of memory is no such error. (docs.pytorch.org/docs/stable/generated/torch.AcceleratorError.html)
    """
    if ran_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    if type(error).__name__ == "AcceleratorError":
        return True
    said = str(error)
    if any(words in said for words in _TORCH_SAYS):
        return True
    return any(words in said for words in _DRIVER_SAYS) and any(words in said for words in _ENDS_CUDA)


def _has_cuda() -> bool:
    """Whether asking torch is worth its import: without the driver's device node there is no CUDA device."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return False
    return _torch_finds_one()


def _torch_finds_one() -> bool:
    import torch  # noqa: PLC0415  # slow to import

    return torch.cuda.is_available()
