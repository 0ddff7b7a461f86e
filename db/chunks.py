"""The worker's side: chunks are claimed, renewed, given back, recorded; those of dead workers are reclaimed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from allq.errors import FailureCode
from db import bulk, events, slidecalls
from db.recording import record
from db.records import WORKER_CRASHED, Claim, ClaimedField
from db.statements import run

__all__ = [
    "claim",
    "mark_published",
    "reclaim_expired",
    "reclaim_owner",
    "record",
    "release",
    "renew",
    "running_owners",
    "unpublished",
    "waiting_by_queue",
]

HOUSEKEEPER = "housekeeping"
"""The actor of events about chunks whose worker is gone, when nobody in particular noticed it."""

_CLAIM = """
    UPDATE chunk
    SET state = 'running', owner = :owner, lease_until = {lease}, attempt = attempt + 1,
        started_at = coalesce(started_at, {now}), crashes = crashes + CASE WHEN state = 'running' THEN 1 ELSE 0 END
    WHERE id = :chunk AND (state = 'pending' OR (state = 'running' AND lease_until < {now}))
    RETURNING id, batch_id, attempt, crashes, waiting
"""
_BATCH = """
    SELECT b.root, b.raw_root, b.queue, m.sha256 AS model FROM batch b JOIN model m ON m.id = b.model_id
    WHERE b.id = :batch
"""
_FIELDS = """
    SELECT id, slide_id, path, raw_path, size, modified_ns FROM field
    WHERE chunk_id = :chunk AND state = 'waiting' ORDER BY id
"""
_FENCED = "id = :chunk AND owner = :owner AND attempt = :attempt AND state = 'running'"


def claim(conn: Connection, chunk_id: int, owner: str, lease_seconds: float) -> Claim | None:
    """Make a pending chunk ours, or one whose worker let its lease run out; None when there is nothing to do.

    A lease that ran out counts as a crash. A chunk of several fields is then halved: we get the first half, the second
    waits as a new chunk. A field that stood alone for its second crash is failed, and None returned.
    """
    values = {"chunk": chunk_id, "owner": owner, "lease_seconds": lease_seconds}
    chunk = run(conn, _CLAIM, values).one_or_none()
    if chunk is None:
        return None
    if chunk.crashes > 0 and chunk.waiting > 1:
        _halve(conn, chunk, actor=owner)
    elif chunk.crashes > 1:
        _fail_crashed(conn, [chunk], actor=owner)
        return None
    batch = run(conn, _BATCH, {"batch": chunk.batch_id}).one()
    return Claim(
        chunk_id=chunk.id,
        batch_id=chunk.batch_id,
        root=batch.root,
        raw_root=_bytes(batch.raw_root),
        model_id=batch.model,
        queue=batch.queue,
        owner=owner,
        attempt=chunk.attempt,
        fields=tuple(
            ClaimedField(id=key, slide_id=slide, path=path, raw_path=_bytes(raw), size=size, modified_ns=modified)
            for key, slide, path, raw, size, modified in run(conn, _FIELDS, {"chunk": chunk_id})
        ),
    )


def renew(conn: Connection, held: Claim, lease_seconds: float) -> bool:
    """Lengthen the lease, from now. False when the chunk is no longer ours: stop working on it."""
    values = {**_fence(held), "lease_seconds": lease_seconds}
    return run(conn, f"UPDATE chunk SET lease_until = {{lease}} WHERE {_FENCED}", values).rowcount == 1


def release(conn: Connection, held: Claim) -> bool:
    """Give the chunk back unworked, without counting a crash. False when it was no longer ours."""
    statement = f"""
        UPDATE chunk SET state = 'pending', owner = NULL, lease_until = NULL, published_at = NULL WHERE {_FENCED}
    """
    return run(conn, statement, _fence(held)).rowcount == 1


def reclaim_expired(conn: Connection, *, limit: int = 100, actor: str = HOUSEKEEPER) -> list[int]:
    """Take chunks whose lease has run out from their workers; return those to publish, halves included.

    A field that stood alone for its second crash is failed instead.
    """
    found = run(
        conn,
        """
        SELECT id FROM chunk WHERE state = 'running' AND lease_until < {now} ORDER BY id LIMIT :limit {lock_free}
        """,
        {"limit": limit},
    )
    return _reclaim(conn, list(found.scalars()), actor)


def reclaim_owner(conn: Connection, owners: Collection[str], *, actor: str = HOUSEKEEPER) -> list[int]:
    """The same for all chunks of workers that are known to be dead, whatever their lease."""
    if not owners:
        return []
    found = run(
        conn,
        "SELECT id FROM chunk WHERE state = 'running' AND owner IN :owners ORDER BY id {lock_free}",
        {"owners": sorted(owners)},
        lists=("owners",),
    )
    return _reclaim(conn, list(found.scalars()), actor)


def running_owners(conn: Connection) -> list[str]:
    """Who holds chunks just now."""
    return list(run(conn, "SELECT DISTINCT owner FROM chunk WHERE state = 'running' ORDER BY owner").scalars())


def unpublished(conn: Connection, *, queue: str, older_than_seconds: float, limit: int) -> list[int]:
    """Pending chunks of a queue never published, or so long ago that the message must be lost; oldest first."""
    found = run(
        conn,
        """
        SELECT c.id FROM chunk c JOIN batch b ON b.id = c.batch_id
        WHERE c.state = 'pending' AND (c.published_at IS NULL OR c.published_at < {ago}) AND b.queue = :queue
        ORDER BY c.id LIMIT :limit
        """,
        {"queue": queue, "seconds": older_than_seconds, "limit": limit},
    )
    return list(found.scalars())


def mark_published(conn: Connection, chunk_ids: Sequence[int]) -> None:
    """Note that these chunks have been handed to the broker. Those that are being worked on already are left alone."""
    for start in range(0, len(chunk_ids), 5_000):
        ids = sorted(chunk_ids)[start : start + 5_000]
        pending = "SELECT id FROM chunk WHERE id IN :ids AND state = 'pending' ORDER BY id {lock_free}"
        held = list(run(conn, pending, {"ids": ids}, lists=("ids",)).scalars())
        if held:
            run(conn, "UPDATE chunk SET published_at = {now} WHERE id IN :ids", {"ids": held}, lists=("ids",))


def waiting_by_queue(conn: Connection) -> dict[str, int]:
    """How many chunks wait in each queue, by the truth of the database."""
    rows = run(
        conn,
        """
        SELECT b.queue, count(*) FROM chunk c JOIN batch b ON b.id = c.batch_id
        WHERE c.state = 'pending' GROUP BY b.queue
        """,
    )
    return {"routine": 0, "stat": 0} | {row[0]: row[1] for row in rows}


def _fence(held: Claim) -> dict[str, Any]:
    return {"chunk": held.chunk_id, "owner": held.owner, "attempt": held.attempt}


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _reclaim(conn: Connection, chunk_ids: Sequence[int], actor: str) -> list[int]:
    """Back to pending with a crash more, then halved or failed. We hold all these chunks, in ascending order."""
    publish: list[int] = []
    alone: list[Any] = []
    for chunk_id in chunk_ids:
        chunk = run(
            conn,
            """
            UPDATE chunk SET state = 'pending', owner = NULL, lease_until = NULL, published_at = NULL,
                   crashes = crashes + 1
            WHERE id = :chunk RETURNING id, batch_id, attempt, crashes, waiting
            """,
            {"chunk": chunk_id},
        ).one()
        if chunk.waiting > 1:
            publish += [chunk_id, _halve(conn, chunk, actor=actor)]
        elif chunk.crashes > 1:
            alone.append(chunk)
        else:
            publish.append(chunk_id)
    _fail_crashed(conn, alone, actor=actor)
    return publish


def _halve(conn: Connection, chunk: Any, *, actor: str) -> int:
    """Move the second half of a crashed chunk's waiting fields to a new chunk, and return that."""
    fields = run(conn, _FIELDS, {"chunk": chunk.id}).all()
    kept = (len(fields) + 1) // 2
    moved = len(fields) - kept
    (other,) = bulk.allocate(conn, "chunk", 1)
    columns = ("id", "batch_id", "state", "fields", "waiting")
    bulk.insert(conn, "chunk", columns, [(other, chunk.batch_id, "pending", moved, moved)])
    run(
        conn,
        "UPDATE field SET chunk_id = :other WHERE chunk_id = :chunk AND state = 'waiting' AND id >= :first",
        {"chunk": chunk.id, "other": other, "first": fields[kept].id},
    )
    run(
        conn,
        "UPDATE chunk SET fields = fields - :moved, waiting = waiting - :moved, crashes = 0 WHERE id = :chunk",
        {"chunk": chunk.id, "moved": moved},
    )
    body = {"attempt": chunk.attempt, "kept": kept, "moved": moved, "into": other}
    slides = {row.slide_id for row in fields}
    at = {"batch_id": chunk.batch_id, "chunk_id": chunk.id}
    events.append(conn, "chunk-halved", body, actor=actor, **at, slide_ids=slides)
    return other


def _fail_crashed(conn: Connection, chunks: Iterable[Any], *, actor: str) -> None:
    """Fail the lone fields of chunks that crashed twice. Their slides, if they end by it, are due for a call."""
    lone = [(chunk, run(conn, _FIELDS, {"chunk": chunk.id}).one()) for chunk in chunks]
    if not lone:
        return
    slidecalls.locked(conn, sorted({row.slide_id for _, row in lone}))
    failures: dict[int, dict[str, int]] = {}
    code = str(FailureCode.CRASHED_WORKER)
    for chunk, row in lone:
        run(
            conn,
            "UPDATE field SET state = 'failed', failure = :code, failure_sentence = :sentence WHERE id = :field",
            {"field": row.id, "code": code, "sentence": WORKER_CRASHED},
        )
        run(
            conn,
            """
            UPDATE chunk SET state = 'done', owner = NULL, lease_until = NULL, ended_at = {now},
                   waiting = 0, failed = failed + 1
            WHERE id = :chunk
            """,
            {"chunk": chunk.id},
        )
        changes = failures.setdefault(row.slide_id, {"failed": 0})
        changes["failed"] += 1
        body = {"attempt": chunk.attempt, "field": row.id, "code": code}
        at = {"batch_id": chunk.batch_id, "chunk_id": chunk.id}
        events.append(conn, "field-crashed-worker", body, actor=actor, **at, slide_ids=(row.slide_id,))
    slidecalls.count(conn, failures)
    slidecalls.mark_due(conn, slidecalls.to_call(slidecalls.locked(conn, sorted(failures))))
