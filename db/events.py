"""The ledger: events in canonical JSON, appended in the transaction of what they tell of, and never changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import Connection

from db import bulk
from db.lines import canonical
from db.statements import on_sqlite, run

__all__ = ["append", "append_of_sealer", "canonical"]

_APPEND: Final = {
    True: "INSERT INTO event (at, kind, actor, batch_id, chunk_id, body) "
    "VALUES ({now}, :kind, :actor, :batch_id, :chunk_id, :body) RETURNING id",
    False: "INSERT INTO event (kind, actor, batch_id, chunk_id, body) "
    "VALUES (:kind, :actor, :batch_id, :chunk_id, :body) RETURNING id",
}
"""On SQLite and on PostgreSQL, where the server sets the time: only its owner may choose one."""

_SLIDE_COLUMNS: Final = {"slide_id": "bigint", "event_id": "bigint"}

_APPEND_OF_SEALER: Final = "INSERT INTO sealer_event (kind, actor, body) VALUES (:kind, :actor, :body) RETURNING id"


def append(
    conn: Connection,
    kind: str,
    body: Mapping[str, Any],
    *,
    actor: str,
    batch_id: int | None = None,
    chunk_id: int | None = None,
    slide_ids: Collection[int] = (),
) -> int:
    """Append an event and return its number. `slide_ids` are the slides in whose history it is shown.

    Not within a savepoint: PostgreSQL takes slides only of an event that the transaction itself has written.

    An event of a whole batch is named `batch-…`, has no slides, and is shown in the history of all of them.
    """
    values = {"kind": kind, "actor": actor, "batch_id": batch_id, "chunk_id": chunk_id, "body": canonical(body)}
    event_id: int = run(conn, _APPEND[on_sqlite(conn)], values).scalar_one()
    if slide_ids:
        bulk.insert_few(conn, "event_slide", _SLIDE_COLUMNS, [(slide, event_id) for slide in sorted(slide_ids)])
    return event_id


def append_of_sealer(conn: Connection, kind: str, body: Mapping[str, Any], *, actor: str) -> int:
    """Append an event that tells of keys or backups: a login that seals has the right to no other."""
    if on_sqlite(conn):
        return append(conn, kind, body, actor=actor)
    event_id: int = run(conn, _APPEND_OF_SEALER, {"kind": kind, "actor": actor, "body": canonical(body)}).scalar_one()
    return event_id
