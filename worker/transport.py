"""Celery's way to Redis, made to live on when something in a queue is no message at all."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from allq.logging import logger

log = logger(__name__)


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    """Kombu's channel, of which one broken entry in a queue would end the whole worker."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            # It has been taken out of the queue already, and nothing waits for it: SQL knows which chunks do.
            log.warning("something in a queue that is no message was dropped", kind=type(error).__name__)
            return None


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    """Kombu's transport with our channel."""

    Channel = Channel


def use() -> None:
    """Have every connection of this process to `redis://` and `rediss://` made with it."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "worker.transport:Transport"
