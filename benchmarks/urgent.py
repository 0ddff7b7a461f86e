"""An urgent slide while a large routine batch runs; and the memory of the workers that run it."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

import psutil
from sqlalchemy import text

from allq.text import plural
from benchmarks import measuring
from benchmarks.measuring import Bench, Figure

if TYPE_CHECKING:
    from allq.settings import Settings
    from db.database import Database
    from db.records import BatchStatus

BARS = ("stat", "memory", "memory-growth", "memory-whole", "memory-large", "memory-large-whole")
FIELDS = 30
ROUTINE = 50_000
"""Fields of the routine batch where only the urgent slides are of interest."""
MB = 1_000_000
SMALL = (120, 90)
_LOOKS_APART = 4
"""Each so many looks at memory, shared pages are counted as well."""
_PICTURES = 64
"""Fields of a kind that are drawn; the others differ from them in bytes that decoders pass over."""


@dataclass(kw_only=True, slots=True)
class Memory:
    """What a worker's processes have had resident, looked at again and again, in bytes."""

    worker: int
    """its main process"""
    processes: int = 0
    """that screen"""
    most: int = 0
    """that one of them ever had"""
    main: int = 0
    """that the main process ever had besides, where it does not screen"""
    single: int = 0
    """the sum of what each process ever had; pages that they share are counted with each"""
    together: int = 0
    """that all of them ever had at one time, as far as was looked; pages that they share are counted once (PSS)"""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """fields screened, and what the largest of the processes had then"""

    def look(self, screened: int) -> None:
        """Look at it now."""
        with suppress(psutil.Error):
            found = measuring.screening_processes(self.worker)
            self.sizes.append((screened, max(each.memory_info().rss for each in found)))
            self.most = max([self.most, *map(measuring.most_resident, found)])
            self.processes = len(found)
            everyone = list(found)
            if all(each.pid != self.worker for each in found):
                everyone.append(psutil.Process(self.worker))
                self.main = measuring.most_resident(everyone[-1])
            self.single = sum(map(measuring.most_resident, everyone))
            # The kernel goes through all pages for it: some ten milliseconds a process.
            if len(self.sizes) % _LOOKS_APART == 1:
                self.together = max(self.together, sum(each.memory_full_info().pss for each in everyone))

    @property
    def whole(self) -> int:
        """A worker of one process that screens, with its first: each at its most."""
        return self.most + self.main

    @property
    def scope(self) -> str:
        """Whose memory it is, in words."""
        if not self.main:
            return f"the most that one of {plural(self.processes, 'process', 'processes')} ever had"
        screening = plural(self.processes, "process", "processes")
        return (
            f"the most that one of the {screening} that screen ever had; the worker's first has {self.main / MB:.0f} MB"
        )

    @property
    def whole_scope(self) -> str:
        """The same of the worker as a whole."""
        if not self.main:
            return "the worker has no process that does not screen"
        everyone = plural(self.processes + 1, "process", "processes")
        return (
            f"that process and the worker's first, each at its most; counted so, all {everyone} of this worker had "
            f"{self.single / MB:,.0f} MB, at one time, with shared pages once (PSS), {self.together / MB:,.0f} MB"
        )

    def growth(self, fields: int) -> float | None:
        """From the second tenth of the fields to the last; None where nobody looked in one of these."""
        early = [size for done, size in self.sizes if fields / 10 <= done < fields / 5]
        late = [size for done, size in self.sizes if done >= fields * 9 / 10]
        return statistics.median(late) - statistics.median(early) if early and late else None


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """Seconds from the submission of an urgent slide to its call; resident memory over the whole routine batch.

    One worker of as many processes as there are cores serves the routine, another of one process waits for urgent
    slides. The routine's fields are small (120×90), so that many pass in a short time; large ones pass by themselves.
    """
    if set(wanted) & {"memory-large", "memory-large-whole"}:
        yield from _large_fields(bench)
    if set(wanted) <= {"memory-large", "memory-large-whole"}:
        return
    whole = bool(set(wanted) & {"memory", "memory-growth", "memory-whole"})
    folder = bench.place / "routine"
    count = bench.scale.routine if whole else min(ROUTINE, bench.scale.routine)
    measuring.say(f"writing {count:,} small fields")
    _write(folder, count, list(measuring.rendered(_PICTURES, size=SMALL)))
    for name, server in bench.servers.items():
        yield from _run(bench, folder, name, server, set(wanted), to_the_end=whole)
    shutil.rmtree(folder)


def _large_fields(bench: Bench) -> Iterator[Figure]:
    """Memory while fields of a camera's size and weight pass."""
    from benchmarks.scaling.field_kinds import CAMERA, write_camera_fields
    from models.artefact import find
    from worker.submission import SubmitOptions, submit

    folder = bench.place / "camera"
    measuring.say(f"writing {bench.scale.large:,} fields of {CAMERA[0]}×{CAMERA[1]}")
    drawn = write_camera_fields(bench.place / "drawn", measuring.images(bench.folder, _PICTURES))
    pictures = [path.read_bytes() for path in sorted(drawn.iterdir())]
    _write(folder, bench.scale.large, pictures)
    size = sum(map(len, pictures)) / len(pictures) / MB
    for name, server in bench.servers.items():
        with measuring.new_installation(server) as (settings, database):
            options = SubmitOptions(model=find(settings, bench.model), operator="benchmark")
            with measuring.worker_of(settings, "routine", measuring.processes()) as worker:
                memory = Memory(worker=worker.pid)
                batch = submit(database, settings, folder, options).batch
                status = _watched(database, batch, memory, lambda: _ended(settings, worker), name)
        over = f"over {status.screened:,} fields of {size:.2f} MB"
        yield Figure(bar="memory-large", database=name, value=memory.most / MB, note=f"{memory.scope}, {over}")
        note = f"{memory.whole_scope}, {over}"
        yield Figure(bar="memory-large-whole", database=name, value=memory.whole / MB, note=note)
    for each in (folder, drawn):
        shutil.rmtree(each)


def _watched(
    database: Database, batch: int, memory: Memory, problem: Callable[[], str | None], name: str
) -> BatchStatus:
    """Look at a worker's memory twice a second until a batch ends."""
    said = time.perf_counter()
    while not (status := _status(database, batch)).ended:
        if reason := problem():
            raise SystemExit(reason)
        memory.look(status.screened)
        if time.perf_counter() - said > 15:
            measuring.say(f"memory, {name}: {status.screened:,} of {status.fields:,} fields")
            said = time.perf_counter()
        time.sleep(0.5)
    if not memory.sizes:
        raise SystemExit("The batch ended before its workers' memory was looked at: give it more fields.")
    return status


def _ended(settings: Settings, *workers: Popen[bytes]) -> str | None:
    """That a worker has ended, in a sentence."""
    ended = next((each for each in workers if each.poll() is not None), None)
    return f"A worker ended with {ended.returncode}: see {settings.home}." if ended else None


def _run(
    bench: Bench, folder: Path, name: str, server: str | None, wanted: set[str], *, to_the_end: bool
) -> Iterator[Figure]:
    from db import batches
    from models.artefact import find
    from worker.submission import SubmitOptions, submit

    with measuring.new_installation(server) as (settings, database):
        options = SubmitOptions(model=find(settings, bench.model), operator="benchmark")
        urgent = SubmitOptions(model=options.model, operator="benchmark", queue="stat")
        with (
            measuring.worker_of(settings, "routine", measuring.processes()) as routine,
            measuring.worker_of(settings, "stat", 1) as stat,
        ):
            memory = Memory(worker=routine.pid)

            def problem() -> str | None:
                return _ended(settings, routine, stat)

            slides = _urgent_slides(bench)
            warm = submit(database, settings, next(slides), urgent).batch  # loads the model
            measuring.until_ended(database, warm, problem)
            measuring.say(f"submitting the routine batch, {name}")
            batch = submit(database, settings, folder, options).batch
            while not _status(database, batch).screened:
                if reason := problem():
                    raise SystemExit(reason)
                time.sleep(0.2)
            seconds, computing = [], []
            for number in range(bench.scale.repeat if "stat" in wanted else 0):
                measuring.say(f"an urgent slide, {name}, {number + 1} of {bench.scale.repeat}")
                began = time.time()
                done = submit(database, settings, next(slides), urgent).batch
                measuring.until_ended(database, done, problem)
                claimed, called = _times(database, done)
                seconds.append(called - began)
                computing.append(called - claimed)
                memory.look(_status(database, batch).screened)
            if _status(database, batch).ended and not to_the_end:
                raise SystemExit("The routine batch ended before the urgent slides: nothing was measured.")
            if to_the_end:
                status = _watched(database, batch, memory, problem, name)
            else:
                with database.begin() as connection:
                    batches.cancel(connection, batch, "benchmark")
                status = _status(database, batch)
    if seconds:
        note = f"{FIELDS} fields, from the start of `submit`; from the claim {statistics.median(computing):.2f} s"
        yield measuring.figure("stat", seconds, database=name, note=f"{note}; {status.fields:,} routine fields running")
    if to_the_end:
        over = f"over {status.fields:,} fields"
        yield Figure(bar="memory", database=name, value=memory.most / MB, note=f"{memory.scope}, {over}")
        note = f"{memory.whole_scope}, {over}"
        yield Figure(bar="memory-whole", database=name, value=memory.whole / MB, note=note)
        if (grown := memory.growth(status.fields)) is not None:
            note = f"of the largest of them, from the second tenth of {status.fields:,} fields to the last"
            yield Figure(bar="memory-growth", database=name, value=grown / MB, note=note)


def _status(database: Database, batch: int) -> BatchStatus:
    from db import reads

    with database.read() as connection:
        return reads.batch_status(connection, batch)


def _times(database: Database, batch: int) -> tuple[float, float]:
    """When the batch's only chunk was claimed and its only slide called, in seconds since 1970, by the database."""
    from db.statements import known_moment

    statement = (
        "SELECT (SELECT min(started_at) FROM chunk WHERE batch_id = :batch), k.called_at "
        "FROM slide s JOIN slide_call k ON k.id = s.slide_call_id WHERE s.batch_id = :batch"
    )
    with database.read() as connection:
        row: Any = connection.execute(text(statement), {"batch": batch}).one()
    return known_moment(row[0]).timestamp(), known_moment(row[1]).timestamp()


def _urgent_slides(bench: Bench) -> Iterator[Path]:
    """One slide after the other of FIELDS fields of the bench, evenly, of bytes that nobody has seen."""
    paths = measuring.images(bench.folder)
    for number in itertools.count():
        slide = bench.place / "urgent" / f"{number}-{time.monotonic_ns()}"
        slide.mkdir(parents=True)
        for place in range(FIELDS):
            path = paths[(number + place * len(paths) // FIELDS) % len(paths)]
            data = path.read_bytes() + b"%d/%d" % (time.monotonic_ns(), place)  # decoders stop at the image's end
            (slide / f"field-{place:02}{path.suffix}").write_bytes(data)
        yield slide


def _write(folder: Path, count: int, pictures: Sequence[bytes]) -> None:
    """`count` fields, each of its own bytes, in slides of 100."""
    for number in range(count):
        if number % 100 == 0:
            slide = folder / f"slide-{number // 100:05}"
            slide.mkdir(parents=True)
        (slide / f"field-{number % 100:02}.jpg").write_bytes(pictures[number % len(pictures)] + b"%08d" % number)
