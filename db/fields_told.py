"""Fields against what the ledger's events tell of them beside their findings: which failed and why, which have a twin.

A field that failed stays where it is, as its event tells, until it is tried again: then it lies in one of the chunks
that the event of this names, or in a half of one (`db.retries_told`), and what it has become is told by that chunk's
own event. The mark of a twin stays for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from db import retries_told
from db.counters import Counting
from db.damaged import blocks, despite_damage
from db.findings import failure_digest
from db.grouped import groups
from db.lines import blob
from db.lost import Lost
from db.rows_told import Problem, Report, RowsTold, Seen, name_rows, object_of, rows_of
from db.statements import plain_blocks, plain_rows, run, without_indexes

KINDS: Final = frozenset({"chunk-recorded", "field-crashed-worker", "field-failed", "twins-found"})
"""The kinds of events that tell of fields."""

EVENTS_AT_ONCE: Final = 16
"""So many of them are in memory as they were read, and so many chunks' rows."""

_AT_ONCE: Final = 5_000


class Failed(NamedTuple):
    """A failure as an event tells of it. `shown`: the SHA-256 of its line, None in events from before there was one."""

    field: int
    event: int
    chunk: int | None
    code: str
    sha256: str | None
    shown: str | None


@dataclass(frozen=True, slots=True)
class FieldsTold:
    """Of which fields a part of the events tells. `unsettled`: the events of which a failure is not as told."""

    failed: Seen
    twins: Seen
    unsettled: list[int]
    rows: int

    @classmethod
    def nothing(cls) -> FieldsTold:
        """Of a part that was not read."""
        return cls(Seen(), Seen(), [], 0)


@dataclass(slots=True)
class Fields:
    """Compares fields with events, block by block. `rows` counts the failures compared.

    `part`: one of several that work side by side. What it finds otherwise than told may have become so since: it leaves
    all that this event tells of failures to whoever puts the parts together with `take` and `merge`, and so sees all by
    one moment. `lost`: tables that are not there.

    A field that lies where fields were tried again is noted by the event of this, and held against it with
    `hold_retried` after all events: such a one may have a whole batch's fields, and is read once.
    """

    conn: Connection
    report: Report
    part: bool = False
    lost: Lost = field(default_factory=Lost)
    rows: int = 0
    _failed: Seen = field(default_factory=Seen)
    _twins: Seen = field(default_factory=Seen)
    _unsettled: set[int] = field(default_factory=set)
    _failures_told: list[Failed] = field(default_factory=list)
    _twins_told: list[tuple[int, int]] = field(default_factory=list)
    _chunks: retries_told.Chunks | None = None
    _retried: defaultdict[int, Seen] = field(default_factory=lambda: defaultdict(Seen))

    def check(self, told: Iterable[tuple[int, str, int | None, Mapping[str, Any]]]) -> None:
        """Compare what events of KINDS tell of: (event, kind, chunk, body as it was read). The last with `settle`."""
        if self.lost.rows_of("field"):
            return
        for event_id, kind, chunk_id, body in told:
            try:
                if kind == "twins-found":
                    self._twins_told += [(number, event_id) for number in _twins_of(body)]
                else:
                    self._failures_told += _failures_of(event_id, kind, chunk_id, body)
            except (KeyError, TypeError, ValueError):
                what = "does not say which fields it tells of, or what of them"
                self.report(Problem(table="event", row=str(event_id), what=what))
            if len(self._failures_told) + len(self._twins_told) >= _AT_ONCE:
                self.settle()

    def settle(self) -> None:
        """Compare what has waited until it is worth a question."""
        failures, twins = self._failures_told, self._twins_told
        self._failures_told, self._twins_told = [], []
        self._compare_failures(failures)
        self._compare_twins(twins)

    def hold_retried(self) -> None:
        """After all events: name fields that have failed and lie among others that were to be tried again."""
        retried, self._retried = self._retried, defaultdict(Seen)
        for event_id in sorted(retried):
            retries_told.name_others(self.conn, self.report, event_id, retried[event_id])

    def finish(self, rows: RowsTold) -> None:
        """After all events: name fields that failed, have a twin or show a finding by none, those that do not lie where
        they were to be tried again, and slides that count other twins. `rows`: has seen the same events.
        """
        if self.lost.rows_of("field"):
            return
        with without_indexes(self.conn):
            failed, twins, there = run(self.conn, _HOW_MANY).one()
            self._name_untold("f.state = 'failed'", failed, self._failed, "failed")
            self._name_untold("f.duplicate", twins, self._twins, _TWIN)
            if not self.lost.findings and there != rows.screened:
                what = "shows a finding, and no event of the ledger tells of its chunk"
                name_rows(self.report, "field", (row[0] for row in run(self.conn, _MISPLACED)), what)
            if not self.lost.rows_of("slide"):
                what = "counts other fields whose bytes lie in another slide's folder than show it"
                name_rows(self.report, "slide", self._miscounted(), what)
        if rows.makes_chunks:
            retries_told.compare(self.conn, self.report, self._chunks_made(), self.lost)

    def take(self) -> FieldsTold:
        """What has been seen since the last time."""
        told = FieldsTold(self._failed, self._twins, sorted(self._unsettled), self.rows)
        self._failed, self._twins, self._unsettled, self.rows = Seen(), Seen(), set(), 0
        return told

    def merge(self, told: FieldsTold) -> None:
        """Add what another has seen, and look at what it has left unsettled."""
        self.rows += told.rows
        for number in self._failed.merge(told.failed):
            self._of_field(number, _TOLD_TWICE)
        self._twins.merge(told.twins)
        for start in range(0, len(told.unsettled), EVENTS_AT_ONCE):
            ids = {"ids": told.unsettled[start : start + EVENTS_AT_ONCE]}
            events = despite_damage(self.conn, partial(plain_rows, self.conn, _EVENTS, ids, lists=("ids",)))
            self.check((number, kind, chunk, object_of(body)) for number, kind, chunk, body in events)
        self.settle()

    def _compare_twins(self, told: list[tuple[int, int]]) -> None:
        shown = dict(rows_of(self.conn, _TWINS, sorted({number for number, _ in told})))
        for number, event_id in told:
            if number not in shown:
                self._of_field(number, f"is gone; event {event_id} tells of it")
            elif not shown[number]:
                self._of_field(number, f"does not show that {_TWIN_OF}, as event {event_id} tells")
            else:
                self._twins.add(number)

    def _compare_failures(self, told: list[Failed]) -> None:
        found = {row[0]: row for row in rows_of(self.conn, _FAILURES, sorted({one.field for one in told}))}
        differing = [one for one in told if not _as_told(one, found.get(one.field))]
        if self.part:
            unsettled = {one.event for one in differing}
            self._unsettled |= unsettled
            told = [one for one in told if one.event not in unsettled]
        else:
            batches = dict(rows_of(self.conn, _BATCHES, sorted({one.event for one in differing})))
            for one in differing:
                self._report_unless_retried(one, found.get(one.field), batches.get(one.event))
        self.rows += len(told)
        for one in told:
            if _in_place(one, found.get(one.field)) and not self._failed.add(one.field):
                self._of_field(one.field, _TOLD_TWICE)

    def _report_unless_retried(self, one: Failed, row: tuple[Any, ...] | None, batch_id: Any) -> None:
        if row is None:
            self._of_field(one.field, f"is gone; event {one.event} tells that it failed")
        elif row[1] == one.chunk:
            self._of_field(one.field, f"differs from what event {one.event} tells of its failure")
        elif (retry := self._chunks_made().retried(row[1])) <= one.event:
            what = f"lies in another chunk than event {one.event} tells, and none tells that it was to be tried again"
            self._of_field(one.field, what)
        elif self._chunks_made().batch(row[1]) != batch_id:
            self._of_field(
                one.field, f"lies in a chunk of another batch than that in which event {one.event} has it fail"
            )
        elif retry not in self._chunks_made().silent:
            self._retried[retry].add(one.field)

    def _miscounted(self) -> Iterator[int]:
        """Slides that count other twins than they have."""
        slides = Counting((row for rows in blocks(self.conn, _COUNTED_TWINS) for row in rows), 1)
        twins = "count(CASE WHEN duplicate THEN 1 END)"
        for slide, count in groups(self.conn, "field", "slide_id, duplicate", by="slide_id", sums=twins):
            slides.take(slides.places(slide), [count])
        return slides.miscounted()

    def _chunks_made(self) -> retries_told.Chunks:
        if self._chunks is None:
            self._chunks = retries_told.Chunks.of(self.conn)
        return self._chunks

    def _name_untold(self, where: str, count: int, seen: Seen, what: str) -> None:
        if count == seen.count:
            return
        of_fields = f"FROM field f {{not_indexed}} WHERE {where}"
        ids = (row[0] for rows in plain_blocks(self.conn, f"SELECT f.id {of_fields} ORDER BY f.id") for row in rows)
        untold = (number for number in ids if number not in seen)
        if name_rows(self.report, "field", untold, f"{what}, and no event of the ledger tells of it") != (
            count - seen.count
        ):
            twice = f"SELECT f.id {of_fields} GROUP BY f.id HAVING count(*) > 1 ORDER BY f.id"
            name_rows(self.report, "field", (row[0] for row in run(self.conn, twice)), "stands there twice")

    def _of_field(self, number: int, what: str) -> None:
        self.report(Problem(table="field", row=str(number), what=what))


_TWIN_OF: Final = "its bytes lie in another slide's folder"
_TWIN: Final = f"shows that {_TWIN_OF}"
_TOLD_TWICE: Final = "two events tell that it failed"

_TWINS: Final = "SELECT id, duplicate FROM field WHERE id"
_FAILURES: Final = "SELECT id, chunk_id, state, failure, sha256, slide_id, path, failure_sentence FROM field WHERE id"
_EVENTS: Final = "SELECT id, kind, chunk_id, body FROM event WHERE id IN :ids ORDER BY id"
_HOW_MANY: Final = """
    SELECT count(CASE WHEN state = 'failed' THEN 1 END), count(CASE WHEN duplicate THEN 1 END),
           count(CASE WHEN state = 'screened' THEN 1 END)
    FROM field {not_indexed}
"""
_MISPLACED: Final = """
    WITH told AS MATERIALIZED (
        SELECT DISTINCT chunk_id FROM event {not_indexed} WHERE kind = 'chunk-recorded'
    )
    SELECT f.id FROM field f {not_indexed} LEFT JOIN told t ON t.chunk_id = f.chunk_id
    WHERE f.state = 'screened' AND t.chunk_id IS NULL ORDER BY f.id
"""
_COUNTED_TWINS: Final = "SELECT id, batch_id, duplicates FROM slide {not_indexed} ORDER BY id"
_BATCHES: Final = "SELECT id, batch_id FROM event WHERE id"


def compare(told: Iterable[tuple[int, str, int | None, str]], rows: RowsTold, fields: Fields) -> None:
    """Compare the rows that events tell of: (event, kind, chunk, body).

    The bodies of those that tell of many rows are long: they are read once, and a few at a time.
    """
    of_fields: list[tuple[int, str, int | None, str]] = []
    others: list[tuple[int, str, int | None, str]] = []
    for event in told:
        (of_fields if event[1] in KINDS else others).append(event)
    rows.check(others)
    for start in range(0, len(of_fields), EVENTS_AT_ONCE):
        part = [(*event[:3], object_of(event[3])) for event in of_fields[start : start + EVENTS_AT_ONCE]]
        rows.check_chunks([(number, chunk, body) for number, kind, chunk, body in part if kind == "chunk-recorded"])
        fields.check(part)
    fields.settle()


def _failures_of(event_id: int, kind: str, chunk_id: int | None, body: Mapping[str, Any]) -> list[Failed]:
    """The failures that an event tells of. KeyError, TypeError or ValueError when it doesn't say what it should."""
    told = body.get("failures", []) if kind == "chunk-recorded" else [body]
    if not isinstance(told, list):
        raise TypeError("no list")
    found = []
    for one in told:
        code, sha256, shown = one["code"], one.get("sha256"), one.get("shown")
        if not (isinstance(code, str) and _is_text_or_none(sha256) and _is_text_or_none(shown)):
            raise TypeError("no text")
        found.append(Failed(_number(one["field"]), event_id, chunk_id, code, sha256, shown))
    return found


def _twins_of(body: Mapping[str, Any]) -> list[int]:
    """The fields that an event `twins-found` tells of. Raises as `_failures_of`."""
    if not isinstance(body["fields"], list):
        raise TypeError("no list")
    return [_number(one) for one in body["fields"]]


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _number(value: Any) -> int:
    """A row's number, as the database can hold it. ValueError for anything else."""
    if not retries_told.is_number(value):
        raise ValueError("no number of a row")
    return int(value)


def _in_place(one: Failed, row: tuple[Any, ...] | None) -> bool:
    """Whether a field lies where it has failed, as one that did."""
    return row is not None and row[1] == one.chunk and row[2] == "failed"


def _as_told(one: Failed, row: tuple[Any, ...] | None) -> bool:
    """Whether it does, and shows the reason, the bytes, the slide and the path that the event tells of."""
    if row is None or not _in_place(one, row):
        return False
    _, _, _, code, sha256, slide_id, path, sentence = row
    try:
        if code != one.code or (sha256 and blob(sha256).hex()) != one.sha256:
            return False
        return one.shown is None or failure_digest(one.field, slide_id, path, sentence) == one.shown
    except (TypeError, ValueError):  # what allq never writes
        return False
