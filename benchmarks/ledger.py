"""What the ledger costs: sealing's share of the throughput, and how fast `verify` reads.

    python -m benchmarks.ledger                        SQLite in a temporary folder
    python -m benchmarks.ledger --database-url URL     PostgreSQL (an empty database; left filled)

1. Sealing: chunks of 256 made-up findings are recorded and slides called; after every `--seal-every` chunks the sealer
   runs, as it does every few seconds. Its share is that of its time in the time of the whole path, which screens
   `--fields-per-second` on this machine (benchmarks/throughput.py measures that), the waits for the disk included.
2. Verifying what was recorded so: events with their findings and slide calls, by the rows.
3. Verifying a long ledger: `--events` events that tell of no rows, a checkpoint for every `--per-checkpoint`; `--calls`
   slide calls with their rows, each of a slide of its own; and all of that as a whole. Medians of `--repeat`.

Times are wall time, and user time of all processes in brackets: on a machine that does other things, that divided by
its cores is the one to look at.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from allq.settings import Settings, load
from benchmarks import filling
from benchmarks.registering import CHUNK, MODEL, call_slide, outcome, registering
from db import artefacts, batches, bulk, chunks, events, lines, sealing, verifying
from db.database import Database
from db.witness import Witness


@dataclass
class Took:
    """Seconds by the clock, and of computing: this process's and that of those it has started and seen end."""

    wall: float = 0.0
    user: float = 0.0

    def __str__(self) -> str:
        return f"{self.wall:8.2f} s ({self.user:.2f} s user)"


@contextmanager
def timed(took: Took) -> Iterator[None]:
    """Add what the block takes."""
    wall, user = time.perf_counter(), computing()
    yield
    took.wall += time.perf_counter() - wall
    took.user += computing() - user


def computing() -> float:
    """User seconds so far. A long ledger is verified by several processes: theirs are the most of it."""
    return sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", default=None)
    parser.add_argument("--chunks", type=int, default=80)
    parser.add_argument("--seal-every", type=int, default=3, help="chunks between two seals")
    parser.add_argument("--fields-per-second", type=float, default=190.0, help="the whole path's, on this machine")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=400_000)
    parser.add_argument("--per-checkpoint", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=5, help="verifications, of which the median counts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="allq-benchmark-") as folder:
        values: dict[str, Any] = {"home": Path(folder)}
        if given.database_url:
            values["database_url"] = given.database_url
        settings = load(_env_file=None, **values)
        database = Database.open(settings, upgrade=True)
        print(f"{database.dialect}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
        with database.begin() as conn:
            artefacts.remember_model(conn, filling.model())
        sealing_while_recording(database, settings, given)
        verifying_all(database, settings, "recorded: events and their rows", repeat=given.repeat)
        for what, with_rows, count in (("events alone", False, given.events), ("slide calls", True, given.calls)):
            last = sealing.seal(database, settings).checkpoint
            assert last is not None
            lengthen(database, settings, count, given.per_checkpoint, with_rows=with_rows)
            verifying_all(database, settings, f"a long ledger, {what}", repeat=given.repeat, since=last.number)
        verifying_all(database, settings, "the whole ledger", repeat=given.repeat)
        database.close()


def sealing_while_recording(database: Database, settings: Settings, given: Any) -> None:
    """Record chunks, seal now and then, and print what share of the whole path's time the sealer takes."""
    _, chunk_ids, _ = registering(database, given.chunks * CHUNK)
    sealing.seal(database, settings)
    recording, sealer, fields, sealed = Took(), Took(), 0, 0
    for at, chunk_id in enumerate(chunk_ids, start=1):
        with database.begin() as conn:
            claim = chunks.claim(conn, chunk_id, "benchmark", 60)
        assert claim is not None
        outcomes = [outcome(field.id, field.path, new=True) for field in claim.fields]
        with timed(recording), database.begin() as conn:
            chunks.record(conn, claim, outcomes, call_slide=call_slide, worker="benchmark")
        fields += len(outcomes)
        if at % given.seal_every == 0 or at == len(chunk_ids):
            with timed(sealer):
                sealed += sealing.seal(database, settings).events
    path = fields / given.fields_per_second
    print(f"recording      {fields:>9,} fields {recording}  {fields / recording.wall:>10,.0f} fields/s")
    print(f"sealing        {sealed:>9,} events {sealer}  {sealed / sealer.wall:>10,.0f} events/s")
    print(f"sealing's share of the whole path at {given.fields_per_second} fields/s: {sealer.wall / path:.2%}")
    print(f"               and of recording alone: {sealer.wall / recording.wall:.1%}")


def verifying_all(database: Database, settings: Settings, what: str, *, repeat: int, since: int | None = None) -> None:
    """Verify some times, and print how fast: the median, and the slowest and the fastest in brackets."""
    passes = [Took() for _ in range(repeat)]
    for took in passes:
        with timed(took):
            found = verifying.verify(database, Witness(settings.checkpoint_file), since=since, complete=True)
        assert found.sound, found.problems[:3]
    by_wall = sorted(passes, key=lambda took: took.wall)
    took = by_wall[repeat // 2]
    rate = f"{found.events / took.wall:>10,.0f} events/s ({found.events / took.user:,.0f} by user time)"
    spread = f"{found.events / by_wall[-1].wall:,.0f} to {found.events / by_wall[0].wall:,.0f}"
    print(f"verify {what:<32} {found.events:>9,} events, {found.rows:>9,} rows {took}  {rate}; {spread}")


def lengthen(database: Database, settings: Settings, count: int, per_checkpoint: int, *, with_rows: bool) -> None:
    """Append events and seal them by small checkpoints; what took place is made up, the ledger is real."""
    with patch.object(sealing, "AT_ONCE", per_checkpoint):
        for start in range(0, count, 20_000):
            with database.begin() as conn:
                append(conn, min(20_000, count - start), with_rows=with_rows)
            seal_in_one_transaction(database, settings)


def append(conn: Any, count: int, *, with_rows: bool) -> None:
    """Events as `slidecalls.write` appends them, many at once; with rows, each of a slide of its own."""
    now = conn.exec_driver_sql("SELECT called_at FROM slide_call LIMIT 1").scalar_one()
    slide, batch = conn.exec_driver_sql("SELECT id, batch_id FROM slide ORDER BY id LIMIT 1").one()
    if with_rows:  # a batch whose submission goes on, of slides without fields
        batch = batches.create_batch(conn, root="/data/long", model_id=MODEL, operator="benchmark@here")
        conn.exec_driver_sql(f"UPDATE batch SET slides = {count} WHERE id = {batch}")
    ids = bulk.allocate(conn, "event", count)
    slides = list(bulk.allocate(conn, "slide", count)) if with_rows else [slide] * count
    first_call = bulk.allocate(conn, "slide_call", count)
    suspected = random.Random(count)  # numbers with all their digits, as a network gives them
    calls, told, shown = [], [], []
    for event_id, slide_id, call_id in zip(ids, slides, first_call, strict=True):
        p = suspected.random()
        counts = (410, 133, 40, 40, 0, 0)
        row = (call_id, slide_id, "all-suspected", p, 1 - p, p / 7, p / 2, p / 3, p, None, "", *counts, now)
        name = f"H26-{slide_id:07}"
        body = dict(zip(lines.SLIDE_CALL[1:-1], row[1:-1], strict=True)) | {"slide": name, "slide_call": call_id}
        if with_rows:
            calls.append(row)
            shown.append((slide_id, batch, name, True, call_id, p))
            body["row"] = lines.row_digest("slide_call", row)
        kind = "slide-called" if with_rows else "benchmark"
        told.append((event_id, now, kind, "worker@gpu-1:4711", batch, None, events.canonical(body)))
    bulk.insert(conn, "slide", _SLIDE, shown)
    bulk.insert(conn, "slide_call", lines.SLIDE_CALL, calls)
    bulk.insert(conn, "event", ("id", "at", "kind", "actor", "batch_id", "chunk_id", "body"), told)
    bulk.insert(conn, "event_slide", ("slide_id", "event_id"), list(zip(slides, ids, strict=True)))


_SLIDE = (
    "id",
    "batch_id",
    "name",
    "complete",
    "slide_call_id",
    "suspicion",
)


def seal_in_one_transaction(database: Database, settings: Settings) -> None:
    """What the sealer does in many rounds, without waiting for the disk in each."""
    with database.begin() as conn:
        while sealing._seal_some(conn, settings):
            pass
    sealing.seal(database, settings)


if __name__ == "__main__":
    main()
