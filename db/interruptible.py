"""Ctrl-C and a sign of life while SQLite is at work on one statement.

SQLite runs a statement within one call, and Python serves no signal before that returns: minutes, where it looks for
each row in each index. But now and then it asks whether to go on, and Python answers. (psycopg waits for a server in a
way that serves signals by itself.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection

from db.statements import on_sqlite

STEPS: Final = 10_000
"""Of SQLite's machine, between two questions: well under a millisecond while nothing waits for the disk."""


@contextmanager
def interruptible(conn: Connection, tick: Callable[[], None]) -> Iterator[None]:
    """Within the block a signal ends a statement on SQLite with what its handler raises, as KeyboardInterrupt.

    `tick` is called all the while, and ends it in the same way. Nothing of this on PostgreSQL.
    """
    if not on_sqlite(conn):
        yield
        return
    driver: Any = conn.connection.dbapi_connection
    raised: list[BaseException] = []

    def ends() -> bool:
        try:
            tick()
        except BaseException as error:  # noqa: BLE001 - the driver would drop it; it is raised again below
            raised.append(error)
            return True
        return False

    driver.set_progress_handler(ends, STEPS)
    try:
        yield
    except KeyboardInterrupt:  # what `db.database` makes of a statement that was broken off
        if raised:
            raise raised[0] from None
        raise
    finally:
        driver.set_progress_handler(None, 0)
