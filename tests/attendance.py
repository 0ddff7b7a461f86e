"""How long chunks wait that nobody works on, looked at again and again while things break around them.

A chunk is attended to while its message is in a queue, and while a process that lives holds it with a lease that has
not run out. Otherwise it waits for housekeeping, whose time is stated (`Settings.longest_wait`): counted from when
database and broker can be reached and a worker runs, which whoever looks has to see to.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from allq.errors import BrokerUnreachable
from allq.settings import Settings
from db.database import Database
from db.statements import run
from worker import broker

_UNENDED: Final = """
    SELECT c.id, c.state, c.owner, c.attempt, c.published_at IS NOT NULL AS published,
           CASE WHEN c.lease_until < {now} THEN 1 ELSE 0 END AS lapsed
    FROM chunk c JOIN batch b ON b.id = c.batch_id
    WHERE c.state IN ('pending', 'running') AND b.registered_at IS NOT NULL
"""
"""A batch whose submission has not come to its end is published when that is made again."""


@dataclass(slots=True)
class _Wait:
    attempt: int
    looked_at: float
    seconds: float = 0.0


class Attendance:
    """`longest` is the longest that a chunk has waited without anybody; `by` says which and how.

    Of the time between two looks at most `stride` seconds count: a machine too busy for a look was too busy for the
    work. With `each`, queues are looked into whatever their length: by what a queue holds besides, and by messages that
    are there twice, a lost one can be hidden from those who count.
    """

    def __init__(self, database: Database, settings: Settings, *, stride: float, each: bool = True) -> None:
        self.longest = 0.0
        self.by = ""
        self._database = database
        self._settings = settings
        self._stride = stride
        self._each = each
        self._waits: dict[int, _Wait] = {}

    def begin_anew(self) -> None:
        """Database or broker are away, or no worker runs: what waits now is counted from when they are back."""
        self._waits.clear()

    def look(self) -> None:
        """Raises StoreError or BrokerUnreachable."""
        with self._database.read() as connection:
            found = run(connection, _UNENDED).all()
        # After the database: what a worker has taken out meanwhile looks as if it were lost until the next look.
        queued = self._queued(found)
        now = time.monotonic()
        alone = {row.id: row for row in found if not _attended(row, queued)}
        self._waits = {chunk: wait for chunk, wait in self._waits.items() if chunk in alone}
        for chunk, row in alone.items():
            wait = self._waits.get(chunk)
            if wait is None or wait.attempt != row.attempt:
                self._waits[chunk] = _Wait(row.attempt, now)
                continue
            wait.seconds += min(self._stride, now - wait.looked_at)
            wait.looked_at = now
            if wait.seconds > self.longest:
                self.longest = wait.seconds
                how = f"held by {row.owner}" if row.owner else "published" if row.published else "not published"
                self.by = f"chunk {chunk}, {row.state}, {how}, attempt {row.attempt}"

    def _queued(self, found: Collection[Any]) -> set[int]:
        """Which of these have a message in a queue; all that were published, where there are as many messages."""
        pending = {row.id for row in found if row.state == "pending" and row.published}
        if not self._each and sum(broker.queue_lengths(self._settings).values()) >= len(pending):
            return pending
        return queued_chunks(self._settings)


def _attended(row: Any, queued: set[int]) -> bool:
    if row.state == "pending":
        return row.id in queued
    return not row.lapsed and _lives(row.owner)


def _lives(owner: str) -> bool:
    """All workers of these tests are on this machine, also those that say they are elsewhere."""
    try:
        return bool(psutil.Process(int(owner.split("/")[-2])).status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, IndexError):  # or a name that no process has
        return False


def queued_chunks(settings: Settings) -> set[int]:
    """The chunks that messages in the queues name. Raises BrokerUnreachable."""
    found: set[int] = set()
    client = redis.Redis.from_url(
        broker.url(settings).replace("redis+socket://", "unix://", 1), retry=Retry(NoBackoff(), 0), socket_timeout=10
    )
    try:
        for queue in broker.QUEUES:
            for raw in client.lrange(broker.KEY_PREFIX + queue, 0, -1):
                message = json.loads(raw)
                body = message["body"]
                encoded = message["properties"].get("body_encoding") == "base64"
                ((chunk,), _, _) = json.loads(base64.b64decode(body) if encoded else body)
                found.add(chunk)
    except (redis.RedisError, OSError) as error:
        raise BrokerUnreachable(str(error)) from error
    finally:
        client.close()
    return found
