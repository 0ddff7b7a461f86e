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
)
"""By torch's allocators (docs.pytorch.org/docs/stable/notes/cuda.html), the C++ library, OpenVINO and the system."""


def ran_out_of_memory(error: BaseException | None) -> bool:
    """True for Python's and NumPy's MemoryError, OpenCV's, torch's on a card or not, and OpenVINO's."""
    if isinstance(error, MemoryError):
        return True
    if getattr(error, "code", None) == _OPENCV_NO_MEMORY and type(error).__module__ == "cv2":
        return True
    # torch.OutOfMemoryError is a RuntimeError, too.
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)
