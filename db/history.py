"""What a slide's record answers: bytes, model, settings, code, worker; who submitted, looked, decided, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import NotFound
from allq.text import printable
from db.damaged import despite_damage, readable_moment
from db.rows_told import object_of
from db.statements import known_moment, run


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """An event in a slide's history. `leaf`: its place in the sealed tree, None while it waits for it.

    `at`: None where somebody wrote a time that is none.
    """

    event: int
    at: datetime | None
    kind: str
    actor: str
    body: dict[str, Any]
    leaf: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldHistory:
    """A field and how its finding came about; what belongs to a finding is None without one.

    `computed_at`: None also where somebody wrote a time that is none.
    """

    field: str
    state: str
    sha256: str | None
    finding: int | None
    call: str | None
    failure: str | None
    engine: str | None
    code_version: str | None
    computed_at: datetime | None
    computed_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideHistory:
    """One slide of one batch."""

    slide: str
    batch: int
    root: str
    submitted_at: datetime
    submitted_by: str
    settings: str
    model: str
    model_sha256: str
    model_code_version: str
    fields: tuple[FieldHistory, ...]
    events: tuple[HistoryEvent, ...]


_SLIDES: Final = """
    SELECT s.id, s.name, s.batch_id, b.root, b.created_at, b.operator, b.settings, m.name AS model, m.sha256,
           m.code_version
    FROM slide s JOIN batch b ON b.id = s.batch_id JOIN model m ON m.id = b.model_id
    WHERE s.name = :slide ORDER BY s.id
"""
_FIELDS: Final = """
    SELECT f.path, f.state, f.failure, f.sha256 AS failed_sha256, i.id, i.sha256, i.call, i.engine, i.code_version,
           i.recorded_at,
           (SELECT e.actor FROM field o JOIN event e ON e.chunk_id = o.chunk_id AND e.kind = 'chunk-recorded'
            WHERE o.finding_id = i.id AND NOT o.linked ORDER BY e.id LIMIT 1) AS worker
    FROM field f LEFT JOIN finding i ON i.id = f.finding_id
    WHERE f.slide_id = :slide ORDER BY f.id
"""
_EVENTS: Final = """
    SELECT h.event_id, h.at, h.kind, h.actor, h.body, l.seq
    FROM slide_history h LEFT JOIN leaf l ON l.event_id = h.event_id
    WHERE h.slide_id = :slide ORDER BY h.event_id
"""

_OF_LEDGER: Final = """
    SELECT e.id AS event_id, e.at, e.kind, e.actor, e.body, l.seq
    FROM event e LEFT JOIN leaf l ON l.event_id = e.id
    WHERE e.batch_id IS NULL AND e.chunk_id IS NULL
      AND e.kind IN ('ledger-began', 'ledger-key-rotated', 'backup-restored')
    ORDER BY e.id
"""
_GIVING_UP: Final = """
    SELECT e.id AS event_id, e.at, e.kind, e.actor, e.body, l.seq FROM leaf l JOIN event e ON e.id = l.event_id
    WHERE l.seq >= :after AND e.kind = 'backup-restored' ORDER BY l.seq
"""


def of_ledger(conn: Connection) -> list[HistoryEvent]:
    """What was done to the ledger itself, oldest first: begun, keys changed, checkpoints given up."""
    return [_event(row) for row in despite_damage(conn, lambda: run(conn, _OF_LEDGER).all())]


def giving_up(conn: Connection, *, exported: int, note: str, after: int) -> str | None:
    """Who gave up the exported checkpoint with this note, when and why, in words; None where no event says so.

    `note`: the SHA-256 of the checkpoint's note, in hexadecimal. `after`: the leaf from which on it is looked for.
    """
    for row in despite_damage(conn, lambda: run(conn, _GIVING_UP, {"after": after}).all()):
        event = _event(row)
        if (event.body.get("exported"), event.body.get("note")) == (exported, note):
            when = f"at {event.at:%Y-%m-%d %H:%M:%S} UTC" if event.at else "at a time that is none"
            return printable(f"{event.actor} gave it up {when}, because: {event.body.get('reason')}")
    return None


def of_slide(conn: Connection, name: str) -> list[SlideHistory]:
    """The slides of that name in all batches, oldest first. NotFound when there is none."""
    slides = run(conn, _SLIDES, {"slide": name}).all()
    if not slides:
        raise NotFound(f"There is no slide {name!r}. `allq results BATCH` lists a batch's slides.")
    return [
        SlideHistory(
            slide=row.name,
            batch=row.batch_id,
            root=row.root,
            submitted_at=known_moment(row.created_at),
            submitted_by=row.operator,
            settings=row.settings,
            model=row.model,
            model_sha256=row.sha256,
            model_code_version=row.code_version,
            fields=_fields(conn, row.id),
            events=_events(conn, row.id),
        )
        for row in slides
    ]


def _fields(conn: Connection, slide_id: int) -> tuple[FieldHistory, ...]:
    found = []
    for row in despite_damage(conn, lambda: run(conn, _FIELDS, {"slide": slide_id}).all()):
        sha256 = row.failed_sha256 if row.sha256 is None else row.sha256
        found.append(
            FieldHistory(
                field=row.path,
                state=row.state,
                sha256=None if sha256 is None else bytes(sha256).hex(),
                finding=row.id,
                call=row.call,
                failure=row.failure,
                engine=row.engine,
                code_version=row.code_version,
                computed_at=readable_moment(row.recorded_at),
                computed_by=row.worker,
            )
        )
    return tuple(found)


def _events(conn: Connection, slide_id: int) -> tuple[HistoryEvent, ...]:
    rows = despite_damage(conn, lambda: run(conn, _EVENTS, {"slide": slide_id}).all())
    return tuple(_event(row) for row in rows)


def _event(row: Any) -> HistoryEvent:
    return HistoryEvent(
        event=row.event_id,
        at=readable_moment(row.at),
        kind=row.kind,
        actor=row.actor,
        body=object_of(row.body),
        leaf=row.seq,
    )
