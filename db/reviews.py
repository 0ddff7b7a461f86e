"""Human decisions on slide calls: looked at, then signed by a named person with a reason. None overwrites another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import NotFound, StoreError, UsageError
from db import events, lines
from db.damaged import despite_damage, readable_moment
from db.records import ReviewedSlide, ReviewRow, SuspectField, UncountedFields
from db.rows_told import object_of
from db.statements import flags_of, known_moment, run, timed

CALLS: Final = ("all-suspected", "no-suspects-seen", "insufficient")
"""What a person can decide: the words of the machine's calls."""

_SLIDE: Final = """
    SELECT w.slide_id, w.batch, w.slide, s.slide_call_id, w.call, w.confidence, w.suspicion, w.flags, w.leukocytes,
           w.suspects, w.upper_bound, w.fields, w.screened, w.failed, w.cancelled,
           w.called_at, w.model, w.synthetic, b.root,
           m.configuration
    FROM worklist w JOIN slide s ON s.id = w.slide_id JOIN batch b ON b.id = w.batch JOIN model m ON m.id = b.model_id
"""


def find(conn: Connection, slide: str, *, batch: int | None = None) -> ReviewedSlide:
    """The newest called slide of that name (its accession), of a batch or of all. NotFound when there is none."""
    where = "w.slide = :slide" + ("" if batch is None else " AND w.batch = :batch")
    values = {"slide": slide} | ({} if batch is None else {"batch": batch})
    row = run(conn, f"{_SLIDE} WHERE {where} ORDER BY w.slide_id DESC LIMIT 1", values).one_or_none()
    if row is None:
        inside = "" if batch is None else f" in batch {batch}"
        raise NotFound(f"There is no called slide {slide!r}{inside}. `allq review list` lists what waits.")
    return ReviewedSlide(
        slide_id=row.slide_id,
        batch=row.batch,
        slide=row.slide,
        root=row.root,
        slide_call_id=row.slide_call_id,
        call=row.call,
        confidence=None if row.call == "insufficient" else row.confidence,
        suspicion=row.suspicion,
        flags=flags_of(row.flags),
        leukocytes=row.leukocytes,
        suspects=row.suspects,
        upper_bound=row.upper_bound,
        fields=row.fields,
        screened=row.screened,
        failed=row.failed,
        cancelled=row.cancelled,
        called_at=known_moment(row.called_at),
        model=row.model,
        synthetic=bool(row.synthetic),
        not_counted=_not_counted(conn, row.slide_id, row.configuration),
        reviews=tuple(_reviews(conn, row.slide_id)),
        most_suspicious=tuple(_most_suspicious(conn, row.slide_id)),
    )


def waiting(conn: Connection) -> int:
    """How many slides wait for a review. It counts them, which takes a while where they are very many."""
    return int(run(conn, "SELECT count(*) FROM review_queue").scalar_one())


def look(conn: Connection, slide: ReviewedSlide, *, reviewer: str) -> datetime:
    """Note in the ledger that a person was shown a slide and its call; return when."""
    body = {"slide": slide.slide, "slide_call": slide.slide_call_id, "call": slide.call}
    event = events.append(
        conn, "slide-looked-at", body, actor=reviewer, batch_id=slide.batch, slide_ids=(slide.slide_id,)
    )
    return known_moment(run(conn, "SELECT at FROM event WHERE id = :id", {"id": event}).scalar_one())


def sign(conn: Connection, slide: ReviewedSlide, *, call: str, reason: str, reviewer: str) -> int:
    """Append a person's decision on the slide's call that they have looked at, tell the ledger; return its number.

    UsageError for an unknown call or an empty reason. StoreError when the person has not looked at this call, or the
    slide has got another call since.
    """
    if call not in CALLS:
        raise UsageError(f"{call!r} is no call. There are: {', '.join(CALLS)}.")
    reason = reason.strip()
    if not reason:
        raise UsageError("A decision needs a reason: give it with --reason.")
    # Not locked: a reviewer may not write to slides. A call that comes at this very moment is not reviewed by this, and
    # waits in the review queue.
    latest = run(conn, "SELECT slide_call_id FROM slide WHERE id = :slide", {"slide": slide.slide_id}).scalar_one()
    if latest != slide.slide_call_id:
        raise StoreError(f"The slide {slide.slide} was called anew meanwhile. Look at it again: allq review show.")
    looked_at = _looked_at(conn, slide, reviewer)
    if looked_at is None:
        raise StoreError(f"{reviewer} has not looked at the slide {slide.slide} yet. Do: allq review show.")
    values = {
        "slide_id": slide.slide_id,
        "slide_call_id": slide.slide_call_id,
        "reviewer": reviewer,
        "call": call,
        "reason": reason,
        "looked_at": looked_at,
    }
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    column, now = timed(conn, "decided_at")
    review_id, decided_at = run(
        conn,
        f"INSERT INTO review ({names}{column}) VALUES ({marks}{now}) RETURNING id, decided_at",
        values,
    ).one()
    body = {
        "review": review_id,
        "slide": slide.slide,
        "slide_call": slide.slide_call_id,
        "machine": slide.call,
        "call": call,
        "reason": reason,
        "looked_at": lines.instant(looked_at),
        "row": lines.row_digest("review", (review_id, *values.values(), decided_at)),
    }
    events.append(conn, "slide-reviewed", body, actor=reviewer, batch_id=slide.batch, slide_ids=(slide.slide_id,))
    return int(review_id)


def _looked_at(conn: Connection, slide: ReviewedSlide, reviewer: str) -> Any:
    statement = """
        SELECT e.at, e.body FROM event_slide es JOIN event e ON e.id = es.event_id
        WHERE es.slide_id = :slide AND e.kind = 'slide-looked-at' AND e.actor = :reviewer ORDER BY e.id DESC
    """
    of_reviewer = {"slide": slide.slide_id, "reviewer": reviewer}
    rows = despite_damage(conn, lambda: run(conn, statement, of_reviewer).all())
    looks = (at for at, body in rows if object_of(body).get("slide_call") == slide.slide_call_id)
    return next(filter(lines.is_time, looks), None)


def _reviews(conn: Connection, slide_id: int) -> Sequence[ReviewRow]:
    statement = """
        SELECT review, reviewer, call, machine_call, reason, looked_at, decided_at, latest FROM slide_reviews
        WHERE slide_id = :slide ORDER BY review
    """
    rows = despite_damage(conn, lambda: run(conn, statement, {"slide": slide_id}).all())
    return [
        ReviewRow(
            review=row.review,
            reviewer=row.reviewer,
            call=row.call,
            machine_call=row.machine_call,
            reason=row.reason,
            looked_at=readable_moment(row.looked_at),
            decided_at=readable_moment(row.decided_at),
            latest=bool(row.latest),
        )
        for row in rows
    ]


def _not_counted(conn: Connection, slide_id: int, configuration: str) -> UncountedFields:
    """By the rule of the model that called the slide, as it was remembered."""
    rule = object_of(configuration).get("slide")
    named = rule.get("unassessable") if isinstance(rule, dict) else None
    unassessable = frozenset(map(str, named)) if isinstance(named, list) else frozenset()
    rows = run(
        conn,
        """
        SELECT flags, call, count(*) AS fields, sum(suspects) AS suspects FROM slide_findings
        WHERE slide_id = :slide AND state = 'screened' AND (call IS NULL OR flags <> '') GROUP BY flags, call
        """,
        {"slide": slide_id},
    )
    fields = suspects = 0
    flags: Counter[str] = Counter()
    for row in rows:
        why = unassessable.intersection(flags_of(row.flags))
        if why or row.call is None:
            fields += row.fields
            suspects += int(row.suspects)
            flags.update(dict.fromkeys(why, row.fields))
    return UncountedFields(fields=fields, suspects=suspects, flags=dict(sorted(flags.items())))


def _most_suspicious(conn: Connection, slide_id: int) -> Sequence[SuspectField]:
    rows = run(
        conn,
        """
        SELECT field, call, suspicion, flags, leukocytes, suspects FROM slide_findings
        WHERE slide_id = :slide AND state = 'screened' ORDER BY suspicion DESC, field_id LIMIT 5
        """,
        {"slide": slide_id},
    )
    return [
        SuspectField(
            field=row.field,
            call=row.call,
            suspicion=row.suspicion,
            flags=flags_of(row.flags),
            leukocytes=row.leukocytes,
            suspects=row.suspects,
        )
        for row in rows
    ]
