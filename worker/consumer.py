"""A worker's connection to the broker: while there is none, a person is told so in a sentence, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import CONNECTION_ERROR

from allq.errors import BrokerUnreachable
from allq.logging import logger
from allq.settings import current
from worker import broker, embedded

log = logger(__name__)


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which tries to connect until it succeeds, at the start and after every loss."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return `conn` connected, however long that takes; say that it takes long, and that it is over."""
        try:
            if current().embedded_broker:  # nobody else would: housekeeping waits until we are connected
                embedded.ensure_running(current())
            broker.ping(current())
        except BrokerUnreachable as problem:
            log.error(
                "No broker: this worker keeps trying. "
                "Check that the broker runs, that this machine reaches it, and ALLQ_BROKER_URL.",
                problem=str(problem),
            )
            with _without_a_line_for_each_attempt():
                conn = super().ensure_connected(conn)
            log.warning("The broker answers: this worker goes to work.", broker=broker.address(current()))
            return conn
        return super().ensure_connected(conn)


@contextmanager
def _without_a_line_for_each_attempt() -> Iterator[None]:
    def other(record: logging.LogRecord) -> bool:
        return bool(record.msg != CONNECTION_ERROR)

    theirs = logging.getLogger("celery.worker.consumer.consumer")
    theirs.addFilter(other)
    try:
        yield
    finally:
        theirs.removeFilter(other)
