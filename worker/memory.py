"""What a worker asks of the C library's allocator."""

from __future__ import annotations

import platform
from ctypes import CDLL
from typing import Final

# mallopt(3): the parameters' numbers in malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3

_KEPT: Final = 32 << 20
"""Freed memory, in bytes, that each thread's arena may keep."""
_MAPPED: Final = 8 << 20
"""From this size on an array has a mapping of its own, which goes back to the kernel when it is freed."""
_GROWTH: Final = 1 << 20


def keep_freed_memory() -> bool:
    """Let this process, and those that it forks, keep what it frees for what it allocates next; whether that was done.

    A field passes through some dozen arrays of 50 to 200 KB. By default they go back to the kernel when they are freed,
    and for the next field come from it anew, page by page: some 260 page faults and a twentieth of the processor time
    that a field costs before the network. Only glibc has this to be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = CDLL(None)
    settings = {_M_TRIM_THRESHOLD: _KEPT, _M_MMAP_THRESHOLD: _MAPPED, _M_TOP_PAD: _GROWTH}
    taken = [library.mallopt(parameter, value) for parameter, value in settings.items()]
    return all(taken)
