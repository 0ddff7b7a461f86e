"""A laboratory in which things break: a database, a broker, a worker, and faults where a test wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path

import pytest

from allq.errors import BrokerUnreachable, StoreError
from db import checkpoints, reads, sealing
from db.database import Database
from db.verifying import verify
from db.witness import Witness
from tests import accounts, standin
from tests.attendance import Attendance
from tests.databases import KillablePostgresql, settings_for
from tests.processes import Fault, Plan, Runner, Task
from tests.screening import wait_for
from worker import embedded, submission

_SLACK = 30.0
"""Seconds that a busy machine may need for the work itself, beside what is waited for."""

_BUSY = 3.0
"""Seconds by which what is waited for may be late: on a busy machine a round of housekeeping takes longer than is
between two."""

_LOOKED = 0.2
"""Seconds between two looks at most, as they are counted."""

_LONGEST = 60.0
"""Seconds for all of it, whoever is late."""

_WORKER_BEGINS = "worker starts"
_SEALER_BEGINS = "sealer starts"


class Laboratory:
    """One database and one broker, which may be killed; a worker and a sealer that live as long as they are let."""

    def __init__(self, folder: Path, postgresql: KillablePostgresql | None) -> None:
        self._folder = folder
        self._server = postgresql
        self._numbers = count()
        self._worker: Runner | None = None
        self.sealer: Runner | None = None
        self._cut_short: Path | None = None
        url = None if postgresql is None else postgresql.create(f"laboratory_{folder.name.replace('-', '_')}")
        self.settings = settings_for(folder / "home", url).model_copy(
            update={"chunk_size": 2, "lease_seconds": 1.2, "housekeeping_seconds": 0.15, "republish_seconds": 0.3}
        )
        (folder / "plan").mkdir(parents=True)
        self._plan = Plan(folder / "plan")
        self._plan.disarm()
        self._begun = 0
        self._runs = False

    @cached_property
    def database(self) -> Database:
        return Database.open(self.settings)

    def submit(self, *, slides: int, fields: int, publish: bool = True) -> None:
        """Submit slides with so many new fields each. Without `publish`, as if the broker were away just now.

        A worker may kill the database meanwhile; then it is submitted again when that is back, if need be.
        """
        folder = self._new_slides(slides, fields)
        try:
            self._submit(folder, publish=publish)
        except StoreError as error:
            if "is submitted as a whole" not in str(error):
                self._cut_short = folder

    def _submit(self, folder: Path, *, publish: bool) -> None:
        options = submission.SubmitOptions(model=standin.model(self.settings), operator="tester@here")
        with pytest.MonkeyPatch.context() as patched:
            if not publish:
                patched.setattr(submission, "publish", lambda *_: submission.Delivery(published=False))
            submission.submit(self.database, self.settings, folder, options)

    def submission(self, *, slides: int, fields: int) -> Runner:
        """The same in a process of its own, in which something may go wrong."""
        return Runner(self._task(folder=self._new_slides(slides, fields)))

    def _new_slides(self, slides: int, fields: int) -> Path:
        number = next(self._numbers)
        return standin.write_fields(
            self._folder / f"slides-{number}", slides=slides, fields=fields, first=1000 * number
        )

    def _task(self, folder: Path | None = None, *, elsewhere: bool = False) -> Task:
        return Task(
            elsewhere=elsewhere,
            settings=self.settings,
            log=self._folder / "log",
            plan=self._folder / "plan",
            seconds=0.02,
            folder=folder,
        )

    def keep_a_worker(self, *, elsewhere: bool = False) -> None:
        """Start a worker unless one runs; one that says it is `elsewhere`, and whose death nobody sees."""
        if self._worker is None or not self._worker.alive():
            self._begun = self._logged(_WORKER_BEGINS)
            self._runs = False
            self._worker = Runner(self._task(elsewhere=elsewhere))

    def _worker_runs(self) -> bool:
        if self._worker is None or not self._worker.alive():
            return False
        self._runs = self._runs or self._logged(_WORKER_BEGINS) > self._begun
        return self._runs

    def kill_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def start_sealer(self) -> None:
        """Start what seals and does nothing else, and wait until it has begun: from then on it waits for a server."""
        before = self._logged(_SEALER_BEGINS)
        self.keep_a_sealer()
        wait_for(lambda: self._logged(_SEALER_BEGINS) > before, what="the sealer starts", seconds=_SLACK)

    def _logged(self, what: str) -> int:
        path = self._folder / "log"
        return path.read_text(errors="replace").count(what) if path.exists() else 0

    def keep_a_sealer(self) -> None:
        """Start what seals and does nothing else, unless it runs; workers seal as well, so let there be none."""
        if self.sealer is None or not self.sealer.alive():
            assert self.database, "which is made here, where it is not there yet"
            task = replace(self._task(), settings=self.settings.model_copy(update={"seal_seconds": 0.1}), seals=True)
            self.sealer = Runner(task)

    def stop_sealer(self) -> None:
        """By SIGTERM: it seals once more, and ends well."""
        assert self.sealer is not None
        self.sealer.process.terminate()
        self.sealer.process.join(_SLACK)
        assert self.sealer.process.exitcode == 0
        self.sealer = None

    def kill_sealer(self) -> None:
        if self.sealer is not None:
            self.sealer.kill()
            self.sealer = None

    def stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def break_at(self, *faults: Fault) -> None:
        """Let these faults happen, in this order, to the next submission and the work on it."""
        pid_of = None if self._server is None else self._server.data / "postmaster.pid"
        self._plan.arm(faults, broker=embedded.folder(self.settings) / "valkey.pid", postgresql=pid_of)

    def until_broken(self, *faults: Fault, keep: Callable[[], None] | None) -> None:
        """Wait until all the faults have happened, and mend what nobody else mends; `keep` starts anew what dies."""
        for number, fault in enumerate(faults):
            happened = partial(self._happened, number, keep)
            wait_for(happened, what=f"{fault} happens", seconds=_SLACK)
            if fault.victim == "postgresql":
                assert self._server is not None
                self._server.start()
        self._plan.disarm()

    def _happened(self, number: int, keep: Callable[[], None] | None) -> bool:
        if keep is not None:
            keep()
        return self._plan.happened(number)

    def until_sealed(self) -> None:
        """Wait until every event is sealed by the sealer, and that is known outside."""
        wait_for(self._sealed, what="everything is sealed", seconds=_SLACK)

    def _sealed(self) -> bool:
        self.keep_a_sealer()
        with self.database.read() as connection:
            newest = checkpoints.last(connection)
            exported = Witness(self.settings.checkpoint_file).last()
            return not sealing.unsealed(connection) and (newest is None or newest[0] == exported)

    def until_submitted(self, submitted: Runner) -> None:
        """Wait for a submission; make it once more if it did not come to its end, as a person would."""
        submitted.process.join(_SLACK)
        if submitted.process.exitcode != 0:
            again = Runner(submitted.task)
            again.process.join(_SLACK)
            assert again.process.exitcode == 0, "a second submission succeeds"

    def until_done(self) -> None:
        """Wait until everything is screened, however long the work takes; no chunk waits unattended beyond its time."""
        if self._cut_short is not None:
            self._submit(self._cut_short, publish=True)
            self._cut_short = None
        attendance = Attendance(self.database, self.settings, stride=_LOOKED)
        wait_for(partial(self._done, attendance), what="everything is screened", seconds=_LONGEST)
        most = self.settings.longest_wait + _BUSY
        assert attendance.longest <= most, f"nobody came for {attendance.longest:.1f} s, not {most}: {attendance.by}"

    def _done(self, attendance: Attendance) -> bool:
        self.keep_a_worker()
        try:
            if self._worker_runs():
                attendance.look()
            else:
                attendance.begin_anew()
        except BrokerUnreachable:
            attendance.begin_anew()
        with self.database.read() as connection:
            found = reads.batches(connection)
        return bool(found) and all(batch.state == "done" for batch in found)

    def assert_sealed(self) -> None:
        """The whole ledger is as it was sealed, nothing waits, and what was exported is all of it."""
        found = verify(self.database, Witness(self.settings.checkpoint_file), complete=True)
        assert (found.problems, found.waiting) == ([], 0)
        assert found.newest is not None
        assert found.newest == Witness(self.settings.checkpoint_file).last()

    def assert_accounted_for(self, *, failed: int = 0) -> None:
        """All of the database is in order; of the newest batch so many fields have failed."""
        assert accounts.violations(self.database, exported=self.settings.checkpoint_file) == []
        assert accounts.mistaken(self.database) == []
        with self.database.read() as connection:
            newest = max(reads.batches(connection), key=lambda batch: batch.batch)
        assert (newest.screened, newest.failed) == (newest.fields - failed, failed)

    def log(self) -> str:
        path = self._folder / "log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""


@contextmanager
def laboratory(folder: Path, kind: str) -> Iterator[Laboratory]:
    """A laboratory on SQLite or on a PostgreSQL of its own."""
    folder.mkdir(exist_ok=True)
    server = KillablePostgresql() if kind == "postgresql" else None
    try:
        made = Laboratory(folder, server)
        try:
            made.settings.home.mkdir(exist_ok=True)
            with embedded.in_use(made.settings):
                yield made
        finally:
            made.stop_worker()
            made.kill_sealer()
            made.database.close()
    finally:
        if server is not None:
            server.stop()
