"""A worker's connection to the broker: while there is none, a person is told so in a sentence, once."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError

from allq.errors import BrokerUnreachable
from allq.logging import logger
from allq.settings import current
from worker import broker, embedded, transport

log = logger(__name__)

_PAUSE: Final = 1.0
"""Seconds between two looks. Celery's own attempts come ever more rarely: a broker that is back would wait for them."""


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which tries to connect until it succeeds, at the start and after every loss."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return `conn` connected, however long that takes; say that it takes long, and that it is over.

        A broker that goes between a look and the connection is looked after again: Celery's own attempts, which have
        no end, would wait for somebody to start the embedded one.
        """
        while True:
            self._wait_for_an_answer()
            with suppress(BrokerUnreachable):  # where it may not look, or the broker goes, connecting tells
                transport.mend(current())
            try:
                conn.ensure_connection(max_retries=1, interval_start=_PAUSE, callback=maybe_shutdown)
            except OperationalError as error:
                log.warning("the broker answered, and went before this worker was connected", problem=str(error))
                continue
            self.first_connection_attempt = False
            self.broker_connection_retry_attempt = 0
            return conn

    def _wait_for_an_answer(self) -> None:
        problem = _problem()
        if problem is not None:
            log.error(
                "No broker: this worker keeps trying. "
                "Check that the broker runs, that this machine reaches it, and ALLQ_BROKER_URL.",
                problem=str(problem),
            )
            while _problem() is not None:
                maybe_shutdown()
                time.sleep(_PAUSE)
            log.warning("The broker answers: this worker goes to work.", broker=broker.address(current()))


def _problem() -> BrokerUnreachable | None:
    """Why the broker does not answer; None when it does. The embedded one is started if need be."""
    try:
        if current().embedded_broker:  # nobody else would: housekeeping waits until we are connected
            embedded.ensure_running(current())
        broker.ping(current())
    except BrokerUnreachable as problem:
        return problem
    return None
