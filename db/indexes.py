"""Do the indexes on SQLite hold what their tables do?

An index that was made with another condition, and given the text of allq's by whoever owns the file, leaves rows out:
no query that goes by it shows them, nor does counting. Only looking for each row in each index tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from allq.errors import DatabaseDamaged
from db.damaged import despite_damage
from db.rows_told import Problem, Report
from db.schema import made
from db.statements import on_sqlite

_OF_INDEX: Final = re.compile(r".* index (\S+)", re.DOTALL)
"""How SQLite says it: "row 3 missing from index review_slide_id"."""


def compare(conn: Connection, report: Report, progress: Callable[[str, int, int], None]) -> None:
    """Name the indexes of allq's tables on SQLite, whosever, that do not hold what the tables do.

    With them, what else SQLite finds: a page that is damaged, a row that breaks a constraint. Up to a hundred of a
    table. It reads each row and goes for it to every index: about a microsecond for each where the file is in memory;
    beyond that it was not measured. On PostgreSQL it does nothing: `amcheck` does the same there, and is the
    laboratory's to run. StoreError where the file is busy or its disk full, which says nothing of the rows.
    """
    if not on_sqlite(conn):
        return
    here = {name for kind, name in made.sqlite_objects(conn) if kind == "table"}
    tables = sorted(name for kind, name in made.on_sqlite() if kind == "table" and name in here)
    for done, table in enumerate(tables):
        progress("Comparing indexes, by table", done, len(tables))
        for said in _said_of(conn, table):
            report(_problem(table, said))
    progress("Comparing indexes, by table", len(tables), len(tables))


def _said_of(conn: Connection, table: str) -> list[str]:
    statement = f"PRAGMA integrity_check({table})"
    try:
        said = despite_damage(conn, lambda: list(conn.exec_driver_sql(statement).scalars()))
    except (DBAPIError, DatabaseDamaged) as error:  # others' indexes may run what fails
        return [str(error.orig if isinstance(error, DBAPIError) else error)]
    return [one for one in said if one != "ok"]


def _problem(table: str, said: str) -> Problem:
    if found := _OF_INDEX.fullmatch(said):
        return Problem(table="index", row=found[1], what=f"does not hold what table {table} does: {said}")
    return Problem(table=table, row="somewhere", what=f"SQLite finds it damaged: {said}")
