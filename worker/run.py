"""`allq worker`: a Celery worker with the right settings."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from ctypes import CDLL
from types import FrameType
from typing import Any, Final

from celery import signals
from celery.exceptions import CPendingDeprecationWarning, Reject
from celery.platforms import EX_FAILURE, EX_OK

from allq import logging as allq_logging
from allq.errors import UsageError
from allq.settings import Settings, require_roots
from db import health as store
from db.database import Database
from worker import broker, cards, embedded, health
from worker.broker import QUEUES
from worker.introduction import introduce
from worker.lease import ENDED_BY_ITSELF
from worker.memory import keep_freed_memory
from worker.processes import planned

log = allq_logging.logger(__name__)

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)"""

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, of which Celery makes a failure; as of every command."""

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def run_worker(
    settings: Settings,
    *,
    concurrency: int | None = None,
    queues: Sequence[str] = QUEUES,
    parent: int | None = None,
    card: str | None = None,
) -> int:
    """Work until told to stop (SIGTERM or Ctrl-C: the chunks in hand are finished first). Returns the exit code.

    `concurrency` is the number of processes: by default one a core; on cards always one a card. With `parent`, the
    process that started this one, its end however it comes is the same as SIGTERM; with `card`, one of several that
    each have a worker, its absence ends this one. Raises SettingsError, StoreError or BrokerUnreachable when it makes
    no sense to start.
    """
    unknown = sorted(set(queues) - set(QUEUES))
    if unknown:
        raise UsageError(f"There is no queue {unknown[0]!r}; the queues are {' and '.join(QUEUES)}.")
    require_roots(settings)
    allq_logging.configure(settings)
    _look_at_the_database(settings)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    signals.worker_process_init.connect(_begin_process, weak=False)
    with embedded.in_use(settings) if settings.embedded_broker else contextlib.nullcontext():
        if parent is not None:
            _end_with(parent)  # not before: a broker whose start is interrupted would be left behind
        # Set before any library that reads them is loaded: processes fill the cores, more threads would only queue.
        os.environ.update(dict.fromkeys(_ONE_THREAD, str(settings.threads)))
        processes = planned(settings, concurrency=concurrency)
        if card is not None and not processes.cards:
            log.error("this process is ended: its card is not there", card=card)
            return ENDED_BY_ITSELF
        if processes.not_followed is not None:
            log.warning(processes.not_followed)
        if not processes.on_card:
            return _work("prefork", processes.count, queues)
        if processes.count > 1:
            return cards.run_on_each(settings, processes.cards, queues)
        # CUDA does not survive a fork: the one process that holds the card is the worker itself.
        with broker.announcing(settings):  # nothing else runs in that process while it screens a chunk
            return _work("solo", 1, queues)


def _look_at_the_database(settings: Settings) -> None:
    """Before any pool starts: upgrade the embedded database, refuse an outdated schema or one that can't be written.

    A clock that is wrong is told, and no more: nothing depends on it but the times in the log.
    """
    database = Database.open(settings)
    try:
        store.require_writable(database)
        introduce(database, settings)  # this process keeps house, and calls slides in its own name
        off = health.clock_skew(database)
    finally:
        database.close()
    if abs(off) > health.CLOCK_TOLERANCE:
        log.warning("This machine's clock is not the database's.", seconds=round(off), advice=health.CLOCK_ADVICE)


def _end_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent ends. Only Linux does this; elsewhere we may be left behind."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    if sys.platform == "linux":
        signal.signal(signal.SIGTERM, leave)  # until Celery has a handler of its own: what we started is ended, too
        CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        raise SystemExit(0)


def _work(pool: str, concurrency: int, queues: Sequence[str]) -> int:
    from worker.housekeeping import HousekeepingStep  # noqa: PLC0415  # after the environment is set
    from worker.messages import without_built_in_tasks  # noqa: PLC0415
    from worker.tasks import app  # noqa: PLC0415

    # At each loss of the broker, of what Celery 6 will do by default: worker.app says what it is to do.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    without_built_in_tasks(app)
    app.steps["worker"].add(HousekeepingStep)
    keep_freed_memory()  # and the pool's processes, which are forked from this one
    worker = app.Worker(
        pool_cls=pool,
        consumer_cls="worker.consumer:PatientConsumer",
        concurrency=concurrency,
        queues=[queue for queue in QUEUES if queue in queues],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    interrupted = False

    def ending(sig: str = "", **_: Any) -> None:
        nonlocal interrupted
        interrupted = interrupted or sig == "SIGINT"

    signals.worker_shutting_down.connect(ending, weak=False)
    log.info("worker starts", pool=pool, processes=concurrency, queues=",".join(queues))
    worker.start()
    code = int(worker.exitcode or EX_OK)
    if interrupted and code in {EX_OK, EX_FAILURE}:
        code = INTERRUPTED
    log.info("worker ended", exit_code=code)
    return code


def _keep_our_logging(**_: Any) -> None:
    """Tell Celery that logging is set up: allq's own format, ids only."""
    logging.getLogger("celery").setLevel(logging.INFO)
    logging.getLogger("celery.app.trace").addFilter(_without_trace_of_rejection)


def _without_trace_of_rejection(record: logging.LogRecord) -> bool:
    """A message given to another worker is no error of the program: Celery's sentence about it will do."""
    if record.exc_info and isinstance(record.exc_info[1], Reject):
        record.exc_info = None
    return True


def _begin_process(**_: Any) -> None:
    """In each pool process: OpenCV must not start threads of its own."""
    import cv2  # noqa: PLC0415  # only the pool's processes need it

    cv2.setNumThreads(1)
