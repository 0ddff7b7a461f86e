"""Helpers for tests that screen: synthetic slides, workers as processes, waiting for SQL to say something."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from allq.settings import Settings
from db import reads
from db.database import Database
from db.records import BatchStatus
from models import artefact
from worker.local import environment
from worker.submission import Submission, SubmitOptions, submit

SYNTHETIC_MODEL = "synthetic-smears"
PATIENCE = 240.0
"""Seconds. By its settings allq may take 145 to take a chunk up again that was lost (`Settings.longest_wait`): on a
machine that has much else to do a worker's process may fall behind so far that its chunk is."""


def wait_for(condition: Callable[[], bool], *, what: str, seconds: float = PATIENCE) -> None:
    """Ask every 50 ms until `condition` is true; fail after `seconds` saying `what` did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)


def status(database: Database, batch: int) -> BatchStatus:
    with database.read() as connection:
        return reads.batch_status(connection, batch)


def submit_synthetic(database: Database, settings: Settings, folder: Path) -> Submission:
    """Submit `folder` to be screened with the model that knows synthetic smears."""
    model = artefact.find(settings, SYNTHETIC_MODEL)
    return submit(database, settings, folder, SubmitOptions(model=model, operator=settings.operator))


def copies(source: Path, target: Path, count: int) -> Path:
    """`count` slides under `target`, each with the files of the slide `source`."""
    for number in range(count):
        shutil.copytree(source, target / f"copy-{number:03}")
    return target


def with_roots(settings: Settings) -> Settings:
    """The settings with roots, where a worker must have some: the tests' folders lie anywhere."""
    must = not settings.roots and not settings.embedded_database
    return settings.model_copy(update={"roots": (Path("/"),)}) if must else settings


class WorkerProcess:
    """`allq worker`, or a test's own script in its place, as a process group of its own."""

    def __init__(self, settings: Settings, *, concurrency: int = 1, script: Sequence[str] = ("-m", "allq")) -> None:
        self.log = settings.home / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *script, "worker", "--concurrency", str(concurrency)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(with_roots(settings))},
                start_new_session=True,
            )

    def pool(self) -> list[psutil.Process]:
        """The processes that screen."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """`kill -9` of all of it."""
        for process in [*self.pool(), psutil.Process(self.process.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)

    def stop(self, *, seconds: float = 60) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def workers(settings: Settings, count: int = 1, *, concurrency: int = 1) -> Iterator[list[WorkerProcess]]:
    """Run workers while the block runs. When it fails, their logs are printed."""
    running = [WorkerProcess(settings, concurrency=concurrency) for _ in range(count)]
    try:
        yield running
    except BaseException:
        for worker in running:
            print(f"--- {worker.log}", worker.log.read_text(errors="replace")[-8000:], sep="\n")
        raise
    finally:
        for worker in running:
            try:
                worker.stop()
            except subprocess.TimeoutExpired:
                worker.kill()
