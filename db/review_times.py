"""Decisions that are dated well before the call that they are of: by a clock that was wrong, or by somebody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from allq.text import plural, printable
from db.damaged import blocks, readable_moment
from db.history import NAMED, NEAR

_EARLIER: Final = """
    SELECT r.id, r.looked_at, r.decided_at, c.called_at, s.name
    FROM review r JOIN slide_call c ON c.id = r.slide_call_id JOIN slide s ON s.id = r.slide_id
    WHERE r.looked_at < c.called_at OR r.decided_at < c.called_at ORDER BY r.id
"""


def remarks(conn: Connection) -> list[str]:
    """A sentence for each of the first, and one for how many more there are.

    No problem by itself: a clock may be set back. Whoever dates a decision back can't date back when it was sealed.
    """
    found: list[str] = []
    more = 0
    for what in _dated_back(conn):
        if len(found) < NAMED:
            found.append(f"{what}: a clock was wrong, or it was dated back. `allq audit show` has when it was sealed.")
        else:
            more += 1
    if more:
        counted = plural(more, "more review is", "more reviews are")
        found.append(f"{counted} dated so: `allq query reviews` has the times.")
    return found


def _dated_back(conn: Connection) -> Iterator[str]:
    for block in blocks(conn, _EARLIER):
        for review, *dated, called, slide in block:
            called_at = readable_moment(called)
            earliest = min((at for value in dated if (at := readable_moment(value)) is not None), default=None)
            if called_at is not None and earliest is not None and called_at - earliest > NEAR:
                yield printable(
                    f"Review {review} of slide {slide} is dated {earliest:%Y-%m-%d %H:%M:%S} UTC, before the call that "
                    f"it is of, made {called_at:%Y-%m-%d %H:%M:%S} UTC"
                )
