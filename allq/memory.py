"""Whether an error says that memory ran out: each library says it in its own way."""

from __future__ import annotations

from typing import Final

_OPENCV_NO_MEMORY: Final = -4
"""cv::Error::StsNoMem"""

_SAID: Final = (
    "out of memory",
    "bad_alloc",
    "bad alloc",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "status_alloc_failed",
    "device_allocation_failed",
)
"""By torch's allocators (docs.pytorch.org/docs/stable/notes/cuda.html), the C++ library, OpenVINO and the system;
the last two by cuBLAS and cuDNN (CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)."""


def ran_out_of_memory(error: BaseException | None) -> bool:
    """True for Python's and NumPy's MemoryError, OpenCV's, torch's on a card or not, and OpenVINO's."""
    if isinstance(error, MemoryError):
        return True
    if getattr(error, "code", None) == _OPENCV_NO_MEMORY and type(error).__module__ == "cv2":
        return True
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__ == "torch":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)
