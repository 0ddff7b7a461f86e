"""Screening a folder on this machine from beginning to end: `allq screen`, and the demo, which does the same."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from allq.errors import AllqError, BrokerUnreachable
from allq.settings import Settings, require_roots
from allq.text import plural
from cli.progress import Meter, meter
from db import reads
from db.database import Database
from models import artefact
from worker.local import LocalWorker, local_worker
from worker.processes import planned
from worker.submission import Submission, SubmitOptions, submit

if TYPE_CHECKING:
    from types import FrameType

    from db.records import BatchStatus

_POLL_SECONDS: Final = 0.25

SMALL_CHUNK: Final = 64
"""Fields per chunk when one machine does it all: the bar moves every second, and the processes end together."""


class WorkerEnded(AllqError):
    """The worker that a command started for itself is gone before the batch was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """How it ended. `interrupted`: somebody pressed Ctrl-C, what was done is kept."""

    status: BatchStatus
    submission: Submission
    model: artefact.Model
    interrupted: bool


def screen_folder(
    database: Database,
    settings: Settings,
    path: Path,
    *,
    model: artefact.Model,
    queue: Literal["routine", "stat"] | None = None,
    note: str | None = None,
    concurrency: int | None = None,
) -> Screened:
    """Submit `path`, or take up its unfinished batch, and work until the batch has ended or somebody interrupts.

    Raises SubmissionError for a folder that can't be used, SettingsError where there must be roots, and WorkerEnded
    when the worker dies by itself.
    """
    require_roots(settings)
    if "chunk_size" not in settings.model_fields_set:
        settings = settings.model_copy(update={"chunk_size": SMALL_CHUNK})
    with _terminated_is_interrupted(), meter() as shown:
        options = SubmitOptions(model=model, operator=settings.operator, queue=queue, note=note)
        submission = submit(database, settings, path, options, resume=True, progress=shown.registered)
        _say_what_was_submitted(submission, shown)
        status = _read(database, submission.batch)
        if submission.broker_problem is not None and not settings.embedded_broker and not status.ended:
            raise BrokerUnreachable(
                f"{submission.broker_problem} Batch {status.batch} is kept: start the broker or correct "
                "ALLQ_BROKER_URL, and run the same command again."
            )
        interrupted = False
        if not status.ended:
            if concurrency is not None and (sentence := planned(settings, concurrency=concurrency).not_followed):
                shown.say(sentence)
            with local_worker(settings, concurrency=concurrency) as worker:
                try:
                    status = _until_ended(database, status, worker, shown)
                except KeyboardInterrupt:
                    interrupted = True
                    shown.say("Stopping: what is in hand is finished or given back …")
            status = _read(database, submission.batch)
    return Screened(status=status, submission=submission, model=model, interrupted=interrupted and not status.ended)


def _until_ended(database: Database, status: BatchStatus, worker: LocalWorker, shown: Meter) -> BatchStatus:
    while True:
        shown.screened(status)
        if status.ended:
            return status
        time.sleep(_POLL_SECONDS)
        problem = worker.problem()  # asked first: a worker that ends after its last field is no problem
        status = _read(database, status.batch)
        if problem is not None and not status.ended:
            raise WorkerEnded(f"{problem}\nBatch {status.batch} is kept; the same command takes it up again.")


def _say_what_was_submitted(submission: Submission, shown: Meter) -> None:
    skipped = f", {submission.skipped:,} skipped" if submission.skipped else ""
    verb = "Taking up batch" if submission.resumed else "Batch"
    words = f"{plural(submission.slides, 'slide')}, {plural(submission.fields, 'field')}{skipped}"
    added = f" {plural(submission.added, 'field')} added to it." if submission.resumed and submission.added else ""
    shown.say(f"{verb} {submission.batch}: {words}.{added}")


def _read(database: Database, batch: int) -> BatchStatus:
    with database.read() as connection:
        return reads.batch_status(connection, batch)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM and a closed terminal stop the command as Ctrl-C does: its worker must not be left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
