"""The named queries in db/queries/*.sql: read, described, run. Each works on both databases, and in psql and sqlite3.

The top of a file is its documentation: first its description, then its parameters, one a line:

    -- The slides that most need a look, most suspicious first.
    -- :limit  integer = 20  at most so many slides
    -- :batch  integer       the batch (no default: must be given)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import Connection

from allq.errors import UsageError
from db.damaged import despite_damage, readable_moment
from db.records import QueryInfo, QueryParameter
from db.statements import run as execute

QUERIES = Path(__file__).parent / "queries"

_PARAMETER = re.compile(r"--\s*:(\w+)\s+(integer|real|text)(?:\s*=\s*(\S+))?\s\s*(.*)")
_TIMES = re.compile(r"_at$|^at$")


@cache
def names() -> list[QueryInfo]:
    """All named queries, by name."""
    return [_info(path) for path in sorted(QUERIES.glob("*.sql"))]


def find(name: str) -> QueryInfo:
    """The query of that name. UsageError names the nearest one, and the ones there are."""
    known = {info.name: info for info in names()}
    if name not in known:
        near = "".join(f" Did you mean {match}?" for match in get_close_matches(name, known, 1))
        raise UsageError(f"There is no query named {name!r}.{near} There are: {', '.join(known)}.")
    return known[name]


def sql(name: str) -> str:
    """The query's text, comments and all. UsageError for an unknown one."""
    return (QUERIES / f"{find(name).name}.sql").read_text("utf-8")


def run(
    conn: Connection, name: str, parameters: Mapping[str, str | int | float | None]
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Run a named query: its columns, and its rows as plain values (numbers, text, None, aware datetimes, booleans).

    A time that is none, which somebody wrote by hand, comes as the text that it is.

    Parameters may be given as text. UsageError for an unknown query, and for a wrong or missing parameter.
    """
    info = find(name)
    lines = sql(name).splitlines()
    # without the comments: a :name in them would be taken for a parameter
    statement = "\n".join(line for line in lines if not line.startswith("--"))
    values = _values(info, parameters)

    def read() -> tuple[list[str], Sequence[Any]]:
        result = execute(conn, statement, values)
        return list(result.keys()), result.all()

    columns, rows = despite_damage(conn, read)
    return columns, (tuple(_plain(column, value) for column, value in zip(columns, row, strict=True)) for row in rows)


def _info(path: Path) -> QueryInfo:
    description: list[str] = []
    parameters: list[QueryParameter] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("--"):
            break
        if found := _PARAMETER.fullmatch(line.rstrip()):
            name, kind, default, meaning = found.groups()
            parameters.append(
                QueryParameter(
                    name=name,
                    kind=cast(Literal["integer", "real", "text"], kind),
                    default=default,
                    required=default is None,
                    description=meaning.strip(),
                )
            )
        else:
            description.append(line.removeprefix("--").strip())
    return QueryInfo(name=path.stem, description=" ".join(description), parameters=tuple(parameters))


def _values(info: QueryInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {parameter.name for parameter in info.parameters}
    for name in given:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise UsageError(f"The query {info.name} has no parameter {name!r}. It takes: {takes}.")
    values: dict[str, Any] = {}
    for parameter in info.parameters:
        value = given.get(parameter.name, parameter.default)
        if value is None:
            raise UsageError(f"The query {info.name} needs {parameter.name}: {parameter.description}.")
        try:
            values[parameter.name] = {"integer": int, "real": float, "text": str}[parameter.kind](value)
        except ValueError:
            raise UsageError(f"{parameter.name} of the query {info.name} is {parameter.kind}, not {value!r}.") from None
    return values


def _plain(column: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime) or (isinstance(value, str) and _TIMES.search(column)):
        return readable_moment(value) or value
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if column in _BOOLEANS and value is not None:
        return bool(value)
    return str(value) if isinstance(value, date) else value


_BOOLEANS = frozenset({"synthetic", "linked", "duplicate", "overruled", "latest", "active"})
"""SQLite has no booleans of its own: these columns come as 0 and 1."""
