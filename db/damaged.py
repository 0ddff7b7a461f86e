"""Reading rows that somebody has tampered with: text that is no UTF-8, times that Python has not.

allq never writes such values. They are read as something else, and so differ from what was sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from db.lines import is_time
from db.statements import known_moment, on_sqlite, plain_blocks

Found = TypeVar("Found")


def despite_damage(conn: Connection, read: Callable[[], Found]) -> Found:
    """What `read` finds; where the driver refuses a value, read once more by a connection that takes anything.

    It stays one that does, and so is nobody's afterwards: it is taken out of the pool, and closed instead.
    """
    try:
        return read()
    except DBAPIError as error:
        _take_anything_after(error, conn)
        return read()


def blocks(conn: Connection, template: str) -> Iterator[list[tuple[Any, ...]]]:
    """As `plain_blocks`, of a statement that orders its rows, and despite damage."""
    count = 0
    try:
        for block in plain_blocks(conn, template):
            yield block
            count += len(block)
    except DBAPIError as error:
        _take_anything_after(error, conn)
        for block in plain_blocks(conn, template):
            yield block[count:]
            count = max(0, count - len(block))


def _take_anything_after(error: DBAPIError, conn: Connection) -> None:
    if getattr(error.orig, "sqlstate", None) is not None:  # the server's own refusal, which ends the transaction
        raise error
    conn.detach()
    _take_anything(conn)


def readable_moment(value: Any) -> datetime | None:
    """A time of the database as an aware UTC datetime; None without one, and where somebody wrote one that is none."""
    return known_moment(value) if is_time(value) else None


def _take_anything(conn: Connection) -> None:
    driver: Any = conn.connection.dbapi_connection  # of a detached connection as well
    if on_sqlite(conn):
        driver.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        return
    from psycopg import DataError  # noqa: PLC0415 - absent from memory where SQLite is used
    from psycopg.types.datetime import TimestamptzLoader  # noqa: PLC0415

    class Anything(TimestamptzLoader):
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except DataError:
                return bytes(data).decode("ascii")

    driver.adapters.register_loader("timestamptz", Anything)
