"""The laboratory of the soak, and what happens to it: each method breaks something, and sees that it is mended."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import psutil
from pydantic import SecretStr
from sqlalchemy import text

from allq.errors import StoreError
from benchmarks.soaking.programme import (
    FIELDS_PER_SLIDE,
    LATE,
    SEALER_KILLED,
    SHORT,
    STALLED,
    SUBMISSION_KILLED,
    Programme,
)
from db import chunks
from db.database import Database
from tests import standin
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

_SLIDES_PER_BATCH: Final = 50
_TWINS: Final = 0.05
"""Share of the fields that have the bytes of a field of the batch before."""
_HELD_BACK: Final = 0.05
"""Share of the slides that are submitted when everything has happened: the work must not outrun a slow machine."""
_DISK: Final = 768 << 20
_HOUR: Final = 3600.0
LOOKS: Final = 0.5
"""Seconds between two looks at who waits unattended; of what is between two, at most twice as much counts."""
REFUSED: Final = "chunk fenced off"


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


class Happenings:
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
        self._attendance = Attendance(self.database, self.settings, stride=2 * LOOKS, each=False)
        self._looked_at = 0.0
        self._places = [Place(self._worker_task(number)) for number in range(programme.workers)]
        self._sealers = [Place(self._sealer_task())] if SEALER_KILLED in programme.happenings else []
        stack.callback(self._kill_all)
        self._submissions, self._held_back = self._write_slides()
        self._due: list[tuple[int, str]] = []
        self._late: Late | None = None
        self._moved = 0.0
        self._submitting: Runner | None = None
        self._submissions_to_kill = programme.happenings[SUBMISSION_KILLED]
        self._how: dict[str, Callable[[], None]] = {
            "a process of a pool killed": self._kill_process,
            "a worker killed": self._kill_worker,
            "the broker killed": self._kill_broker,
            "the broker restarted": self._restart_broker,
            "the broker emptied": self._empty_broker,
            "the database killed": self._kill_database,
            STALLED: self._stall_worker,
            LATE: self._stall_before_recording,
            "a worker's clock set": self._set_clock,
            "the disk full": self._fill_disk,
            "the network cut": self._cut_network,
            SEALER_KILLED: self._kill_sealer,
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
        slides = -(-self.programme.fields // FIELDS_PER_SLIDE)
        last = max(1, round(slides * _HELD_BACK))
        most = min(_SLIDES_PER_BATCH, max(1, self.programme.fields // 160))
        sizes = [[min(most, part - done) for done in range(0, part, most)] for part in (slides - last, last)]
        folders: list[Path] = []
        first = 0
        for size in chain(*sizes):
            folder = self.folder / f"batch-{len(folders):03}"
            folders.append(standin.write_fields(folder, slides=size, fields=FIELDS_PER_SLIDE, first=first))
            first += size * FIELDS_PER_SLIDE - round(size * FIELDS_PER_SLIDE * _TWINS)
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
            self.figures.happened[SUBMISSION_KILLED] += 1

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
                self.figures.happened[LATE] += 1
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
        self._due.insert(0, (0, LATE))

    def _disarm(self, late: Late) -> None:
        assert late.place.task.plan is not None
        Plan(late.place.task.plan).disarm()
        late.place.stalled = False
        self._late = None

    def _refused(self, place: Place) -> int:
        """Results of this worker that the fence has refused."""
        log = place.task.log
        return log.read_text(errors="replace").count(REFUSED) if log.exists() else 0

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

    def _start(self, place: Place) -> None:
        place.runner = Runner(place.task)
