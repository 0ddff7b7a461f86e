"""A wall clock that a test can set, for processes that it starts.

Installed before anything else is imported there: whoever takes `time.time`, under whatever name, has this one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

_real = time.time
_setting: list[Path] = []


def obey(file: Path) -> None:
    """Let this process's clock, and those of its children, be wrong by the number of seconds that stands in `file`."""
    _setting[:] = [file]


def obey_nothing() -> None:
    """Be right again."""
    _setting.clear()


def wrong_time() -> float:
    """The time by this process's clock."""
    if _setting:
        with suppress(OSError, ValueError):
            return _real() + float(_setting[0].read_text())
    return _real()


def install() -> None:
    """Put this clock in the place of the real one, for whoever takes it from now on."""
    time.time = wrong_time
