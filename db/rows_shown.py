"""What moves, where it repeats what the ledger tells: people are shown it, so it must be what was told.

Slides and batches move on by design, and no event has a digest of their rows. But a slide shows its newest call and
that call's suspicion; the event that began a batch has its folder, queue, note, model, settings and operator. A review
says when its reviewer was shown the slide, as the event of that does, whose time nobody chooses. (That a slide has the
name which the events of its calls have, `db.rows_told` sees beside the calls.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from db.damaged import despite_damage
from db.rows_told import Problem, Report, object_of
from db.statements import run, without_indexes

_CALLS: Final = """
    SELECT s.id FROM slide s {not_indexed} LEFT JOIN slide_call c ON c.id = s.slide_call_id
    WHERE coalesce(s.slide_call_id, 0) <> coalesce((SELECT max(x.id) FROM slide_call x WHERE x.slide_id = s.id), 0)
       OR coalesce(s.suspicion, -1) <> coalesce(c.suspicion, -1)
    ORDER BY s.id
"""
_GONE: Final = """
    SELECT DISTINCT c.slide_id FROM slide_call c
    WHERE NOT EXISTS (SELECT 1 FROM slide s WHERE s.id = c.slide_id) ORDER BY c.slide_id
"""
_NEVER_LOOKED: Final = """
    SELECT r.id FROM review r {not_indexed}
    WHERE NOT EXISTS (
        SELECT 1 FROM event_slide s JOIN event e ON e.id = s.event_id
        WHERE s.slide_id = r.slide_id AND e.kind = 'slide-looked-at' AND e.actor = r.reviewer AND e.at = r.looked_at
    )
    ORDER BY r.id
"""
_BATCHES: Final = """
    SELECT e.id, e.batch_id, e.actor, e.body, b.id, b.operator, b.root, b.queue, b.note, m.sha256, b.settings
    FROM event e {not_indexed} LEFT JOIN batch b ON b.id = e.batch_id LEFT JOIN model m ON m.id = b.model_id
    WHERE e.kind = 'batch-created' ORDER BY e.id
"""
_ALL_BATCHES: Final = "SELECT id FROM batch {not_indexed} ORDER BY id"
_TOLD_OF_A_BATCH: Final = ("root", "queue", "note", "model", "settings")


def compare(conn: Connection, report: Report) -> None:
    """Name the slides, reviews and batches that show something else than the ledger tells."""
    for (slide,) in _all(conn, _CALLS):
        report(Problem(table="slide", row=str(slide), what="does not show its newest call and that call's suspicion"))
    for (slide,) in _all(conn, _GONE):
        report(Problem(table="slide", row=str(slide), what="is gone; there are calls of it"))
    for (review,) in _all(conn, _NEVER_LOOKED):
        what = "says that its reviewer was shown the slide at a time of which no event tells that"
        report(Problem(table="review", row=str(review), what=what))
    with without_indexes(conn):
        _compare_batches(conn, report)


def _compare_batches(conn: Connection, report: Report) -> None:
    begun: set[Any] = set()
    for event, told_of, actor, body, batch, operator, *values in _all(conn, _BATCHES):
        if told_of in begun:
            report(Problem(table="event", row=str(event), what=f"begins batch {told_of}, as another event does"))
            continue
        begun.add(told_of)
        told = object_of(body)
        shown = dict(zip(_TOLD_OF_A_BATCH, values, strict=True))
        if batch is None:
            report(Problem(table="batch", row=str(told_of), what=f"is gone; event {event} tells of it"))
        elif actor != operator or any(told.get(name) != value for name, value in shown.items()):
            report(Problem(table="batch", row=str(batch), what=f"differs from what event {event} tells of it"))
    for (batch,) in _all(conn, _ALL_BATCHES):
        if batch not in begun:
            report(Problem(table="batch", row=str(batch), what="no event of the ledger tells of it"))


def _all(conn: Connection, statement: str) -> Sequence[Any]:
    return despite_damage(conn, lambda: run(conn, statement).all())
