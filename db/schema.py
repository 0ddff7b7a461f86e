"""Is the schema in the database the one that allq makes? Triggers, views, indexes and constraints, by name.

What is expected is what the migrations make, and stands nowhere else: on SQLite they are run on an empty database in
memory, whose definitions are compared as text; for PostgreSQL their statements are collected as `alembic upgrade --sql`
would print them. A server keeps a view as a tree, not as text, and spells it in its own way, which changes between
versions. So a view is compared by its plan: the server is asked how it would answer from the view, and how from the
SELECT that the view was made by. That needs no right but to read the tables. Names and types of the columns, which a
plan does not have, are compared beside it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from allq.errors import NoRight
from db import migrate
from db.database import Database
from db.statements import on_sqlite, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something of the schema that is not as allq makes it. `kind`: trigger, function, view, table, index, …"""

    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.what}"


MISSING: Final = "is missing"
_OTHER: Final = "is not as allq makes it"
_FOREIGN: Final = "is none of allq's"
KINDS: Final = frozenset({"trigger", "function", "view", "table", "index", "constraint", "rule", "setting"})


def differences(conn: Connection) -> list[Difference]:
    """Where the database's schema is not the one that the migrations make; what others have added beside it may stay,
    but for what acts on allq's tables.

    NoRight for a login that may not read the tables.
    """
    return list(_on_sqlite(conn) if on_sqlite(conn) else _on_postgresql(conn))


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
def _made_on_sqlite() -> dict[tuple[str, str], tuple[str, str]]:
    """(kind, name) -> (table, definition), of a database that the migrations have just made."""
    empty = Database.at("sqlite://")
    try:
        with _in_silence():
            migrate.upgrade(empty)
        with empty.read() as conn:
            return _sqlite_objects(conn)
    finally:
        empty.close()


def _sqlite_objects(conn: Connection) -> dict[tuple[str, str], tuple[str, str]]:
    return {(kind, name): (table, sql) for kind, name, table, sql in run(conn, _SQLITE_OBJECTS)}


def _on_sqlite(conn: Connection) -> Iterator[Difference]:
    made, found = _made_on_sqlite(), _sqlite_objects(conn)
    for (kind, name), (table, sql) in sorted(made.items()):
        here = found.get((kind, name))
        if here is None:
            yield Difference(kind=kind, name=name, what=MISSING)
        elif kind == "table":  # spelled by SQLAlchemy, and by another version otherwise
            for constraint in sorted(_constraints(sql) - _constraints(here[1])):
                yield Difference(kind="constraint", name=constraint[0], what=f"of {name} {MISSING}")
        elif here[0] != table or _spelled(kind, here[1]) != _spelled(kind, sql):
            yield Difference(kind=kind, name=name, what=_OTHER)
    tables = {name.casefold() for kind, name in made if kind in {"table", "view"}}
    for (kind, name), (table, _) in sorted(found.items()):
        if kind == "trigger" and table.casefold() in tables and (kind, name) not in made:
            yield Difference(kind=kind, name=name, what=f"on {table} {_FOREIGN}")


def _spelled(kind: str, sql: str) -> str:
    return " ".join(sql.replace('"', "").split()) if kind == "index" else sql


_CONSTRAINT: Final = re.compile(r"\bCONSTRAINT \"?(\w+)\"? (CHECK|PRIMARY KEY|UNIQUE|FOREIGN KEY)")


def _constraints(sql: str) -> set[tuple[str, str]]:
    return {(found[1], found[2]) for found in _CONSTRAINT.finditer(sql)}


# PostgreSQL


class _Printed(list[str]):
    """A file that Alembic prints its statements to, each by one `write`."""

    def write(self, statement: str) -> None:
        self.append(statement.strip().removesuffix(";"))

    def flush(self) -> None:
        """Nothing waits."""


@dataclass(slots=True)
class _Made:
    """What the migrations' statements leave behind on PostgreSQL."""

    tables: set[str] = field(default_factory=set)
    constraints: dict[tuple[str, str], str] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    triggers: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)
    indexes: dict[str, tuple[Any, ...]] = field(default_factory=dict)


_VIEW: Final = re.compile(r"CREATE (?:OR REPLACE )?VIEW (\w+) (?:WITH \((\w+) = (\w+)\) )?AS\s+(.*)", re.DOTALL)
_FUNCTION: Final = re.compile(
    r"CREATE (?:OR REPLACE )?FUNCTION (\w+)\(\) RETURNS trigger LANGUAGE plpgsql AS \$\$(.*)\$\$", re.DOTALL
)
_TRIGGER: Final = re.compile(
    r"CREATE (?:OR REPLACE )?TRIGGER (\w+) (BEFORE|AFTER) ([A-Z ]+?) ON (\w+) FOR EACH (STATEMENT|ROW) "
    r"EXECUTE FUNCTION (\w+)\(\)"
)
_INDEX: Final = re.compile(r"CREATE (UNIQUE )?INDEX (\w+) ON (\w+) \((\w+(?:, \w+)*)\)( WHERE .*)?", re.DOTALL)
_TABLE: Final = re.compile(r"CREATE TABLE (\w+) \(.*\)", re.DOTALL)
_ADDED: Final = re.compile(r"ALTER TABLE (\w+) ADD CONSTRAINT .*", re.DOTALL)
_REMOVED: Final = re.compile(r"ALTER TABLE (\w+) DROP CONSTRAINT (\w+)")
_DROPPED: Final = re.compile(r"DROP (TABLE|VIEW|FUNCTION|INDEX) (?:IF EXISTS )?(\w+)(?:\(\))?")
_TRIGGER_DROPPED: Final = re.compile(r"DROP TRIGGER (?:IF EXISTS )?(\w+) ON (\w+)")


def statements() -> list[str]:
    """The migrations' statements on PostgreSQL, without those that carry data over."""
    # imported here: commands that look at no schema must not pay for Alembic
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.operations import Operations  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415

    printed = _Printed()
    context = MigrationContext.configure(
        dialect=postgresql.dialect(paramstyle="named"),  # type: ignore[no-untyped-call]
        opts={"as_sql": True, "output_buffer": printed},
    )
    revisions = reversed(list(ScriptDirectory(str(migrate.SCRIPTS)).walk_revisions()))
    with Operations.context(context):
        for revision in revisions:
            revision.module.upgrade()
    return printed


@cache
def _made_on_postgresql() -> _Made:
    made = _Made()
    with _in_silence():
        printed = statements()
    for statement in printed:
        _take(made, statement)
    return made


def _take(made: _Made, statement: str) -> None:
    if found := _VIEW.fullmatch(statement):
        made.views[found[1]] = found[4]
        made.options[found[1]] = [f"{found[2]}={found[3]}"] if found[2] else []
    elif found := _FUNCTION.fullmatch(statement):
        made.functions[found[1]] = found[2]
    elif found := _TRIGGER.fullmatch(statement):
        made.triggers[found[4], found[1]] = _trigger(statement)
    elif found := _INDEX.fullmatch(statement):
        made.indexes[found[2]] = (found[3], bool(found[1]), tuple(found[4].split(", ")), bool(found[5]))
    elif found := _TABLE.fullmatch(statement):
        made.tables.add(found[1])
        made.constraints |= {(found[1], name): kind for name, kind in _constraints(statement)}
    elif found := _ADDED.fullmatch(statement):
        made.constraints |= {(found[1], name): kind for name, kind in _constraints(statement)}
    elif found := _REMOVED.fullmatch(statement):
        made.constraints.pop((found[1], found[2]), None)
    elif found := _TRIGGER_DROPPED.fullmatch(statement):
        made.triggers.pop((found[2], found[1]), None)
    elif found := _DROPPED.fullmatch(statement):
        _drop(made, found[1], found[2])


def _drop(made: _Made, kind: str, name: str) -> None:
    named: dict[str, dict[str, Any]] = {"VIEW": made.views, "FUNCTION": made.functions, "INDEX": made.indexes}
    named.get(kind, {}).pop(name, None)
    if kind == "TABLE":
        made.tables.discard(name)
        made.constraints = {key: value for key, value in made.constraints.items() if key[0] != name}
        made.triggers = {key: value for key, value in made.triggers.items() if key[0] != name}
        made.indexes = {key: value for key, value in made.indexes.items() if value[0] != name}


def _trigger(definition: str) -> tuple[Any, ...]:
    """What a trigger does, however the statement is spelled; of one that allq would not write, the statement."""
    found = _TRIGGER.fullmatch(definition)
    return (found[2], frozenset(found[3].split(" OR ")), found[5], found[6]) if found else (definition,)


_OURS: Final = "(SELECT relnamespace FROM pg_class WHERE oid = to_regclass('event'))"
_RELATIONS: Final = f"""
    SELECT c.relname, c.relkind::text, c.relrowsecurity, coalesce(c.reloptions, '{{}}') FROM pg_class c
    WHERE c.relnamespace = {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_TRIGGERS: Final = f"""
    SELECT c.relname, t.tgname, t.tgenabled::text, t.tgisinternal, pg_get_triggerdef(t.oid, true), p.proname,
           p.prosrc, l.lanname, p.proconfig IS NULL
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_language l ON l.oid = p.prolang
    WHERE c.relnamespace = {_OURS} ORDER BY c.relname, t.tgname
"""
_INDEXES: Final = f"""
    SELECT i.relname, c.relname, x.indisunique,
           ARRAY(SELECT pg_get_indexdef(x.indexrelid, k, true) FROM generate_series(1, x.indnkeyatts) k),
           x.indpred IS NOT NULL, x.indisvalid
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
    WHERE c.relnamespace = {_OURS}
"""
_CONSTRAINTS: Final = f"""
    SELECT c.relname, k.conname, k.contype::text, k.convalidated
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = {_OURS}
"""
_RULES: Final = f"""
    SELECT tablename, rulename FROM pg_rules
    WHERE schemaname = (SELECT nspname FROM pg_namespace WHERE oid = {_OURS}) ORDER BY tablename, rulename
"""
_TYPE: Final = {"CHECK": "c", "PRIMARY KEY": "p", "UNIQUE": "u", "FOREIGN KEY": "f"}
_FIRES: Final = frozenset({"O", "A"})
"""`tgenabled`: in a session as every other (origin), or always."""


def _on_postgresql(conn: Connection) -> Iterator[Difference]:
    made = _made_on_postgresql()
    if run(conn, "SELECT current_setting('session_replication_role')").scalar() == "replica":
        yield Difference(
            kind="setting", name="session_replication_role", what="is replica for this login: no trigger fires"
        )
    relations = {name: (kind, hides, options) for name, kind, hides, options in run(conn, _RELATIONS)}
    yield from _tables(made, relations)
    yield from _triggers(conn, made)
    for table, name in run(conn, _RULES):
        if table in made.tables or table in made.views:
            yield Difference(kind="rule", name=name, what=f"on {table} {_FOREIGN}")
    found = {(table, name): (kind, valid) for table, name, kind, valid in run(conn, _CONSTRAINTS)}
    for (table, name), kind in sorted(made.constraints.items()):
        if table in relations and found.get((table, name)) != (_TYPE[kind], True):
            yield Difference(kind="constraint", name=name, what=f"of {table} {MISSING}")
    yield from _indexes(conn, made)
    for name, select in sorted(made.views.items()):
        if name not in relations:
            yield Difference(kind="view", name=name, what=MISSING)
        elif relations[name][::2] != ("v", made.options[name]) or not _answers_alike(conn, name, select):
            yield Difference(kind="view", name=name, what=_OTHER)


def _tables(made: _Made, relations: dict[str, tuple[str, bool, list[str]]]) -> Iterator[Difference]:
    for name in sorted(made.tables):
        kind, hides, _ = relations.get(name, ("", False, []))
        if kind != "r":
            yield Difference(kind="table", name=name, what="is no table of its own" if kind else MISSING)
        elif hides:
            yield Difference(kind="table", name=name, what="has row security, which allq does not use: it hides rows")


def _triggers(conn: Connection, made: _Made) -> Iterator[Difference]:
    missing, off, other = dict.fromkeys(made.triggers), set[str](), set[str]()
    for table, name, enabled, internal, definition, function, source, language, plain in run(conn, _TRIGGERS):
        if table not in made.tables and table not in made.views:
            continue
        if internal:
            if enabled not in _FIRES:
                off.add(table)
            continue
        wanted = made.triggers.get((table, name))
        if wanted is None:
            yield Difference(kind="trigger", name=name, what=f"on {table} {_FOREIGN}")
            continue
        del missing[table, name]
        if enabled not in _FIRES:
            yield Difference(kind="trigger", name=name, what="is switched off")
        elif _trigger(definition) != wanted:
            yield Difference(kind="trigger", name=name, what=_OTHER)
        elif (source, language, plain) != (made.functions.get(function), "plpgsql", True):
            other.add(function)
    for _, name in missing:
        yield Difference(kind="trigger", name=name, what=MISSING)
    for function in sorted(other):
        yield Difference(kind="function", name=function, what=f"{_OTHER}: its triggers refuse something else")
    for table in sorted(off):
        yield Difference(kind="table", name=table, what="has its foreign keys switched off")


def _indexes(conn: Connection, made: _Made) -> Iterator[Difference]:
    found = {
        name: ((table, unique, tuple(columns), partial), valid)
        for name, table, unique, columns, partial, valid in run(conn, _INDEXES)
    }
    for name, wanted in sorted(made.indexes.items()):
        here, valid = found.get(name, (None, False))
        if here is None:
            yield Difference(kind="index", name=name, what=MISSING)
        elif here != wanted:
            yield Difference(kind="index", name=name, what=_OTHER)
        elif not valid:
            yield Difference(kind="index", name=name, what="is not valid: it was never finished")


_TIMES: Final = 3
"""A plan goes by statistics, which may be renewed between two questions: it is asked for again before it is told."""


def _answers_alike(conn: Connection, view: str, select: str) -> bool:
    return any(_answer(conn, view) == _answer(conn, f"({select}) AS {view}") for _ in range(_TIMES))


def _answer(conn: Connection, source: str) -> Sequence[Any]:
    """How the server would answer from `source`, and with which columns; of what it can't answer, why."""
    source = source.replace("%", "%%")
    try:
        with conn.begin_nested():
            found = conn.exec_driver_sql(f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT * FROM {source}")
            plan = found.scalar_one()[0]["Plan"]  # what stands beside it is the number of the query
            cursor = conn.exec_driver_sql(f"SELECT * FROM {source} LIMIT 0").cursor
            columns = [(column[0], column[1]) for column in cursor.description or ()] if cursor else []
    except NoRight:
        raise NoRight(
            "This login may not read the tables that the views are of: look with a worker's or a reviewer's login."
        ) from None
    except DBAPIError as error:
        return [source, getattr(error.orig, "sqlstate", None)]
    return [plan, columns]
