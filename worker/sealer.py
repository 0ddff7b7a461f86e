"""Sealing the ledger, every few seconds: in a worker's housekeeping, or as a process that does nothing else.

A worker that may not seal (its login is outside allq_sealer, its machine has not the key) leaves it to those who may,
and says so once. In a process that does nothing else it is an error. `allq doctor` tells when nobody has sealed for
long.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from allq.errors import AllqError, LedgerError
from allq.logging import logger
from allq.settings import Settings
from db import sealing
from db.checkpoints import Checkpoint
from db.database import Database
from db.sealing import LeftToOthers, Sealed

log = logger(__name__)


_NAMED: Final = 10
"""So many damaged events are named in one entry of the log; `verify` names them all."""
_HELD_LONG: Final = 60.0
"""Seconds without a new checkpoint. Who seals a long backlog has the turn nearly all of the time, but makes some."""


class Sealer:
    """One process's share of the sealing. `alone`: it is all that the process does, and nobody else is relied upon."""

    def __init__(self, settings: Settings, *, alone: bool = False) -> None:
        self._settings = settings
        self._alone = alone
        self._seal_at = 0.0
        self._problem = ""
        self._left_to_others = False
        self._seen: tuple[str | None, Checkpoint | None] = None, None
        self._held_since = 0.0
        self._told_of_holder = False

    def seal(self, database: Database, *, now: bool = False) -> None:
        """Seal what is due; with `now`, without waiting for the time. What prevents it is logged once.

        Errors of the database are raised.
        """
        if time.monotonic() < self._seal_at and not now:
            return
        try:
            sealed = sealing.seal(database, self._settings)
            if sealed.checkpoints:
                log.debug("events sealed", events=sealed.events, checkpoints=sealed.checkpoints)
            if sealed.damaged:
                log.error(
                    "events whose time is none were sealed as they stand: find out who wrote them",
                    count=len(sealed.damaged),
                    events=list(sealed.damaged[:_NAMED]),
                )
            self._watch(sealed)
            if self._problem:
                log.warning("sealing goes on", after=self._problem)
            self._problem, self._left_to_others = "", False
        except LedgerError as error:
            if isinstance(error, LeftToOthers) and not self._alone:
                self._leave(error)
            else:
                self._say(error)
        self._seal_at = time.monotonic() + self._settings.seal_seconds

    def _watch(self, sealed: Sealed) -> None:
        """Say once of a session that has kept the turn for long while nothing was sealed: it need not be a sealer's."""
        seen = sealed.held_by, sealed.checkpoint
        if sealed.held_by is None or seen != self._seen:
            self._seen, self._held_since, self._told_of_holder = seen, time.monotonic(), False
            return
        held = time.monotonic() - self._held_since
        if held >= _HELD_LONG and not self._told_of_holder:
            log.warning(
                "the ledger is not sealed: one session has kept the others from it; end it where it is none of allq's",
                session=sealed.held_by,
                seconds=round(held),
            )
            self._told_of_holder = True

    def _leave(self, error: LeftToOthers) -> None:
        if not self._left_to_others:
            log.info("sealing the ledger is left to others", reason=str(error))
        self._left_to_others = True

    def _say(self, error: LedgerError) -> None:
        if str(error) != self._problem:
            log.error("the ledger was not sealed", problem=str(error))
        self._problem = str(error)


def seal_until_told_to_stop(settings: Settings) -> None:
    """Seal every `seal_seconds`, and once more at SIGTERM. A database that is away is waited for.

    Raises LedgerError at the start where this login or this machine may not seal, and whatever keeps the database from
    being opened then.
    """
    with _told_to_stop() as told:
        _round(settings, None)
        log.info("sealer starts", seconds=settings.seal_seconds)
        sealer, problem = Sealer(settings, alone=True), ""
        while True:
            ends = told(settings.seal_seconds)
            try:
                _round(settings, sealer)
                if problem:
                    log.warning("sealing goes on", after=problem)
                problem = ""
            except AllqError as error:
                if str(error) != problem:
                    log.error("sealing failed; it is tried again until it succeeds", problem=str(error))
                problem = str(error)
            except Exception:
                log.exception("sealing failed; it is tried again")
            if ends:
                log.info("sealer ended")
                return


@contextmanager
def _told_to_stop() -> Iterator[Callable[[float], bool]]:
    """Waits for so many seconds, or until SIGTERM has come, and says whether it has.

    What is waited for is a byte that the interpreter sends itself with the signal. Nothing that takes a lock may be
    called by the handler, as `threading.Event.set` would: it may run while the wait holds that very lock.
    """
    told = False

    def on_signal(*_: Any) -> None:
        nonlocal told
        told = True

    def wait(seconds: float) -> bool:
        if not told:
            reading.settimeout(seconds)
            with suppress(TimeoutError, BlockingIOError):
                reading.recv(64)
        return told

    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        before = signal.signal(signal.SIGTERM, on_signal)
        woken = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield wait
        finally:
            signal.set_wakeup_fd(woken)
            signal.signal(signal.SIGTERM, before)


def _round(settings: Settings, sealer: Sealer | None) -> None:
    """With a connection of its own, as one that stays open may outlive a server or a schema."""
    database = Database.open(settings, upgrade=False)
    try:
        if sealer is None:
            sealing.require_sealer(database, settings)
            sealing.seal(database, settings)
        else:
            sealer.seal(database, now=True)
    finally:
        database.close()
