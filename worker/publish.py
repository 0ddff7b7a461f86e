"""Publishing chunk ids. Rows are committed first; a message that is lost, doubled or late changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from allq import faults
from allq.errors import BrokerUnreachable
from allq.logging import logger
from db import chunks
from db.database import Database
from worker.app import SCREEN_TASK
from worker.broker import QUEUES

log = logger(__name__)

_AT_ONCE = 500


def send(app: Celery, queue: str, chunk_ids: Sequence[int]) -> None:
    """Put a message for each chunk into `queue`. Raises BrokerUnreachable when the broker does not take them."""
    try:
        with app.connection_for_write() as connection:
            # Tried once: by itself it would wait for a broker for six seconds, which housekeeping might have to start.
            connection.ensure_connection(max_retries=0)
            with app.amqp.Producer(connection) as producer:
                for chunk_id in chunk_ids:
                    app.send_task(SCREEN_TASK, args=[chunk_id], queue=queue, producer=producer, retry=False)
                    faults.reach("publish.sending")
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnreachable(f"The broker takes no messages ({type(error).__name__}: {error}).") from error


def publish_waiting(
    app: Celery, database: Database, queue: str, *, older_than_seconds: float | None = None, at_most: int | None = None
) -> int:
    """Publish chunks of `queue` that wait, oldest first: those never published, and those published so long ago.

    Returns how many. Raises BrokerUnreachable; what was sent by then is marked as published.
    """
    total = 0
    while at_most is None or total < at_most:
        limit = _AT_ONCE if at_most is None else min(_AT_ONCE, at_most - total)
        with database.ask() as connection:
            ids = chunks.unpublished(connection, queue=queue, older_than_seconds=older_than_seconds, limit=limit)
        if not ids:
            break
        faults.reach("publish.begin")
        send(app, queue, ids)
        faults.reach("publish.sent")
        with database.begin() as connection:
            chunks.mark_published(connection, ids)
            faults.reach("publish.written")
        faults.reach("publish.committed")
        total += len(ids)
    return total


def publish_all(app: Celery, database: Database) -> int:
    """Publish every chunk that was never published, urgent ones first."""
    return sum(publish_waiting(app, database, queue) for queue in QUEUES)
