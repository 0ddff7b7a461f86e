"""How much memory `verify` takes, beside how fast it is (benchmarks/ledger.py): of three ledgers, each long in a way.

    python -m benchmarks.verifying                        SQLite
    python -m benchmarks.verifying --database-url URL     PostgreSQL: databases of its own on that server

1. `--failed` fields that failed in chunks of 256, were tried again and failed again: there are no longer events.
2. `--screened` fields with findings, in chunks of 256.
3. `--batches` batches of a slide each, with settings of 700 characters.

Each is verified as a whole by a process of its own. Printed is the most memory that it has held, by the kernel's
account (VmHWM), before and at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from allq.settings import Settings
from benchmarks import filling, registering
from benchmarks.measuring import machine, most_resident, new_installation, settings_of, told
from db import artefacts, batches, chunks, sealing, verifying
from db.database import Database
from db.records import ClaimedField, Failure, FieldOutcome, FieldRow, NewField, NewSlide, SlideCallRow
from db.witness import Witness

FAILURE = Failure(code="corrupt", sentence="the file ends in the middle of the image")
SETTINGS = json.dumps({f"setting_{number:02}": f"value {number:07}" for number in range(22)})


def main() -> None:
    """Fill, verify and print, one ledger after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", default=None)
    parser.add_argument("--failed", type=int, default=200_000)
    parser.add_argument("--screened", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=50_000)
    parser.add_argument("--verify", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.verify:
        verify(settings_of(given.verify, given.database_url))
        return
    print(f"{'PostgreSQL' if given.database_url else 'SQLite'}, {told(machine())}", flush=True)
    ledgers: tuple[tuple[str, int, Callable[[Database, int], None]], ...] = (
        ("fields that failed twice", given.failed, fail),
        ("fields with findings", given.screened, screen),
        ("batches", given.batches, submit),
    )
    for what, count, fill in ledgers:
        with new_installation(given.database_url) as (settings, database):
            with database.begin() as conn:
                artefacts.remember_model(conn, filling.model())
            fill(database, count)
            sealing.seal(database, settings)
            command = [sys.executable, "-m", "benchmarks.verifying", "--verify", str(settings.home)]
            if given.database_url:
                command += ["--database-url", database.url_as_given]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
            print(f"{count:>9,} {what:<26} {done.stdout.strip()}", flush=True)


def verify(settings: Settings) -> None:
    """Verify, and print what it took of time and memory."""
    this = psutil.Process()
    database = Database.open(settings)
    before, began = most_resident(this), time.perf_counter()
    found = verifying.verify(database, Witness(settings.checkpoint_file), complete=True)
    took, at_most = time.perf_counter() - began, most_resident(this)
    assert found.sound, found.problems[:3]
    print(
        f"{found.events:>9,} events, {found.rows:>9,} rows, {took:7.2f} s, "
        f"memory {before / 1e6:.0f} MB, at most {at_most / 1e6:.0f} MB"
    )


def fail(database: Database, count: int) -> None:
    """Fields that fail, are tried again, and fail again."""
    batch, chunk_ids, _ = registering.registering(database, count)
    record(database, chunk_ids, failed)
    with database.begin() as conn:
        again = batches.retry(conn, batch, "benchmark", chunk_size=registering.CHUNK).chunk_ids
    record(database, again, failed)


def screen(database: Database, count: int) -> None:
    """Fields that are screened."""
    _, chunk_ids, _ = registering.registering(database, count)
    record(database, chunk_ids, lambda field: registering.outcome(field.id, field.path, new=True))


def submit(database: Database, count: int) -> None:
    """Batches of a slide each, some to a transaction."""
    for start in range(0, count, 1_000):
        with database.begin() as conn:
            for number in range(start, min(start + 1_000, count)):
                batch = batches.create_batch(
                    conn,
                    root=f"/data/slides/{number}",
                    model_id=registering.MODEL,
                    operator="benchmark",
                    settings_json=SETTINGS,
                )
                slide = NewSlide(name=f"H26-{number:06}", fields=[NewField("field.png", None, 1, 1)])
                batches.register(conn, batch, [slide], chunk_size=registering.CHUNK)
                batches.finish_registration(conn, batch)


def record(database: Database, chunk_ids: Iterable[int], judge: Callable[[ClaimedField], FieldOutcome]) -> None:
    """Work through chunks."""
    for chunk_id in chunk_ids:
        with database.begin() as conn:
            claim = chunks.claim(conn, chunk_id, "benchmark", 600)
            assert claim is not None
            outcomes = [judge(field) for field in claim.fields]
            chunks.record(conn, claim, outcomes, call_slide=call_slide, worker="benchmark")


def failed(field: ClaimedField) -> FieldOutcome:
    """A field that can't be read."""
    sha256 = hashlib.sha256(field.path.encode()).digest()
    return FieldOutcome(field_id=field.id, sha256=sha256, failure=FAILURE)


def call_slide(fields: Iterable[FieldRow]) -> SlideCallRow:
    """A call by the mean suspicion, if there is any."""
    rows = list(fields)
    if rows:
        return registering.call_slide(rows)
    return SlideCallRow(
        call="insufficient",
        confidence=0.0,
        probabilities=(0.0, 0.0, 0.0, 0.0),
        flags=(),
        leukocytes=0,
        suspects=0,
        upper_bound=None,
    )


if __name__ == "__main__":
    main()
