"""What measuring has in common: how results are handed on, and the median of a few times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Found = dict[str, tuple[float, str, str]]
"""Name → value, unit, what it is."""


def median(work: Callable[[], object], repeat: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of `clock` that `work` takes, the median of `repeat` times."""
    times = []
    for _ in range(repeat):
        started = clock()
        work()
        times.append(clock() - started)
    return statistics.median(times)
