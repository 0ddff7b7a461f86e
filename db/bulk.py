"""Many rows at once, the way each driver likes it: executemany on SQLite, COPY and unnest() on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from db.statements import COPIED_ROWS, on_sqlite, run

Row = Sequence[Any]


def insert(conn: Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Append rows, in their order."""
    if not rows:
        return
    names = ", ".join(columns)
    if on_sqlite(conn):
        _executemany(conn, f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})", rows)
        return
    # through SQLAlchemy, so that an error on the way is told as that of any other statement
    conn.exec_driver_sql(f"COPY {table} ({names}) FROM STDIN", execution_options={COPIED_ROWS: rows})


def insert_few(conn: Connection, table: str, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
    """The same for few small rows: on PostgreSQL in one round trip, a COPY takes two. `columns` as in `update`."""
    if not rows or on_sqlite(conn):
        insert(conn, table, tuple(columns), rows)
        return
    run(conn, _insert_few_statement(table, tuple(columns.items())), _by_column(columns, rows))


def update(conn: Connection, table: str, columns: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Set columns of rows found by their key. `columns`: name -> PostgreSQL type, the key first; rows in that order."""
    if not rows:
        return
    if on_sqlite(conn):
        key, *others = columns
        marks = ", ".join(f"{name} = ?" for name in others)
        _executemany(conn, f"UPDATE {table} SET {marks} WHERE {key} = ?", [(*row[1:], row[0]) for row in rows])
        return
    run(conn, _update_statement(table, tuple(columns.items())), _by_column(columns, rows))


def _executemany(conn: Connection, statement: str, rows: Sequence[Row]) -> None:
    conn.exec_driver_sql(statement, [tuple(row) for row in rows])


def insert_missing(
    conn: Connection, table: str, columns: Mapping[str, str], rows: Sequence[Row], *, order: str, told: Sequence[str]
) -> Sequence[Row]:
    """PostgreSQL: append the rows that no unique key refuses; return the columns `told` of those appended.

    They are taken in the order of the column `order`: two transactions with the same rows then wait for each other
    instead of locking each other out.
    """
    statement = _insert_statement(table, tuple(columns.items()), order, tuple(told))
    return run(conn, statement, _by_column(columns, rows)).all()


def allocate(conn: Connection, table: str, count: int) -> list[int]:
    """Identity keys for `count` rows to come. On SQLite the caller holds the write lock until they are there.

    On PostgreSQL keys of rows that somebody has put in ahead of the sequence are passed over.
    """
    if count == 0:
        return []
    if on_sqlite(conn):
        last = run(conn, f"SELECT coalesce(max(id), 0) FROM {table}").scalar_one()
        return list(range(last + 1, last + 1 + count))
    statement = f"""
        WITH drawn AS MATERIALIZED (
            SELECT nextval(pg_get_serial_sequence('{table}', 'id')) AS id FROM generate_series(1, :count)
        )
        SELECT id FROM drawn WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.id = drawn.id)
    """
    found: list[int] = []
    more = count
    while len(found) < count:  # doubled, so that however many were put in ahead are soon passed
        found += run(conn, statement, {"count": more}).scalars()
        more *= 2
    return sorted(found)[:count]


def _by_column(columns: Mapping[str, str], rows: Sequence[Row]) -> dict[str, str]:
    """Each column as the text of an array. Psycopg's own dumper of lists takes four times as long."""
    return {
        name: "{" + ",".join(map(_ELEMENT.get(kind, _number), map(itemgetter(at), rows))) + "}"
        for at, (name, kind) in enumerate(columns.items())
    }


def _number(value: float | None) -> str:
    return "NULL" if value is None else repr(value)


def _boolean(value: bool | None) -> str:
    return "NULL" if value is None else "t" if value else "f"


def _text(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def _bytes(value: bytes | None) -> str:
    return "NULL" if value is None else f'"\\\\x{value.hex()}"'


def _time(value: datetime | None) -> str:
    return "NULL" if value is None else f'"{value.isoformat()}"'


_ELEMENT: Mapping[str, Callable[[Any], str]] = {
    "boolean": _boolean,
    "text": _text,
    "bytea": _bytes,
    "timestamptz": _time,
}
"""How an element of an array is written, by the column's type; the others are numbers."""


@cache
def _update_statement(table: str, columns: tuple[tuple[str, str], ...]) -> str:
    key = columns[0][0]
    return (
        f"UPDATE {table} SET {', '.join(f'{name} = new.{name}' for name, _ in columns[1:])} "
        f"FROM {_unnested(columns)} WHERE {table}.{key} = new.{key}"
    )


@cache
def _insert_few_statement(table: str, columns: tuple[tuple[str, str], ...]) -> str:
    names = ", ".join(name for name, _ in columns)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {_unnested(columns)}"


@cache
def _insert_statement(table: str, columns: tuple[tuple[str, str], ...], order: str, told: tuple[str, ...]) -> str:
    names = ", ".join(name for name, _ in columns)
    return (
        f"INSERT INTO {table} ({names}) SELECT {names} FROM {_unnested(columns)} ORDER BY {order} "
        f"ON CONFLICT DO NOTHING RETURNING {', '.join(told)}"
    )


def _unnested(columns: tuple[tuple[str, str], ...]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns)
    return f"unnest({arrays}) AS new ({', '.join(name for name, _ in columns)})"
