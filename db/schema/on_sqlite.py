"""The schema on SQLite: the text of each definition, which the file keeps as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from db.schema import ddl, made
from db.schema.difference import FOREIGN, MISSING, OTHER, Difference


def differences(conn: Connection) -> Iterator[Difference]:
    """Where the database's schema is not the one that the migrations make."""
    wanted, found = made.on_sqlite(), made.sqlite_objects(conn)
    for (kind, name), (table, sql) in sorted(wanted.items()):
        here = found.get((kind, name))
        if (
            here is None
            and kind in {"trigger", "index"}
            and ("table", table) in wanted
            and ("table", table) not in found
        ):
            continue  # gone with its table, which is told
        if here is None:
            yield Difference(kind=kind, name=name, what=MISSING, only_slower=_only_finds(kind, sql))
        elif kind == "table":
            yield from _table(name, sql, here[1])
        elif here[0] != table or _spelled(kind, here[1]) != _spelled(kind, sql):
            yield Difference(kind=kind, name=name, what=OTHER, only_slower=_only_finds(kind, sql, here[1]))
    tables = {ddl.small(name) for kind, name in wanted if kind in {"table", "view"}}
    for (kind, name), (table, sql) in sorted(found.items()):
        acts = kind == "trigger" or (kind == "index" and not _only_finds(kind, sql))
        if acts and ddl.small(table) in tables and (kind, name) not in wanted:
            yield Difference(kind=kind, name=name, what=f"on {table} {FOREIGN}")


def _only_finds(kind: str, *definitions: str) -> bool:
    """Whether it is an index that refuses nothing, by each of its definitions."""
    return kind == "index" and all(ddl.tokens(sql)[1] != "unique" for sql in definitions)


def _spelled(kind: str, sql: str) -> ddl.Tokens:
    return ddl.tokens(sql) if kind == "index" else ddl.quoted_tokens(sql)


def _table(name: str, wanted_sql: str, found_sql: str) -> Iterator[Difference]:
    wanted = ddl.table(wanted_sql)
    try:
        found = ddl.table(found_sql)
    except ValueError:
        yield Difference(kind="table", name=name, what=OTHER)
        return
    if wanted.options != found.options:
        yield Difference(kind="table", name=name, what=OTHER)
    yield from _columns(name, wanted, found)
    yield from _constraints(name, wanted.constraints, found.constraints)


def _columns(table: str, wanted: ddl.Table, found: ddl.Table) -> Iterator[Difference]:
    keys = {column for one in wanted.constraints if one.kind == "primary" for column in one.columns}
    for name, column in wanted.columns.items():
        here = found.columns.get(name)
        if here is None:
            yield Difference(kind="column", name=name, what=f"of {table} {MISSING}")
        elif here.clauses != column.clauses or _kept_as(here.type, name in keys) != _kept_as(column.type, name in keys):
            yield Difference(kind="column", name=name, what=f"of {table} {OTHER}")
    for name in sorted(found.twice):
        yield Difference(kind="column", name=name, what=f"of {table} stands there twice")
    for name, column in found.columns.items():
        if name not in wanted.columns and column.clauses:
            yield Difference(kind="column", name=name, what=f"of {table} {FOREIGN}")


_AFFINITIES: Final = (("int", "integer"), ("char", "text"), ("clob", "text"), ("text", "text"), ("blob", "blob"))
_REAL: Final = ("real", "floa", "doub")


def _kept_as(type_: str, is_key: bool) -> str:
    """How SQLite keeps what a column's type says ("Datatypes in SQLite", 3.1), however it is spelled.

    Of a key, whether it is the number of the row: INTEGER and no other spelling.
    """
    if is_key and type_ == "integer":
        return "row"
    affinity = next((kept for part, kept in _AFFINITIES if part in type_), None)
    if affinity is None and any(part in type_ for part in _REAL):
        affinity = "real"
    return affinity or ("numeric" if type_ else "blob")


def _constraints(
    table: str, wanted: tuple[ddl.Constraint, ...], found: tuple[ddl.Constraint, ...]
) -> Iterator[Difference]:
    missing = sorted(set(wanted) - set(found), key=lambda one: one.name)
    beside = list(found)
    for one in set(wanted) & set(found):
        beside.remove(one)  # once: SQLite lets two have one name
    for one in missing:
        other = next((here for here in beside if here.name == one.name), None)
        if other is not None:
            beside.remove(other)
        yield Difference(kind="constraint", name=one.name, what=f"of {table} {OTHER if other else MISSING}")
    for one in beside:
        yield Difference(kind="constraint", name=one.name or " ".join(one.text), what=f"of {table} {FOREIGN}")
