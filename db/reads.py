"""What people and exports read: status from counters, results by keyset pages. Nothing here counts rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from allq.errors import NotFound
from db.damaged import despite_damage, readable_moment
from db.records import (
    UNREAD,
    BatchState,
    BatchStatus,
    FieldFailure,
    FieldResult,
    LeukocyteResult,
    SkippedItem,
    SlideResult,
)
from db.slidecalls import with_duplicate
from db.statements import flags_of, known_moment, moment, run

RECENT_SECONDS = 120
"""A running batch's rate is that of the last two minutes: what a stop overnight did to the average helps nobody."""

_BATCHES = """
    SELECT b.id, b.queue, b.root, b.note, b.operator, b.slides, b.fields, b.skipped, b.created_at, b.registered_at,
           b.cancelled_at, m.sha256 AS model, m.name AS model_name, m.synthetic,
           EXISTS (SELECT 1 FROM slide s WHERE s.batch_id = b.id AND s.call_due) AS calls_due
    FROM batch b JOIN model m ON m.id = b.model_id
"""
_SUMS = """
    SELECT batch_id, sum(waiting) AS waiting, sum(screened) AS screened, sum(failed) AS failed,
           sum(cancelled) AS cancelled, sum(linked) AS linked, min(started_at) AS started_at,
           max(ended_at) AS ended_at, sum(CASE WHEN ended_at > {ago} THEN screened + failed ELSE 0 END) AS recent,
           sum(CASE WHEN state = 'running' AND lease_until > {now} THEN 1 ELSE 0 END) AS in_hand
    FROM chunk WHERE batch_id IN :batches GROUP BY batch_id
"""


def batches(conn: Connection, limit: int = 20) -> list[BatchStatus]:
    """The newest batches, newest first."""
    found = _read(conn, f"{_BATCHES} ORDER BY b.id DESC LIMIT :limit", {"limit": limit})
    return _with_sums(conn, found)


def batch_status(conn: Connection, batch_id: int) -> BatchStatus:
    """One batch. Raises NotFound."""
    found = _read(conn, f"{_BATCHES} WHERE b.id = :batch", {"batch": batch_id})
    if not found:
        raise NotFound(f"There is no batch {batch_id}. `allq status` lists them.")
    return _with_sums(conn, found)[0]


def slide_results(conn: Connection, batch_id: int) -> list[SlideResult]:
    """The batch's slides in the order of submission, each with its latest call. Raises NotFound."""
    batch = _batch(conn, batch_id)
    rows = run(
        conn,
        """
        SELECT s.id, s.name, s.fields, s.screened, s.failed, s.cancelled, s.duplicates, c.call,
               CASE WHEN c.call <> 'insufficient' THEN c.confidence END AS confidence,
               c.p_benign, c.p_early_pre_b, c.p_pre_b, c.p_pro_b, c.suspicion, c.flags, c.leukocytes,
               c.suspects, c.upper_bound
        FROM slide s LEFT JOIN slide_call c ON c.id = s.slide_call_id
        WHERE s.batch_id = :batch ORDER BY s.id
        """,
        {"batch": batch_id},
    )
    model, synthetic = batch.sha256, bool(batch.synthetic)
    found = []
    for row in rows:
        (slide_id, name, fields, screened, failed, cancelled, duplicates, call, confidence, p_benign, p_early, p_pre,
         p_pro, suspicion, flags, leukocytes, suspects, upper_bound) = row  # fmt: skip
        found.append(
            SlideResult(
                batch_id,
                slide_id,
                name,
                call,
                confidence,
                None if call is None else (p_benign, p_early, p_pre, p_pro),
                suspicion,
                with_duplicate(flags_of(flags), duplicates > 0),
                fields,
                fields - screened - failed - cancelled,
                screened,
                failed,
                cancelled,
                leukocytes or 0,
                suspects or 0,
                upper_bound,
                model,
                synthetic,
            )
        )
    return found


_FIELD_PAGE = """
    SELECT f.slide_id, f.id, f.path, f.state, f.linked, f.duplicate, f.sha256 AS failed_sha256, f.failure,
           f.failure_sentence, i.sha256, i.call, CASE WHEN i.call IS NOT NULL THEN i.confidence END AS confidence,
           i.p_benign, i.p_early_pre_b, i.p_pre_b, i.p_pro_b, i.suspicion, i.novelty, i.flags, i.leukocytes, i.suspects,
           i.width, i.height
    FROM field f LEFT JOIN finding i ON i.id = f.finding_id
    WHERE f.slide_id IN :slides AND f.id > :after ORDER BY f.slide_id, f.id LIMIT :page
"""


def field_results(conn: Connection, batch_id: int, *, page: int = 5000) -> Iterator[FieldResult]:
    """All fields of the batch, slide by slide, in the order of submission. At most `page` in memory. NotFound."""
    batch = _batch(conn, batch_id)
    return _fields(conn, batch_id, batch.sha256, page)


def _fields(conn: Connection, batch_id: int, model: str, page: int) -> Iterator[FieldResult]:
    for name, row in _pages(conn, batch_id, _FIELD_PAGE, page):
        (_, field_id, path, state, linked, duplicate, failed_sha, failure, sentence, sha, call, confidence, p_benign,
         p_early, p_pre, p_pro, suspicion, novelty, flags, leukocytes, suspects, width, height) = row  # fmt: skip
        sha = failed_sha if sha is None else sha
        yield FieldResult(
            batch_id,
            name,
            field_id,
            path,
            None if sha is None else sha.hex(),
            state,
            call,
            confidence,
            None if p_benign is None else (p_benign, p_early, p_pre, p_pro),
            suspicion,
            novelty,
            with_duplicate(flags_of(flags), duplicate),
            leukocytes or 0,
            suspects or 0,
            width,
            height,
            bool(linked),
            model,
            failure,
            sentence,
        )


_LEUKOCYTE_PAGE = """
    SELECT f.slide_id, f.id, f.path, l.count, l.data
    FROM field f JOIN finding_leukocytes l ON l.finding_id = f.finding_id
    WHERE f.slide_id IN :slides AND f.id > :after ORDER BY f.slide_id, f.id LIMIT :page
"""


def leukocyte_results(conn: Connection, batch_id: int, *, page: int = 1000) -> Iterator[LeukocyteResult]:
    """The packed leukocytes of all screened fields of the batch, in the order of `field_results`. NotFound."""
    _batch(conn, batch_id)
    return (
        LeukocyteResult(batch_id, name, field_id, path, count, bytes(data))
        for name, (_, field_id, path, count, data) in _pages(conn, batch_id, _LEUKOCYTE_PAGE, page)
    )


def failures(conn: Connection, batch_id: int) -> Iterator[FieldFailure]:
    """The batch's failed fields and why, in the order of submission. NotFound."""
    _batch(conn, batch_id)
    rows = run(
        conn,
        """
        SELECT s.name, f.id, f.path, f.failure, f.failure_sentence
        FROM chunk c JOIN field f ON f.chunk_id = c.id JOIN slide s ON s.id = f.slide_id
        WHERE c.batch_id = :batch AND c.failed > 0 AND f.state = 'failed' ORDER BY f.id
        """,
        {"batch": batch_id},
    )
    return (
        FieldFailure(batch=batch_id, slide=slide, field_id=key, field=path, code=code, sentence=sentence)
        for slide, key, path, code, sentence in rows
    )


def skipped(conn: Connection, batch_id: int) -> Iterator[SkippedItem]:
    """What lay under the folder and was no field. NotFound."""
    _batch(conn, batch_id)
    rows = run(conn, "SELECT path, reason FROM skipped WHERE batch_id = :batch ORDER BY id", {"batch": batch_id})
    return (SkippedItem(path=path, reason=reason) for path, reason in rows)


def unread(conn: Connection, batch_id: int) -> int:
    """How many of the folders and files that were left out could not be looked at, so that slides may be missing.

    What was read later, when the batch was taken up again, doesn't count, but for a folder in which nothing was found
    then. It goes through what was left out.
    """
    statement = """
        SELECT count(*) FROM skipped k WHERE k.batch_id = :batch AND k.reason LIKE :unread
          AND NOT EXISTS (
              SELECT 1 FROM slide s WHERE s.batch_id = k.batch_id
                AND (s.name = k.path OR substr(s.name, 1, length(k.path) + 1) = k.path || '/')
          )
          AND NOT EXISTS (
              SELECT 1 FROM slide s JOIN field f ON f.slide_id = s.id WHERE s.batch_id = k.batch_id AND f.path = k.path
          )
    """
    return int(run(conn, statement, {"batch": batch_id, "unread": f"%{UNREAD}%"}).scalar_one())


def _batch(conn: Connection, batch_id: int) -> Any:
    found = run(
        conn,
        "SELECT m.sha256, m.synthetic FROM batch b JOIN model m ON m.id = b.model_id WHERE b.id = :batch",
        {"batch": batch_id},
    ).one_or_none()
    if found is None:
        raise NotFound(f"There is no batch {batch_id}. `allq status` lists them.")
    return found


def _pages(conn: Connection, batch_id: int, statement: str, page: int) -> Iterator[tuple[str, Sequence[Any]]]:
    """(slide's name, row) for the rows of each slide of the batch, by the index over (slide, field); both begin a row.

    Several small slides are read at once; a slide of more fields than a page by pages, each after the last one's key.
    """
    slides = run(
        conn, "SELECT id, name, fields FROM slide WHERE batch_id = :batch ORDER BY id", {"batch": batch_id}
    ).all()
    names = {row.id: row.name for row in slides}
    for group in _groups(slides, page):
        after = 0
        while True:
            values = {"slides": group, "after": after, "page": page}
            rows = run(conn, statement, values, lists=("slides",), many_rows=True).all()
            for row in rows:
                yield names[row[0]], row
            if len(group) > 1 or len(rows) < page:
                break
            after = rows[-1][1]


def _groups(slides: Sequence[Any], page: int) -> Iterator[list[int]]:
    """Neighbouring slides that together have no more fields than a page, or one alone."""
    group: list[int] = []
    total = 0
    for row in slides:
        if group and (total + row.fields > page or len(group) == 1_000):
            yield group
            group, total = [], 0
        group.append(row.id)
        total += row.fields
    if group:
        yield group


def _read(conn: Connection, statement: str, values: dict[str, Any], lists: tuple[str, ...] = ()) -> Sequence[Any]:
    """The rows, whatever times somebody wrote by hand: what waits and what is done is known without them."""
    return despite_damage(conn, lambda: run(conn, statement, values, lists=lists).all())


def _with_sums(conn: Connection, found: Sequence[Any]) -> list[BatchStatus]:
    ids = [row.id for row in found]
    values = {"batches": ids, "seconds": RECENT_SECONDS}
    sums = {row.batch_id: row for row in _read(conn, _SUMS, values, lists=("batches",))}
    now = moment(run(conn, "SELECT {now}").scalar_one())
    return [_status(row, sums.get(row.id), now) for row in found]


def _status(batch: Any, sums: Any, now: datetime | None) -> BatchStatus:
    def count(name: str) -> int:
        return int(getattr(sums, name)) if sums is not None else 0

    waiting, done = count("waiting"), count("screened") + count("failed")
    started = readable_moment(sums.started_at) if sums is not None else None
    last = readable_moment(sums.ended_at) if sums is not None else None
    state = _state(batch, waiting, started=sums is not None and sums.started_at is not None)
    running = waiting > 0
    rate = None
    # Of a batch that waits for a worker there is no rate: what it was before says nothing of when it will end.
    if started is not None and now is not None and (count("in_hand") or not running):
        until = now if running else last
        seconds = (until - started).total_seconds() if until is not None else 0.0
        if running and count("recent"):
            rate = count("recent") / max(min(seconds, RECENT_SECONDS), 0.001)
        elif done and seconds > 0:
            rate = done / seconds
    return BatchStatus(
        batch=batch.id,
        state=state,
        queue=batch.queue,
        root=batch.root,
        note=batch.note,
        operator=batch.operator,
        model_id=batch.model,
        model_name=batch.model_name,
        synthetic=bool(batch.synthetic),
        slides=batch.slides,
        fields=batch.fields,
        waiting=waiting,
        screened=count("screened"),
        failed=count("failed"),
        cancelled=count("cancelled"),
        findings_linked=count("linked"),
        skipped=batch.skipped,
        created_at=known_moment(batch.created_at),
        started_at=started,
        finished_at=None if running or state == "registering" else last,
        in_hand=count("in_hand") > 0,
        fields_per_second=rate,
        seconds_left=waiting / rate if running and rate else None,
    )


def _state(batch: Any, waiting: int, *, started: bool) -> BatchState:
    """The same rule as the view batch_progress; a test holds them against each other."""
    if batch.registered_at is None and batch.cancelled_at is None:
        return "registering"
    if waiting:
        return "running" if started else "waiting"
    if batch.cancelled_at is not None:
        return "cancelled"
    return "running" if batch.calls_due else "done"
