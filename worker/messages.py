"""Which messages a worker takes: those that `allq submit` and housekeeping send, to the letter.

A message is no more than a hint that a chunk waits, and whoever can write to the broker can write one. What Celery
would also do for a message (run its built-in tasks, start further ones, take time limits or a due time from it) is no
use to us and would be to a stranger: a time limit of a millisecond would kill a worker's process at each chunk, which
is counted against the chunk's fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from celery import Celery
from celery.worker.strategy import default

from allq.logging import logger

log = logger(__name__)

_MOST_BYTES: Final = 1_000
"""Ours have about 80."""

_LARGEST_ID: Final = 2**63 - 1
"""What a bigint holds."""

_LEFT_EMPTY: Final = ("eta", "expires", "group", "stamps", "stamped_headers", "replaced_task_nesting")
"""Headers that ours leave empty, and that would make Celery do something. Time limits are not among them: a worker that
publishes puts its own there, which `worker.requests` lets nobody heed."""


def chunk_of(message: Any) -> int | None:
    """The chunk that a message of ours names; None for any other message."""
    body = message.body.encode() if isinstance(message.body, str) else message.body
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8") or len(body) > _MOST_BYTES:
        return None
    headers = message.headers
    if headers.get("retries") or any(_says_something(headers.get(name)) for name in _LEFT_EMPTY):
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match content:
        case [[int(chunk)], {**arguments}, {**embedded}] if not arguments and not any(embedded.values()):
            return chunk if 0 < chunk <= _LARGEST_ID and not isinstance(chunk, bool) else None
    return None


def _says_something(header: Any) -> bool:
    return any(value is not None for value in header) if isinstance(header, (list, tuple)) else bool(header)


def only_ours(task: Any, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's way of taking a message for a task, before which every message that isn't ours is dropped."""
    take = default(task, app, consumer, **options)

    def look(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        if chunk_of(message) is None:
            log.warning("a message that allq did not send was dropped", bytes=len(message.body))
            reject(None, consumer.connection_errors, False)
            return None
        return take(message, body, ack, reject, callbacks, **more)

    return look


def without_built_in_tasks(app: Celery) -> Celery:
    """The application with no task but our own: Celery brings some that run others, and they take any message."""
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        del app.tasks[name]
    return app
