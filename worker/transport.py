"""Celery's way to Redis, made to live on when what lies there is no message at all.

Whoever can write to the broker can put anything into its queues, and into the list that kombu keeps of the messages in
hand (`unacked`, with their times in `unacked_index`). Dropping it loses nothing: SQL knows which chunks wait.
"""

from __future__ import annotations

from typing import Any, Final

import redis
from kombu.exceptions import MessageStateError, SerializationError, SerializerNotInstalled
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis

from allq.logging import logger
from worker.broker import QUEUES

log = logger(__name__)

_NO_MESSAGE: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SerializationError,
    SerializerNotInstalled,
    MessageStateError,
    redis.DataError,
)
"""What reading, or taking, something else than a message ends with. Not the broker's own errors: a worker connects anew
on those; nor the pool's, on which it must end."""


class Message(virtual.Message):  # type: ignore[misc]
    """Kombu's message, never unpacked: ours aren't packed, and of another's a kilobyte may become gigabytes."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        if payload["headers"].get("compression"):
            raise ValueError("no message of allq is packed")
        super().__init__(payload, channel=channel, **options)


class QoS(kombu_redis.QoS):  # type: ignore[misc]
    """Kombu's list of messages in hand, of which one broken entry would end each worker that connects."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give a message back to its queue; drop what is none."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except _NO_MESSAGE as error:
            log.warning("something among the messages in hand that is none was dropped", kind=type(error).__name__)
            self._remove_from_indices(tag).execute()


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    """Kombu's channel, of which one broken entry in a queue would end the whole worker."""

    Message = Message
    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        before = set(self.qos._delivered)
        try:
            return super()._brpop_read(**options)
        except _NO_MESSAGE as error:
            log.warning("something in a queue that is no message was dropped", kind=type(error).__name__)
            # It has been taken out of the queue already. Left in hand, it would keep its place from a message for good.
            for tag in set(self.qos._delivered) - before:
                self.qos.reject(tag)
            return None

    def _do_restore_message(
        self, payload: Any, exchange: Any, routing_key: Any, pipe: Any, leftmost: bool = False
    ) -> None:
        if routing_key not in QUEUES:  # ours come from no other; what isn't a queue can't be put into
            log.warning("something among the messages in hand that is of no queue was dropped")
            return
        super()._do_restore_message(payload, "", routing_key, pipe, leftmost)


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    """Kombu's transport with our channel."""

    Channel = Channel


def use() -> None:
    """Have every connection of this process to `redis://` and `rediss://` made with it."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "worker.transport:Transport"
