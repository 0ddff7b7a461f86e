"""Do two spellings mean the same to the server?

It keeps views and conditions as trees, not as text, and spells them in its own way, which changes between versions. So
it is asked how it would answer from the one and from the other: plans are spelled by one hand. That needs no right but
to read the tables, and runs nothing. What a plan leaves out is compared by the words that the server spells it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from db.schema import catalogue, unplanned
from db.statements import run

_TIMES: Final = 3
"""A plan goes by statistics, which may be renewed between two questions: it is asked for again before it is told."""


def same_view(conn: Connection, view: str, select: str) -> bool:
    """Whether a view answers as the SELECT that it should be of. Names and types of the columns, which a plan does not
    have, are compared beside it.
    """
    spelled = run(conn, catalogue.VIEW, {"view": view}).scalar_one()
    return unplanned.same(spelled, select) and any(
        _answer(conn, view) == _answer(conn, f"({select}) AS {view}") for _ in range(_TIMES)
    )


def same_value(conn: Connection, one: str, other: str, *, source: str = "") -> bool:
    """Whether two expressions over a table, or of constants, mean the same."""
    plan = _plan(conn, f"SELECT ({one}), ({other}) {f'FROM ONLY {source}' if source else ''}")
    if isinstance(plan, str):  # one of them speaks of what is not there
        return False
    first, second = plan["Output"]
    return bool(first == second)


def _answer(conn: Connection, source: str) -> Sequence[Any]:
    plan = _plan(conn, f"SELECT * FROM {source}")
    if isinstance(plan, str):
        return [source, plan]
    cursor = conn.exec_driver_sql(f"SELECT * FROM {source.replace('%', '%%')} LIMIT 0").cursor
    columns = [(column[0], column[1]) for column in cursor.description or ()] if cursor else []
    return [plan, columns]


def _plan(conn: Connection, select: str) -> dict[str, Any] | str:
    """How the server would answer; of what it can't answer, why: its error's code."""
    try:
        with conn.begin_nested():
            found = conn.exec_driver_sql(f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {select.replace('%', '%%')}")
            plan: dict[str, Any] = found.scalar_one()[0]["Plan"]  # what stands beside it is the number of the query
            return plan
    except DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None))
