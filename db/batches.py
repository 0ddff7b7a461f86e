"""The operator's side: batches are created, filled, finished, cancelled, and their failures tried again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import NotFound, StoreError
from db import artefacts, bulk, events, lines, slidecalls
from db.records import NewSlide, Queue, RetryResult
from db.statements import plain_rows, run, timed

_RETRIED = {
    "id": "bigint",
    "chunk_id": "bigint",
    "state": "text",
    "failure": "text",
    "failure_sentence": "text",
    "sha256": "bytea",
}

SMALL_CHUNK: Final = 32
"""Fields below which a chunk is not cut for the sake of others: a batch of the network by default."""
_LAST_PARTS = 8
"""The last chunks have at most this part of the fields that are left."""


def create_batch(
    conn: Connection,
    *,
    root: str,
    raw_root: bytes | None = None,
    queue: Queue = "routine",
    note: str | None = None,
    model_id: str,
    operator: str,
    settings_json: str = "{}",
) -> int:
    """Open a batch for the folder `root` and return its number. NotFound when the model was never remembered."""
    values = {
        "root": root,
        "raw_root": raw_root,
        "queue": queue,
        "note": note,
        "model_id": artefacts.key_of(conn, model_id),
        "operator": operator,
        "settings": settings_json,
    }
    column, now = timed(conn, "created_at")
    batch_id, created_at = run(
        conn,
        f"""
        INSERT INTO batch (root, raw_root, queue, note, model_id, operator, settings{column})
        VALUES (:root, :raw_root, :queue, :note, :model_id, :operator, :settings{now}) RETURNING id, created_at
        """,
        values,
    ).one()
    body = {
        "root": root,
        "queue": queue,
        "note": note,
        "model": model_id,
        "settings": settings_json,
        "created_at": lines.instant(created_at),
    }
    events.append(conn, "batch-created", body, actor=operator, batch_id=batch_id)
    return int(batch_id)


def register(
    conn: Connection, batch_id: int, slides: Sequence[NewSlide], *, chunk_size: int, last: bool = False
) -> list[int]:
    """Add slides with their fields, in their order, and return the new chunks: pending, of sizes as `chunk_sizes` says.

    A slide that the batch already has by that name gets the fields added. StoreError when the batch is closed.
    """
    _still_open(conn, batch_id)
    total = sum(len(slide.fields) for slide in slides)
    known = _slides_by_name(conn, batch_id, slides)
    fresh = {(slide.name, slide.raw_name) for slide in slides} - known.keys()
    slide_ids = {**known, **dict(zip(_in_order(slides, fresh), bulk.allocate(conn, "slide", len(fresh)), strict=True))}
    _add_slides(conn, batch_id, slides, known, slide_ids)

    sizes = chunk_sizes(total, chunk_size, last=last)
    chunk_ids = bulk.allocate(conn, "chunk", len(sizes))
    bulk.insert(
        conn,
        "chunk",
        ("id", "batch_id", "state", "fields", "waiting"),
        [(chunk_id, batch_id, "pending", size, size) for chunk_id, size in zip(chunk_ids, sizes, strict=True)],
    )
    owners = (chunk_id for chunk_id, size in zip(chunk_ids, sizes, strict=True) for _ in range(size))
    columns = ("slide_id", "chunk_id", "path", "raw_path", "size", "modified_ns")
    rows = _field_rows(slides, slide_ids, owners)
    while part := list(islice(rows, 20_000)):
        bulk.insert(conn, "field", columns, part)
    run(
        conn,
        "UPDATE batch SET slides = slides + :slides, fields = fields + :fields WHERE id = :batch",
        {"batch": batch_id, "slides": len(fresh), "fields": total},
    )
    return chunk_ids


def chunk_sizes(fields: int, most: int, *, last: bool) -> list[int]:
    """Into chunks of how many fields so many are cut: full ones, and the rest.

    With `last`, as nothing comes after them, the chunks shrink towards the end, by steps of what a network takes at
    once: of three full ones, two workers would do one and a half each and one of them two.
    """
    sizes: list[int] = []
    left = fields
    while left:
        share = -(-left // (_LAST_PARTS * SMALL_CHUNK)) * SMALL_CHUNK if last else most
        sizes.append(min(most, share, left))
        left -= sizes[-1]
    return sizes


def _field_rows(
    slides: Sequence[NewSlide], slide_ids: dict[tuple[str, bytes | None], int], owners: Iterator[int]
) -> Iterator[tuple[Any, ...]]:
    for slide in slides:
        slide_id = slide_ids[slide.name, slide.raw_name]
        for path, raw_path, size, modified_ns in slide.fields:
            yield slide_id, next(owners), path, raw_path, size, modified_ns


def _slides_by_name(conn: Connection, batch_id: int, slides: Sequence[NewSlide]) -> dict[tuple[str, bytes | None], int]:
    found: dict[tuple[str, bytes | None], int] = {}
    names = sorted({slide.name for slide in slides})
    for start in range(0, len(names), 5_000):
        rows = run(
            conn,
            "SELECT name, raw_name, id FROM slide WHERE batch_id = :batch AND name IN :names",
            {"batch": batch_id, "names": names[start : start + 5_000]},
            lists=("names",),
        )
        found.update({(name, None if raw is None else bytes(raw)): slide_id for name, raw, slide_id in rows})
    return found


def _in_order(slides: Sequence[NewSlide], wanted: set[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    return [name for name in dict.fromkeys((slide.name, slide.raw_name) for slide in slides) if name in wanted]


def _add_slides(
    conn: Connection,
    batch_id: int,
    slides: Sequence[NewSlide],
    known: dict[tuple[str, bytes | None], int],
    slide_ids: dict[tuple[str, bytes | None], int],
) -> None:
    fields: dict[tuple[str, bytes | None], int] = {}
    complete: dict[tuple[str, bytes | None], bool] = {}
    for slide in slides:
        name = (slide.name, slide.raw_name)
        fields[name] = fields.get(name, 0) + len(slide.fields)
        complete[name] = slide.complete
    bulk.insert(
        conn,
        "slide",
        ("id", "batch_id", "name", "raw_name", "complete", "fields"),
        [(slide_ids[name], batch_id, *name, complete[name], fields[name]) for name in fields if name not in known],
    )
    grown = sorted((slide_ids[name], fields[name], complete[name]) for name in fields if name in known)
    if grown:
        ids = [slide_id for slide_id, _, _ in grown]
        slidecalls.locked(conn, ids)
        run(
            conn,
            "UPDATE slide SET fields = fields + :fields, complete = :complete, call_due = false WHERE id = :id",
            [{"id": slide_id, "fields": count, "complete": done} for slide_id, count, done in grown],
        )
        _mark_ended(conn, ids)


def _mark_ended(conn: Connection, slide_ids: Sequence[int]) -> None:
    """Of these slides (held by us), those that turn out to have ended already: their call is due."""
    for start in range(0, len(slide_ids), 5_000):
        slides = slidecalls.locked(conn, slide_ids[start : start + 5_000])
        slidecalls.mark_due(conn, slidecalls.to_call(slides))


def skip(conn: Connection, batch_id: int, items: Sequence[tuple[str, str]]) -> None:
    """Note what lies under the folder and is no field: (path, reason). StoreError when the batch is closed."""
    _still_open(conn, batch_id)
    bulk.insert(conn, "skipped", ("batch_id", "path", "reason"), [(batch_id, path, reason) for path, reason in items])
    run(conn, "UPDATE batch SET skipped = skipped + :count WHERE id = :batch", {"batch": batch_id, "count": len(items)})


def finish_registration(conn: Connection, batch_id: int) -> None:
    """Close the batch: all its fields are known. A second time does nothing."""
    batch = _locked(conn, batch_id)
    if batch.registered_at is not None or batch.cancelled_at is not None:
        return
    statement = "UPDATE batch SET registered_at = {now} WHERE id = :batch RETURNING registered_at"
    registered_at = run(conn, statement, {"batch": batch_id}).scalar_one()
    completed = _lock_slides(conn, "batch_id = :batch AND NOT complete", {"batch": batch_id})
    run(conn, "UPDATE slide SET complete = true WHERE batch_id = :batch AND NOT complete", {"batch": batch_id})
    _mark_ended(conn, completed)
    body = {
        "fields": batch.fields,
        "registered_at": lines.instant(registered_at),
        **_closing(conn, batch_id, batch),
    }
    events.append(conn, "batch-submitted", body, actor=batch.operator, batch_id=batch_id)


def reopen(conn: Connection, batch_id: int, operator: str) -> None:
    """Let a submitted batch take more fields, until `finish_registration` closes it again."""
    batch = _locked(conn, batch_id)
    if batch.cancelled_at is not None:
        raise StoreError(f"Batch {batch_id} has been cancelled. Submit the folder again.")
    if batch.registered_at is None:
        return
    run(conn, "UPDATE batch SET registered_at = NULL WHERE id = :batch", {"batch": batch_id})
    body = {"slides": batch.slides, "fields": batch.fields}
    events.append(conn, "batch-reopened", body, actor=operator, batch_id=batch_id)


def skipped_paths(conn: Connection, batch_id: int) -> set[str]:
    """What lay under the folder and was noted as no field."""
    return set(run(conn, "SELECT path FROM skipped WHERE batch_id = :batch", {"batch": batch_id}).scalars())


def asked_for(conn: Connection, batch_id: int) -> tuple[Queue, str | None]:
    """The queue and the note that a batch was submitted with."""
    row = run(conn, "SELECT queue, note FROM batch WHERE id = :batch", {"batch": batch_id}).one()
    return row.queue, row.note


def open_batch(conn: Connection, *, root: str, model_id: str, raw_root: bytes | None = None) -> int | None:
    """The newest batch of this folder and model that is neither cancelled nor done; None when there is none."""
    rows = run(
        conn,
        """
        SELECT b.id, b.raw_root FROM batch b JOIN model m ON m.id = b.model_id
        WHERE b.root = :root AND m.sha256 = :model AND b.cancelled_at IS NULL
          AND (b.registered_at IS NULL
               OR EXISTS (SELECT 1 FROM chunk c WHERE c.batch_id = b.id AND c.state IN ('pending', 'running')))
        ORDER BY b.id DESC
        """,
        {"root": root, "model": model_id},
    )
    for batch_id, raw in rows:
        if (None if raw is None else bytes(raw)) == raw_root:
            return int(batch_id)
    return None


def registered_paths(conn: Connection, batch_id: int) -> set[str]:
    """The paths of a batch's fields as the operating system gives them (undecodable bytes as lone surrogates)."""
    rows = run(
        conn,
        "SELECT f.path, f.raw_path FROM slide s JOIN field f ON f.slide_id = s.id WHERE s.batch_id = :batch",
        {"batch": batch_id},
    )
    return {path if raw is None else os.fsdecode(bytes(raw)) for path, raw in rows}


def cancel(conn: Connection, batch_id: int, operator: str) -> int:
    """Cancel every waiting field and return how many. Chunks being worked on are taken from their workers.

    What is screened stays. Slides that end by this are due for a call where `slidecalls.to_call` says so.
    """
    batch = _locked(conn, batch_id)
    active = "batch_id = :batch AND state IN ('pending', 'running')"
    here = {"batch": batch_id}
    waiting: int = sum(
        row[0] for row in run(conn, f"SELECT waiting FROM chunk WHERE {active} ORDER BY id {{lock}}", here)
    )
    if waiting == 0 and (batch.cancelled_at is not None or batch.registered_at is not None):
        return 0
    statement = "UPDATE batch SET cancelled_at = {now} WHERE id = :batch RETURNING cancelled_at"
    cancelled_at = run(conn, statement, here).scalar_one()
    run(
        conn,
        f"UPDATE field SET state = 'cancelled' "
        f"WHERE state = 'waiting' AND chunk_id IN (SELECT id FROM chunk WHERE {active})",
        here,
    )
    unended = "batch_id = :batch AND (NOT complete OR screened + failed + cancelled < fields)"
    ended = _lock_slides(conn, unended, here)
    run(conn, f"UPDATE slide SET cancelled = fields - screened - failed, complete = true WHERE {unended}", here)
    _mark_ended(conn, ended)
    run(
        conn,
        f"""
        UPDATE chunk SET state = 'cancelled', cancelled = cancelled + waiting, waiting = 0,
               owner = NULL, lease_until = NULL, ended_at = {{now}}
        WHERE {active}
        """,
        here,
    )
    body = {"fields": waiting, "cancelled_at": lines.instant(cancelled_at)}
    if batch.registered_at is None:  # of what there is, no event has told since it took fields
        body |= _closing(conn, batch_id, batch)
    events.append(conn, "batch-cancelled", body, actor=operator, batch_id=batch_id)
    return waiting


def retry(conn: Connection, batch_id: int, operator: str, *, chunk_size: int) -> RetryResult:
    """Set the batch's failed fields to waiting again, in new chunks. Calls already made of their slides remain."""
    _locked(conn, batch_id)
    run(conn, "SELECT id FROM chunk WHERE batch_id = :batch AND failed > 0 ORDER BY id {lock}", {"batch": batch_id})
    failed = run(
        conn,
        """
        SELECT f.id, f.slide_id, f.chunk_id FROM chunk c JOIN field f ON f.chunk_id = c.id
        WHERE c.batch_id = :batch AND c.failed > 0 AND f.state = 'failed' ORDER BY f.id
        """,
        {"batch": batch_id},
    ).all()
    if not failed:
        return RetryResult(fields=0, chunk_ids=())
    parts = [failed[start : start + chunk_size] for start in range(0, len(failed), chunk_size)]
    chunk_ids = bulk.allocate(conn, "chunk", len(parts))
    slides = _counts(row.slide_id for row in failed)
    bulk.insert(
        conn,
        "chunk",
        ("id", "batch_id", "state", "fields", "waiting"),
        [(chunk, batch_id, "pending", len(part), len(part)) for chunk, part in zip(chunk_ids, parts, strict=True)],
    )
    run(
        conn,
        "UPDATE chunk SET fields = fields - :count, failed = failed - :count WHERE id = :id",
        [{"id": chunk, "count": count} for chunk, count in _counts(row.chunk_id for row in failed)],
    )
    _lock_slides(conn, "batch_id = :batch AND failed > 0", {"batch": batch_id})
    run(
        conn,
        "UPDATE slide SET failed = failed - :count, call_due = false WHERE id = :id",
        [{"id": slide, "count": count} for slide, count in slides],
    )
    placed = ((chunk, row.id) for chunk, part in zip(chunk_ids, parts, strict=True) for row in part)
    bulk.update(conn, "field", _RETRIED, [(field, chunk, "waiting", None, None, None) for chunk, field in placed])
    body = {"fields": len(failed), "chunks": chunk_ids, "placed": [[row.id for row in part] for part in parts]}
    events.append(
        conn, "fields-retried", body, actor=operator, batch_id=batch_id, slide_ids=[slide for slide, _ in slides]
    )
    return RetryResult(fields=len(failed), chunk_ids=tuple(chunk_ids))


def _counts(values: Iterable[int]) -> list[tuple[int, int]]:
    counts: dict[int, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return sorted(counts.items())


def _locked(conn: Connection, batch_id: int) -> Any:
    """The batch's row, held: what operators do to one batch happens one after the other."""
    found: Any = run(
        conn,
        "SELECT registered_at, cancelled_at, operator, slides, fields, skipped FROM batch WHERE id = :batch {lock}",
        {"batch": batch_id},
    ).one_or_none()
    if found is None:
        raise NotFound(f"There is no batch {batch_id}. `allq status` lists them.")
    return found


def _still_open(conn: Connection, batch_id: int) -> None:
    """Hold the batch, to add to it. StoreError when it is closed."""
    batch = _locked(conn, batch_id)
    if batch.registered_at is not None or batch.cancelled_at is not None:
        raise StoreError(
            f"Batch {batch_id} takes no more fields: it is submitted or cancelled. Submit the folder again."
        )


def _closing(conn: Connection, batch_id: int, batch: Any) -> dict[str, Any]:
    """What the event that closes a batch tells of its slides and of what was left out."""
    slides = plain_rows(conn, "SELECT id, name FROM slide WHERE batch_id = :batch ORDER BY id", {"batch": batch_id})
    return {
        "slides": batch.slides,
        "skipped": batch.skipped,
        "slide_names": lines.digest(lines.name_line(slide_id, name) for slide_id, name in slides),
    }


def _lock_slides(conn: Connection, where: str, parameters: dict[str, Any]) -> list[int]:
    return list(run(conn, f"SELECT id FROM slide WHERE {where} ORDER BY id {{lock}}", parameters).scalars())
