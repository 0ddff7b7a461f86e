"""Who holds a lease: a name that tells, on the same machine, whether its process still lives."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import psutil


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
    return f"{_place()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_dead(name: str) -> bool:
    """True only when `name` was a process of this very place that has ended; False for any other place."""
    place, _, rest = name.rpartition("/")
    place, _, process = place.rpartition("/")
    if place != _place():
        return False
    try:
        found = psutil.Process(int(process))
        return f"{found.create_time():.2f}" != rest or found.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return True
    except psutil.AccessDenied:
        return False
