"""The worker's side: chunks are claimed, renewed, given back or up, recorded; those of dead workers are reclaimed.

What stops the work on a chunk either says nothing about its fields (a shutdown, a database that is away) or may be the
doing of one of them: a worker that died, ran out of time, met an error that nobody foresaw. The latter is counted: a
chunk of several fields is halved, and a field that stood alone at its second time is failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import FailureCode
from db import bulk, events, findings, slidecalls
from db.recording import record
from db.records import Claim, ClaimedField, Failure
from db.statements import run

__all__ = [
    "claim",
    "give_up",
    "lapsed",
    "mark_published",
    "model_wanted",
    "reclaim_expired",
    "reclaim_owner",
    "record",
    "release",
    "release_all",
    "renew",
    "running_owners",
    "unpublish",
    "unpublished",
    "waiting_by_queue",
]

HOUSEKEEPER = "housekeeping"
"""The actor of events about chunks whose worker is gone, when nobody in particular noticed it."""

_LONGEST_LEASE: Final = 86_400.0
"""Seconds. Whoever knows how long the leases of a laboratory are says so."""

CRASHED: Final = Failure(code=str(FailureCode.CRASHED_WORKER), sentence="the worker died each time it tried this field")

_CLAIMABLE = "(state = 'pending' OR (state = 'running' AND lease_until < {now}))"
_CLAIM = f"""
    UPDATE chunk
    SET state = 'running', owner = :owner, lease_until = {{lease}}, attempt = attempt + 1,
        started_at = coalesce(started_at, {{now}})
    WHERE id = :chunk AND {_CLAIMABLE}
    RETURNING id, batch_id, attempt,
              (SELECT b.root FROM batch b WHERE b.id = batch_id) AS root,
              (SELECT b.raw_root FROM batch b WHERE b.id = batch_id) AS raw_root,
              (SELECT b.queue FROM batch b WHERE b.id = batch_id) AS queue,
              (SELECT m.sha256 FROM batch b JOIN model m ON m.id = b.model_id WHERE b.id = batch_id) AS model
"""
_MODEL_WANTED = f"""
    SELECT m.sha256 FROM chunk c JOIN batch b ON b.id = c.batch_id JOIN model m ON m.id = b.model_id
    WHERE c.id = (SELECT id FROM chunk WHERE id = :chunk AND {_CLAIMABLE})
"""
_FIELDS = """
    SELECT id, slide_id, path, raw_path, size, modified_ns FROM field
    WHERE chunk_id = :chunk AND state = 'waiting' ORDER BY id
"""
# A lease that ends in the far future was given before the database's clock was set back: nobody may have it any more.
_LAPSED = "state = 'running' AND (lease_until < {now} OR lease_until > {lease})"
_FENCED = "id = :chunk AND owner = :owner AND attempt = :attempt AND state = 'running'"


def claim(conn: Connection, chunk_id: int, owner: str, lease_seconds: float) -> Claim | None:
    """Make a pending chunk ours, or one whose worker let its lease run out; None when there is nothing to do.

    To take a chunk over is not to say that its worker died of it: with the message alone nobody can know. Housekeeping,
    which watches leases for longer, says so (`reclaim_expired`, `reclaim_owner`).
    """
    values = {"chunk": chunk_id, "owner": owner, "lease_seconds": lease_seconds}
    chunk = run(conn, _CLAIM, values).one_or_none()
    if chunk is None:
        return None
    return Claim(
        chunk_id=chunk.id,
        batch_id=chunk.batch_id,
        root=chunk.root,
        raw_root=_bytes(chunk.raw_root),
        model_id=chunk.model,
        queue=chunk.queue,
        owner=owner,
        attempt=chunk.attempt,
        fields=tuple(
            ClaimedField(id=key, slide_id=slide, path=path, raw_path=_bytes(raw), size=size, modified_ns=modified)
            for key, slide, path, raw, size, modified in run(conn, _FIELDS, {"chunk": chunk_id})
        ),
    )


def model_wanted(conn: Connection, chunk_id: int) -> str | None:
    """The model that a chunk is to be screened with; None when the chunk can't be claimed anyway."""
    found: str | None = run(conn, _MODEL_WANTED, {"chunk": chunk_id}).scalar()
    return found


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


def release_all(conn: Connection) -> None:
    """Give back every chunk that is being worked on, whoever has it, without counting a crash."""
    run(
        conn,
        """
        UPDATE chunk SET state = 'pending', owner = NULL, lease_until = NULL, published_at = NULL
        WHERE state = 'running'
        """,
    )


def give_up(conn: Connection, held: Claim, failure: Failure) -> list[int] | None:
    """Give the chunk back because of something that one of its fields may have done, and count that like a crash.

    Returns the chunks to publish; `failure` is what a field ends with that stood alone at its second time. None when
    the chunk was no longer ours.
    """
    found = run(conn, f"SELECT id FROM chunk WHERE {_FENCED} {{lock}}", _fence(held)).scalars().all()
    return _reclaim(conn, list(found), held.owner, failure) if found else None


def lapsed(conn: Connection, *, longest_lease: float = _LONGEST_LEASE, limit: int = 1_000) -> list[tuple[int, int]]:
    """Chunks whose lease has run out, each with its attempt. Their workers may be dead, or without the database.

    So may those whose lease ends later than `longest_lease` seconds from now, which no worker asks for.
    """
    found = run(
        conn,
        f"SELECT id, attempt FROM chunk WHERE {_LAPSED} ORDER BY id LIMIT :limit",
        {"limit": limit, "lease_seconds": longest_lease},
    )
    return [(chunk_id, attempt) for chunk_id, attempt in found]


def reclaim_expired(
    conn: Connection,
    *,
    only: Collection[tuple[int, int]] | None = None,
    longest_lease: float = _LONGEST_LEASE,
    limit: int = 100,
    actor: str = HOUSEKEEPER,
) -> list[int]:
    """Take chunks whose lease has run out from their workers; return those to publish, halves included.

    With `only`, just those of these (chunk, attempt), as `lapsed` names them. Each is counted as a crash.
    """
    if only is not None and not only:
        return []
    found = run(
        conn,
        f"""
        SELECT id, attempt FROM chunk
        WHERE {_LAPSED} {"" if only is None else "AND id IN :ids"}
        ORDER BY id LIMIT :limit {{lock_free}}
        """,
        {"limit": limit, "lease_seconds": longest_lease}
        | ({} if only is None else {"ids": sorted(chunk for chunk, _ in only)}),
        lists=() if only is None else ("ids",),
    )
    return _reclaim(conn, [chunk for chunk, attempt in found if only is None or (chunk, attempt) in only], actor)


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


def unpublished(conn: Connection, *, queue: str, older_than_seconds: float | None, limit: int) -> list[int]:
    """Pending chunks of a queue never published, oldest first; or, with `older_than_seconds`, also those published so
    long ago that their message must be lost.

    What was published in the future was so before the database's clock was set back; nobody knows how long ago.
    What was never published is little, whatever waits: it has an index of its own, and is asked for all the time.
    """
    lost = "" if older_than_seconds is None else " OR c.published_at < {ago} OR c.published_at > {now}"
    found = run(
        conn,
        f"""
        SELECT c.id FROM chunk c JOIN batch b ON b.id = c.batch_id
        WHERE c.state = 'pending' AND (c.published_at IS NULL{lost}) AND b.queue = :queue
        ORDER BY c.id LIMIT :limit
        """,
        {"queue": queue, "limit": limit} | ({} if older_than_seconds is None else {"seconds": older_than_seconds}),
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


def unpublish(conn: Connection, chunk_id: int) -> None:
    """Have a pending chunk published once more: its message came to a worker that can't take it."""
    run(conn, "UPDATE chunk SET published_at = NULL WHERE id = :chunk AND state = 'pending'", {"chunk": chunk_id})


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


def _reclaim(conn: Connection, chunk_ids: Sequence[int], actor: str, failure: Failure = CRASHED) -> list[int]:
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
            publish += [chunk_id, _halve(conn, chunk, failure, actor=actor)]
        elif chunk.crashes > 1:
            alone.append(chunk)
        else:
            publish.append(chunk_id)
    _fail_alone(conn, alone, failure, actor=actor)
    return publish


def _halve(conn: Connection, chunk: Any, failure: Failure, *, actor: str) -> int:
    """Move the second half of a chunk's waiting fields to a new chunk, and return that."""
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
    body = {"attempt": chunk.attempt, "kept": kept, "moved": moved, "into": other, "code": failure.code}
    slides = {row.slide_id for row in fields}
    at = {"batch_id": chunk.batch_id, "chunk_id": chunk.id}
    events.append(conn, "chunk-halved", body, actor=actor, **at, slide_ids=slides)
    return other


def _fail_alone(conn: Connection, chunks: Iterable[Any], failure: Failure, *, actor: str) -> None:
    """Fail the fields that stood alone each time the work stopped. Slides that end by it are due for a call."""
    lone = [(chunk, run(conn, _FIELDS, {"chunk": chunk.id}).one()) for chunk in chunks]
    if not lone:
        return
    slidecalls.locked(conn, sorted({row.slide_id for _, row in lone}))
    failures: dict[int, dict[str, int]] = {}
    kind = "field-crashed-worker" if failure.code == CRASHED.code else "field-failed"
    for chunk, row in lone:
        run(
            conn,
            "UPDATE field SET state = 'failed', failure = :code, failure_sentence = :sentence WHERE id = :field",
            {"field": row.id, "code": failure.code, "sentence": failure.sentence},
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
        shown = findings.failure_digest(row.id, row.slide_id, row.path, failure.sentence)
        body = {"attempt": chunk.attempt, "field": row.id, "code": failure.code, "shown": shown}
        at = {"batch_id": chunk.batch_id, "chunk_id": chunk.id}
        events.append(conn, kind, body, actor=actor, **at, slide_ids=(row.slide_id,))
    slidecalls.count(conn, failures)
    slidecalls.mark_due(conn, slidecalls.to_call(slidecalls.locked(conn, sorted(failures))))
