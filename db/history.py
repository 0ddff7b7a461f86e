"""What a slide's record answers: bytes, model, settings, code, worker; who submitted, looked, decided, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import NotFound
from allq.text import printable
from db import checkpoints
from db.damaged import despite_damage, readable_moment
from db.rows_told import object_of
from db.statements import known_moment, run

NEAR: Final = timedelta(hours=1)
"""What two machines' clocks, or a late commit, may make of the order of times."""

NAMED: Final = 5
"""So many of those that are dated back are named; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """An event in a slide's history. `leaf`: its place in the sealed tree, None while it waits for it.

    `at`: None where somebody wrote a time that is none. `checkpoint` has sealed it, at `sealed_at`. `body`: without
    the `placed` of a retry. What concerns the slide alone is told by its fields as they stand: `own` of a chunk that
    was recorded, `field` of the one that failed, `twins` of fields with the same bytes as others.
    """

    event: int
    at: datetime | None
    kind: str
    actor: str
    body: dict[str, Any]
    leaf: int | None
    checkpoint: int | None = None
    sealed_at: datetime | None = None
    own: OwnFields | None = None
    field: str | None = None
    twins: tuple[TwinSlide, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFields:
    """How many of a chunk's fields are the slide's: screened, of these linked to a finding that existed, and failed."""

    screened: int
    linked: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSlide:
    """Another slide in whose folder lie the same bytes as in so many `fields` of this one."""

    slide: str
    batch: int
    fields: int


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
    SELECT f.id AS field_id, f.chunk_id, f.linked, f.path, f.state, f.failure, f.sha256 AS failed_sha256, i.id,
           i.sha256, i.call, i.engine, i.code_version, i.recorded_at,
           (SELECT e.actor FROM field o JOIN event e ON e.chunk_id = o.chunk_id AND e.kind = 'chunk-recorded'
            WHERE o.finding_id = i.id AND NOT o.linked ORDER BY e.id LIMIT 1) AS worker
    FROM field f LEFT JOIN finding i ON i.id = f.finding_id
    WHERE f.slide_id = :slide ORDER BY f.id
"""
_UNPLACED: Final = "rtrim(h.body, '0123456789[],}')"
_EVENTS: Final = f"""
    SELECT h.event_id, h.at, h.kind, h.actor, l.seq, e.chunk_id,
           CASE WHEN h.kind = 'fields-retried' AND substr({_UNPLACED}, length({_UNPLACED}) - 9) = ',"placed":'
                THEN substr({_UNPLACED}, 1, length({_UNPLACED}) - 10) || '}}' ELSE h.body END AS body
    FROM slide_history h JOIN event e ON e.id = h.event_id LEFT JOIN leaf l ON l.event_id = h.event_id
    WHERE h.slide_id = :slide ORDER BY h.event_id
"""
"""Of fields that were tried again without the list of them, which ends the body and may have all of a batch's."""
_TWINS: Final = """
    SELECT DISTINCT own.id AS field_id, s.batch_id, s.id AS slide_id, s.name
    FROM field own
    JOIN slide own_slide ON own_slide.id = own.slide_id
    JOIN batch own_batch ON own_batch.id = own_slide.batch_id
    JOIN finding own_finding ON own_finding.id = own.finding_id
    JOIN finding same ON same.sha256 = own_finding.sha256
    JOIN field twin ON twin.finding_id = same.id
    JOIN slide s ON s.id = twin.slide_id
    JOIN batch b ON b.id = s.batch_id
    WHERE own.slide_id = :slide AND own.duplicate
      AND rtrim(own_batch.root, '/') || '/' || rtrim(own.path, replace(own.path, '/', ''))
       <> rtrim(b.root, '/') || '/' || rtrim(twin.path, replace(twin.path, '/', ''))
    ORDER BY s.batch_id, s.id, own.id
"""
"""As the query `twins`, of one slide."""

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
    rows = despite_damage(conn, lambda: run(conn, _OF_LEDGER).all())
    sealed = _sealed(conn, rows)
    return [_event(row, sealed) for row in rows]


def out_of_time(events: Iterable[HistoryEvent]) -> Iterator[HistoryEvent]:
    """Those dated more than NEAR before one of a smaller number: by a clock that was wrong, or by somebody."""
    latest: datetime | None = None
    for event in sorted(events, key=lambda one: one.event):
        if event.at is None:
            continue
        if latest is not None and latest - event.at > NEAR:
            yield event
        latest = event.at if latest is None else max(latest, event.at)


def giving_up(conn: Connection, *, exported: int, note: str, after: int) -> str | None:
    """Who gave up the exported checkpoint with this note, when and why, in words; None where no event says so.

    `note`: the SHA-256 of the checkpoint's note, in hexadecimal. `after`: the leaf from which on it is looked for.
    """
    for row in despite_damage(conn, lambda: run(conn, _GIVING_UP, {"after": after}).all()):
        event = _event(row, {})
        if (event.body.get("exported"), event.body.get("note")) == (exported, note):
            when = f"at {event.at:%Y-%m-%d %H:%M:%S} UTC" if event.at else "at a time that is none"
            return printable(f"{event.actor} gave it up {when}, because: {event.body.get('reason')}")
    return None


def of_slide(conn: Connection, name: str) -> list[SlideHistory]:
    """The slides of that name in all batches, oldest first. NotFound when there is none."""
    slides = run(conn, _SLIDES, {"slide": name}).all()
    if not slides:
        raise NotFound(f"There is no slide {name!r}. `allq results BATCH` lists a batch's slides.")
    return [_history(conn, row) for row in slides]


def _history(conn: Connection, row: Any) -> SlideHistory:
    fields = despite_damage(conn, lambda: run(conn, _FIELDS, {"slide": row.id}).all())
    return SlideHistory(
        slide=row.name,
        batch=row.batch_id,
        root=row.root,
        submitted_at=known_moment(row.created_at),
        submitted_by=row.operator,
        settings=row.settings,
        model=row.model,
        model_sha256=row.sha256,
        model_code_version=row.code_version,
        fields=_fields(fields),
        events=_events(conn, row.id, fields),
    )


def _fields(rows: Sequence[Any]) -> tuple[FieldHistory, ...]:
    found = []
    for row in rows:
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


def _events(conn: Connection, slide_id: int, fields: Sequence[Any]) -> tuple[HistoryEvent, ...]:
    rows = despite_damage(conn, lambda: run(conn, _EVENTS, {"slide": slide_id}).all())
    sealed = _sealed(conn, rows)
    of_slide = _OfSlide(conn, slide_id, fields)
    return tuple(of_slide.told_by(_event(row, sealed), row.chunk_id) for row in rows)


class _OfSlide:
    """What of an event that tells of several slides concerns one: its fields as they stand say so."""

    def __init__(self, conn: Connection, slide_id: int, fields: Sequence[Any]) -> None:
        self._conn = conn
        self._slide_id = slide_id
        self._paths = {row.field_id: row.path for row in fields}
        screened = [row for row in fields if row.state == "screened"]
        self._screened = Counter(row.chunk_id for row in screened)
        self._linked = Counter(row.chunk_id for row in screened if row.linked)
        self._twins: list[Any] | None = None

    def told_by(self, event: HistoryEvent, chunk_id: int | None) -> HistoryEvent:
        """The event with what of it is the slide's."""
        if event.kind == "chunk-recorded":
            return replace(event, own=self._own(event.body, chunk_id))
        if event.kind in {"field-failed", "field-crashed-worker"}:
            return replace(event, field=self._path(event.body.get("field")))
        if event.kind == "twins-found":
            return replace(event, twins=self._twins_of(event.body))
        return event

    def _own(self, body: Mapping[str, Any], chunk_id: int | None) -> OwnFields | None:
        """None where the event does not name the fields that failed, as those of before."""
        failures = body.get("failures", [] if body.get("failed") == 0 else None)
        if not isinstance(failures, list):
            return None
        failed = [one for one in failures if isinstance(one, dict) and self._path(one.get("field")) is not None]
        return OwnFields(screened=self._screened[chunk_id], linked=self._linked[chunk_id], failed=len(failed))

    def _path(self, field: Any) -> str | None:
        return self._paths.get(field) if isinstance(field, int) else None

    def _twins_of(self, body: Mapping[str, Any]) -> tuple[TwinSlide, ...]:
        if self._twins is None:
            slide = {"slide": self._slide_id}
            self._twins = list(despite_damage(self._conn, lambda: run(self._conn, _TWINS, slide).all()))
        told = body.get("fields")
        fields = {number for number in told if isinstance(number, int)} if isinstance(told, list) else set()
        slides = Counter((row.batch_id, row.slide_id, row.name) for row in self._twins if row.field_id in fields)
        return tuple(TwinSlide(slide=name, batch=batch, fields=count) for (batch, _, name), count in slides.items())


def _sealed(conn: Connection, rows: Sequence[Any]) -> dict[int, tuple[int, Any]]:
    return checkpoints.covering(conn, [row.seq for row in rows if row.seq is not None])


def _event(row: Any, sealed: Mapping[int, tuple[int, Any]]) -> HistoryEvent:
    checkpoint, sealed_at = sealed.get(row.seq, (None, None))
    return HistoryEvent(
        event=row.event_id,
        at=readable_moment(row.at),
        kind=row.kind,
        actor=row.actor,
        body=object_of(row.body),
        leaf=row.seq,
        checkpoint=checkpoint,
        sealed_at=readable_moment(sealed_at),
    )
