"""What `allq doctor` asks the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from db.database import Database
from db.statements import known_moment, on_sqlite, run


def now(conn: Connection) -> datetime:
    """The database's clock."""
    return known_moment(run(conn, "SELECT {now}").scalar_one())


def require_writable(database: Database) -> None:
    """Raise StoreError, with what to do, when nothing can be written just now."""
    with database.begin() as conn:
        run(conn, "UPDATE batch SET fields = fields WHERE id = -1")  # a worker's role may


def forgetful(conn: Connection) -> list[str]:
    """Settings of a PostgreSQL server with which a power cut, or a crash, loses what was committed."""
    if on_sqlite(conn):
        return []
    found = run(
        conn,
        "SELECT name FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')"
        " AND setting = 'off' ORDER BY name",
    )
    return list(found.scalars())
