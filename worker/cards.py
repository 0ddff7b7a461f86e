"""One worker process for each card: CUDA does not survive a fork, and two processes on a card only take turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import CDLL, byref, c_int
from dataclasses import dataclass, field
from typing import Final

from allq.cores import cores
from allq.logging import logger
from allq.settings import Settings
from worker.lease import ENDED_BY_ITSELF
from worker.local import environment, import_path

log = logger(__name__)

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_TOLD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""What the workers are told as well, in the words in which this process was told."""

_LOOK: Final = 0.1
"""Seconds between two looks at what became of the workers."""

_PAUSE: Final = 1.0
"""Seconds until a card that failed once is tried again; twice as many with each further failure."""

_LONGEST_PAUSE: Final = 60.0

_FAILURES: Final = 5
"""So many within `_WINDOW` seconds, and a card is left out. A field that brings a card down comes back more slowly: its
chunk's lease must run out first."""

_WINDOW: Final = 300.0


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


@dataclass(slots=True, kw_only=True)
class CardWorker:
    """The worker of one card: how it is started, and what became of it so far."""

    card: str
    command: Sequence[str]
    variables: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    """None while it waits to be started, and when it is left out"""
    due: float | None = 0.0
    """when it is to be started, by the monotonic clock; None when it is left out"""
    failures: deque[float] = field(default_factory=deque)
    """when its card failed, within the last `_WINDOW` seconds"""

    def start(self) -> None:
        """Start it in a session of its own: Ctrl-C reaches it once, through us."""
        self.process = subprocess.Popen(self.command, env=self.variables, start_new_session=True)

    def failed(self) -> None:
        """Its card failed: have it started again in a while, or leave it out."""
        now = time.monotonic()
        self.process = None
        self.failures = deque(when for when in (*self.failures, now) if now - when < _WINDOW)
        count = len(self.failures)
        if count >= _FAILURES:
            self.due = None
            log.error(
                "a card is left out until this worker is started anew: its process failed again and again",
                card=self.card,
                failures=count,
                minutes=round(_WINDOW / 60),
            )
            return
        pause = min(_PAUSE * 2 ** (count - 1), _LONGEST_PAUSE)
        self.due = now + pause
        log.warning("a card's process failed and is started again", card=self.card, failures=count, seconds=pause)


def run_on_each(settings: Settings, cards: Sequence[str], queues: Sequence[str]) -> int:
    """Run a worker on each of the cards until told to stop, or until none can go on. Returns the exit code."""
    command = [sys.executable, "-P", "-m", "allq", "worker", "--parent", str(os.getpid()), "--queues", ",".join(queues)]
    # A card that is gone when its worker is started again must not have it take the cores of the other cards' workers.
    own = {**os.environ, **import_path(), **environment(settings), "ALLQ_DEVICE": "cuda"}
    log.info("workers start", cards=",".join(cards))
    share = settings.preparers or max(1, cores() // len(cards))
    return together(
        [
            CardWorker(
                card=card,
                command=[*command, "--card", card],
                variables={**own, "ALLQ_PREPARERS": str(share), _VISIBLE: card},
            )
            for card in cards
        ]
    )


def together(workers: Sequence[CardWorker]) -> int:
    """Run the workers, passing on what this process is told. Returns the exit code.

    One whose card fails is started again alone, after a while, and left out when that happens again and again; the
    others go on. When all are left out that is the end. When one ends in any other way the others are told to end, too:
    whoever supervises this process starts all of them again.
    """
    told: deque[int] = deque()
    previous = {number: signal.signal(number, lambda number, _frame: told.append(number)) for number in _TOLD}
    codes: list[int] = []
    ending = False
    try:
        while True:
            while told:
                ending = True
                _tell(workers, told.popleft())
            for worker in workers:
                if worker.process is None and not ending and worker.due is not None and worker.due <= time.monotonic():
                    worker.start()
                elif worker.process is not None and (code := worker.process.poll()) is not None:
                    if code == ENDED_BY_ITSELF and not ending:
                        worker.failed()
                        continue
                    worker.process = None
                    codes.append(code)
                    if not ending:  # a worker that is told twice gives back what it has in hand
                        ending = True
                        _tell(workers, signal.SIGTERM)
            if all(worker.process is None and (ending or worker.due is None) for worker in workers):
                if not ending:
                    log.error("this worker ends: no card is left")
                return max(codes, key=abs, default=0 if ending else ENDED_BY_ITSELF)
            time.sleep(_LOOK)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tell(workers: Sequence[CardWorker], number: int) -> None:
    for worker in workers:
        if worker.process is not None:
            worker.process.send_signal(number)
