"""What the migrations make, which is what is expected; it stands nowhere else.

On SQLite they are run on an empty database in memory. For PostgreSQL their statements are collected as `alembic upgrade
--sql` would print them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection

from db import migrate
from db.database import Database
from db.schema import ddl
from db.statements import run


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without Alembic's log: "running upgrade" would be taken for one of the database that is looked at."""
    logger = logging.getLogger("alembic")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


# SQLite


_SQLITE_OBJECTS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"


@cache
def on_sqlite() -> dict[tuple[str, str], tuple[str, str]]:
    """(kind, name) -> (table, definition), of a database that the migrations have just made."""
    empty = Database.at("sqlite://")
    try:
        with _in_silence():
            migrate.upgrade(empty)
        with empty.read() as conn:
            return sqlite_objects(conn)
    finally:
        empty.close()


def sqlite_objects(conn: Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """The same of any database."""
    return {(kind, name): (table, sql) for kind, name, table, sql in run(conn, _SQLITE_OBJECTS)}


# PostgreSQL


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index; `where`: the condition of a partial one."""

    table: str
    unique: bool
    columns: tuple[str, ...]
    where: str | None


@dataclass(slots=True)
class Made:
    """What the migrations' statements leave behind on PostgreSQL.

    Constraints and triggers are found by table and name. `options`: a view's, as the catalogue has them.
    """

    columns: dict[str, dict[str, ddl.Column]] = field(default_factory=dict)
    constraints: dict[tuple[str, str], ddl.Constraint] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    triggers: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)

    @property
    def tables(self) -> set[str]:
        """Their names."""
        return set(self.columns)

    def not_null(self, table: str) -> set[str]:
        """Columns that are never empty: they say so, or a primary key does."""
        keys = (one for (of, _), one in self.constraints.items() if of == table and one.kind == "primary")
        said = {name for name, column in self.columns[table].items() if column.not_null}
        return said.union(*(key.columns for key in keys))


_VIEW: Final = re.compile(r"CREATE (?:OR REPLACE )?VIEW (\w+) (?:WITH \((\w+) = (\w+)\) )?AS\s+(.*)", re.DOTALL)
_FUNCTION: Final = re.compile(
    r"CREATE (?:OR REPLACE )?FUNCTION (\w+)\(\) RETURNS trigger LANGUAGE plpgsql AS \$\$(.*)\$\$", re.DOTALL
)
_TRIGGER: Final = re.compile(
    r"CREATE (?:OR REPLACE )?TRIGGER (\w+) (BEFORE|AFTER) ([A-Z ]+?) ON (\w+) FOR EACH (STATEMENT|ROW) "
    r"EXECUTE FUNCTION (\w+)\(\)"
)
_INDEX: Final = re.compile(r"CREATE (UNIQUE )?INDEX (\w+) ON (\w+) \((\w+(?:, \w+)*)\)(?: WHERE (.*))?", re.DOTALL)
_TABLE: Final = re.compile(r"CREATE TABLE (\w+) \(.*\)", re.DOTALL)
_ADDED: Final = re.compile(r"ALTER TABLE (\w+) ADD (CONSTRAINT .*)", re.DOTALL)
_COLUMN_ADDED: Final = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (.*)", re.DOTALL)
_DEFAULT_SET: Final = re.compile(r"ALTER TABLE (\w+) ALTER COLUMN (\w+) SET (DEFAULT .*)", re.DOTALL)
_REMOVED: Final = re.compile(r"ALTER TABLE (\w+) DROP CONSTRAINT (\w+)")
_DROPPED: Final = re.compile(r"DROP (TABLE|VIEW|FUNCTION|INDEX) (?:IF EXISTS )?(\w+)(?:\(\))?")
_TRIGGER_DROPPED: Final = re.compile(r"DROP TRIGGER (?:IF EXISTS )?(\w+) ON (\w+)")


@cache
def on_postgresql() -> Made:
    """What the migrations leave behind. ValueError for a statement that nobody has thought of here."""
    from db.schema.printed import statements  # noqa: PLC0415 - Alembic: workers go without it in their memory

    made = Made()
    with _in_silence():
        printed = statements()
    for statement in printed:
        _take(made, statement)
    return made


def _take(made: Made, statement: str) -> None:
    if found := _VIEW.fullmatch(statement):
        made.views[found[1]] = found[4]
        made.options[found[1]] = [f"{found[2]}={found[3]}"] if found[2] else []
    elif found := _FUNCTION.fullmatch(statement):
        made.functions[found[1]] = found[2]
    elif found := _TRIGGER.fullmatch(statement):
        made.triggers[found[4], found[1]] = trigger(statement)
    elif found := _INDEX.fullmatch(statement):
        made.indexes[found[2]] = Index(
            table=found[3], unique=bool(found[1]), columns=tuple(found[4].split(", ")), where=found[5]
        )
    elif found := _TABLE.fullmatch(statement):
        table = ddl.table(statement)
        made.columns[found[1]] = table.columns
        made.constraints |= {(found[1], one.name): one for one in table.constraints}
    elif found := _DROPPED.fullmatch(statement):
        _drop(made, found[1], found[2])
    elif found := _TRIGGER_DROPPED.fullmatch(statement):
        made.triggers.pop((found[2], found[1]), None)
    else:
        _alter(made, statement)


def _alter(made: Made, statement: str) -> None:
    if found := _ADDED.fullmatch(statement):
        constraint = ddl.constraint(ddl.tokens(found[2]))
        made.constraints[found[1], constraint.name] = constraint
    elif found := _REMOVED.fullmatch(statement):
        made.constraints.pop((found[1], found[2]), None)
    elif found := _COLUMN_ADDED.fullmatch(statement):
        name, *words = ddl.tokens(found[2])
        made.columns[found[1]][name] = ddl.column(words)
    elif found := _DEFAULT_SET.fullmatch(statement):
        columns = made.columns[found[1]]
        columns[found[2]] = columns[found[2]].with_default(ddl.tokens(found[3]))
    else:
        raise ValueError(f"A migration does what the look at the schema does not know: {statement}")


def _drop(made: Made, kind: str, name: str) -> None:
    named: dict[str, dict[str, Any]] = {"VIEW": made.views, "FUNCTION": made.functions, "INDEX": made.indexes}
    named.get(kind, {}).pop(name, None)
    if kind == "TABLE":
        made.columns.pop(name, None)
        made.constraints = {key: value for key, value in made.constraints.items() if key[0] != name}
        made.triggers = {key: value for key, value in made.triggers.items() if key[0] != name}
        made.indexes = {key: value for key, value in made.indexes.items() if value.table != name}


def trigger(definition: str) -> tuple[Any, ...]:
    """What a trigger does, however the statement is spelled; of one that allq would not write, the statement."""
    found = _TRIGGER.fullmatch(definition)
    return (found[2], frozenset(found[3].split(" OR ")), found[5], found[6]) if found else (definition,)
