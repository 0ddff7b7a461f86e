"""Publishing chunk ids. Rows are committed first; a message that is lost, doubled or late changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from celery import Celery
from db.database import Database
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from allq.errors import BrokerUnreachable
from allq.logging import logger
from db import chunks
from worker.app import QUEUES, SCREEN_TASK

log = logger(__name__)

_AT_ONCE = 500


def send(app: Celery, queue: str, chunk_ids: Sequence[int]) -> None:
    """Put a message for each chunk into `queue`. Raises BrokerUnreachable when the broker does not take them."""
    try:
        with app.producer_pool.acquire(block=True, timeout=10) as producer:
            for chunk_id in chunk_ids:
                app.send_task(SCREEN_TASK, args=[chunk_id], queue=queue, producer=producer, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        app.pool.force_close_all()  # a broken connection must not be handed out again
        raise BrokerUnreachable(f"The broker does not answer ({_short(error)}).") from error


def publish_waiting(app: Celery, database: Database, queue: str, *, older_than_seconds: float | None = None) -> int:
    """Publish chunks of `queue` that wait: those never published, and with `older_than_seconds` those published before.

    Returns how many. Raises BrokerUnreachable; what was sent by then is marked as published.
    """
    total = 0
    while True:
        with database.read() as connection:
            ids = chunks.unpublished(connection, queue=queue, older_than_seconds=older_than_seconds, limit=_AT_ONCE)
        if not ids:
            return total
        send(app, queue, ids)
        with database.begin() as connection:
            chunks.mark_published(connection, ids)
        total += len(ids)
        if len(ids) < _AT_ONCE:
            return total


def publish_all(app: Celery, database: Database) -> int:
    """Publish every chunk that was never published, urgent ones first."""
    return sum(publish_waiting(app, database, queue) for queue in QUEUES)


def queue_lengths(app: Celery) -> Mapping[str, int]:
    """Messages waiting in each queue. Raises BrokerUnreachable."""
    try:
        with app.pool.acquire(block=True, timeout=10) as connection:
            client = connection.default_channel.client
            return {queue: int(client.llen(queue)) for queue in QUEUES}
    except (OperationalError, RedisError, OSError) as error:
        app.pool.force_close_all()
        raise BrokerUnreachable(f"The broker does not answer ({_short(error)}).") from error


def _short(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"[:200]
