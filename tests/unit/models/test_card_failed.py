"""Which errors say that a card answers no more."""

import pytest
import torch

from allq.memory import ran_out_of_memory
from models.engines.choose import card_failed


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA driver error: an illegal memory access was encountered"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("CUDA driver error: Invalid access of peer GPU memory over nvlink or a hardware error"),
        RuntimeError("Triton Error [CUDA]: tensor memory not completely freed"),
        RuntimeError("Triton Error [CUDA]: the MPS client has been terminated by the server"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: uncorrectable ECC error encountered"),
        RuntimeError("RuntimeError: Triton Error [CUDA]: unspecified launch failure\n\nSet TORCHDYNAMO_VERBOSE=1"),
    ],
    ids=str,
)
def test_errors_after_which_a_process_gets_nothing_from_its_card_are_known(error: Exception) -> None:
    assert card_failed(error)
    assert not ran_out_of_memory(error)


@pytest.mark.parametrize(
    "said",
    [
        "Triton Error [CUDA]: device kernel image is invalid",
        "Triton Error [CUDA]: invalid argument",
        "Triton Error [CUDA]: the provided PTX was compiled with an unsupported toolchain.",
        "CUDA driver error: invalid argument",
        "CUDA driver error: device kernel image is invalid",
        "CUDA driver error: too many resources requested for launch",
        "CUDA driver error: operation not supported",
        "an unknown error of the file's",
    ],
)
def test_what_is_wrong_with_a_kernel_only_is_no_failure_of_the_card(said: str) -> None:
    assert not card_failed(RuntimeError(said))


def test_tritons_lack_of_memory_is_one_that_smaller_batches_answer() -> None:
    error = RuntimeError("Triton Error [CUDA]: out of memory")
    assert ran_out_of_memory(error)
    assert not card_failed(error)
