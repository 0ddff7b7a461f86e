"""The ways in which the database is written and read, against the plainer ones that they were chosen over.

    python benchmarks/ways.py [--fields 200000] [--rows 20000] [--repeat 3] [--databases sqlite,postgresql]
                              [--database-url URL] [--write]

Rows are put in and set as `db/bulk.py` does it, by the driver's executemany and by a statement each, and with one index
more; all of a batch's fields are read by keyset pages and by OFFSET; its state is told by counters and by counting.
Medians of `--repeat`, in turn; what is written is rolled back, so that no commit is timed, of which each way has one.
Two minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import filling, measuring
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import others_busy
from db import bulk, reads
from db.artefacts import remember_model
from db.database import Database
from db.statements import run

BEGIN: Final = "<!-- The ways of the database: written by `python benchmarks/ways.py --write`. -->"
END: Final = "<!-- End of the ways of the database. -->"

PAGE: Final = 5_000
BATCH: Final = 1
"""The first that is filled, with all of the fields."""

PUT: Final = ("slide_id", "chunk_id", "path", "size", "modified_ns")
SET: Final = {"id": "bigint", "state": "text", "failure": "text", "failure_sentence": "text"}
INDEXES: Final = {"over the state": "state", "over the path": "path"}

Row = tuple[Any, ...]
Write = Callable[[Connection, Sequence[Row]], None]
Timed = Callable[[Connection], float]
"""Does something and returns the seconds of the part of it that counts."""


class _UndoneError(Exception):
    """Ends a transaction without a commit."""


# ------------------------------------------------------------------------------------------------------------ writing


def _put(conn: Connection, rows: Sequence[Row]) -> None:
    bulk.insert(conn, "field", PUT, rows)


def _set(conn: Connection, rows: Sequence[Row]) -> None:
    bulk.update(conn, "field", SET, rows)


def _statements(dialect: str) -> tuple[str, str]:
    mark = "?" if dialect == "sqlite" else "%s"
    _, *others = SET
    put = f"INSERT INTO field ({', '.join(PUT)}) VALUES ({', '.join([mark] * len(PUT))})"
    return put, f"UPDATE field SET {', '.join(f'{name} = {mark}' for name in others)} WHERE id = {mark}"


def _together(statement: str) -> Write:
    return lambda conn, rows: (conn.exec_driver_sql(statement, list(rows)), None)[1]


def _each(statement: str) -> Write:
    def write(conn: Connection, rows: Sequence[Row]) -> None:
        for row in rows:
            conn.exec_driver_sql(statement, row)

    return write


def _key_last(write: Write) -> Write:
    """For statements that take the key of what they set after all else."""
    return lambda conn, rows: write(conn, [(*row[1:], row[0]) for row in rows])


def _writing(count: int, put: Write, set_: Write, index: str | None = None) -> tuple[Timed, Timed]:
    """Puts `count` fields in; puts them in and sets them. Only the last step of each is timed."""
    rows = [(1, 1, f"H26-{number // 40:06}/field {number % 40:03}.jpg", 150_000, number) for number in range(count)]

    def prepared(conn: Connection) -> int:
        if index is not None:
            conn.exec_driver_sql(f"CREATE INDEX field_more ON field ({index})")
        return int(conn.exec_driver_sql("SELECT max(id) FROM field").scalar_one())

    def putting(conn: Connection) -> float:
        prepared(conn)
        began = time.perf_counter()
        put(conn, rows)
        return time.perf_counter() - began

    def setting(conn: Connection) -> float:
        last = prepared(conn)
        bulk.insert(conn, "field", PUT, rows)
        keys = conn.exec_driver_sql(f"SELECT id FROM field WHERE id > {last} ORDER BY id").scalars()
        failed = [(key, "failed", "corrupt", "The file can't be decoded.") for key in keys]
        began = time.perf_counter()
        set_(conn, failed)
        return time.perf_counter() - began

    return putting, setting


# ------------------------------------------------------------------------------------------------------------ reading


def _timed(ask: Callable[[Connection], object]) -> Timed:
    def timed(conn: Connection) -> float:
        began = time.perf_counter()
        ask(conn)
        return time.perf_counter() - began

    return timed


def by_keyset(conn: Connection) -> int:
    """Read all fields of the batch as an export does; how many."""
    return sum(1 for _ in reads._pages(conn, BATCH, reads._FIELD_PAGE, PAGE))


def by_offset(conn: Connection) -> int:
    """Read the same columns in the same order, skipping what was read; how many."""
    columns = reads._FIELD_PAGE.partition("WHERE")[0]
    columns = columns.replace("FROM field f", "FROM slide s JOIN field f ON f.slide_id = s.id")
    statement = f"{columns} WHERE s.batch_id = :batch ORDER BY s.id, f.id LIMIT :page OFFSET :read"
    read = 0
    while True:
        values = {"batch": BATCH, "page": PAGE, "read": read}
        rows = run(conn, statement, values, many_rows=True).all()
        read += len(rows)
        if len(rows) < PAGE:
            return read


def by_counting(conn: Connection) -> dict[str, int]:
    """The batch's fields by state, counted."""
    statement = (
        "SELECT f.state, count(*) AS fields FROM chunk c JOIN field f ON f.chunk_id = c.id WHERE c.batch_id = :batch "
        "GROUP BY f.state"
    )
    return {row.state: row.fields for row in run(conn, statement, {"batch": BATCH})}


# -------------------------------------------------------------------------------------------------------------- table


def ways(dialect: str, rows: int) -> dict[str, tuple[Timed, float, str]]:
    """By name: what is timed, by what its seconds are multiplied, and the unit that this gives."""
    put, set_ = _statements(dialect)
    micro = 1e6 / rows, "µs a row"
    pairs = {"as allq does it": _writing(rows, _put, _set)}
    if dialect != "sqlite":
        pairs["by executemany"] = _writing(rows, _together(put), _key_last(_together(set_)))
    pairs["by a statement each"] = _writing(rows, _each(put), _key_last(_each(set_)))
    for name, column in INDEXES.items():
        pairs[f"as allq does it, with an index more, {name}"] = _writing(rows, _put, _set, column)
    own = {"put in": "executemany", "set": "executemany"}
    if dialect != "sqlite":
        own = {"put in": "COPY", "set": "unnest()"}
    found: dict[str, tuple[Timed, float, str]] = {}
    for number, (what, by) in enumerate(own.items()):
        for name, pair in pairs.items():
            how = name.replace("as allq does it", f"as allq does it, by {by}")
            found[f"fields {what}, {how}"] = (pair[number], *micro)
    milli = 1e3, "ms"
    return found | {
        f"all fields read, pages of {PAGE:,} after a key": (_timed(by_keyset), *milli),
        f"all fields read, pages of {PAGE:,} by OFFSET": (_timed(by_offset), *milli),
        "state of the batch, by the chunks' counters": (_timed(lambda conn: reads.batch_status(conn, BATCH)), *milli),
        "state of the batch, by counting its fields": (_timed(by_counting), *milli),
    }


def measured(database: Database, fields: int, rows: int, repeat: int) -> dict[str, str]:
    """Fill an empty database with one batch of `fields`, and time each way; by name, with its unit."""
    with database.begin() as conn:
        remember_model(conn, filling.model())
    filling.fill(database, fields, long=fields)
    tried = ways(database.dialect, rows)
    seconds: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(repeat):
        for name, (timed, _, _) in tried.items():
            with suppress(_UndoneError), database.begin() as conn:
                seconds[name].append(timed(conn))
                raise _UndoneError
    return {name: _shown(statistics.median(seconds[name]) * factor, unit) for name, (_, factor, unit) in tried.items()}


def _shown(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}" if value < 10 else f"{value:.1f} {unit}"


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """The ways of each database, in Markdown."""
    lines = ["| database | what, and how | |", "|---|---|---|"]
    lines += [f"| {database} | {name} | {cost} |" for database, costs in found.items() for name, cost in costs.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=200_000, help="of the batch that is read (default: 200000)")
    parser.add_argument("--rows", type=int, default=20_000, help="that are put in and set (default: 20000)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--database-url", help="a PostgreSQL server other than the one that comes with a package")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args(arguments)
    busy = [others_busy()]
    found = {}
    with measuring.apart(), ExitStack() as stack:
        servers: dict[str, str | None] = {}
        if "sqlite" in asked.databases:
            servers["SQLite"] = None
        if "postgresql" in asked.databases:
            servers["PostgreSQL"] = stack.enter_context(measuring.postgresql(asked.database_url))
        for name, server in servers.items():
            measuring.say(f"{name}: {asked.fields:,} fields")
            with measuring.new_installation(server) as (_, database):
                found[name] = measured(database, asked.fields, asked.rows, asked.repeat)
        busy.append(others_busy(measuring.started(servers, asked.database_url)))
    of = f"A batch of {asked.fields:,} fields, {asked.rows:,} rows put in and set, medians of {asked.repeat}"
    said = f"{of}; {measuring.told(measuring.machine())}.{noise(max(busy))}\n\n{table(found)}"
    measuring.shown(said, write=asked.write, page=measuring.PAGE, marks=(BEGIN, END))


if __name__ == "__main__":
    main()
