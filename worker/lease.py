"""Keeping a claimed chunk while it is computed, for as long as one chunk may take and no longer."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Final

from allq import faults
from allq.errors import FailureCode, SchemaOutdated, StoreError
from allq.logging import logger
from allq.settings import Settings
from db import chunks
from db.database import Database
from db.records import Claim, Failure

log = logger(__name__)

_GRACE: Final = 10.0
"""Seconds after the time limit in which a process may come to its next stopping point by itself."""

ENDED_BY_ITSELF: Final = 70
"""The exit code of a process whose card answers no more, or that hangs in a C library."""


class LeaseLost(Exception):
    """Another worker owns the chunk now, or it was cancelled, or given up: what was computed is dropped."""


class Lease:
    """Renews a claim's lease from a thread of its own every third of its length, until the block ends.

    `check()` raises LeaseLost as soon as a renewal was refused. A database that does not answer is tried again: the
    lease may run out meanwhile, and then the fence at recording decides.

    The same thread sees to the time limit. Not Celery: its limits interrupt Python only, in some pools, at any line,
    and say nothing to the database. A chunk that has taken `task_seconds` is given up, so that it is halved and its
    sound fields are screened. If the block has not ended soon after, it hangs, and the process is ended with it.
    """

    def __init__(self, database: Database, claim: Claim, settings: Settings) -> None:
        self._database = database
        self._claim = claim
        self._seconds = settings.lease_seconds
        self._limit = settings.task_seconds
        self._deadline = time.monotonic() + settings.task_seconds
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.chunk_id}", daemon=True)

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

    def _keep(self) -> None:
        while not self._stop.wait(min(self._seconds / 3, max(0.0, self._deadline - time.monotonic()))):
            overdue = time.monotonic() >= self._deadline
            try:
                if overdue:
                    self._give_up()
                    break
                faults.reach("renew.begin")
                with self._database.begin() as connection:
                    held = chunks.renew(connection, self._claim, self._seconds)
                    faults.reach("renew.written")
                faults.reach("renew.committed")
            except SchemaOutdated as error:  # the upgrade has given the chunk back
                log.error("what is under way is dropped", chunk=self._claim.chunk_id, problem=str(error))
                self._lost.set()
                break
            except StoreError as error:
                log.warning("lease not renewed", chunk=self._claim.chunk_id, problem=str(error))
                if overdue and self._stop.wait(1):
                    return
                continue
            if not held:
                self._lost.set()
                break
        else:
            return
        # Cancelled or overdue: what hangs must not hang for ever. What doesn't, ends at the next check.
        remaining = max(0.0, self._deadline - time.monotonic()) + _GRACE
        if not self._stop.wait(remaining):
            log.error("this process hangs and is ended", chunk=self._claim.chunk_id, seconds=self._limit)
            end_process()

    def _give_up(self) -> None:
        sentence = f"it was not screened within the time limit for one chunk (ALLQ_TASK_SECONDS={self._limit})"
        with self._database.begin() as connection:
            chunks.give_up(connection, self._claim, Failure(code=str(FailureCode.TIME_LIMIT), sentence=sentence))
        self._lost.set()
        log.error("chunk took too long and was given up", chunk=self._claim.chunk_id, seconds=self._limit)


def end_process() -> None:
    """End this process at once: whoever starts it again finds its chunk as that of one that crashed."""
    os._exit(
        ENDED_BY_ITSELF
    )  # nothing less ends a thread that is stuck in a C library, and a container's first process


class LapsedLeases:
    """Tells which leases ran out because their worker died, from those that nobody could renew for a while.

    After an outage of the database, or when a machine wakes, every lease has run out and every worker is alive. A
    worker renews as soon as it can, within a third of its lease: what is seen to have run out, and still has when twice
    that time has passed, has nobody behind it.
    """

    def __init__(self, settings: Settings) -> None:
        self._patience = settings.lease_seconds * 2 / 3
        self._seen: dict[tuple[int, int], float] = {}

    def abandoned(self, lapsed: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of the (chunk, attempt) whose leases have run out now, those that have no worker any more."""
        now = time.monotonic()
        self._seen = {held: self._seen.get(held, now) for held in lapsed}
        return [held for held, since in self._seen.items() if now - since >= self._patience]

    def forget(self) -> None:
        """Begin anew: the database was away, and workers could not renew."""
        self._seen.clear()
