"""What keeps every batch moving whatever the broker or a worker does.

Every worker's main process does this every few seconds, between messages, in its own event loop. All of it is
idempotent: any number of workers may do it at once.

1. Chunks whose process on this machine has died, or whose lease ran out and stays so, become claimable again.
2. Slides that ended outside a worker's transaction (a cancelled batch, a field that kills its worker) get their call.
3. Chunks never published are published: those of a `submit` that found no broker, halves of a split chunk.
4. Chunks published long ago that no queue holds any more (the broker was emptied) are published again.
5. New events are sealed into the ledger, by one process at a time, and checkpoints written to this machine's file;
   where this worker may (worker.sealer).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import redis
from celery import Celery, bootsteps
from celery.worker import state

from allq import faults
from allq.errors import AllqError, BrokerUnreachable, ProgramOutdated
from allq.logging import logger
from allq.settings import Settings, current
from db import chunks
from db.database import Database
from worker import broker, embedded, transport
from worker.calling import call_due_slides
from worker.identity import is_dead, owner
from worker.lease import LapsedLeases
from worker.publish import publish_all, publish_waiting
from worker.requests import acknowledgements
from worker.sealer import Sealer

log = logger(__name__)


_LONGEST_LEASE = 10
"""Times the lease of the settings: what is held for longer than that was claimed before the clock was set back."""


def reclaim(database: Database, leases: LapsedLeases, settings: Settings) -> int:
    """Make claimable again what was left by workers that died or stalled. Returns how many chunks."""
    longest = _LONGEST_LEASE * settings.lease_seconds
    with database.ask() as connection:
        dead = [name for name in chunks.running_owners(connection) if is_dead(name)]
        abandoned = leases.abandoned(chunks.lapsed(connection, longest_lease=longest))
    if not dead and not abandoned:
        return 0
    faults.reach("reclaim.begin")
    with database.begin() as connection:
        freed = chunks.reclaim_expired(connection, only=abandoned, longest_lease=longest)
        if dead:
            freed += chunks.reclaim_owner(connection, dead)
        faults.reach("reclaim.written")
    faults.reach("reclaim.committed")
    if freed:
        log.warning("chunks of dead or stalled workers are claimable again", chunks=len(freed))
    return len(freed)


def republish_lost(app: Celery, database: Database, settings: Settings) -> int:
    """Publish again what SQL says is published and waiting but no queue holds. Returns how many chunks.

    A queue shorter than the number of chunks that wait for it has lost messages. Queues are first in, first out, so the
    lost ones are among the oldest. One published twice is claimed once.

    Workers take turns: counting takes the longer the more chunks wait, and once is enough for all machines.
    """
    lengths = broker.queue_lengths_in_turn(settings)
    if lengths is None:
        return 0
    with database.ask() as connection:
        waiting = chunks.waiting_by_queue(connection)
    total = 0
    for queue in broker.QUEUES:
        missing = waiting.get(queue, 0) - lengths[queue]
        if missing > 0:
            total += publish_waiting(
                app, database, queue, older_than_seconds=settings.republish_seconds, at_most=missing
            )
    if total:
        log.info("chunks that no queue held were published again", chunks=total)
    return total


class Housekeeper:
    """One worker's share of the housekeeping."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._broker_was_down = False
        self._problem: str | None = None
        self._leases = LapsedLeases(settings)
        self._sealer = Sealer(settings)
        self._database: Database | None = None

    def tick(self) -> None:
        """Do all of it once. Problems are logged, and tried again at the next tick.

        Raises redis.ConnectionError, which Celery's event loop understands, when Celery has to connect anew.
        """
        try:
            # Closed each time: the pool forks from this process, and no connection may live in both.
            database = self._opened()
            try:
                reclaim(database, self._leases, self._settings)
                call_due_slides(database, self._settings, worker=owner())
                try:
                    self._deliver(database)
                finally:
                    # last: what its hooks wait for holds up no work, and it needs no broker
                    self._sealer.seal(database)
            finally:
                database.close()
            if self._problem is not None:
                log.warning("housekeeping goes on", after=self._problem)
                self._problem = None
        except redis.ConnectionError:
            raise  # Celery's event loop connects anew when it meets this
        except BrokerUnreachable as error:
            if not self._broker_was_down:
                log.warning("broker away; work waits in SQL", problem=str(error))
            self._broker_was_down = True
            with suppress(BrokerUnreachable):  # or it is there, and what lies in it in the way
                transport.mend(self._settings)
        except ProgramOutdated as error:
            if str(error) != self._problem:  # rounds go on while the pool ends
                log.error("this worker ends: only a newer one can go on", problem=str(error))
            self._problem = str(error)
            state.should_stop = error.exit_code
        except AllqError as error:
            self._leases.forget()
            self._database = None
            if str(error) != self._problem:  # every few seconds is too often
                log.error("housekeeping failed; it is tried again until it succeeds", problem=str(error))
            self._problem = str(error)
        except Exception:
            log.exception("housekeeping failed")

    def end(self) -> None:
        """Say that the worker goes, and seal what the last chunks have told before: no other may come for days."""
        with suppress(BrokerUnreachable):
            broker.leave(self._settings)
        try:
            database = Database.open(self._settings, upgrade=False)
            try:
                self._sealer.seal(database, now=True)
            finally:
                database.close()
        except AllqError as error:
            log.warning("what was done last is not sealed yet", problem=str(error))
        except Exception:
            log.exception("what was done last is not sealed yet")

    def _opened(self) -> Database:
        """The database, its schema looked at. What PostgreSQL's driver asks of a new server it asks in the first round
        alone: while a round waits for answers, no chunk is delivered or acknowledged.
        """
        if self._database is None:
            database = Database.open(self._settings, upgrade=False)
            if database.dialect == "postgresql":
                self._database = database
            return database
        try:
            self._database.require_schema()
        except BaseException:
            self._database.close()
            raise
        return self._database

    def _deliver(self, database: Database) -> None:
        if self._settings.embedded_broker:
            embedded.ensure_running(self._settings)
        broker.announce(self._settings)
        published = publish_all(self._app, database)
        published += republish_lost(self._app, database, self._settings)
        if self._broker_was_down or published:
            log.info("chunks published", chunks=published)
        self._broker_was_down = False
        if acknowledgements.failed():
            raise redis.ConnectionError("the broker was away when a message was to be acknowledged; connecting anew")


class HousekeepingStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the housekeeper from the worker's timer, in the process that never screens."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Timer"}

    def __init__(self, parent: Any, **options: Any) -> None:
        self._entry: Any = None
        self._housekeeper: Housekeeper | None = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """Begin, with a first round at once."""
        settings = current()
        self._housekeeper = housekeeper = Housekeeper(parent.app, settings)
        self._entry = parent.timer.call_repeatedly(settings.housekeeping_seconds, _unhurried(housekeeper.tick))
        parent.timer.call_after(0.1, housekeeper.tick)

    def stop(self, parent: Any) -> None:
        """End."""
        if self._entry is not None:
            self._entry.cancel()
        if self._housekeeper is not None:
            self._housekeeper.end()


def _unhurried(tick: Callable[[], None]) -> Callable[[], None]:
    """Leave at least a round's own length between two rounds, so that a slow database is not asked without pause."""
    resume_at = 0.0

    def rested() -> None:
        nonlocal resume_at
        started = time.monotonic()
        if started < resume_at:
            return
        tick()
        ended = time.monotonic()
        resume_at = ended + (ended - started)

    return rested
