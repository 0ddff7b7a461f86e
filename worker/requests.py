"""What Celery knows of a message, made to notice when a message could not be acknowledged."""

from __future__ import annotations

import threading
from typing import Final

from celery.app.task import Task
from celery.worker.request import Request

unacknowledged: Final = threading.Event()
"""Set when the broker went away before a finished task's message was acknowledged.

Celery logs this and goes on, but counts the message as in hand for as long as its connection lives: with one message
per process in hand at most, that process is never given another. Housekeeping therefore makes it connect anew.
"""


class NoticingRequest(Request):  # type: ignore[misc]
    """Celery's request, which says when its acknowledgement failed."""

    def acknowledge(self) -> None:
        """Acknowledge the message; on failure, which Celery only logs, set `unacknowledged`."""
        super().acknowledge()
        if not self.message.acknowledged:
            unacknowledged.set()


class ScreeningTask(Task):  # type: ignore[misc]
    """A task whose requests notice."""

    Request = NoticingRequest
