"""The models that findings were made with."""

from __future__ import annotations

from sqlalchemy import Connection

from allq.errors import NotFound
from db.events import canonical
from db.records import ModelRecord
from db.statements import on_sqlite, run

_REMEMBER = """
    INSERT INTO model (sha256, name, architecture, synthetic, configuration, code_version, added_at)
    VALUES (:sha256, :name, :architecture, :synthetic, :configuration, :code_version, {now})
"""


def remember_model(conn: Connection, model: ModelRecord) -> None:
    """Make the model known, so that batches can name it. Telling the same again changes nothing."""
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
    # two may tell PostgreSQL of the same model at once; SQLite's trigger against REPLACE allows no ON CONFLICT
    run(conn, _REMEMBER + ("" if on_sqlite(conn) else "ON CONFLICT (sha256) DO NOTHING"), values)


def key_of(conn: Connection, model_id: str) -> int:
    """The key under which the database keeps the model with this SHA-256. NotFound if it doesn't know it."""
    key: int | None = run(conn, "SELECT id FROM model WHERE sha256 = :sha256", {"sha256": model_id}).scalar()
    if key is None:
        raise NotFound(f"The database knows no model {model_id[:12]}…. See `allq models list`.")
    return key
