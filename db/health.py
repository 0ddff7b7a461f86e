"""What `allq doctor` asks the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from db.statements import known_moment, run


def now(conn: Connection) -> datetime:
    """The database's clock."""
    return known_moment(run(conn, "SELECT {now}").scalar_one())
