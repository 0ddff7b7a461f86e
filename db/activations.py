"""The active model: the one that screens where nobody asks for another. Who chose it, when and why, is kept."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from allq.errors import UsageError
from db import artefacts, events, lines, turns
from db.records import Activation, ModelRecord
from db.statements import known_moment, on_sqlite, run

_LATEST: Final = """
    SELECT activation, model, model_sha256, activated_by, reason, activated_at FROM model_activations
    ORDER BY activation DESC LIMIT 1
"""
_APPEND: Final = {
    True: "INSERT INTO activation (model_id, activated_by, reason, activated_at) "
    "VALUES (:model_id, :activated_by, :reason, {now}) RETURNING id, activated_at",
    False: "INSERT INTO activation (model_id, activated_by, reason) "
    "VALUES (:model_id, :activated_by, :reason) RETURNING id, activated_at",
}
"""On SQLite and on PostgreSQL, where the server sets the time: only its owner may choose one."""


def latest(conn: Connection) -> Activation | None:
    """The activation that holds; None where nobody has chosen a model yet."""
    row = run(conn, _LATEST).one_or_none()
    if row is None:
        return None
    return Activation(
        number=row.activation,
        model_id=row.model_sha256,
        model_name=row.model,
        activated_by=row.activated_by,
        reason=row.reason,
        activated_at=known_moment(row.activated_at),
    )


def activate(conn: Connection, model: ModelRecord, *, reason: str, actor: str) -> Activation:
    """Make the model the active one, remembering it where it is new, and tell the ledger.

    The same model may be activated again: somebody confirms it, for a reason of their own. Of several at once each
    waits until the one before it is committed or given up. UsageError without a reason; StoreError where the database's
    login has no right to choose, or another session keeps it waiting.
    """
    reason = reason.strip()
    if not reason:
        raise UsageError("An activation needs a reason: give it with --reason.")
    turns.wait(conn, "activation")  # the highest number holds: they must be drawn in the order of the commits
    artefacts.remember_model(conn, model, actor=actor)
    values = {"model_id": artefacts.key_of(conn, model.id), "activated_by": actor, "reason": reason}
    number, at = run(conn, _APPEND[on_sqlite(conn)], values).one()
    body = {
        "activation": number,
        "model": model.id,
        "name": model.name,
        "reason": reason,
        "row": lines.row_digest("activation", (number, *values.values(), at)),
    }
    events.append(conn, "model-activated", body, actor=actor)
    return Activation(
        number=number,
        model_id=model.id,
        model_name=model.name,
        activated_by=actor,
        reason=reason,
        activated_at=known_moment(at),
    )
