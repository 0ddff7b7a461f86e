"""SQL text in the dialect of the connection: one text for both databases, but for a few words.

    {now}          the database's clock, to the millisecond; never this machine's
    {lease}        that clock plus :lease_seconds
    {ago}          that clock minus :seconds
    {lock}         at the end of a SELECT: hold these rows until the transaction ends (SQLite's writer holds everything)
    {lock_free}    the same, leaving out rows that someone else holds
    {not_indexed}  after a table's name: read the table itself, whatever its indexes hold (on PostgreSQL it takes the
                   block `without_indexes` around the statement)

Rows are locked in one order, which keeps PostgreSQL free of deadlocks: batch, chunks ascending, findings by SHA-256,
slides ascending. Constants such as 'pending' stand in the text, so that partial indexes are seen to apply.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, TextClause, bindparam, text

_SQLITE = {
    "{now}": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    "{lease}": "strftime('%Y-%m-%d %H:%M:%f', 'now', (:lease_seconds) || ' seconds')",
    "{ago}": "strftime('%Y-%m-%d %H:%M:%f', 'now', (-:seconds) || ' seconds')",
    "{lock}": "",
    "{lock_free}": "",
    "{not_indexed}": "NOT INDEXED",
}
_POSTGRESQL = {
    "{now}": "date_trunc('milliseconds', clock_timestamp())",
    "{lease}": "date_trunc('milliseconds', clock_timestamp() + make_interval(secs => CAST(:lease_seconds AS float8)))",
    "{ago}": "clock_timestamp() - make_interval(secs => CAST(:seconds AS float8))",
    "{lock}": "FOR NO KEY UPDATE",
    "{lock_free}": "FOR NO KEY UPDATE SKIP LOCKED",
    "{not_indexed}": "",
}


MANY_ROWS: Final = "allq_many_rows"
"""The execution option of a statement whose rows are worth a binary format (`db.database` acts on it)."""

ROWS_AT_ONCE: Final = 10_000
TEXT_AT_ONCE: Final = 1 << 23
"""Rows, and characters of a column whose texts may be long, that `plain_blocks` has in memory at once."""

_FEW: Final = 100
_MANY: Final = 1_000
"""Rows that are asked for at once: before it is known how long they are, and where they are short."""

COPIED_ROWS: Final = "allq_copied_rows"
"""The execution option of a `COPY … FROM STDIN` that holds its rows (`db.database` sends them)."""


@cache
def _prepared(template: str, dialect: str, lists: tuple[str, ...]) -> TextClause:
    for name, spelled in (_SQLITE if dialect == "sqlite" else _POSTGRESQL).items():
        template = template.replace(name, spelled.replace("%H:%M:%f", r"%H\:%M\:%f"))
    return text(template).bindparams(*(bindparam(name, expanding=True) for name in lists))


def run(
    conn: Connection,
    template: str,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    *,
    lists: tuple[str, ...] = (),
    many_rows: bool = False,
    streamed: bool = False,
) -> CursorResult[*tuple[Any, ...]]:
    """Execute `template`. `lists` names the parameters that stand for several values: `id IN :ids`.

    With `many_rows`, PostgreSQL sends them in binary: numbers are neither written out there nor read here. With
    `streamed`, it keeps them until they are fetched, and the result is to be closed.
    """
    options = {MANY_ROWS: many_rows, "stream_results": streamed} if many_rows or streamed else None
    return conn.execute(_prepared(template, conn.dialect.name, lists), parameters or None, execution_options=options)


def plain_rows(
    conn: Connection,
    template: str,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    *,
    lists: tuple[str, ...] = (),
    many_rows: bool = False,
) -> list[tuple[Any, ...]]:
    """All rows of `template` as the driver's tuples: without names, in half the time, where there are a million."""
    found = run(conn, template, parameters, lists=lists, many_rows=many_rows)
    return list(found.cursor_strategy.fetchall(found, found.cursor))


def plain_blocks(
    conn: Connection,
    template: str,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    *,
    column: int = -1,
    lists: tuple[str, ...] = (),
    many_rows: bool = False,
) -> Generator[list[tuple[Any, ...]]]:
    """All rows of `template` as the driver's tuples, block by block, fetched as they are taken.

    A block is of ROWS_AT_ONCE, or of as many as have TEXT_AT_ONCE characters in the column of that number, and some.
    """
    if not on_sqlite(conn):  # else a plan is chosen that has the first rows soon, and all of them late
        conn.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1")
    found = run(conn, template, parameters, lists=lists, many_rows=many_rows, streamed=True)
    block: list[tuple[Any, ...]] = []
    size, ask_for = 0, _FEW
    try:
        while rows := list(found.cursor_strategy.fetchmany(found, found.cursor, ask_for)):
            block += rows
            of_these = sum(len(text) for row in rows if isinstance(text := row[column], str))
            size += of_these
            ask_for = max(1, min(_MANY, ROWS_AT_ONCE - len(block), TEXT_AT_ONCE // 4 * len(rows) // (of_these + 1)))
            if size >= TEXT_AT_ONCE or len(block) >= ROWS_AT_ONCE:
                yield block
                block, size = [], 0
        if block:
            yield block
    finally:
        found.close()


_ACCESS: Final = {
    "enable_seqscan": "on",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "enable_bitmapscan": "off",
}


@contextmanager
def without_indexes(conn: Connection) -> Iterator[None]:
    """Let PostgreSQL read tables themselves in the block, as {not_indexed} does on SQLite. An error ends the
    transaction there, and these settings with it.
    """
    if on_sqlite(conn):
        yield
        return
    asked = ", ".join(f"current_setting('{name}')" for name in _ACCESS)
    settings = conn.exec_driver_sql(f"SELECT {asked}").one()
    for name, value in _ACCESS.items():
        conn.exec_driver_sql(f"SET LOCAL {name} = {value}")
    yield
    for name, value in zip(_ACCESS, settings, strict=True):
        conn.exec_driver_sql(f"SET LOCAL {name} = {value}")


def on_sqlite(conn: Connection) -> bool:
    """True on SQLite, False on PostgreSQL: for the few statements that differ in more than a word."""
    return conn.dialect.name == "sqlite"


def timed(conn: Connection, column: str) -> tuple[str, str]:
    """What an INSERT says of the time in its last column: the column and its value, as further items of the lists.

    Nothing on PostgreSQL, where the server sets it: only the table's owner may choose one.
    """
    return (f", {column}", ", {now}") if on_sqlite(conn) else ("", "")


def moment(value: Any) -> datetime | None:
    """A time as the database gives it, as an aware UTC datetime."""
    return None if value is None else known_moment(value)


def known_moment(value: Any) -> datetime:
    """The same of a column that is never null."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    found: datetime = value
    return found.astimezone(UTC)


def flags_of(value: str | None) -> tuple[str, ...]:
    """Names of flags from a column that holds them separated by commas."""
    return tuple(value.split(",")) if value else ()


def flags_text(flags: Sequence[str]) -> str:
    """The same way back."""
    if any("," in flag or not flag for flag in flags):
        raise ValueError(f"A flag's name is empty or has a comma in it: {flags!r}")
    return ",".join(flags)
