"""Workers, sealers and submissions as processes that a test can kill, and that stumble where the test says.

They are forked from a server that has imported what they need, so that starting one takes a fraction of a second. In
each, `allq.faults.handler` follows a `Plan`: a folder in which the test writes which point is to break what.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from allq.settings import Settings
from tests.databases import kill_server

Victim = Literal["process", "worker", "broker", "postgresql", "error", "pause", "stall"]
Kind = Literal["worker", "sealer", "submission", "ledger"]
Ledger = Literal["seal", "rotate", "restore"]

_PRELOADED: Final = [
    "tests.installed_clock",  # before anything that takes the time
    "celery.app.amqp",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.worker.components",
    "cv2",
    "kombu.transport.redis",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "tests.standin",
    "worker.consumer",
    "worker.housekeeping",
    "worker.run",
    "worker.sealer",
    "worker.submission",
]


_LONGEST_DEATH: Final = 30.0
"""Seconds that a killed process may take to be gone, on a busy machine."""

_PAUSE: Final = 1.0
"""Seconds: long enough for the lease of a test's laboratory to be renewed meanwhile."""


class Stumbled(Exception):
    """What a fault of the kind `error` raises: an error that nobody foresaw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """At the next time that a process of the kind `by` reaches `point`: kill it, its whole worker, or a server.

    Or let it meet an error that nobody foresaw, or take its time, or its whole worker stand still until it is resumed.
    """

    point: str
    victim: Victim
    by: Kind = "worker"


@dataclass(frozen=True, slots=True)
class Plan:
    """Faults that happen once each, one after the other, whichever process reaches their points."""

    folder: Path

    def arm(self, faults: Sequence[Fault], *, broker: Path, postgresql: Path | None) -> None:
        """Begin anew with these; the servers are named by their files of process ids."""
        for old in self.folder.glob("happened-*"):
            old.unlink()
        self._write([asdict(fault) for fault in faults], broker, postgresql)

    def disarm(self) -> None:
        """Let nothing happen."""
        self._write([], Path(), None)

    def _write(self, faults: list[dict[str, str]], broker: Path, postgresql: Path | None) -> None:
        new = self.folder / "plan.new"
        new.write_text(json.dumps({"faults": faults, "broker": str(broker), "postgresql": str(postgresql)}))
        new.rename(self.folder / "plan.json")

    def happened(self, number: int) -> bool:
        """Whether the fault of that number (from 0) has happened."""
        return (self.folder / f"happened-{number}").exists()

    def reached(self, point: str, by: Kind) -> None:
        """What a process does at each point: nothing, unless it is this point's turn."""
        plan = json.loads((self.folder / "plan.json").read_text())
        for number, fault in enumerate(plan["faults"]):
            if self.happened(number):
                continue
            if (fault["point"], fault["by"]) != (point, by):
                return
            with suppress(FileExistsError):
                os.close(os.open(self.folder / f"happened-{number}", os.O_CREAT | os.O_EXCL))
                _break(fault["victim"], plan)
            return


def _break(victim: str, plan: dict[str, str]) -> None:
    if victim == "process":
        os.kill(os.getpid(), signal.SIGKILL)
    elif victim == "worker":
        os.killpg(0, signal.SIGKILL)
    elif victim == "stall":
        os.killpg(0, signal.SIGSTOP)
    elif victim == "error":
        raise Stumbled
    elif victim == "pause":
        time.sleep(_PAUSE)
    else:
        with suppress(FileNotFoundError):
            kill_server(int(Path(plan[victim]).read_text().split()[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a process is to do, in a form that can be sent to it."""

    settings: Settings
    log: Path
    plan: Path | None = None
    seconds: float = 0.0
    """that the stand-in takes for each group of fields"""
    clock: Path | None = None
    """file with the number of seconds by which this process's clock is wrong"""
    folder: Path | None = None
    """to submit; without it, the process is a worker, or"""
    seals: bool = False
    """what seals and does nothing else, or"""
    ledger: Ledger | None = None
    """what does this to the ledger, once"""
    network: Path | None = None
    """network namespace to be in"""
    elsewhere: bool = False
    """it says that it is on another machine, a new one at each start: when it is killed, nobody sees that it is dead"""


@dataclass(slots=True)
class Runner:
    """A worker, a sealer, a submission, or something done to the ledger."""

    task: Task
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.process = _context().Process(target=_run, args=(self.task,))
        self.process.start()

    def alive(self) -> bool:
        return self.process.is_alive()

    def family(self) -> list[psutil.Process]:
        """Its first process and those that it started, as far as they live."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pool(self) -> list[psutil.Process]:
        """The processes that screen."""
        return self.family()[1:]

    def kill(self) -> None:
        """`kill -9` of all of it. Raises TimeoutError when it lives on all the same."""
        assert self.process.pid is not None
        if self.alive():
            self.process.kill()  # before its group: one that has just begun has not made it, and now never will
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(_LONGEST_DEATH)
        if self.alive():
            raise TimeoutError(f"process {self.process.pid} lives {_LONGEST_DEATH:.0f} s after it was killed")

    def stop(self, seconds: float = 30) -> None:
        """SIGTERM; SIGKILL when that does not help."""
        self.process.terminate()
        self.process.join(seconds)
        self.kill()


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _run(task: Task) -> None:
    from tests import clocks, networks

    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(_environment(task.settings))
    if task.network is not None:
        networks.enter(task.network)
    if task.clock is not None:
        clocks.obey(task.clock)
    if task.elsewhere:
        _be_elsewhere()
    if task.plan is not None:
        from allq import faults

        faults.handler = partial(Plan(task.plan).reached, by=_kind(task))
    sys.exit({"worker": _work, "sealer": _seal, "submission": _submit, "ledger": _see_to_ledger}[_kind(task)](task))


def _be_elsewhere() -> None:
    from worker import identity

    place = f"elsewhere/{os.getpid()}/0"
    identity._place = cache(lambda: place)


def _kind(task: Task) -> Kind:
    if task.ledger is not None:
        return "ledger"
    return "submission" if task.folder is not None else "sealer" if task.seals else "worker"


def _work(task: Task) -> int:
    from tests import standin
    from tests.screening import with_roots
    from worker import station
    from worker.run import run_worker

    def load(model: Any, settings: Settings) -> standin.StandIn:
        return standin.StandIn.load(model, settings, seconds=task.seconds)

    station.Classifier.load = load  # type: ignore[assignment,method-assign]
    settings = with_roots(task.settings)
    return run_worker(settings, concurrency=1, parent=os.getppid())  # a test that is killed leaves none behind


def _seal(task: Task) -> int:
    """As `allq audit seal --watch`."""
    from allq import logging
    from worker.sealer import seal_until_told_to_stop

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    logging.configure(task.settings)
    seal_until_told_to_stop(task.settings)
    return 0


def _end_with(parent: int) -> None:
    """A test that is killed leaves none behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _submit(task: Task) -> int:
    from db.database import Database
    from tests import standin
    from worker.submission import SubmitOptions, submit

    assert task.folder is not None
    database = Database.open(task.settings)
    options = SubmitOptions(model=standin.model(task.settings), operator=task.settings.operator)
    done = submit(database, task.settings, task.folder, options)
    print("batch", done.batch, "published", done.published, done.broker_problem)
    database.close()
    return 0


def _see_to_ledger(task: Task) -> int:
    """As `allq audit seal`, `rotate-key` and `restored`."""
    from db import sealing
    from db.database import Database

    database, settings = Database.open(task.settings), task.settings
    if task.ledger == "seal":
        sealing.seal(database, settings, wait=True)
    elif task.ledger == "rotate":
        sealing.rotate_key(database, settings, actor=settings.operator)
    else:
        sealing.go_on_after_restore(database, settings, reason="the disk failed", actor=settings.operator)
    database.close()
    return 0


def _environment(settings: Settings) -> dict[str, str]:
    from worker.local import environment

    return environment(settings)
