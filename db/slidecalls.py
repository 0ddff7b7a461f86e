"""Slide calls: appended when a slide's last field has ended; the latest is the slide's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from db import events, lines
from db.lines import canonical
from db.records import DUPLICATE, CallSlideOf, FieldRow, SlideCallRow
from db.statements import flags_of, flags_text, plain_rows, run, timed

_ROWS_AT_ONCE: Final = 5_000
"""About three megabytes."""


def to_call(slides: Mapping[int, Any]) -> list[int]:
    """Those of the slides whose call can be made: all their fields have ended, and no more can come.

    A slide of which nothing was screened because it was cancelled gets no call.
    """
    return [
        slide_id
        for slide_id, slide in slides.items()
        if slide.complete
        and 0 < slide.fields == slide.screened + slide.failed + slide.cancelled
        and (slide.screened > 0 or slide.cancelled == 0)
    ]


def locked(conn: Connection, slide_ids: Sequence[int]) -> dict[int, Any]:
    """The slides' rows, held until the transaction ends, taken in ascending order."""
    if not slide_ids:
        return {}
    rows = run(
        conn,
        """
        SELECT id, batch_id, name, complete, fields, screened, failed, cancelled, slide_call_id FROM slide
        WHERE id IN :ids ORDER BY id {lock}
        """,
        {"ids": sorted(slide_ids)},
        lists=("ids",),
    )
    return {row.id: row for row in rows}


def count(conn: Connection, changes: Mapping[int, Mapping[str, int]]) -> None:
    """Add to the counters of slides, in ascending order, by which we hold them: slide -> counter -> how many."""
    names = ("screened", "failed", "cancelled", "duplicates")
    if changes:
        run(
            conn,
            f"UPDATE slide SET {', '.join(f'{name} = {name} + :{name}' for name in names)} WHERE id = :id",
            [{"id": slide, **{name: changes[slide].get(name, 0) for name in names}} for slide in sorted(changes)],
        )


def field_rows(conn: Connection, slide_id: int) -> Iterator[FieldRow]:
    """The slide's fields that have ended, in their order; only some of them in memory at a time.

    A folder without subfolders is one slide, however many images an archive has in it.
    """
    after = 0
    while True:
        rows = plain_rows(
            conn,
            """
            SELECT f.id, f.state, f.finding_id, f.duplicate, i.call, i.p_benign, i.p_early_pre_b, i.p_pre_b, i.p_pro_b,
                   i.suspicion, i.flags, i.leukocytes, i.suspects
            FROM field f LEFT JOIN finding i ON i.id = f.finding_id
            WHERE f.slide_id = :slide AND f.id > :after AND f.state <> 'waiting'
            ORDER BY f.id LIMIT :rows
            """,
            {"slide": slide_id, "after": after, "rows": _ROWS_AT_ONCE},
        )
        yield from map(_field_row, rows)
        if len(rows) < _ROWS_AT_ONCE:
            return
        after = rows[-1][0]


def _field_row(row: tuple[Any, ...]) -> FieldRow:
    field_id, state, finding_id, duplicate, call, *probabilities, suspicion, flags, leukocytes, suspects = row
    return FieldRow(
        id=field_id,
        state=state,
        finding_id=finding_id,
        call=call,
        probabilities=None if finding_id is None else (*probabilities,),
        suspicion=suspicion or 0.0,
        flags=with_duplicate(flags_of(flags), duplicate),
        leukocytes=leukocytes or 0,
        suspects=suspects or 0,
    )


def with_duplicate(flags: tuple[str, ...], duplicate: bool) -> tuple[str, ...]:
    """The flags, and `duplicate` where the database has found twins."""
    return (*flags, DUPLICATE) if duplicate and DUPLICATE not in flags else flags


def write(conn: Connection, slide: Any, call: SlideCallRow, *, actor: str, chunk_id: int | None = None) -> int:
    """Append the call of a slide (held by us), make it the slide's, tell the ledger; return the call's number."""
    p = [float(share) + 0.0 for share in call.probabilities]
    values = {
        "slide_id": slide.id,
        "call": call.call,
        "confidence": float(call.confidence) + 0.0,
        "p_benign": p[0],
        "p_early_pre_b": p[1],
        "p_pre_b": p[2],
        "p_pro_b": p[3],
        "suspicion": float(call.suspicion) + 0.0,
        "upper_bound": None if call.upper_bound is None else float(call.upper_bound) + 0.0,
        "flags": flags_text(call.flags),
        "leukocytes": int(call.leukocytes),
        "suspects": int(call.suspects),
        "fields": slide.fields,
        "screened": slide.screened,
        "failed": slide.failed,
        "cancelled": slide.cancelled,
    }
    canonical(values)  # refuses NaN and infinities
    names = ", ".join(values)
    column, now = timed(conn, "called_at")
    call_id, called_at = run(
        conn,
        f"""
        INSERT INTO slide_call ({names}{column}) VALUES ({", ".join(":" + name for name in values)}{now})
        RETURNING id, called_at
        """,
        values,
    ).one()
    run(
        conn,
        "UPDATE slide SET slide_call_id = :call, suspicion = :suspicion, call_due = false WHERE id = :slide",
        {"slide": slide.id, "call": call_id, "suspicion": values["suspicion"]},
    )
    row = lines.row_digest("slide_call", (call_id, *values.values(), called_at))
    body = {**values, "slide_call": call_id, "slide": slide.name, "row": row}
    events.append(
        conn, "slide-called", body, actor=actor, batch_id=slide.batch_id, chunk_id=chunk_id, slide_ids=(slide.id,)
    )
    return int(call_id)


def mark_due(conn: Connection, slide_ids: Sequence[int]) -> None:
    """Ask for the calls of slides (held by us) that ended where no model is at hand."""
    if slide_ids:
        run(conn, "UPDATE slide SET call_due = true WHERE id IN :ids", {"ids": list(slide_ids)}, lists=("ids",))


def any_due(conn: Connection) -> bool:
    """Whether a slide waits for its call."""
    return run(conn, "SELECT 1 FROM slide WHERE call_due LIMIT 1").scalar() is not None


def call_due(conn: Connection, call_slide: CallSlideOf, *, worker: str, limit: int = 100) -> int:
    """Make calls that are due and return how many were made.

    `call_slide(model_id, fields)` may return None for a model that isn't at hand here; the slide then stays due.
    """
    due = run(
        conn,
        """
        SELECT s.id, s.batch_id, s.name, s.complete, s.fields, s.screened, s.failed, s.cancelled, s.slide_call_id, (
                   SELECT m.sha256 FROM batch b JOIN model m ON m.id = b.model_id WHERE b.id = s.batch_id) AS model
        FROM slide s WHERE s.call_due ORDER BY s.id LIMIT :limit {lock_free}
        """,
        {"limit": limit},
    ).all()
    made = 0
    for slide in due:
        call = call_slide(slide.model, field_rows(conn, slide.id))
        if call is not None:
            write(conn, slide, call, actor=worker)
            made += 1
    return made
