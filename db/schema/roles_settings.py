"""What logins of PostgreSQL begin a session with that lets them past the triggers, or shows them other tables or
functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection

from db.schema import catalogue
from db.schema.difference import Difference
from db.statements import run

_DEFAULT_PATH: Final = '"$user", public'

Settings = dict[tuple[str, bool], dict[str, str]]
"""(role, of this database alone) -> name -> value; the role is empty where it is meant for all."""


def differences(conn: Connection, names: Sequence[str]) -> Iterator[Difference]:
    """Settings of this session, and those of every role that may connect. `names`: those of allq's tables and views."""
    name = "session_replication_role"
    if run(conn, catalogue.REPLICATION_ROLE).scalar() == "replica":
        yield Difference(kind="setting", name=name, what="is replica for this login: no trigger fires")
    settings: Settings = {
        (role, here): dict(one.split("=", 1) for one in pairs) for role, here, pairs in run(conn, catalogue.SETTINGS)
    }
    for (role, here), values in settings.items():
        if values.get(name, "").casefold() == "replica":
            whom = f"role {role}" if role else "every role"
            where = " in this database" if here else ""
            yield Difference(kind="setting", name=name, what=f"is replica for {whom}{where}: no trigger fires")
    if run(conn, catalogue.HAS_RIGHTS_TO_SET).scalar():
        for role in run(conn, catalogue.PAST_TRIGGERS).scalars():
            what = f"may be made replica by role {role}: no trigger fires for it then"
            yield Difference(kind="setting", name=name, what=what)
    yield from _namesakes(conn, settings, names)
    yield from _stand_ins(conn, settings, names)


def _namesakes(conn: Connection, settings: Settings, names: Sequence[str]) -> Iterator[Difference]:
    ours = run(conn, catalogue.SCHEMA).scalar()
    seen: dict[tuple[str, str], list[str]] = {}
    for role, schema, relation, kind in run(conn, catalogue.NAMESAKES, {"names": names}, lists=("names",)):
        path = _path(settings, role)
        if ours in path and schema in path[: path.index(ours)]:
            seen.setdefault(("view" if kind in "vm" else "table", f"{schema}.{relation}"), []).append(role)
    for (kind, relation), roles in seen.items():
        yield Difference(kind=kind, name=relation, what=f"is seen in place of allq's by {', '.join(roles)}")


def _stand_ins(conn: Connection, settings: Settings, names: Sequence[str]) -> Iterator[Difference]:
    """Paths on which what others have made is taken for PostgreSQL's own: functions, operators, the catalogue itself.

    It comes first by itself where a path does not name it, so that few do.
    """
    here = _schemas(run(conn, catalogue.PATH).scalar_one(), run(conn, catalogue.USER).scalar_one())
    late = {"this login": _before_pg_catalog(here)}
    if any("pg_catalog" in values.get("search_path", "") for values in settings.values()):
        for _, role in run(conn, catalogue.LOGINS, {"names": names}, lists=("names",)):
            late[f"role {role}"] = _before_pg_catalog(_path(settings, role))
    if not any(late.values()):
        return
    aside = conn.begin_nested()  # the question itself must not be answered by them
    try:
        run(conn, catalogue.PLAIN_PATH)
        others = set(run(conn, catalogue.STAND_INS).scalars())
    finally:
        aside.rollback()
    for whom, schemas in late.items():
        for schema in schemas:
            if schema in others:
                what = (
                    f"names {schema} before pg_catalog for {whom}, and with it others' things in place of PostgreSQL's"
                )
                yield Difference(kind="setting", name="search_path", what=what)


def _before_pg_catalog(path: list[str]) -> list[str]:
    return path[: path.index("pg_catalog")] if "pg_catalog" in path else []


def _path(settings: Settings, role: str) -> list[str]:
    """The schemas in which a role's session looks, in their order."""
    said = (settings.get(key, {}).get("search_path") for key in ((role, True), (role, False), ("", True), ("", False)))
    return _schemas(next((one for one in said if one is not None), _DEFAULT_PATH), role)


def _schemas(path: str, role: str) -> list[str]:
    names = [found[1].replace('""', '"') if found[1] else found[2].lower() for found in _NAME.finditer(path)]
    return [role if name == "$user" else name for name in names]


_NAME: Final = re.compile(r'"((?:[^"]|"")+)"|([^\s,"]+)')
