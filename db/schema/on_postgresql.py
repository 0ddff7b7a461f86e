"""The schema on PostgreSQL: the catalogue, and what the server understands by views and conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection

from db.schema import catalogue, ddl, explained, made, roles_settings
from db.schema.difference import FOREIGN, HIDDEN, MISSING, NO_TABLE, OTHER, Compared, Difference
from db.schema.made import Made
from db.statements import run


def compare(conn: Connection) -> Compared:
    """Where the database's schema is not the one that the migrations make."""
    wanted = made.on_postgresql()
    relations = {row.relname: row for row in run(conn, catalogue.RELATIONS)}
    ours = wanted.tables | wanted.views.keys()
    unread = [name for name in sorted(ours & relations.keys()) if not relations[name].readable]
    hidden = {name for name in ours & relations.keys() if not relations[name].visible}
    look = _Look(conn, wanted, relations, blind=hidden | set(unread))
    found = list(look.differences())
    if not unread and not hidden:  # a view's plan needs the right to read all tables that it is of
        found += look.views()
    return Compared(differences=found, unread=unread)


_FIRES: Final = frozenset({"O", "A"})
"""`tgenabled`: in a session as every other (origin), or always."""
_TYPE: Final = {"check": "c", "primary": "p", "unique": "u", "foreign": "f"}


class _Look:
    """One comparison. Conditions of tables in `blind` can't be compared."""

    def __init__(self, conn: Connection, wanted: Made, relations: dict[str, Any], *, blind: set[str]) -> None:
        self._conn = conn
        self._made = wanted
        self._relations = relations
        self._blind = blind
        self._there = {name for name in wanted.tables if name in relations and relations[name].relkind == "r"}

    def differences(self) -> Iterator[Difference]:
        """Of all but the views' contents."""
        yield from roles_settings.differences(self._conn, sorted(self._made.tables | self._made.views.keys()))
        yield from self._tables()
        yield from self._relatives()
        yield from self._columns()
        yield from self._triggers()
        for table, name in run(self._conn, catalogue.RULES):
            if table in self._made.tables or table in self._made.views:
                yield Difference(kind="rule", name=name, what=f"on {table} {FOREIGN}")
        yield from self._constraints()
        yield from self._indexes()
        yield from self._running()
        for name in sorted(self._made.views):
            if name not in self._relations:
                yield Difference(kind="view", name=name, what=MISSING)
            elif self._relations[name].relkind != "v" or self._relations[name].options != self._made.options[name]:
                yield Difference(kind="view", name=name, what=OTHER)
            elif not self._relations[name].visible:
                yield Difference(kind="view", name=name, what=HIDDEN)

    def _is_lost(self, table: str) -> bool:
        """Whether a table is gone, which is told, and what belonged to it went with it."""
        return table in self._made.tables and table not in self._relations

    def views(self) -> Iterator[Difference]:
        """Views whose rows or columns are not those that allq's would show."""
        for name, select in sorted(self._made.views.items()):
            here = self._relations.get(name)
            is_told = here is None or here.relkind != "v" or here.options != self._made.options[name]
            if not is_told and not explained.same_view(self._conn, name, select):
                yield Difference(kind="view", name=name, what=OTHER)

    def _tables(self) -> Iterator[Difference]:
        for name in sorted(self._made.tables):
            here = self._relations.get(name)
            if here is None or here.relkind != "r":
                yield Difference(kind="table", name=name, what=NO_TABLE if here else MISSING)
                continue
            if not here.visible:
                yield Difference(kind="table", name=name, what=HIDDEN)
            if here.relrowsecurity:
                what = "has row security, which allq does not use: it hides rows"
                yield Difference(kind="table", name=name, what=what)
            if here.relpersistence != "p":
                yield Difference(kind="table", name=name, what="is unlogged: a crash of the server empties it")

    def _relatives(self) -> Iterator[Difference]:
        """Tables that lend their rows to allq's, or are lent allq's and with them their own conditions."""
        for child, of_child, parent, of_parent in run(self._conn, catalogue.INHERITANCE):
            if of_parent in self._made.tables:
                yield Difference(kind="table", name=child, what=f"is a child of {parent}: its rows show as allq's")
            if of_child in self._made.tables:
                yield Difference(kind="table", name=child, what=f"is a child of {parent}, which {FOREIGN}")

    def _columns(self) -> Iterator[Difference]:
        found: dict[str, dict[str, Any]] = {}
        for row in run(self._conn, catalogue.COLUMNS):
            found.setdefault(row.relname, {})[row.attname] = row
        for view in sorted(self._made.views):
            for name, row in found.get(view, {}).items():
                if row.value is not None:  # of an insertion through the view
                    yield Difference(kind="column", name=name, what=f"of {view} {OTHER}")
        for table in sorted(self._there):
            here, wanted, not_null = found.get(table, {}), self._made.columns[table], self._made.not_null(table)
            for name, column in wanted.items():
                if name not in here:
                    yield Difference(kind="column", name=name, what=f"of {table} {MISSING}")
                elif not self._is_column(here[name], column, not_null=name in not_null):
                    yield Difference(kind="column", name=name, what=f"of {table} {OTHER}")
            for name, row in here.items():
                acts = row.attnotnull or row.value is not None or row.attidentity or row.typtype == "d"
                if name not in wanted and acts:
                    yield Difference(kind="column", name=name, what=f"of {table} {FOREIGN}")

    def _is_column(self, here: Any, column: ddl.Column, *, not_null: bool) -> bool:
        type_ = " ".join(ddl.tokens(here.type))
        if (type_, here.own_type, here.attnotnull, here.own_collation) != (column.type, True, not_null, True):
            return False
        if (here.attidentity, here.attgenerated) != ("d" if column.identity else "", ""):
            return False
        if here.value is None or column.default is None or column.identity:
            return here.value is None and (column.default is None or column.identity)
        return ddl.tokens(here.value) == ddl.tokens(column.default) or explained.same_value(
            self._conn, f"CAST({column.default} AS {column.type})", f"CAST({here.value} AS {column.type})"
        )

    def _triggers(self) -> Iterator[Difference]:
        missing, off, other = dict.fromkeys(self._made.triggers), set[str](), set[str]()
        for row in run(self._conn, catalogue.TRIGGERS):
            table, name = row.relname, row.tgname
            if table not in self._made.tables and table not in self._made.views:
                continue
            if row.tgisinternal:
                if row.enabled not in _FIRES:
                    off.add(table)
                continue
            wanted = self._made.triggers.get((table, name))
            if wanted is None:
                yield Difference(kind="trigger", name=name, what=f"on {table} {FOREIGN}")
                continue
            del missing[table, name]
            if row.enabled not in _FIRES:
                yield Difference(kind="trigger", name=name, what="is switched off")
            elif made.trigger(row.definition) != wanted:
                yield Difference(kind="trigger", name=name, what=OTHER)
            elif (row.prosrc, row.lanname, row.plain) != (self._made.functions.get(row.proname), "plpgsql", True):
                other.add(row.proname)
        for table, name in missing:
            if self._is_lost(table):
                continue
            yield Difference(kind="trigger", name=name, what=MISSING)
        for function in sorted(other):
            yield Difference(kind="function", name=function, what=f"{OTHER}: its triggers refuse something else")
        for table in sorted(off):
            yield Difference(kind="table", name=table, what="has its foreign keys switched off")

    def _constraints(self) -> Iterator[Difference]:
        found = {(row.relname, row.conname): row for row in run(self._conn, catalogue.CONSTRAINTS)}
        for (table, name), wanted in sorted(self._made.constraints.items(), key=lambda item: item[0]):
            if table not in self._relations:
                continue
            here = found.get((table, name))
            if here is None and wanted.refers_to is not None and self._is_lost(wanted.refers_to):
                continue
            if here is None or here.contype != _TYPE[wanted.kind]:
                yield Difference(kind="constraint", name=name, what=f"of {table} {MISSING}")
            elif not self._is_constraint(table, here, wanted):
                yield Difference(kind="constraint", name=name, what=f"of {table} {OTHER}")
        for (table, name), row in found.items():
            if table not in self._there or (table, name) in self._made.constraints:
                continue
            if row.contype != "n":  # since version 18; columns are looked at for themselves
                yield Difference(kind="constraint", name=name, what=f"of {table} {FOREIGN}")
            elif not row.convalidated:
                yield Difference(kind="constraint", name=name, what=f"of {table} does not hold for rows from before it")

    def _is_constraint(self, table: str, here: Any, wanted: ddl.Constraint) -> bool:
        if not here.convalidated:
            return False
        if wanted.kind == "check":
            return table in self._blind or explained.same_value(
                self._conn, wanted.condition, here.condition, source=table
            )
        if here.own_reference is False or ddl.tokens(here.definition) != wanted.text:
            return False
        # by the columns' own names: "SHA256" is another than sha256, which a definition's words do not tell apart
        return (*here.columns, *here.referenced) == wanted.names

    def _indexes(self) -> Iterator[Difference]:
        found = {row.name: row for row in run(self._conn, catalogue.INDEXES)}
        for name, wanted in sorted(self._made.indexes.items()):
            here = found.get(name)
            what = None
            if here is None and self._is_lost(wanted.table):
                continue
            if here is not None and None in here.columns:
                continue  # gone since the moment that is looked at: REINDEX CONCURRENTLY has put another in its place
            if here is None:
                what = MISSING
            elif here.runs or not self._is_index(here, wanted):
                what = OTHER
            elif not here.indisvalid:
                what = "is not valid: it was never finished"
            if what:
                acts = wanted.unique or (here is not None and (here.indisunique or here.runs))
                yield Difference(kind="index", name=name, what=what, only_slower=not acts)
        for name, row in sorted(found.items()):
            if row.of in self._there and name not in self._made.indexes:
                if row.indisunique and not row.of_constraint and not self._refuses_as_allqs(row):
                    yield Difference(kind="index", name=name, what=f"on {row.of} {FOREIGN}, and refuses rows")
                elif row.runs:
                    yield Difference(kind="index", name=name, what=f"on {row.of} {FOREIGN}, and runs a function")

    def _refuses_as_allqs(self, here: Any) -> bool:
        """Whether one of allq's own refuses the same: REINDEX CONCURRENTLY makes a copy, and may leave it behind.

        Of columns that are never empty, as those of allq's keys are: what an index makes of NULL does not matter.
        """
        for name in here.refuses_as:
            constraint = self._made.constraints.get((here.of, name))
            if constraint is not None and constraint.kind in {"primary", "unique"}:
                return True
        return False

    def _running(self) -> Iterator[Difference]:
        """What runs a function or operator that PostgreSQL did not bring, though its text be allq's.

        One of others is taken for types of which PostgreSQL has none but by a cast, wherever it stands in search_path.
        """
        ours = {("view", name, name) for name in self._made.views}
        ours |= {("constraint", name, table) for table, name in self._made.constraints}
        ours |= {("column", name, table) for table, columns in self._made.columns.items() for name in columns}
        for kind, name, of in run(self._conn, catalogue.RUNNING):
            if (kind, name, of) in ours:
                whose = "" if kind == "view" else f"of {of} "
                what = f"{whose}runs a function or an operator that is none of PostgreSQL's"
                yield Difference(kind=kind, name=name, what=what)

    def _is_index(self, here: Any, wanted: made.Index) -> bool:
        if (here.of, here.indisunique, tuple(here.columns)) != (wanted.table, wanted.unique, wanted.columns):
            return False
        if here.condition is None or wanted.where is None:
            return here.condition is None and wanted.where is None
        return wanted.table in self._blind or explained.same_value(
            self._conn, wanted.where, here.condition, source=wanted.table
        )
