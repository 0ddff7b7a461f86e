"""Is the schema in the database the one that allq makes, with nothing that others let act on it?

Tables with their columns and constraints, indexes, views, triggers and their function are compared with what the
migrations make (`made`): as taken apart text on SQLite, by the catalogue and the server's own understanding on
PostgreSQL. What others have added beside may stay, but for what acts on allq's tables or could make allq's writing
fail.
"""

from __future__ import annotations

from sqlalchemy import Connection

from allq.errors import NoRight
from db.schema import on_postgresql, on_sqlite
from db.schema.difference import KINDS, Compared, Difference
from db.statements import on_sqlite as is_sqlite

__all__ = ["KINDS", "Compared", "Difference", "compare", "differences", "what_to_do"]


def compare(conn: Connection) -> Compared:
    """Where the database's schema is not the one that the migrations make, as far as this login may look."""
    return Compared(differences=list(on_sqlite.differences(conn))) if is_sqlite(conn) else on_postgresql.compare(conn)


def differences(conn: Connection) -> list[Difference]:
    """The same, of the whole schema. NoRight for a login that may not read every table and view."""
    found = compare(conn)
    if found.unread:
        raise NoRight(f"This login may not read the tables or views {', '.join(found.unread)}. {what_to_do()}")
    return found.differences


def what_to_do() -> str:
    """Of a login that may not read everything."""
    return (
        "As the database's superuser, run deploy/postgres/roles.sql again: each `allq db upgrade` needs it. A sealer's "
        "or a reader's login never may: look with a worker's or a reviewer's."
    )
