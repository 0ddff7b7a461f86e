"""Sealing the ledger, every few seconds: in a worker's housekeeping, or as a process that does nothing else.

Whoever may not seal (a login outside allq_sealer, a machine without the key) leaves it to those who may, and says so
once. `allq doctor` tells when nobody has sealed for long.
"""

from __future__ import annotations

import signal
import threading
import time

from allq.errors import AllqError, LedgerError
from allq.logging import logger
from allq.settings import Settings
from db import sealing
from db.database import Database
from db.sealing import LeftToOthers

log = logger(__name__)


class Sealer:
    """One process's share of the sealing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seal_at = 0.0
        self._problem = ""
        self._left_to_others = False

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
            self._problem, self._left_to_others = "", False
        except LeftToOthers as error:
            if not self._left_to_others:
                log.info("sealing the ledger is left to others", reason=str(error))
            self._left_to_others = True
        except LedgerError as error:
            if str(error) != self._problem:
                log.error("the ledger was not sealed", problem=str(error))
            self._problem = str(error)
        self._seal_at = time.monotonic() + self._settings.seal_seconds


def seal_until_told_to_stop(settings: Settings) -> None:
    """Seal every `seal_seconds`, and once more at SIGTERM. A database that is away is waited for.

    Raises LedgerError at the start where this login or this machine may not seal, and whatever keeps the database from
    being opened then.
    """
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        _round(settings, None)
        log.info("sealer starts", seconds=settings.seal_seconds)
        sealer, problem = Sealer(settings), ""
        while True:
            ends = told.wait(settings.seal_seconds)
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
    finally:
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
