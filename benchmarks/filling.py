"""A database with millions of findings, made by SQL: rows as recording and signing would have left them, but for the
ledger and the leukocytes' outlines. By way of workers ten million fields would take most of a day.

    python benchmarks/filling.py --findings 10000000 --database-url URL      (left filled)
    python benchmarks/filling.py --findings 1000000 --home FOLDER            (SQLite, in FOLDER/allq.db)

Contents are spread evenly over all SHA-256 there can be, so that what is recorded afterwards falls anywhere among
them, and are written in their order, so that the index over them is filled from one end to the other. People have gone
down the worklist: the more suspicious half of the slides is reviewed, in all batches but the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sqlalchemy import Connection, event

from benchmarks import measuring
from db.artefacts import key_of, remember_model
from db.database import Database
from db.records import ModelRecord

MODEL = hashlib.sha256(b"benchmark").hexdigest()
FIELDS_PER_SLIDE = 40
CHUNK = 256
BATCH = 400 * CHUNK
"""Fields of one of the many batches."""
LONG = 1_000_000
"""Fields of the one batch that is exported whole."""
_AT_ONCE = 200_000

_TABLES = ("batch", "chunk", "slide", "slide_call", "review", "finding", "field")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Of one table: the number of its first row, how many, what stands in them by their number n; those `where` it."""

    table: str
    first: int
    count: int
    columns: dict[str, str]
    where: str = "1 = 1"


def model() -> ModelRecord:
    """The model that made-up findings are of."""
    return ModelRecord(
        id=MODEL, name="benchmark", architecture="none", synthetic=True, configuration={}, code_version="0"
    )


def fill(
    database: Database, findings: int, *, long: int = 0, progress: Callable[[int], None] | None = None
) -> list[tuple[int, int]]:
    """Add screened batches until there are `findings` more: first one of `long` fields, then of BATCH each, or less.

    Returns each batch's number and how many fields it has. The model must have been remembered.
    """
    sizes = [long] if long else []
    while sum(sizes) < findings:
        sizes.append(min(BATCH, findings - sum(sizes)))
    made, done = [], 0
    with database.begin() as conn:
        model_key = key_of(conn, MODEL)
        base = {name: conn.exec_driver_sql(f"SELECT coalesce(max(id), 0) FROM {name}").scalar_one() for name in _TABLES}
    with _unguarded(database) as sqlite:
        for number, size in enumerate(sizes):
            with database.begin() as conn:
                if not sqlite and conn.exec_driver_sql("SELECT current_setting('is_superuser')").scalar() == "on":
                    conn.exec_driver_sql("SET LOCAL session_replication_role = replica")  # no look at each foreign key
                for rows in _rows(base, number, done, size, model_key, sqlite=sqlite):
                    if rows.table != "review" or number < len(sizes) - 1:
                        _insert(conn, rows, sqlite=sqlite, of=findings)
            done += size
            made.append((base["batch"] + 1 + number, size))
            if progress is not None:
                progress(done)
            base["chunk"] += -(-size // CHUNK)
            base["slide"] += -(-size // FIELDS_PER_SLIDE)
            base["slide_call"] += -(-size // FIELDS_PER_SLIDE)
            base["review"] += -(-size // FIELDS_PER_SLIDE)
    with database.begin() as conn:
        if not sqlite:
            for name in _TABLES:
                key = f"pg_get_serial_sequence('{name}', 'id')"
                conn.exec_driver_sql(f"SELECT setval({key}, (SELECT max(id) FROM {name}))")
        conn.exec_driver_sql("ANALYZE")
    return made


@contextmanager
def _unguarded(database: Database) -> Iterator[bool]:
    """On SQLite, without the triggers that look each new row up, and without waiting for the disk; True on SQLite."""
    if database.dialect != "sqlite":
        yield False
        return
    with database.engine.connect() as conn:
        guards = list(conn.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    with database.begin() as conn:
        for name, _ in guards:
            conn.exec_driver_sql(f"DROP TRIGGER {name}")
    database.close()  # connections made from here on don't wait

    def hurry(connection: Any, _: Any) -> None:
        for pragma in ("synchronous = OFF", "foreign_keys = OFF", "cache_size = -262144"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function("content", 2, lambda high, low: struct.pack(">qq16x", high, low), deterministic=True)

    event.listen(database.engine, "connect", hurry)
    try:
        yield True
    finally:
        event.remove(database.engine, "connect", hurry)
        database.close()
        with database.begin() as conn:
            for _, statement in guards:
                conn.exec_driver_sql(statement)


def _insert(conn: Connection, rows: _Rows, *, sqlite: bool, of: int) -> None:
    values = ", ".join(rows.columns.values()).replace("{of}", str(of))
    end = rows.first + rows.count
    for start in range(rows.first, end, _AT_ONCE):
        last = min(start + _AT_ONCE, end) - 1
        numbers = (
            f"WITH RECURSIVE n(n) AS (SELECT {start} UNION ALL SELECT n + 1 FROM n WHERE n < {last})"
            if sqlite
            else f"WITH n(n) AS (SELECT generate_series(CAST({start} AS bigint), {last}))"
        )
        conn.exec_driver_sql(
            f"INSERT INTO {rows.table} ({', '.join(rows.columns)}) {numbers} SELECT {values} FROM n WHERE {rows.where}"
        )


def _rows(
    base: dict[str, int], number: int, before: int, size: int, model_key: int, *, sqlite: bool
) -> Iterator[_Rows]:
    """What stands in each table. Findings and fields are numbered over all batches, from `before`; others from 0."""
    now = "'2026-01-05 08:30:00.000'" if sqlite else "timestamptz '2026-01-05 08:30:00'"
    chunks, slides = -(-size // CHUNK), -(-size // FIELDS_PER_SLIDE)
    batch = str(base["batch"] + 1 + number)
    key = {name: f"n + {last + 1}" for name, last in base.items()}
    within = f"(n - {before})"
    share = "(n * 7919 - (n * 7919 / 1000) * 1000) / 1000.0"
    # Thirds: numbers with as many digits as a network's.
    most, rest = f"(1 - {share} / 3)", f"{share} / 3"
    shares = {"confidence": most, "p_benign": most, "p_early_pre_b": "0.0", "p_pre_b": rest, "p_pro_b": "0.0"}
    seen = {"suspicion": share, "leukocytes": "12", "suspects": "3", "flags": "''"}
    in_chunk = f"CASE WHEN n = {chunks - 1} THEN {size - (chunks - 1) * CHUNK} ELSE {CHUNK} END"
    in_slide = f"CASE WHEN n = {slides - 1} THEN {size - (slides - 1) * FIELDS_PER_SLIDE} ELSE {FIELDS_PER_SLIDE} END"
    # 0 to 2^63 over all findings, then the number itself again: 16 of the 32 bytes, the rest zeros.
    step = "(n * (9223372036854775807 / {of}))"
    content = f"content({step}, n)" if sqlite else f"int8send({step}) || int8send(n) || decode(repeat('00', 16), 'hex')"
    yield _Rows("batch", 0, 1, {"id": batch, "root": "'/data/old'", "queue": "'routine'", "model_id": str(model_key),
                                "operator": "'me'", "settings": "'{}'", "slides": str(slides), "fields": str(size),
                                "created_at": now, "registered_at": now})  # fmt: skip
    yield _Rows("chunk", 0, chunks, {"id": key["chunk"], "batch_id": batch, "state": "'done'", "fields": in_chunk,
                                     "waiting": "0", "screened": in_chunk, "started_at": now,
                                     "ended_at": now})  # fmt: skip
    yield _Rows("slide", 0, slides, {"id": key["slide"], "batch_id": batch, "name": f"'OLD-{batch}-' || n",
                                     "complete": "true", "fields": in_slide, "screened": in_slide,
                                     "slide_call_id": key["slide_call"], "suspicion": share})  # fmt: skip
    yield _Rows("slide_call", 0, slides, {"id": key["slide_call"], "slide_id": key["slide"],
                                          "call": "'no-suspects-seen'", **shares, **seen, "fields": in_slide,
                                          "screened": in_slide, "failed": "0", "cancelled": "0",
                                          "called_at": now})  # fmt: skip
    yield _Rows("review", 0, slides, {"id": key["review"], "slide_id": key["slide"],
                                      "slide_call_id": key["slide_call"], "reviewer": "'m.meier'",
                                      "call": "'no-suspects-seen'", "reason": "'lymphocytes, reactive'",
                                      "looked_at": now, "decided_at": now}, where=f"{share} >= 0.5")  # fmt: skip
    yield _Rows("finding", before, size, {"id": key["finding"], "model_id": str(model_key), "call": "'benign'",
                                          **shares, **seen, "novelty": rest, "recorded_at": now, "width": "1024",
                                          "height": "768", "sha256": content, "quality": "'{\"sharpness\":40.25}'",
                                          "engine": "'openvino'", "code_version": "'0.1.0'"})  # fmt: skip
    path = f"'OLD-{batch}-' || ({within} / {FIELDS_PER_SLIDE}) || '/field ' || n || '.jpg'"
    yield _Rows("field", before, size, {"id": key["field"], "finding_id": key["finding"], "state": "'screened'",
                                        "slide_id": f"{within} / {FIELDS_PER_SLIDE} + {base['slide'] + 1}",
                                        "chunk_id": f"{within} / {CHUNK} + {base['chunk'] + 1}", "size": "150000",
                                        "modified_ns": "1700000000000000000", "path": path})  # fmt: skip


def main() -> None:
    """Fill what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--findings", type=int, default=10_000_000)
    parser.add_argument("--long", type=int, default=0, help="fields of a first, long batch")
    parser.add_argument("--home", type=Path, default=Path.cwd(), help="of the SQLite file")
    parser.add_argument("--database-url")
    given = parser.parse_args()
    database = Database.open(measuring.settings_of(given.home.resolve(), given.database_url), upgrade=True)
    with database.begin() as conn:
        remember_model(conn, model())
    began = time.perf_counter()
    fill(database, given.findings, long=given.long, progress=lambda done: measuring.say(f"{done:,} findings"))
    print(f"{given.findings:,} findings in {time.perf_counter() - began:,.0f} s")
    database.close()


if __name__ == "__main__":
    main()
