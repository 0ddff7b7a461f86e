"""Fields that were tried again, and the chunks made of them, against what the ledger's events tell of both.

A field that failed and is tried again lies in the chunk to which the last event of this has moved it, or in a half of
that chunk, whatever becomes of it there. So a retry can't be undone by laying it back to where it failed, as its first
failure's event tells.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection

from db.damaged import despite_damage
from db.lost import Lost
from db.rows_told import Problem, Report, Seen, name_rows, object_of, rows_of
from db.statements import plain_rows, run, without_indexes

_AT_ONCE: Final = 5_000

_EVENTS: Final = """
    SELECT id, kind, batch_id, chunk_id, CASE WHEN kind = 'chunk-halved' THEN body END FROM event {not_indexed}
    WHERE kind IN ('fields-retried', 'chunk-halved') ORDER BY id
"""
"""Without the fields that were tried again: an event may have all of a batch's."""
_BODY: Final = "SELECT body FROM event WHERE id = :id"
_CHUNKS: Final = "SELECT id, batch_id FROM chunk WHERE id"
_FIELDS: Final = "SELECT id, chunk_id FROM field WHERE id"


@dataclass(slots=True)
class Chunks:
    """Which chunks were made of fields to be tried again, by the number of their event; of which each is a half.

    `events`: of each chunk that was made, the event that tells so, and its batch; `again`: the chunks of which another
    tells so, too. `retries`: the events of fields tried again, ascending; `silent`: those of them that don't tell where
    each field was laid, from before they did: none comes after one that does, for no allq that was given out writes
    such to a schema to which another writes the others.
    """

    retried_by: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int | None] = field(default_factory=dict)
    events: dict[int, tuple[int, Any]] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    retries: list[int] = field(default_factory=list)
    silent: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, conn: Connection) -> Chunks:
        """As all events tell that `conn` sees."""
        found = cls()
        telling = False
        with without_indexes(conn):
            events = despite_damage(conn, lambda: plain_rows(conn, _EVENTS))
        for event_id, kind, batch_id, chunk_id, body in events:
            told = _body_of(conn, event_id) if kind == "fields-retried" else _object(body)
            if kind == "fields-retried":
                chunks = told.get("chunks")
                made = {number for number in chunks if is_number(number)} if isinstance(chunks, list) else set()
                found.retries.append(event_id)
                telling |= "placed" in told
                if not telling:
                    found.silent.add(event_id)
            else:
                made = {told["into"]} if is_number(told.get("into")) else set()
            found.again |= made & found.events.keys()
            made -= found.events.keys()  # what was made is not made once more: the first one holds
            if kind == "fields-retried":
                found.retried_by.update(dict.fromkeys(made, event_id))
            else:
                found.whole.update(dict.fromkeys(made, chunk_id))
            found.events.update(dict.fromkeys(made, (event_id, batch_id)))
        return found

    def retried(self, chunk_id: Any) -> int:
        """The number of the event by which a chunk's fields were to be tried again; 0 where there is none."""
        return self.retried_by.get(self.first(chunk_id), 0)

    def batch(self, chunk_id: Any) -> Any:
        """The batch of the fields that were to be tried again in a chunk, as the event tells; None where none does."""
        return self.events.get(self.first(chunk_id), (0, None))[1]

    def first(self, chunk_id: Any) -> Any:
        """The chunk that was made of fields to be tried again of which this one is a half, or the one never halved."""
        been: set[Any] = set()  # false events may lead round in a circle
        while chunk_id not in self.retried_by and chunk_id not in been and self.whole.get(chunk_id) is not None:
            been.add(chunk_id)
            chunk_id = self.whole[chunk_id]
        return chunk_id


def is_number(value: Any) -> bool:
    """Whether a value of an event is a row's number, as the database can hold it."""
    return type(value) is int and 0 <= value < 1 << 63


def compare(conn: Connection, report: Report, chunks: Chunks, lost: Lost) -> None:
    """Name chunks that are gone, and fields that lie elsewhere than where they were laid to be tried again."""
    if not lost.rows_of("chunk"):
        _compare_chunks(conn, report, chunks)
    if not chunks.retries:
        return
    seen = Seen()
    for event_id in reversed(chunks.retries):  # what came last holds
        try:
            placed = [] if event_id in chunks.silent else _placed(_body_of(conn, event_id))
        except (KeyError, TypeError, ValueError):
            what = "does not say which fields were to be tried again, or in which chunks"
            report(Problem(table="event", row=str(event_id), what=what))
            continue
        of_fields = ((number, chunk) for chunk, numbers in placed for number in numbers if seen.add(number))
        while part := dict(islice(of_fields, _AT_ONCE)):
            _compare_fields(conn, report, chunks, event_id, part)


def name_others(conn: Connection, report: Report, event_id: int, fields: Seen) -> None:
    """Of fields that lie in chunks of those that were tried again by an event, name which by this were not."""
    there = Seen()
    with suppress(KeyError, TypeError, ValueError):  # an event without sense is named elsewhere, and excuses none
        for _, numbers in _placed(_body_of(conn, event_id)):
            for number in numbers:
                if number in fields:
                    there.add(number)
    if there.count < fields.count:
        what = f"lies among fields that were to be tried again, and event {event_id} does not tell that it was"
        name_rows(report, "field", (number for number in fields.numbers() if number not in there), what)


def _placed(told: dict[str, Any]) -> list[tuple[int, list[int]]]:
    """Each chunk that an event tells of, with its fields. KeyError, TypeError or ValueError when it doesn't."""
    placed = list(zip(told["chunks"], told["placed"], strict=True))
    for chunk, fields in placed:
        if not is_number(chunk) or not isinstance(fields, list) or not all(map(is_number, fields)):
            raise TypeError("no numbers")
    return placed


def _compare_chunks(conn: Connection, report: Report, chunks: Chunks) -> None:
    there = dict(rows_of(conn, _CHUNKS, sorted(chunks.events)))
    for number, (event_id, batch_id) in chunks.events.items():
        if number not in there:
            report(Problem(table="chunk", row=str(number), what=f"is gone; event {event_id} tells of it"))
        elif there[number] != batch_id:
            report(Problem(table="chunk", row=str(number), what=f"is of another batch than event {event_id} tells"))
    name_rows(report, "chunk", sorted(chunks.again), "two events tell that it was made")


def _compare_fields(conn: Connection, report: Report, chunks: Chunks, event_id: int, placed: dict[int, int]) -> None:
    there = dict(rows_of(conn, _FIELDS, sorted(placed)))
    for number, chunk in placed.items():
        if number not in there:
            what = f"is gone; event {event_id} tells that it was to be tried again"
        elif chunks.first(there[number]) == chunk:
            continue
        else:
            what = f"lies in another chunk than that in which it was to be tried again, as event {event_id} tells"
        report(Problem(table="field", row=str(number), what=what))


def _body_of(conn: Connection, event_id: int) -> dict[str, Any]:
    found = despite_damage(conn, lambda: run(conn, _BODY, {"id": event_id}).all())
    return _object(found[0][0]) if found else {}


def _object(body: Any) -> dict[str, Any]:
    return object_of(body) if isinstance(body, str) else {}
