"""One worker process for each card: CUDA does not survive a fork, and two processes on a card only take turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ctypes import CDLL, byref, c_int
from types import FrameType
from typing import Final

from allq.cores import cores
from allq.logging import logger
from allq.settings import Settings
from worker.local import environment, import_path

log = logger(__name__)

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_TOLD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""What the workers are told as well, in the words in which this process was told."""


def visible() -> list[str]:
    """The cards that this process may use, as CUDA_VISIBLE_DEVICES names them; found without loading torch."""
    try:
        cuda = CDLL("libcuda.so.1")
    except OSError:
        return []
    count = c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(byref(count)) != 0:
        return []
    return named(count.value, os.environ)


def named(count: int, variables: Mapping[str, str]) -> list[str]:
    """The names of the first `count` cards: the operator's where there are any, else their numbers."""
    given = [name.strip() for name in variables.get(_VISIBLE, "").split(",") if name.strip()]
    return (given or [str(number) for number in range(count)])[:count]


def run_on_each(settings: Settings, cards: Sequence[str], queues: Sequence[str]) -> int:
    """Run a worker on each of the cards until told to stop, or until one of them ends. Returns the exit code."""
    command = [sys.executable, "-P", "-m", "allq", "worker", "--parent", str(os.getpid()), "--queues", ",".join(queues)]
    own = {**os.environ, **import_path(), **environment(settings)}
    log.info("workers start", cards=",".join(cards))
    share = settings.preparers or max(1, cores() // len(cards))
    return together([(command, {**own, "ALLQ_PREPARERS": str(share), _VISIBLE: card}) for card in cards])


def together(commands: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> int:
    """Run commands, each with its variables, passing on what this process is told. Returns the first exit code.

    When one ends, the others are told to: whoever supervises this process starts all of them again.
    """
    running: list[subprocess.Popen[bytes]] = []
    told: tuple[int, int] | None = None  # what last, and how many were running then

    def pass_on(number: int, _frame: FrameType | None = None) -> None:
        nonlocal told
        told = number, len(running)
        for process in running:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in _TOLD}
    try:
        for command, variables in commands:
            # In a session of its own: Ctrl-C reaches it once, through us.
            running.append(subprocess.Popen(command, env=variables, start_new_session=True))
            if told is not None and len(running) > told[1]:  # it was being started when we were told
                running[-1].send_signal(told[0])
        code = _first_end(running)
        if told is None:  # a worker that is told twice gives back what it has in hand
            pass_on(signal.SIGTERM)
        return max([code, *(process.wait() for process in running)], key=abs)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _first_end(running: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        for process in running:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
