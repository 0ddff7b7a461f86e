"""How many of the machine's cores this process may keep busy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def cores(root: Path = Path("/")) -> int:
    """Cores that the scheduler gives this process, no more than its control groups have time for, at least one.

    A container that may use two processors of 64 still sees all 64: what it is held to is a quota, which neither
    `os.cpu_count` nor the affinity tells. A part of a core counts as one. `root` is where /proc and /sys lie.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([affinity, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group over this process allows, those without a limit left out."""
    for folder in _groups(root):
        # A folder has the files of version 2 or those of version 1: docs.kernel.org/admin-guide/cgroup-v2.html and
        # docs.kernel.org/scheduler/sched-bwc.html.
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        with suppress(OSError, ValueError):
            allowed = int((folder / "cpu.cfs_quota_us").read_text())
            if allowed > 0:
                yield allowed / int((folder / "cpu.cfs_period_us").read_text())


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control group for processors, and of those that it lies in."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux, or no /proc
        return
    for membership in memberships:
        _, controllers, own = membership.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            left, _, right = mount.partition(" - ")
            top, point = left.split()[3:5]
            kind, _, options = right.split(" ", 2)
            if kind == "cgroup2" if not controllers else kind == "cgroup" and "cpu" in options.split(","):
                yield from _up(root / point.lstrip("/"), PurePosixPath(own), PurePosixPath(top))


def _up(mounted: Path, own: PurePosixPath, top: PurePosixPath) -> Iterator[Path]:
    """From the folder of group `own` up to `mounted`, where `top` is seen; that alone if `own` is not below it."""
    inside = own.relative_to(top) if own.is_relative_to(top) and ".." not in own.parts else PurePosixPath()
    for group in (inside, *inside.parents) if inside.parts else (inside,):
        yield mounted / group
