"""What a bundle tells of whose each field is: the lines of slides, files and names that events have only digests of.

`chunk-recorded` has one digest over the lines of all the fields that were screened in a chunk, so that those of other
slides come with them; a failed field's line has a digest of its own. What the rows say now is written, whatever that
is: `verify.py` tells whether it is what the events have the digests of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import LedgerError
from allq.text import is_utf8
from db import findings, lines
from db.damaged import despite_damage
from db.rows_told import object_of
from db.statements import plain_rows

_EVENTS_AT_ONCE: Final = 16
_NAMES_AT_ONCE: Final = 1_000

_BODIES: Final = "SELECT id, kind, chunk_id, body FROM event WHERE id IN :ids ORDER BY id"
_FIELDS: Final = """
    SELECT f.chunk_id, f.id, f.slide_id, f.path, f.state, f.failure_sentence, s.name
    FROM field f LEFT JOIN slide s ON s.id = f.slide_id
    WHERE f.chunk_id IN :chunks AND f.state IN ('screened', 'failed') ORDER BY f.chunk_id, f.id
"""
_NAMES: Final = "SELECT id, name FROM slide WHERE batch_id = :batch AND id > :after ORDER BY id LIMIT :page"
_OTHERS: Final = """
    SELECT count(*) FROM field f JOIN slide s ON s.id = f.slide_id
    WHERE f.chunk_id IN :chunks AND f.state = 'screened' AND s.name <> :slide
"""


@dataclass(slots=True)
class EventsOfPlaces:
    """The exported events that have digests of such lines: of chunks and failed fields, and of each batch the last."""

    of_fields: list[int] = field(default_factory=list)
    of_names: dict[int, int] = field(default_factory=dict)

    def add(self, event_id: int, kind: str, batch: Any, body: str) -> None:
        """Note an event if it is one of these."""
        if '"places":' in body or '"shown":' in body:
            self.of_fields.append(event_id)
        elif '"slide_names":' in body and kind.startswith("batch-") and isinstance(batch, int):
            self.of_names[batch] = max(event_id, self.of_names.get(batch, 0))


def records(conn: Connection, told: EventsOfPlaces, slide: str | None) -> Iterator[dict[str, Any]]:
    """The lines by the event that has their digest, a few events at a time: `of` says which of its digests.

    With a slide's name, of failed fields those of slides of that name only, and no names of a batch's slides: the
    events of its calls have its own. LedgerError where a row holds what is no text.
    """
    ordered = sorted(told.of_fields)
    for start in range(0, len(ordered), _EVENTS_AT_ONCE):
        yield from _of_fields(conn, ordered[start : start + _EVENTS_AT_ONCE], slide)
    if slide is None:
        for batch, event_id in sorted(told.of_names.items()):
            yield from _of_names(conn, batch, event_id)


def of_others(conn: Connection, chunks: Sequence[int], slide: str) -> int:
    """How many fields of these chunks were screened for slides of other names."""
    parts = (chunks[start : start + 500] for start in range(0, len(chunks), 500))
    return sum(_rows(conn, _OTHERS, {"chunks": part, "slide": slide}, "chunks")[0][0] for part in parts)


def _of_fields(conn: Connection, events: Sequence[int], slide: str | None) -> Iterator[dict[str, Any]]:
    bodies = [
        (event_id, kind, chunk, object_of(body))
        for event_id, kind, chunk, body in _rows(conn, _BODIES, {"ids": events}, "ids")
        if isinstance(chunk, int)
    ]
    screened: defaultdict[int, list[str]] = defaultdict(list)
    failed: defaultdict[int, dict[int, str]] = defaultdict(dict)
    chunks = sorted({chunk for _, _, chunk, _ in bodies})
    for chunk, number, slide_id, path, state, sentence, name in _rows(conn, _FIELDS, {"chunks": chunks}, "chunks"):
        if state == "screened":
            screened[chunk].append(_line(chunk, findings.place_line, number, slide_id, path))
        elif slide is None or name == slide:
            failed[chunk][number] = _line(chunk, findings.failure_line, number, slide_id, path, sentence)
    for event_id, kind, chunk, body in bodies:
        if kind == "chunk-recorded" and "places" in body:
            yield {"event": event_id, "of": "places", "lines": screened[chunk]}
        told = body.get("failures") if kind == "chunk-recorded" else [body]
        failures = told if isinstance(told, list) else []
        numbers = [one.get("field") for one in failures if isinstance(one, dict) and isinstance(one.get("shown"), str)]
        if texts := [failed[chunk][number] for number in numbers if type(number) is int and number in failed[chunk]]:
            yield {"event": event_id, "of": "shown", "lines": texts}


def _of_names(conn: Connection, batch: int, event_id: int) -> Iterator[dict[str, Any]]:
    """A batch's slides: the first so many as the event tells of, for it may have been taken up again after it."""
    ((_, _, _, body),) = _rows(conn, _BODIES, {"ids": [event_id]}, "ids")
    left, after = object_of(body).get("slides"), -1
    while type(left) is int and left > 0:
        page = {"batch": batch, "after": after, "page": min(left, _NAMES_AT_ONCE)}
        rows = _rows(conn, _NAMES, page)
        if not rows:
            return
        yield {
            "event": event_id,
            "of": "slide_names",
            "lines": [_checked(f"A slide of batch {batch}", lines.name_line, *row) for row in rows],
        }
        left, after = left - len(rows), rows[-1][0]


def _line(chunk: int, make: Any, *values: Any) -> str:
    return _checked(f"A field of chunk {chunk}", make, *values)


def _checked(what: str, make: Any, *values: Any) -> str:
    try:
        text = str(make(*values))
    except TypeError:
        text = "\udc80"
    if not is_utf8(text):
        raise LedgerError(f"{what} holds what is no text. Run `allq audit verify`; other slides can be exported.")
    return text


def _rows(conn: Connection, statement: str, values: dict[str, Any], *named: str) -> list[tuple[Any, ...]]:
    return despite_damage(conn, partial(plain_rows, conn, statement, values, lists=named))
