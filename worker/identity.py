"""Who holds a lease: a name that tells, on the same machine, whether its process still lives."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Final

import psutil

_PROC: Final = Path("/proc")
_TICKS: Final = "t"
"""Before a start counted in clock ticks since the machine started, to tell it from one by the system's clock."""


@cache
def _place() -> str:
    """Host and process-id namespace: within one place, a process id means one process."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:  # not Linux
        namespace, boot = "0", f"{psutil.boot_time():.0f}"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def owner() -> str:
    """The name under which this process claims chunks: place, process id, and when the process started."""
    started, _ = _look(os.getpid())
    return f"{_place()}/{os.getpid()}/{started}"


def is_dead(name: str) -> bool:
    """True only when `name` was a process of this very place that has ended; False for any other place.

    False, too, for a start that was noted in another way than ours while some process has that number.
    """
    place, _, rest = name.rpartition("/")
    place, _, process = place.rpartition("/")
    if place != _place():
        return False
    try:
        started, ended = _look(int(process))
    except (psutil.NoSuchProcess, ValueError):
        return True
    except psutil.AccessDenied:
        return False
    return ended or (started != rest and started.startswith(_TICKS) == rest.startswith(_TICKS))


def _look(process: int) -> tuple[str, bool]:
    """When a process started, in a form that is the same at each look, and whether it has ended without being reaped.

    On Linux from the kernel's own count: a time by the clock would move whenever the clock is set, and every process
    would look as if it were another. Raises psutil.NoSuchProcess or AccessDenied.
    """
    try:
        # proc_pid_stat(5); the second field, the name, is in brackets and may hold anything
        fields = (_PROC / str(process) / "stat").read_bytes().rpartition(b")")[2].split()
        return f"{_TICKS}{int(fields[19])}", fields[0] in {b"Z", b"X"}
    except (FileNotFoundError, ProcessLookupError):
        if (_PROC / "self" / "stat").exists():
            hidden = psutil.pid_exists(process)  # a kernel may hide the processes of other accounts
            raise (psutil.AccessDenied if hidden else psutil.NoSuchProcess)(process) from None
    except PermissionError:
        raise psutil.AccessDenied(process) from None
    found = psutil.Process(process)
    return f"{found.create_time():.2f}", found.status() == psutil.STATUS_ZOMBIE
