"""Celery's way to Redis, made to live on when what lies there is no message at all.

Whoever can write to the broker can put anything into its queues, and into the list that kombu keeps of the messages in
hand (`unacked`, with their times in `unacked_index`). Dropping it loses nothing: SQL knows which chunks wait. Nor does
deleting a key in the place of one of these that is of another kind, on which every worker would end.
"""

from __future__ import annotations

from typing import Any, Final

import redis
from kombu.exceptions import MessageStateError, SerializationError, SerializerNotInstalled
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis

from allq.errors import BrokerUnreachable
from allq.logging import logger
from allq.settings import Settings, current
from worker.broker import QUEUES, remove_of_other_kinds

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


_PRIORITIES: Final = [f"{kombu_redis.Channel.sep}{step}" if step else "" for step in kombu_redis.Channel.priority_steps]
_KINDS: Final = {
    **{queue + priority: "list" for queue in QUEUES for priority in _PRIORITIES},
    **{kombu_redis.Channel.keyprefix_queue % queue: "set" for queue in QUEUES},
    **{kombu_redis.Channel.keyprefix_binding_permanent % queue: "set" for queue in QUEUES},
    kombu_redis.Channel.unacked_key: "hash",
    kombu_redis.Channel.unacked_index_key: "zset",
    kombu_redis.Channel.unacked_mutex_key: "string",
}
"""Of each key that kombu uses, of which kind it is."""


def mend(settings: Settings) -> bool:
    """Delete keys in the place of kombu's own that are of another kind. Returns whether there were any.

    Raises BrokerUnreachable.
    """
    removed = remove_of_other_kinds(settings, _KINDS)
    for name in removed:
        log.warning(
            "something of another kind in the place of one of the broker's keys was deleted; what may have waited "
            "there is published again",
            key=name.partition(kombu_redis.Channel.sep)[0],
        )
    return bool(removed)


def _mend_after(error: redis.ResponseError) -> None:
    """Where a key was of another kind than it has to be, mend it: what was asked of it has then not been done.

    Raises the error where it says something else, and redis.ConnectionError, on which a worker connects anew, when
    mending has not helped.
    """
    if "WRONGTYPE" not in str(error):
        raise error
    try:
        mended = mend(current())
    except BrokerUnreachable:
        mended = False
    if not mended:
        raise redis.ConnectionError(f"the broker's keys are not of the right kind ({error})") from error


class Message(virtual.Message):  # type: ignore[misc]
    """Kombu's message, never unpacked: ours aren't packed, and of another's a kilobyte may become gigabytes."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        if payload["headers"].get("compression"):
            raise ValueError("no message of allq is packed")
        super().__init__(payload, channel=channel, **options)


class QoS(kombu_redis.QoS):  # type: ignore[misc]
    """Kombu's list of messages in hand, of which one broken entry would end each worker that connects."""

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message; it is no longer in hand where the list was none."""
        try:
            super().ack(delivery_tag)
        except redis.ResponseError as error:
            _mend_after(error)
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Give a message back, or drop it; it is no longer in hand where the list was none."""
        try:
            super().reject(delivery_tag, requeue)
        except redis.ResponseError as error:
            _mend_after(error)
            virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Give back what has been in hand for too long."""
        try:
            super().restore_visible(start, num, interval)
        except redis.ResponseError as error:
            _mend_after(error)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give a message back to its queue; drop what is none."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except _NO_MESSAGE as error:
            log.warning("something among the messages in hand that is none was dropped", kind=type(error).__name__)
            self._remove_from_indices(tag).execute()
        except redis.ResponseError as error:
            _mend_after(error)


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    """Kombu's channel, of which one broken entry in a queue, or no queue in its place, would end the whole worker."""

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
        except redis.ResponseError as error:
            _mend_after(error)
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
