"""A long night in a laboratory where everything breaks: is anything lost, doubled, or left waiting?

    python -m benchmarks.soak [--fields 100000] [--seed 1] [--database sqlite] [--json] [--write docs/reliability.md]
    python -m benchmarks.soak --short

Workers are killed and stand still, the broker is restarted and emptied, the database is killed, its disk fills up, the
network is cut, clocks jump, and those who submit are killed, too. What happens when follows from the seed (not to the
millisecond: the machine has its say). In the end every file must have been screened once, under its own bytes, and the
counters, the findings, the slide calls and the ledger must say so; the exit code is 1 otherwise.

Everything is real but the pixels' work: fields are tiny pictures that are read, hashed and decoded, and instead of
segmentation and network a stand-in says how dark they are (tests/standin.py). The lease and the other times are short
(see the first line of the output), so that an hour's breakdowns fit into minutes.

No chunk may wait longer than the stated time with nobody to see to it, and results that come late, when another worker
has the chunk, must be refused: workers are stopped right before they record until one was, each time.

A full disk needs the right to mount, a cut network that to make namespaces: where they are missing, the last lines say
so, and what was not done is not counted as done. What there was no time for any more makes the exit code 2.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import SecretStr
from sqlalchemy import text

from allq.errors import AllqError, BrokerUnreachable, StoreError
from allq.settings import Settings
from db import chunks, sealing
from db.database import Database
from tests import accounts, standin
from tests.attendance import Attendance
from tests.brokers import KillableValkey
from tests.databases import (
    KillablePostgresql,
    NoSmallDisk,
    fill,
    kill_server,
    mount_small_disk,
    settings_for,
    unmount,
)
from tests.networks import Cable, NoNamespaces
from tests.processes import Fault, Plan, Runner, Task
from worker import broker

_FIELDS_PER_SLIDE: Final = 40
_SLIDES_PER_BATCH: Final = 50
_TWINS: Final = 0.05
"""Share of the fields that have the bytes of a field of the batch before."""
_HELD_BACK: Final = 0.05
"""Share of the slides that are submitted when everything has happened: the work must not outrun a slow machine."""
_DISK: Final = 768 << 20
_HOUR: Final = 3600.0
_SUBMISSION_KILLED: Final = "a submission killed"
_SEALER_KILLED: Final = "the sealer killed"
_STALLED: Final = "a worker stalled beyond its lease"
_LATE: Final = "a worker stalled right before it recorded, until another had its chunk"
_EARLY: Final = 0.8
"""Stalls happen to those at work: in this first part of it."""
_LOOKS: Final = 0.5
"""Seconds between two looks at who waits unattended; of what is between two, at most twice as much counts."""
_BUSY: Final = 5.0
"""Seconds by which what is waited for may be late where four workers and two servers share two cores."""
_REFUSED: Final = "chunk fenced off"
_LOST_AT_WORK: Final = "chunk dropped: it is no longer ours"
_BEGIN: Final = "<!-- soak: begin -->"
_END: Final = "<!-- soak: end -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Programme:
    """How much work there is, and how often what happens."""

    fields: int
    workers: int
    happenings: dict[str, int]
    seconds_per_chunk: float
    patience: float
    """seconds in which something must move"""
    longest: float = math.inf
    """seconds for all of it"""


LONG: Final = Programme(
    fields=100_000,
    workers=4,
    happenings={
        "a process of a pool killed": 110,
        "a worker killed": 110,
        _SUBMISSION_KILLED: 20,
        "the broker killed": 10,
        "the broker restarted": 10,
        "the broker emptied": 20,
        "the database killed": 10,
        _STALLED: 30,
        _LATE: 10,
        "a worker's clock set": 20,
        "the disk full": 3,
        "the network cut": 4,
        _SEALER_KILLED: 30,
    },
    seconds_per_chunk=0.15,
    patience=180.0,
)
SHORT: Final = Programme(
    fields=2_400,
    workers=4,
    happenings={
        "a process of a pool killed": 4,
        "a worker killed": 4,
        _SUBMISSION_KILLED: 1,
        "the broker killed": 1,
        "the broker restarted": 1,
        "the broker emptied": 2,
        "the database killed": 1,
        _STALLED: 2,
        _LATE: 1,
        "a worker's clock set": 2,
        "the disk full": 1,
        "the network cut": 1,
        _SEALER_KILLED: 3,
    },
    seconds_per_chunk=0.15,
    patience=60.0,
    longest=200.0,  # a test has 300 s: what is stuck is to be said within them
)


class NotNow(Exception):
    """What was to happen can't happen at the moment: it is tried again a little later."""


@dataclass(slots=True)
class Place:
    """A worker or a sealer, or the gap that a killed one has left."""

    task: Task
    runner: Runner | None = None
    stalled: bool = False

    def stands(self) -> bool:
        """Whether somebody is there, if only stalled."""
        return self.runner is not None and self.runner.alive()


@dataclass(slots=True)
class Late:
    """A worker that is to stand still when it is about to record a chunk; then which chunk, at which attempt."""

    place: Place
    refused_before: int
    chunk: int | None = None
    attempt: int = 0
    stopped_at: float = 0.0
    resumed_at: float | None = None


@dataclass(slots=True)
class Figures:
    """What is told in the end."""

    happened: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    too_late: bool = False
    """there was no time for some of it"""
    longest_overdue: float = 0.0
    seconds_to_the_end: float = 0.0


class Soak:
    """The laboratory, and what happens to it."""

    def __init__(self, programme: Programme, *, seed: int, database: str, folder: Path, stack: ExitStack) -> None:
        self.programme = programme
        self.figures = Figures()
        self.folder = folder
        self._random = random.Random(seed)
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._outages: set[str] = set()
        self._stack = stack
        (folder / "home").mkdir()
        (folder / "logs").mkdir()
        self._cable = self._make_cable(database)
        addresses = ["127.0.0.1", *([self._cable.here] if self._cable else [])]
        self._broker = KillableValkey(addresses)
        stack.callback(self._broker.close)
        self._server = self._make_server(database, addresses)
        url = self._server.create("soak") if self._server else None
        self.settings = settings_for(folder / "home", url).model_copy(
            update={
                "broker_url": SecretStr(self._broker.url()),
                "chunk_size": 16,
                "lease_seconds": 2.0,
                "housekeeping_seconds": 0.3,
                "republish_seconds": 1.5,
            }
        )
        self.database = Database.open(self.settings)
        stack.callback(self.database.close)
        self._attendance = Attendance(self.database, self.settings, stride=2 * _LOOKS, each=False)
        self._looked_at = 0.0
        self._places = [Place(self._worker_task(number)) for number in range(programme.workers)]
        self._sealers = [Place(self._sealer_task())] if _SEALER_KILLED in programme.happenings else []
        stack.callback(self._kill_all)
        self._submissions, self._held_back = self._write_slides()
        self._due: list[tuple[int, str]] = []
        self._late: Late | None = None
        self._moved = 0.0
        self._submitting: Runner | None = None
        self._submissions_to_kill = programme.happenings[_SUBMISSION_KILLED]
        self._how: dict[str, Callable[[], None]] = {
            "a process of a pool killed": self._kill_process,
            "a worker killed": self._kill_worker,
            "the broker killed": self._kill_broker,
            "the broker restarted": self._restart_broker,
            "the broker emptied": self._empty_broker,
            "the database killed": self._kill_database,
            _STALLED: self._stall_worker,
            _LATE: self._stall_before_recording,
            "a worker's clock set": self._set_clock,
            "the disk full": self._fill_disk,
            "the network cut": self._cut_network,
            _SEALER_KILLED: self._kill_sealer,
        }

    # ------------------------------------------------------------------------------------------------ what there is

    def _leave_out(self, what: str, why: str) -> None:
        self.figures.left_out[what] = why

    def _make_cable(self, database: str) -> Cable | None:
        if database != "postgresql":
            self._leave_out("the network cut", database)
            return None
        try:
            cable = Cable()
        except NoNamespaces as error:
            self._leave_out("the network cut", str(error))
            return None
        self._stack.callback(cable.close)
        return cable

    def _make_server(self, database: str, addresses: list[str]) -> KillablePostgresql | None:
        disk: int | None = _DISK
        if database == "sqlite":
            self._leave_out("the database killed", "SQLite has no server")
            self._disk_folder = self.folder / "home"
            try:
                mount_small_disk(self._disk_folder, _DISK)
                self._stack.callback(unmount, self._disk_folder)
            except NoSmallDisk as error:
                self._leave_out("the disk full", str(error))
            return None
        try:
            server = KillablePostgresql(listen=",".join(addresses), disk=disk)
        except NoSmallDisk as error:
            self._leave_out("the disk full", str(error))
            server = KillablePostgresql(listen=",".join(addresses))
        self._disk_folder = server.data
        self._stack.callback(server.stop)
        return server

    def _worker_task(self, number: int) -> Task:
        settings = self.settings
        network = None
        if number == 0 and self._cable and self._server:  # this one reaches its servers over the cable
            network = self._cable.namespace
            settings = settings.model_copy(
                update={
                    "broker_url": SecretStr(self._broker.url(self._cable.here)),
                    "database_url": SecretStr(self._server.url("soak", self._cable.here)),
                }
            )
        clock = self.folder / f"clock-{number}"
        clock.write_text("0")
        plan = self.folder / f"plan-{number}"
        plan.mkdir()
        Plan(plan).disarm()
        return Task(
            settings=settings,
            log=self.folder / "logs" / f"worker-{number}",
            plan=plan,
            seconds=self.programme.seconds_per_chunk,
            clock=clock,
            network=network,
            elsewhere=number == 1,  # of this one's death only the end of its lease tells
        )

    def _sealer_task(self) -> Task:
        """What seals and does nothing else, beside the workers, which seal as well: whoever comes first."""
        settings = self.settings.model_copy(update={"seal_seconds": 0.5})
        return Task(settings=settings, log=self.folder / "logs" / "sealer", seals=True)

    def _write_slides(self) -> tuple[list[Path], list[Path]]:
        """The folders to be submitted, and those that are when everything has happened."""
        slides = -(-self.programme.fields // _FIELDS_PER_SLIDE)
        last = max(1, round(slides * _HELD_BACK))
        most = min(_SLIDES_PER_BATCH, max(1, self.programme.fields // 160))
        sizes = [[min(most, part - done) for done in range(0, part, most)] for part in (slides - last, last)]
        folders: list[Path] = []
        first = 0
        for size in chain(*sizes):
            folder = self.folder / f"batch-{len(folders):03}"
            folders.append(standin.write_fields(folder, slides=size, fields=_FIELDS_PER_SLIDE, first=first))
            first += size * _FIELDS_PER_SLIDE - round(size * _FIELDS_PER_SLIDE * _TWINS)
        return folders[: len(sizes[0])], folders[len(sizes[0]) :]

    def _kill_all(self) -> None:
        for place in [*self._places, *self._sealers]:
            if place.runner is not None:
                place.runner.kill()
        if self._submitting is not None:
            self._submitting.kill()

    # ----------------------------------------------------------------------------------------------- what happens

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def _outage(self, what: str, seconds: float, mend: Callable[[], None]) -> None:
        self._outages.add(what)

        def over() -> None:
            mend()
            self._outages.discard(what)

        self._after(seconds, over)

    def _victim(self) -> Place:
        """Not the one whose result is to be late: that is to come."""
        late = self._late.place if self._late else None
        standing = [place for place in self._places if place.stands() and place is not late]
        if not standing:
            raise NotNow
        return self._random.choice(standing)

    def _kill_process(self) -> None:
        place = self._victim()
        assert place.runner is not None
        pool = place.runner.pool()
        if not pool:
            raise NotNow
        victim = self._random.choice(pool)
        try:
            if victim.status() == psutil.STATUS_ZOMBIE:
                raise NotNow
            victim.kill()
        except psutil.NoSuchProcess:
            raise NotNow from None

    def _kill_worker(self) -> None:
        place = self._victim()
        assert place.runner is not None
        place.runner.kill()
        place.runner, place.stalled = None, False
        self._after(self._random.uniform(0, 2), lambda: self._start(place))

    def _kill_sealer(self) -> None:
        (place,) = self._sealers
        if place.runner is None or not place.runner.alive():
            raise NotNow
        place.runner.kill()
        place.runner = None
        self._after(self._random.uniform(0, 2), lambda: self._start(place))

    def _kill_submission(self, submission: Runner) -> None:
        if submission.alive() and self._submissions_to_kill > 0:
            submission.kill()
            self._submissions_to_kill -= 1
            self.figures.happened[_SUBMISSION_KILLED] += 1

    def _kill_broker(self) -> None:
        self._stop_broker(self._broker.kill)

    def _restart_broker(self) -> None:
        self._stop_broker(self._broker.shut_down)

    def _stop_broker(self, stop: Callable[[], None]) -> None:
        if "broker" in self._outages:
            raise NotNow
        stop()
        self._outage("broker", self._random.uniform(0, 3), self._broker.start)

    def _empty_broker(self) -> None:
        if "broker" in self._outages:
            raise NotNow
        self._broker.empty()

    def _kill_database(self) -> None:
        server = self._server
        if server is None or self._outages & {"database", "disk"} or self._late:
            raise NotNow
        kill_server(server.pid)
        self._outage("database", self._random.uniform(0, 3), server.start)

    def _stall_worker(self) -> None:
        place = self._victim()
        if place.stalled or place.runner is None:
            raise NotNow
        family = place.runner.family()
        if not self._holds_a_chunk(family):
            raise NotNow
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        place.stalled = True

        def go_on() -> None:
            place.stalled = False
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

        self._after(self.settings.longest_wait - self.settings.republish_seconds + 0.5, go_on)

    def _holds_a_chunk(self, family: list[psutil.Process]) -> bool:
        try:
            with self.database.read() as connection:
                owners = chunks.running_owners(connection)
        except StoreError:
            return False
        return bool({owner.split("/")[-2] for owner in owners} & {str(process.pid) for process in family})

    def _stall_before_recording(self) -> None:
        """Whoever comes late is refused by the fence alone: nothing looks at the lease between there and the record.

        Nothing befalls this worker until then, nor the database: what is to be seen is who refuses its results.
        """
        place = self._victim()
        if self._late or place.stalled or place.task.network or self._outages & {"database", "disk"}:
            raise NotNow
        assert place.task.plan is not None
        stall = Fault(point="record.begin", victim="stall")
        Plan(place.task.plan).arm([stall], broker=Path(), postgresql=None)
        self._late = Late(place, self._refused(place))

    def _see_to_the_late(self) -> None:
        """One step further with the one that is to be late; from its start again where something came between."""
        late = self._late
        if late is None:
            return
        now = time.monotonic()
        if late.resumed_at is not None:
            if self._refused(late.place) > late.refused_before:
                self.figures.happened[_LATE] += 1
                self._late = None
            elif now - late.resumed_at > self.programme.patience / 6:
                self._once_more(late)
            return
        assert late.place.task.plan is not None
        if not late.place.stands():
            self._once_more(late)
        elif late.chunk is None and Plan(late.place.task.plan).happened(0):
            late.place.stalled = True
            late.stopped_at = late.stopped_at or now
            self._find_chunk(late)
        if late.stopped_at and (self._is_taken_over(late) or now - late.stopped_at > self.programme.patience / 3):
            assert late.place.runner is not None
            for process in late.place.runner.family():
                with suppress(psutil.NoSuchProcess):
                    process.resume()
            late.place.stalled = False
            late.resumed_at = now

    def _find_chunk(self, late: Late) -> None:
        assert late.place.runner is not None
        family = {str(process.pid) for process in late.place.runner.family()}
        statement = "SELECT id, attempt, owner FROM chunk WHERE state = 'running'"
        with suppress(StoreError), self.database.read() as connection:
            for chunk, attempt, owner in connection.execute(text(statement)):
                if owner.split("/")[-2] in family:
                    late.chunk, late.attempt = chunk, attempt

    def _is_taken_over(self, late: Late) -> bool:
        if late.chunk is None:
            return False
        with suppress(StoreError), self.database.read() as connection:
            attempt = connection.execute(text("SELECT attempt FROM chunk WHERE id = :chunk"), {"chunk": late.chunk})
            return bool(attempt.scalar_one() > late.attempt)
        return False

    def _once_more(self, late: Late) -> None:
        self._disarm(late)
        self._due.insert(0, (0, _LATE))

    def _disarm(self, late: Late) -> None:
        assert late.place.task.plan is not None
        Plan(late.place.task.plan).disarm()
        late.place.stalled = False
        self._late = None

    def _refused(self, place: Place) -> int:
        """Results of this worker that the fence has refused."""
        log = place.task.log
        return log.read_text(errors="replace").count(_REFUSED) if log.exists() else 0

    def _set_clock(self) -> None:
        clock = self._random.choice(self._places).task.clock
        assert clock is not None
        now = float(clock.read_text())
        clock.write_text(str(self._random.choice([off for off in (-_HOUR, 0.0, _HOUR) if off != now])))

    def _fill_disk(self) -> None:
        if self._outages & {"database", "disk"} or self._late:
            raise NotNow
        ballast = fill(self._disk_folder)

        def mend() -> None:
            ballast.unlink()
            if self._server is not None and self._server.has_ended():
                self._server.start()

        self._outage("disk", 4.0, mend)

    def _cut_network(self) -> None:
        if self._cable is None or "network" in self._outages:
            raise NotNow
        self._cable.pull()
        longest = 6.0 if self.programme is SHORT else 40.0
        self._outage("network", self._random.uniform(5.0, longest), self._cable.plug_in)

    # --------------------------------------------------------------------------------------------------- the night

    def _start(self, place: Place) -> None:
        place.runner = Runner(place.task)

    def _keep_submitting(self) -> None:
        """One submission after the other; one that was cut short, or found no database, is made again.

        As an operator would, we look first whether it had come to its end before it was cut short: a folder submitted
        anew is another batch.
        """
        if self._submitting is not None and not self._submitting.alive():
            submitted = self._submitting.process.exitcode == 0 or self._is_submitted(self._submissions[0])
            if submitted is None:
                return
            if submitted:
                self._submissions.pop(0)
                self._moved = time.monotonic()
            self._submitting = None
        if not self._submissions and all(name in {_STALLED, _LATE} for _, name in self._due):  # at work
            self._submissions, self._held_back = self._held_back, []
        if self._submitting is None and self._submissions and "database" not in self._outages:
            self._submitting = Runner(
                Task(settings=self.settings, log=self.folder / "logs" / "submissions", folder=self._submissions[0])
            )
            submission = self._submitting
            self._after(self._random.uniform(0, 0.25), lambda: self._kill_submission(submission))

    def _is_submitted(self, folder: Path) -> bool | None:
        """Whether a batch holds all of a folder; None while the database does not answer."""
        statement = "SELECT count(*) FROM batch WHERE root = :root AND registered_at IS NOT NULL"
        try:
            with self.database.read() as connection:
                return bool(connection.execute(text(statement), {"root": str(folder.resolve())}).scalar_one())
        except StoreError:
            return None

    def _keep_working(self) -> None:
        for place in [*self._places, *self._sealers]:
            if place.runner is not None and not place.runner.alive():  # it gave up: as a service manager would
                self._start(place)

    def _ended(self) -> int | None:
        """Fields that have ended; None while the database does not answer."""
        statement = """
            SELECT coalesce(sum(fields - waiting), 0), max(CASE WHEN state = 'running' THEN {overdue} END) FROM chunk
        """
        overdue = {
            "sqlite": "(julianday('now') - julianday(lease_until)) * 86400",
            "postgresql": "extract(epoch FROM clock_timestamp() - lease_until)",
        }
        try:
            with self.database.read() as connection:
                found = connection.execute(text(statement.format(overdue=overdue[self.database.dialect]))).one()
        except StoreError:
            return None
        if not self._outages and found[1] is not None:
            self.figures.longest_overdue = max(self.figures.longest_overdue, float(found[1]))
        return int(found[0])

    def run(self, say: Callable[[str], None]) -> bool:
        """Let it happen. Returns whether the work came to its end; if it did not, what is stuck has been said."""
        self._due = self._timetable()
        for place in [*self._places, *self._sealers]:
            self._start(place)
        total = self.programme.fields
        began = self._moved = time.monotonic()
        progress, last, told = 0, 0.0, 0.0
        while progress < total or self._submissions or self._held_back:
            time.sleep(0.1)
            self._mend()
            self._see_to_the_late()
            self._keep_submitting()
            self._keep_working()
            self._look_who_waits()
            found = self._ended()
            if found is not None and found > progress:
                progress, self._moved = found, time.monotonic()
            if self._due and progress >= self._due[0][0] and self._let_happen():
                last = self._moved = time.monotonic()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"{progress:,} of {total:,} fields; {self.figures.happened.total()} things have happened")
            problem = self._out_of_patience(began)
            if problem is not None:
                for line in [problem, *self.stuck()]:
                    say(line)
                return False
        while self._later or (self._late and self._late.stopped_at):
            time.sleep(0.1)
            self._mend()
            self._see_to_the_late()
        if self._late:
            self._once_more(self._late)
        for name, times in Counter(name for _, name in self._due).items():
            self.figures.left_out[f"{name}, {times} ×"] = "the work had ended before it could happen"
            self.figures.too_late = True
        self.figures.seconds_to_the_end = max(0.0, self._moved - last)
        return True

    def _look_who_waits(self) -> None:
        """Counted from when database and broker can be reached and a worker runs: not in an outage."""
        if time.monotonic() - self._looked_at < _LOOKS:
            return
        self._looked_at = time.monotonic()
        try:
            if self._outages or not any(place.stands() and not place.stalled for place in self._places):
                self._attendance.begin_anew()
            else:
                self._attendance.look()
        except (BrokerUnreachable, StoreError):
            self._attendance.begin_anew()

    def _out_of_patience(self, began: float) -> str | None:
        now = time.monotonic()
        if now - self._moved > self.programme.patience:
            return f"nothing has moved for {self.programme.patience:.0f} s"
        if now - began > self.programme.longest:
            return f"after {self.programme.longest:.0f} s it has not come to its end"
        return None

    def stuck(self) -> list[str]:
        """What has not come to its end, and what would have to see to it, a line each."""
        lines = [f"not submitted: {folder.name}" for folder in [*self._submissions, *self._held_back]]
        lines += [f"has not happened: {name}, {times} ×" for name, times in Counter(n for _, n in self._due).items()]
        lines += [f"not mended: {what}" for what in sorted(self._outages)]
        try:
            lines += accounts.waiting(self.database)
        except StoreError as error:
            lines.append(str(error))
        try:
            lines += [f"queue {name}: {count} messages" for name, count in broker.queue_lengths(self.settings).items()]
        except BrokerUnreachable as error:
            lines.append(str(error))
        runners = {place.task.log.name: place.runner for place in [*self._places, *self._sealers]}
        for name, runner in (runners | {"submissions": self._submitting}).items():
            lines.append(f"{name}: {_condition(runner)}; {_last_line(self.folder / 'logs' / name)}")
        return lines

    def _timetable(self) -> list[tuple[int, str]]:
        """What happens when so many fields have ended, in that order; none waits for those held back."""
        names = [
            name
            for name, times in self.programme.happenings.items()
            if name not in self.figures.left_out and name != _SUBMISSION_KILLED
            for _ in range(times)
        ]
        self._random.shuffle(names)
        fields = _FIELDS_PER_SLIDE * sum(1 for folder in self._submissions for _ in folder.iterdir())
        parts = [(_EARLY if name in {_STALLED, _LATE} else 1.0, name) for name in names]
        return sorted((int(self._random.uniform(0, part * fields)), name) for part, name in parts)

    def _let_happen(self) -> bool:
        at, name = self._due.pop(0)
        try:
            self._how[name]()
        except NotNow:
            self._due.insert(min(len(self._due), 3), (at, name))
            return False
        if name != _LATE:  # that happens when its result is refused
            self.figures.happened[name] += 1
        return True

    def _mend(self) -> None:
        now = time.monotonic()
        ready = [action for when, action in self._later if when <= now]
        self._later = [(when, action) for when, action in self._later if when > now]
        for action in ready:
            action()

    # ------------------------------------------------------------------------------------------------- the account

    def account(self) -> dict[str, Any]:
        """Everything is counted from the files, the rows and the logs."""
        for place in [*self._places, *self._sealers]:
            if place.runner is not None:
                place.runner.kill()
        count = self._count
        made_meanwhile = count("SELECT count(*) FROM checkpoint")
        try:
            sealing.seal(self.database, self.settings, wait=True)  # what was told since, by those just killed
            not_sealed = [] if made_meanwhile else ["nothing was sealed while it went on"]
        except AllqError as error:
            not_sealed = [str(error)]
        exported = self.settings.checkpoint_file
        files = sum(1 for folder in self.folder.glob("batch-*") for _ in folder.rglob("*.png"))
        contents = len({path.read_bytes() for folder in self.folder.glob("batch-*") for path in folder.rglob("*.png")})
        log = "".join(path.read_text(errors="replace") for path in (self.folder / "logs").iterdir())
        return {
            "files": files,
            "screened": count("SELECT count(*) FROM field WHERE state = 'screened'"),
            "failed": count("SELECT count(*) FROM field WHERE state = 'failed'"),
            "lost": files
            - count(
                "SELECT count(DISTINCT path || ' ' || batch_id) FROM field f JOIN slide s "
                "ON s.id = f.slide_id WHERE f.state = 'screened'"
            ),
            "doubled": count("SELECT count(*) FROM field")
            - files
            + abs(count("SELECT count(*) FROM finding") - contents),
            "stuck": count("SELECT count(*) FROM field WHERE state = 'waiting'"),
            "findings": count("SELECT count(*) FROM finding"),
            "linked": count("SELECT count(*) FROM field WHERE linked"),
            "chunks": count("SELECT count(*) FROM chunk"),
            "halvings": count("SELECT count(*) FROM event WHERE kind = 'chunk-halved'"),
            "most attempts at a chunk": count("SELECT max(attempt) FROM chunk"),
            "leases noticed as lost while computing": log.count(_LOST_AT_WORK),
            "late results refused by the fence": log.count(_REFUSED),
            "chunks given back": len(re.findall(r"chunk given back ", log)),
            "times chunks were published again": len(re.findall(r"no queue held were published again", log)),
            "tracebacks in the logs": len(re.findall(r"^Traceback", log, re.MULTILINE)),
            "checkpoints sealed meanwhile": made_meanwhile,
            "events sealed": count("SELECT coalesce(max(size), 0) FROM checkpoint"),
            "longest lease overdue": round(self.figures.longest_overdue, 1),
            "longest wait of a chunk unattended": round(self._attendance.longest, 1),
            "seconds from the last happening to the end": round(self.figures.seconds_to_the_end, 1),
            "wrong": [
                *not_sealed,
                *self._amiss(log),
                *accounts.violations(self.database, exported=exported, sealed=True),
                *accounts.mistaken(self.database),
            ],
        }

    def _amiss(self, log: str) -> list[str]:
        found = []
        most = self.settings.longest_wait + _BUSY
        if self._attendance.longest > most:
            waited = f"{self._attendance.longest:.1f} s, not {most:.1f}"
            found.append(f"nobody came for {waited}: {self._attendance.by}")
        if self.programme.happenings.get(_LATE) and _REFUSED not in log:
            found.append("no late result was refused by the fence")
        return found

    def _count(self, statement: str) -> int:
        with self.database.read() as connection:
            return int(connection.execute(text(statement)).scalar_one() or 0)


def _condition(runner: Runner | None) -> str:
    """Whether it lives; its processes, and how each is."""
    if runner is None:
        return "not started"
    found = []
    for process in runner.family():
        with suppress(psutil.NoSuchProcess):
            found.append(f"{process.pid} {process.status()}")
    return f"processes {', '.join(found)}" if found else f"ended with exit code {runner.process.exitcode}"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"its log ends with {lines[-1][:300]!r}" if lines else "no log"


def main() -> int:
    """Run it; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as with Ctrl-C: what was started is taken away
    options = _options()
    programme = SHORT if options.short else LONG
    if options.fields is not None:
        fields = -(-options.fields // _FIELDS_PER_SLIDE) * _FIELDS_PER_SLIDE
        share = fields / programme.fields
        happenings = {name: max(1, round(times * share)) for name, times in programme.happenings.items()}
        programme = replace(programme, fields=fields, happenings=happenings, longest=math.inf)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with _folder(options.keep) as folder, ExitStack() as stack:
        soak = Soak(programme, seed=options.seed, database=options.database, folder=folder, stack=stack)
        say(_first_line(options, soak.settings))
        started = time.monotonic()
        came_to_its_end = soak.run(say)
        seconds = time.monotonic() - started
        found = soak.account()
        found |= {
            "seconds": round(seconds),
            "happened": dict(soak.figures.happened),
            "left out": soak.figures.left_out,
            "stated time": round(soak.settings.longest_wait, 1),
            "seed": options.seed,
            "database": options.database,
            "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
    _tell(found, as_json=options.json)
    if options.write is not None:
        _write(options.write, found)
    sound = came_to_its_end and not found["wrong"] and not any(found[name] for name in ("lost", "doubled", "stuck"))
    say("Nothing lost, nothing doubled, nothing stuck." if sound else "NOT SOUND: see above.")
    for name, why in soak.figures.left_out.items():
        say(f"Did not happen: {name} ({why})")
    return 1 if not sound else 2 if soak.figures.too_late else 0


def _first_line(options: argparse.Namespace, settings: Settings) -> str:
    return (
        f"Stand-in for segmentation and network, all else real; {options.database}, seed {options.seed}; "
        f"lease {settings.lease_seconds} s, housekeeping {settings.housekeeping_seconds} s, published again after "
        f"{settings.republish_seconds} s: nothing may wait longer than {settings.longest_wait:.1f} s unattended."
    )


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            for part, number in sorted(value.items()):
                print(f"{name}: {part}: {number}")
        elif isinstance(value, list):
            print(f"{name}: {'; '.join(value) or 'nothing'}")
        else:
            print(f"{name}: {value:,}" if isinstance(value, int) and name != "seed" else f"{name}: {value}")


def _write(page: Path, found: dict[str, Any]) -> None:
    """Put the figures into the page, in the place of those of the same database."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    old, end, after = rest.partition(_END)
    if not (mark and end):
        raise SystemExit(f"{page} has no place for the figures: {_BEGIN} … {_END}")
    title = f"**{found['database']}**"
    parts = [part.strip() for part in re.split(r"\n(?=\*\*)", old)]
    kept = [part for part in parts if part.startswith("**") and title not in part]
    happened = "; ".join(f"{name} {times} ×" for name, times in sorted(found["happened"].items()))
    left_out = "; ".join(f"{name} ({why})" for name, why in found["left out"].items()) or "nothing"
    shown = {name: value for name, value in found.items() if not isinstance(value, dict | list)}
    shown = {name: value for name, value in shown.items() if name not in {"database", "date", "machine", "seed"}}
    lines = [f"{title}, {found['date']}, {found['machine']}, seed {found['seed']}. What happened: {happened}."]
    lines += [f"Left out: {left_out}. Wrong: {'; '.join(found['wrong']) or 'nothing'}.", ""]
    lines += ["| figure | |", "|---|---:|", *(f"| {name} | {value:,} |" for name, value in shown.items())]
    text = "\n\n".join([*kept, "\n".join(lines)])
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="allq-soak-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a minute's worth, as the tests run it")
    parser.add_argument("--fields", type=int, help="as many fields, and breakdowns in proportion")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--keep", type=Path, help="folder, not there yet, in which logs and files stay")
    parser.add_argument("--write", type=Path, help="page in which the figures are to stand, between its two marks")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
