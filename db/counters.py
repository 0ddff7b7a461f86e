"""What slides and chunks count, against the fields that there are.

The fields are read once, and their sums taken off what the slides and chunks count, of which nothing may be left: that
takes 50 bytes for each slide and 65 for each chunk, however many fields they have.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from db.damaged import blocks
from db.grouped import groups
from db.rows_told import rows_of

_SLIDES: Final = """
    SELECT id, batch_id, fields, screened, failed, cancelled FROM slide {not_indexed} ORDER BY id
"""
_CHUNKS: Final = """
    SELECT id, batch_id, fields, screened, failed, cancelled, waiting, linked FROM chunk {not_indexed} ORDER BY id
"""
_OF_FIELDS: Final = """
    count(*), sum(CASE WHEN state = 'screened' THEN 1 ELSE 0 END), sum(CASE WHEN state = 'failed' THEN 1 ELSE 0 END),
    sum(CASE WHEN state = 'cancelled' THEN 1 ELSE 0 END), sum(CASE WHEN state = 'waiting' THEN 1 ELSE 0 END),
    sum(CASE WHEN linked = false THEN 0 ELSE 1 END)
"""
"""In the order of a chunk's counts, of which a slide has the first."""
_HAS_EVENTS: Final = "SELECT DISTINCT chunk_id FROM event WHERE chunk_id"

_MOST_COUNTED: Final = 1 << 60
"""No count comes near it, and sums of such do not overflow."""

_GONE: Final = "is gone; there are fields of it"
_COUNTS: Final = "counts other fields than it has"
_EMPTY: Final = "has no fields, and no event of the ledger tells of it"
_OF_ANOTHER_BATCH: Final = "is of another batch than the chunks of its fields"

Found = tuple[str, Any, str]
"""The table, the row's number, and what is wrong with it."""


class Counting:
    """The rows of a table that count fields: of which batch each is, and how much of its counts is left."""

    def __init__(self, rows: Iterator[tuple[Any, ...]], width: int) -> None:
        self._width = width
        self._numbers, self._batches, self._left = array("q"), array("q"), array("q")
        self._has_fields = bytearray()
        self._of_none: dict[int, Any] = {}  # as somebody wrote it who changed the column
        for number, batch, *counts in rows:
            if type(batch) is not int:
                self._of_none[len(self._numbers)] = batch
            self._batches.append(batch if type(batch) is int else 0)
            self._numbers.append(number)
            self._left.extend(map(_count, counts))
            self._has_fields.append(0)

    def places(self, number: Any) -> list[int]:
        """Where a number stands: once, or nowhere; more often where somebody took the table's key away."""
        if type(number) is not int:
            return []
        found, at = [], bisect_left(self._numbers, number)
        while at < len(self._numbers) and self._numbers[at] == number:
            found.append(at)
            at += 1
        return found

    def take(self, places: Sequence[int], sums: Sequence[int]) -> None:
        """Take some fields off what is counted."""
        for at in places:
            self._has_fields[at] = 1
            for place, of_fields in enumerate(sums[: self._width], start=at * self._width):
                self._left[place] -= of_fields

    def batch(self, at: int) -> Any:
        """The batch of the row at a place; what stands there instead, where that is no number."""
        return self._of_none.get(at, self._batches[at])

    def miscounted(self) -> Iterator[int]:
        """The numbers of rows of whose counts something is left, or lacking."""
        for at, number in enumerate(self._numbers):
            if any(self._left[at * self._width : (at + 1) * self._width]):
                yield number

    def empty(self) -> list[int]:
        """The numbers of rows of which there is no field."""
        return [number for number, has_fields in zip(self._numbers, self._has_fields, strict=True) if not has_fields]


def compare(conn: Connection) -> list[Found]:
    """Slides and chunks that count other fields than there are, are gone, are of two batches or stand for nothing."""
    slides = Counting((row for rows in blocks(conn, _SLIDES) for row in rows), 4)
    chunks = Counting((row for rows in blocks(conn, _CHUNKS) for row in rows), 6)
    found: set[Found] = set()
    pairs = groups(conn, "field", "slide_id, chunk_id, state, linked", by="slide_id, chunk_id", sums=_OF_FIELDS)
    for slide, chunk, *sums in pairs:
        of_slides, of_chunks = slides.places(slide), chunks.places(chunk)
        slides.take(of_slides, sums)
        chunks.take(of_chunks, sums)
        if not of_slides:
            found.add(("slide", slide, _GONE))
        if not of_chunks:
            found.add(("chunk", chunk, _GONE))
        batches = ((slides.batch(one), chunks.batch(other)) for one in of_slides for other in of_chunks)
        if any(None not in pair and pair[0] != pair[1] for pair in batches):
            found.add(("slide", slide, _OF_ANOTHER_BATCH))
    found.update(("slide", number, _COUNTS) for number in slides.miscounted())
    found.update(("chunk", number, _COUNTS) for number in chunks.miscounted())
    empty = chunks.empty()
    told = {row[0] for row in rows_of(conn, _HAS_EVENTS, empty)}
    found.update(("chunk", number, _EMPTY) for number in empty if number not in told)
    return sorted(found, key=_order)


def _count(value: Any) -> int:
    """What is counted; what no count is, as one that no fields come to."""
    return value if type(value) is int and abs(value) < _MOST_COUNTED else _MOST_COUNTED


def _order(found: Found) -> tuple[str, bool, int, str, str]:
    table, number, what = found
    is_number = type(number) is int
    return table, is_number, number if is_number else 0, str(number), what
