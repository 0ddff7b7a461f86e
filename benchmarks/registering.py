"""How fast fields are registered and findings recorded, and how long the questions of a reviewer take afterwards.

    python benchmarks/registering.py                          SQLite in a temporary folder
    python benchmarks/registering.py --database-url URL       PostgreSQL (the database is used as it is and left filled)
    python benchmarks/registering.py --filled 10000000        the questions, with so many findings in the database

Files are not touched: this is the database's share of the work alone. `--filled` makes rows by SQL, as recording would
have left them (but for the ledger), because ten million of them by way of workers would take hours.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.settings import load
from benchmarks import filling
from db import artefacts, batches, chunks, named, reads
from db.database import Database
from db.records import FieldOutcome, FieldRow, NewField, NewFinding, NewSlide, SlideCallRow

MODEL = filling.MODEL
FIELDS_PER_SLIDE = filling.FIELDS_PER_SLIDE
CHUNK = filling.CHUNK
SLICE = 5_000


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", default=None)
    parser.add_argument("--fields", type=int, default=100_000, help="fields to register")
    parser.add_argument("--chunks", type=int, default=40, help="chunks of 256 fields to record, and to record again")
    parser.add_argument("--filled", type=int, default=0, help="findings to put into the database for the questions")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="allq-benchmark-") as folder:
        values: dict[str, Any] = {"home": Path(folder)}
        if given.database_url:
            values["database_url"] = given.database_url
        database = Database.open(load(_env_file=None, **values), upgrade=True)
        print(f"{database.dialect}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
        with database.begin() as conn:
            artefacts.remember_model(conn, filling.model())
        if given.filled:
            started = time.perf_counter()
            filling.fill(database, given.filled)
            print(f"filled with {given.filled:,} findings by SQL in {time.perf_counter() - started:,.0f} s")
        _, chunk_ids, seconds = registering(database, given.fields)
        print(
            f"registering      {given.fields:>9,} fields   {seconds:7.2f} s  {given.fields / seconds:>9,.0f} fields/s"
        )
        for what in ("recording new", "linking known"):
            part = chunk_ids[: given.chunks]
            count, seconds = recording(database, part, what)
            print(f"{what}    {count:>9,} fields   {seconds:7.2f} s  {count / seconds:>9,.0f} fields/s")
            if what == "recording new":
                second, chunk_ids, _ = registering(database, min(given.fields, given.chunks * CHUNK))
        asking(database, second)
        streaming(database, second)
        database.close()


def registering(database: Database, fields: int) -> tuple[int, list[int], float]:
    """Register in slices of 5,000 fields, a transaction each, as `submit` does."""
    started = time.perf_counter()
    with database.begin() as conn:
        batch = batches.create_batch(conn, root="/data/slides", model_id=MODEL, operator="benchmark@here")
    chunk_ids: list[int] = []
    slides = [
        NewSlide(
            name=f"H26-{number:06}",
            fields=[
                NewField(f"H26-{number:06}/field {n:03}.jpg", None, 150_000 + n, 1_700_000_000_000_000_000 + n)
                for n in range(min(FIELDS_PER_SLIDE, fields - number * FIELDS_PER_SLIDE))
            ],
        )
        for number in range(-(-fields // FIELDS_PER_SLIDE))
    ]
    step = SLICE // FIELDS_PER_SLIDE
    for start in range(0, len(slides), step):
        with database.begin() as conn:
            chunk_ids += batches.register(conn, batch, slides[start : start + step], chunk_size=CHUNK)
    with database.begin() as conn:
        batches.finish_registration(conn, batch)
    return batch, chunk_ids, time.perf_counter() - started


def recording(database: Database, chunk_ids: list[int], what: str) -> tuple[int, float]:
    """Claim and record chunks: with new findings, or linking to those that are there. Preparing them is not timed."""
    count, seconds = 0, 0.0
    for chunk_id in chunk_ids:
        started = time.perf_counter()
        with database.begin() as conn:
            claim = chunks.claim(conn, chunk_id, "benchmark", 60)
        seconds += time.perf_counter() - started
        assert claim is not None
        outcomes = [outcome(field.id, field.path, new=what == "recording new") for field in claim.fields]
        started = time.perf_counter()
        with database.begin() as conn:
            chunks.record(conn, claim, outcomes, call_slide=call_slide, worker="benchmark")
        seconds += time.perf_counter() - started
        count += len(outcomes)
    return count, seconds


def outcome(field_id: int, path: str, *, new: bool) -> FieldOutcome:
    """A finding made up from the path, or a link to it."""
    sha256 = hashlib.sha256(path.encode()).digest()
    if not new:
        return FieldOutcome(field_id=field_id, sha256=sha256)
    suspicion = sha256[0] / 256
    finding = NewFinding(
        sha256=sha256,
        call="benign" if suspicion < 0.5 else "pre-b",
        confidence=max(suspicion, 1 - suspicion),
        probabilities=(1 - suspicion, 0.0, suspicion, 0.0),
        suspicion=suspicion,
        novelty=0.1,
        flags=(),
        leukocytes=12,
        suspects=3,
        width=1024,
        height=768,
        quality={"sharpness": 40.25, "exposure": 0.5},
        leukocyte_data=sha256 * 30,
        engine="openvino",
        code_version="0.1.0",
    )
    return FieldOutcome(field_id=field_id, sha256=sha256, finding=finding)


def call_slide(fields: Iterable[FieldRow]) -> SlideCallRow:
    """A call by the mean suspicion."""
    rows = list(fields)
    mean = sum(row.suspicion for row in rows) / len(rows)
    return SlideCallRow(
        call="all-suspected",
        confidence=mean,
        probabilities=(1 - mean, 0.0, mean, 0.0),
        flags=(),
        leukocytes=sum(row.leukocytes for row in rows),
        suspects=sum(row.suspects for row in rows),
        upper_bound=None,
    )


def asking(database: Database, batch: int) -> None:
    """The median and the worst of nine answers, each on a connection that is open already."""
    questions: list[tuple[str, Callable[[Connection], object]]] = [
        ("status of a batch", lambda conn: reads.batch_status(conn, batch)),
        ("status, 20 newest batches", reads.batches),
        ("progress query", lambda conn: list(named.run(conn, "progress", {})[1])),
        ("results, slide level", lambda conn: reads.slide_results(conn, batch)),
        ("worklist, first page", lambda conn: list(named.run(conn, "worklist", {})[1])),
        ("findings of a slide", lambda conn: list(named.run(conn, "slide_findings", {"slide": "H26-000001"})[1])),
        ("history of a slide", lambda conn: list(named.run(conn, "slide_history", {"slide": "H26-000001"})[1])),
        ("failures of a batch", lambda conn: list(reads.failures(conn, batch))),
        ("chunks to publish", lambda conn: chunks.unpublished(conn, queue="routine", older_than_seconds=30, limit=500)),
    ]
    for name, ask in questions:
        times = []
        for _ in range(9):
            with database.read() as conn:
                started = time.perf_counter()
                ask(conn)
                times.append((time.perf_counter() - started) * 1000)
        print(f"{name:27} median {statistics.median(times):7.1f} ms   worst {max(times):7.1f} ms")


def streaming(database: Database, batch: int) -> None:
    """Field results of one batch, as an export reads them."""
    started = time.perf_counter()
    with database.read() as conn:
        count = sum(1 for _ in reads.field_results(conn, batch))
    seconds = time.perf_counter() - started
    print(f"field results    {count:>9,} rows     {seconds:7.2f} s  {count / seconds:>9,.0f} rows/s")


if __name__ == "__main__":
    main()
