"""The models that findings were made with."""

from __future__ import annotations

from sqlalchemy import Connection

from allq.errors import NotFound
from db import events, lines
from db.lines import canonical
from db.records import ModelRecord
from db.statements import on_sqlite, run, timed


def remember_model(conn: Connection, model: ModelRecord, *, actor: str = "allq") -> None:
    """Make the model known, so that batches can name it, and tell the ledger. A second time nothing changes."""
    known = run(conn, "SELECT 1 FROM model WHERE sha256 = :sha256", {"sha256": model.id}).scalar()
    if known is not None:
        return
    values = {
        "sha256": model.id,
        "name": model.name,
        "architecture": model.architecture,
        "synthetic": model.synthetic,
        "configuration": canonical(model.configuration),
        "code_version": model.code_version,
    }
    column, now = timed(conn, "added_at")
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    # two may tell PostgreSQL of the same model at once; SQLite's trigger against REPLACE allows no ON CONFLICT
    once = "" if on_sqlite(conn) else "ON CONFLICT (sha256) DO NOTHING"
    added = run(
        conn, f"INSERT INTO model ({names}{column}) VALUES ({marks}{now}) {once} RETURNING id, added_at", values
    ).one_or_none()
    if added is not None:
        row = lines.row_digest("model", (added.id, *values.values(), added.added_at))
        body = {"model": model.id, "name": model.name, "key": added.id, "row": row}
        events.append(conn, "model-remembered", body, actor=actor)


def key_of(conn: Connection, model_id: str) -> int:
    """The key under which the database keeps the model with this SHA-256. NotFound if it doesn't know it."""
    key: int | None = run(conn, "SELECT id FROM model WHERE sha256 = :sha256", {"sha256": model_id}).scalar()
    if key is None:
        raise NotFound(f"The database knows no model {model_id[:12]}…. See `allq models list`.")
    return key
