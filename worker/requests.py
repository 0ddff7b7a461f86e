"""What Celery knows of a message, made to notice when a message could not be acknowledged."""

from __future__ import annotations

from typing import Any, Final

from celery.app.task import Task
from celery.worker.request import Request

from allq import faults


class Acknowledgements:
    """The acknowledgements that Celery was asked for and that may have failed.

    Celery sends an acknowledgement in a later turn of its event loop. When the broker is away in that moment it logs
    this and goes on, but counts the message as in hand for as long as its connection lives: with one message per
    process in hand at most, that process is never given another. Housekeeping therefore makes it connect anew.
    """

    def __init__(self) -> None:
        self._asked: list[Any] = []
        self._overdue: list[Any] = []

    def ask(self, message: Any) -> None:
        """Note that `message` is to be acknowledged."""
        self._asked.append(message)

    def failed(self) -> bool:
        """True when a message that was to be acknowledged before the last call still isn't. Then begins anew."""
        failed = any(not message.acknowledged for message in self._overdue)
        waiting = [message for message in self._asked if not message.acknowledged]
        self._asked, self._overdue = [], [] if failed else waiting
        return failed


acknowledgements: Final = Acknowledgements()
"""Those of this worker. Only its main process asks for any, and only from its event loop."""


class NoticingRequest(Request):  # type: ignore[misc]
    """Celery's request, which notes what it asks for, and heeds no time limit but this worker's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.time_limits = (None, None)  # what the message says of them anyone may have written

    def acknowledge(self) -> None:
        """Have the message acknowledged."""
        faults.reach("acknowledge.begin")
        super().acknowledge()
        acknowledgements.ask(self.message)
        faults.reach("acknowledge.asked")

    def reject(self, requeue: bool = False) -> None:
        """Have the message dropped, or given to another worker."""
        super().reject(requeue=requeue)
        acknowledgements.ask(self.message)


class ScreeningTask(Task):  # type: ignore[misc]
    """A task whose requests notice, and that takes no message but ours."""

    Request = NoticingRequest
    Strategy = "worker.messages:only_ours"
