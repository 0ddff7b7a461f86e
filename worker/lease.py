"""Keeping a claimed chunk while it is computed."""

from __future__ import annotations

import threading
from types import TracebackType

from allq.errors import StoreError
from allq.logging import logger
from db import chunks
from db.database import Database
from db.records import Claim

log = logger(__name__)


class LeaseLost(Exception):
    """Another worker owns the chunk now, or it was cancelled: what was computed is dropped."""


class Lease:
    """Renews a claim's lease from a thread of its own every third of its length, until the block ends.

    `check()` raises LeaseLost as soon as a renewal was refused. A database that does not answer is tried again: the
    lease may run out meanwhile, and then the fence at recording decides.
    """

    def __init__(self, database: Database, claim: Claim, seconds: float) -> None:
        self._database = database
        self._claim = claim
        self._seconds = seconds
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{claim.chunk_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise LeaseLost when the chunk is no longer ours."""
        if self._lost.is_set():
            raise LeaseLost

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                with self._database.begin() as connection:
                    held = chunks.renew(connection, self._claim, self._seconds)
            except StoreError as error:
                log.warning("lease not renewed", chunk=self._claim.chunk_id, problem=str(error))
                continue
            if not held:
                self._lost.set()
                return
