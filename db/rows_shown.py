"""What moves, where it repeats what the ledger tells: people are shown it, so it must be what was told.

Slides move on by design, and no event has a digest of their rows. But a slide shows its newest call and that call's
suspicion. A review says when its reviewer was shown the slide, as the event of that does, whose time nobody chooses.
(That a slide has the name which the events of its calls have, `db.rows_told` sees beside the calls; whose it is and
what it counts, `db.batches_told`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from db.damaged import despite_damage
from db.rows_told import Problem, Report
from db.statements import run

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


def compare(conn: Connection, report: Report) -> None:
    """Name the slides and reviews that show something else than the ledger tells."""
    for (slide,) in _all(conn, _CALLS):
        report(Problem(table="slide", row=str(slide), what="does not show its newest call and that call's suspicion"))
    for (slide,) in _all(conn, _GONE):
        report(Problem(table="slide", row=str(slide), what="is gone; there are calls of it"))
    for (review,) in _all(conn, _NEVER_LOOKED):
        what = "says that its reviewer was shown the slide at a time of which no event tells that"
        report(Problem(table="review", row=str(review), what=what))


def _all(conn: Connection, statement: str) -> Sequence[Any]:
    return despite_damage(conn, lambda: run(conn, statement).all())
