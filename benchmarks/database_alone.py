"""How fast fields are registered and findings recorded, and how long the questions of a reviewer take afterwards.

    python benchmarks/database_alone.py [--databases sqlite] [--filled 10000000] [--write]

Files are not touched: this is the database's share of the work alone, on an empty database and, with `--filled`, on one
with so many findings. Those are made by SQL (`benchmarks/filling.py`), as recording would have left them (but for the
ledger), because ten million of them by way of workers would take hours. `--write` puts the table into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import filling, measuring
from benchmarks.registering import CHUNK, recording, registering
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import others_busy
from db import artefacts, chunks, named, reads
from db.database import Database

BEGIN: Final = (
    "<!-- The database alone: written by `python benchmarks/database_alone.py --filled 10000000 --write`. -->"
)
END: Final = "<!-- End of the database alone. -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One figure: fields or rows a second; of a question, the median in milliseconds."""

    what: str
    rate: float | None = None
    milliseconds: float | None = None

    @property
    def cell(self) -> str:
        """As it stands in the table."""
        return f"{self.rate:,.0f}" if self.milliseconds is None else f"{self.milliseconds:.1f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, and print it. Returns the exit code."""
    asked = _parse(arguments)
    columns: dict[str, list[Measured]] = {}
    busy = others_busy()  # looked at before a server of our own is there, and before each database
    with ExitStack() as stack:
        stack.enter_context(measuring.apart())
        servers: dict[str, str | None] = {"SQLite": None} if "sqlite" in asked.databases else {}
        if "postgresql" in asked.databases:
            servers["PostgreSQL"] = stack.enter_context(measuring.postgresql(asked.database_url))
        ours = measuring.started(servers, asked.database_url)
        for server in servers.values():
            for findings in [0, asked.filled] if asked.filled else [0]:
                busy = max(busy, others_busy(ours))
                with measuring.new_installation(server) as (_, database):
                    name = f"{product(database)}, {f'{findings:,} findings' if findings else 'empty'}"
                    columns[name] = []
                    for figure in measure(database, findings, asked.fields, asked.chunks):
                        measuring.say(f"{name}: {figure.what}: {figure.cell}")
                        columns[name].append(figure)
    machine = measuring.told(measuring.machine())
    said = f"A rate is of one pass, a question's time the median of nine; {machine}.{noise(busy)}\n\n{table(columns)}"
    measuring.shown(said, write=asked.write, page=measuring.PAGE, marks=(BEGIN, END))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--databases",
        type=lambda text: text.lower().split(","),
        default=["sqlite", "postgresql"],
        help="sqlite, postgresql or both by commas (default: both)",
    )
    parser.add_argument("--database-url", help="a PostgreSQL on which databases may be made")
    parser.add_argument("--fields", type=int, default=100_000, help="fields to register (default: 100000)")
    parser.add_argument(
        "--chunks", type=int, default=40, help="chunks of 256 fields to record, and to record again (default: 40)"
    )
    parser.add_argument("--filled", type=int, default=0, help="also with so many findings in the database already")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return parser.parse_args(arguments)


def product(database: Database) -> str:
    """SQLite, or PostgreSQL with its version."""
    if database.dialect == "sqlite":
        return "SQLite"
    with database.read() as conn:
        return f"PostgreSQL {conn.exec_driver_sql('SHOW server_version').scalar_one().split('.')[0]}"


def table(columns: Mapping[str, Sequence[Measured]]) -> str:
    """A column for each state of a database, a line for each figure, in Markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for figures in zip(*columns.values(), strict=True):
        lines.append(f"| {figures[0].what} | {' | '.join(figure.cell for figure in figures)} |")
    return "\n".join(lines)


def measure(database: Database, findings: int, fields: int, some: int) -> Iterator[Measured]:
    """Fill an empty database with so many `findings`, register `fields`, record `some` chunks of new findings and as
    many of known ones, and ask.
    """
    with database.begin() as conn:
        artefacts.remember_model(conn, filling.model())
    if findings:
        started = time.perf_counter()
        filling.fill(database, findings)
        measuring.say(f"filled with {findings:,} findings by SQL in {time.perf_counter() - started:,.0f} s")
    _, chunk_ids, seconds = registering(database, fields)
    yield Measured(what=f"registering {fields:,} fields, fields/s", rate=fields / seconds)
    count, seconds = recording(database, chunk_ids[:some], "recording new")
    yield Measured(what="recording new findings, fields/s", rate=count / seconds)
    batch, chunk_ids, _ = registering(database, min(fields, some * CHUNK))
    count, seconds = recording(database, chunk_ids[:some], "linking known")
    yield Measured(what="linking to known findings, fields/s", rate=count / seconds)
    yield from asking(database, batch)
    yield streaming(database, batch)


def asking(database: Database, batch: int) -> Iterator[Measured]:
    """The median of nine answers, each on a connection that is open already."""
    with database.read() as conn:
        slides = reads.batch_status(conn, batch).slides
    questions: list[tuple[str, Callable[[Connection], object]]] = [
        ("status of a batch", lambda conn: reads.batch_status(conn, batch)),
        ("status, 20 newest batches", reads.batches),
        ("progress query", lambda conn: list(named.run(conn, "progress", {})[1])),
        (f"results, slide level ({slides:,} slides)", lambda conn: reads.slide_results(conn, batch)),
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
        yield Measured(what=name, milliseconds=statistics.median(times))


def streaming(database: Database, batch: int) -> Measured:
    """Field results of one batch, as an export reads them."""
    started = time.perf_counter()
    with database.read() as conn:
        count = sum(1 for _ in reads.field_results(conn, batch))
    return Measured(what="field results, rows/s", rate=count / (time.perf_counter() - started))


if __name__ == "__main__":
    raise SystemExit(main())
