"""An urgent slide while a large routine batch runs; and the memory of the workers that run it."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from benchmarks import measuring
from benchmarks.measuring import Bench, Figure

if TYPE_CHECKING:
    from db.database import Database
    from db.records import BatchStatus

BARS = ("stat", "memory", "memory-growth")
FIELDS = 30
ROUTINE = 50_000
"""Fields of the routine batch where only the urgent slides are of interest."""
MIB = 1 << 20


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """Seconds from the submission of an urgent slide to its call; resident memory over the whole routine batch.

    One worker of as many processes as there are cores serves the routine, another of one process waits for urgent
    slides. The routine's fields are small (120×90), so that many pass in a short time.
    """
    whole = bool(set(wanted) & {"memory", "memory-growth"})
    folder = bench.place / "routine"
    count = bench.scale.routine if whole else min(ROUTINE, bench.scale.routine)
    measuring.say(f"writing {count:,} small fields")
    _write(folder, count)
    for name, server in bench.servers.items():
        yield from _run(bench, folder, name, server, set(wanted), to_the_end=whole)
    shutil.rmtree(folder)


def _run(
    bench: Bench, folder: Path, name: str, server: str | None, wanted: set[str], *, to_the_end: bool
) -> Iterator[Figure]:
    from db import batches, reads
    from models.artefact import find
    from worker.submission import SubmitOptions, submit

    memory: list[tuple[int, int]] = []
    with measuring.new_installation(server) as (settings, database):
        options = SubmitOptions(model=find(settings, bench.model), operator="benchmark")
        urgent = SubmitOptions(model=options.model, operator="benchmark", queue="stat")
        with (
            measuring.worker_of(settings, "routine", measuring.processes()) as routine,
            measuring.worker_of(settings, "stat", 1) as stat,
        ):

            def problem() -> str | None:
                ended = next((each for each in (routine, stat) if each.poll() is not None), None)
                return f"A worker ended with {ended.returncode}: see {settings.home}." if ended else None

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
                _watch(memory, routine.pid, _status(database, batch))
            if _status(database, batch).ended and not to_the_end:
                raise SystemExit("The routine batch ended before the urgent slides: nothing was measured.")
            if to_the_end:
                began = time.perf_counter()
                while not (status := _status(database, batch)).ended:
                    if reason := problem():
                        raise SystemExit(reason)
                    _watch(memory, routine.pid, status)
                    if time.perf_counter() - began > 15:
                        measuring.say(f"memory, {name}: {status.screened:,} of {status.fields:,} fields")
                        began = time.perf_counter()
                    time.sleep(0.5)
            else:
                with database.begin() as connection:
                    batches.cancel(connection, batch, "benchmark")
            with database.read() as connection:
                status = reads.batch_status(connection, batch)
    if seconds:
        note = f"{FIELDS} fields, from the start of `submit`; from the claim {statistics.median(computing):.2f} s"
        yield measuring.figure("stat", seconds, database=name, note=f"{note}; {status.fields:,} routine fields running")
    if to_the_end:
        yield from _memory(memory, status.fields, name)


def _memory(memory: Sequence[tuple[int, int]], fields: int, name: str) -> Iterator[Figure]:
    """The most that one process had, and by how much it grew from the second tenth of the fields to the last."""
    if not memory:
        raise SystemExit("The routine batch ended before its workers' memory was looked at: give it more fields.")
    note = f"the larger of the routine worker's processes, over {fields:,} fields"
    early = [size for done, size in memory if fields / 10 <= done < fields / 5]
    late = [size for done, size in memory if done >= fields * 9 / 10]
    most = max(size for _, size in memory)
    yield Figure(bar="memory", database=name, value=most / MIB, note=note)
    if early and late:
        grown = (statistics.median(late) - statistics.median(early)) / MIB
        yield Figure(bar="memory-growth", database=name, value=grown, note="from the second tenth of them to the last")


def _watch(memory: list[tuple[int, int]], worker: int, status: BatchStatus) -> None:
    if sizes := measuring.resident(worker):
        memory.append((status.screened, max(sizes)))


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
        for field in range(FIELDS):
            path = paths[(number + field * len(paths) // FIELDS) % len(paths)]
            data = path.read_bytes() + b"%d/%d" % (time.monotonic_ns(), field)  # decoders stop at the image's end
            (slide / f"field-{field:02}{path.suffix}").write_bytes(data)
        yield slide


def _write(folder: Path, count: int) -> None:
    """`count` small fields, each of its own bytes, in slides of 100."""
    pictures = list(measuring.rendered(64, size=(120, 90)))
    for number in range(count):
        if number % 100 == 0:
            slide = folder / f"slide-{number // 100:05}"
            slide.mkdir(parents=True)
        (slide / f"field-{number % 100:02}.jpg").write_bytes(pictures[number % len(pictures)] + b"%08d" % number)
