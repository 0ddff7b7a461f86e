"""Whose turn it is, where only one may be at it: an advisory lock of PostgreSQL, given back with the transaction.

SQLite has one writer anyway. Sealing and the upgrade of the schema lock by two numbers, the choice of the active model
by one: the server keeps them apart, by functions of their own, so that deploy/postgres/roles.sql can give each to those
who need it. Whoever may ask for a lock may keep it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from allq.errors import StoreError
from db.statements import on_sqlite, run

Work = Literal["sealing", "activation"]

WAIT_SECONDS = 30.0
"""How long somebody waits for their turn: as long as for SQLite's writer."""

_AGAIN_SECONDS: Final = 0.1

SCHEMA: Final = "SELECT pg_advisory_xact_lock(hashtext('allq'), hashtext('schema'))"
"""Waits for as long as another upgrade takes; roles.sql leaves it to the owner and who seals."""

_KEY: Final[dict[Work, str]] = {
    "sealing": "hashtext('allq'), hashtext('sealer')",
    "activation": "hashtext('allq activation')",
}
# a number of 64 bits stands in `classid` and `objid` by its halves, two of 32 bits in one each
_IS: Final[dict[Work, str]] = {
    "sealing": """
        l.objsubid = 2 AND CAST(l.classid AS bigint) = CAST(hashtext('allq') AS bigint) & 4294967295
        AND CAST(l.objid AS bigint) = CAST(hashtext('sealer') AS bigint) & 4294967295
    """,
    "activation": """
        l.objsubid = 1 AND (CAST(l.classid AS bigint) << 32) | CAST(l.objid AS bigint)
                           = CAST(hashtext('allq activation') AS bigint)
    """,
}
_HOLDER: Final = """
    SELECT l.pid, coalesce(a.usename, p.owner) AS login, p.gid
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.virtualtransaction = l.virtualtransaction
                              AND own.locktype = 'transactionid' AND own.granted
    LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
    WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND {is_it}
    LIMIT 1
"""


def wait(conn: Connection, work: Work) -> None:
    """Wait for the turn. StoreError, which says who has it, after `WAIT_SECONDS`; the transaction may go on."""
    if on_sqlite(conn):
        return
    before = run(conn, "SELECT current_setting('lock_timeout')").scalar_one()
    try:
        with conn.begin_nested():
            _wait_at_most(conn, f"{WAIT_SECONDS * 1000:.0f}ms")
            run(conn, f"SELECT pg_advisory_xact_lock({_KEY[work]})")
            _wait_at_most(conn, before)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
            raise
        raise StoreError(
            f"Another session has kept this one waiting for {WAIT_SECONDS:.0f} s with the {work}: "
            f"{holder(conn, work) or 'it has just ended'}. Try again; where it is none of allq's, end it."
        ) from None


def taken(conn: Connection, work: Work) -> bool:
    """Take the turn if it is free; whether it is ours now."""
    if on_sqlite(conn):
        return True
    return bool(run(conn, f"SELECT pg_try_advisory_xact_lock({_KEY[work]})").scalar())


def holder(conn: Connection, work: Work) -> str | None:
    """Which other session has the turn, by what any login may see of it; None where none has."""
    if on_sqlite(conn):
        return None
    found = run(conn, _HOLDER.replace("{is_it}", _IS[work])).one_or_none()
    if found is None:
        return None
    who = f"process {found.pid} of the server"
    if found.pid is None:  # no session has it any more
        who = f"the prepared transaction {found.gid!r}" if found.gid else "a prepared transaction"
    login = f", login {found.login}" if found.login else ""
    return who + login + (", which ROLLBACK PREPARED ends" if found.pid is None else "")


def of_tables(conn: Connection, tables: Sequence[str]) -> None:
    """Take those of the tables that are there for this transaction alone. StoreError after `WAIT_SECONDS`.

    All or none of them at a time, again and again: who waited for one while it held others would lock out those who
    write the other way round, and everybody's work would queue up behind it.
    """
    there = [name for name in tables if run(conn, "SELECT to_regclass(:name)", {"name": name}).scalar() is not None]
    until = time.monotonic() + WAIT_SECONDS
    while there:
        try:
            with conn.begin_nested():
                conn.exec_driver_sql(f"LOCK TABLE {', '.join(there)} IN ACCESS EXCLUSIVE MODE NOWAIT")
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":
                raise
        if time.monotonic() >= until:
            raise StoreError(
                f"Others have been at work on the tables for {WAIT_SECONDS:.0f} s, and the schema can't be changed "
                "meanwhile. Stop workers, `allq audit verify` and exports, and try again."
            )
        time.sleep(_AGAIN_SECONDS)


def _wait_at_most(conn: Connection, time: str) -> None:
    run(conn, "SELECT set_config('lock_timeout', :time, true)", {"time": time})
