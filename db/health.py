"""What `allq doctor` asks the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from db.statements import moment, run


def now(conn: Connection) -> datetime:
    """The database's clock."""
    found = moment(run(conn, "SELECT {now}").scalar_one())
    assert found is not None  # noqa: S101 - a clock always answers
    return found
