"""Fields against what the ledger's events tell of them beside their findings: which failed and why, which have a twin.

A field that failed stays where it is, as its event tells, until it is tried again: then it lies in one of the chunks
that the event of this names, or in a half of one (`db.retries_told`), and what it has become is told by that chunk's
own event. The mark of a twin stays for good.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from db import retries_told
from db.findings import failure_digest
from db.lines import blob
from db.lost import Lost
from db.rows_told import Problem, Report, Seen, name_rows, object_of, rows_of
from db.statements import run, without_indexes

KINDS: Final = frozenset({"chunk-recorded", "field-crashed-worker", "field-failed", "twins-found"})
"""The kinds of events that tell of fields."""

_AT_ONCE: Final = 5_000
_NO_FAILURES: Final = '"failures":[]'
"""As canonical JSON has it: no text of a user's looks so, and most chunks need not be read any further."""


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
    """Of which fields a part of the events tells, as far as they are as told. `unsettled`: the others' failures."""

    failed: array[int]
    twins: array[int]
    unsettled: list[Failed]
    rows: int

    @classmethod
    def nothing(cls) -> FieldsTold:
        """Of a part that was not read."""
        return cls(array("q"), array("q"), [], 0)


@dataclass(slots=True)
class Fields:
    """Compares fields with events, block by block. `rows` counts the failures compared.

    `part`: one of several that work side by side. What it finds otherwise than told may have become so since: it leaves
    that to whoever puts the parts together with `take` and `merge`, and so sees all by one moment. `lost`: tables that
    are not there.
    """

    conn: Connection
    report: Report
    part: bool = False
    lost: Lost = field(default_factory=Lost)
    rows: int = 0
    _failed: Seen | None = None
    _twins: Seen | None = None
    _unsettled: list[Failed] = field(default_factory=list)
    _chunks: retries_told.Chunks | None = None

    def check(self, told: Iterable[tuple[int, str, int | None, str]]) -> None:
        """Compare what these events tell of: (event, kind, chunk, body). Those of other kinds are passed over."""
        if self.lost.rows_of("field"):
            return
        failures: list[Failed] = []
        twins: list[tuple[int, int]] = []
        for event_id, kind, chunk_id, body in told:
            if kind not in KINDS or (kind == "chunk-recorded" and _NO_FAILURES in body):
                continue
            try:
                if kind == "twins-found":
                    twins += [(number, event_id) for number in _twins_of(object_of(body))]
                else:
                    failures += _failures_of(event_id, kind, chunk_id, object_of(body))
            except (KeyError, TypeError, ValueError):
                what = "does not say which fields it tells of, or what of them"
                self.report(Problem(table="event", row=str(event_id), what=what))
            if len(failures) + len(twins) >= _AT_ONCE:
                self._compare(failures, twins)
                failures, twins = [], []
        self._compare(failures, twins)

    def finish(self) -> None:
        """After all events: name fields that failed or have a twin by none, those that do not lie where they were to be
        tried again, and slides that count other twins.
        """
        if self.lost.rows_of("field"):
            return
        with without_indexes(self.conn):
            failed, twins = run(self.conn, _HOW_MANY).one()
            self._name_untold("f.state = 'failed'", failed, self._failed_seen(), "failed")
            self._name_untold("f.duplicate", twins, self._twins_seen(), _TWIN)
            if not self.lost.rows_of("slide"):
                what = "counts other fields whose bytes lie in another slide's folder than show it"
                name_rows(self.report, "slide", (row[0] for row in run(self.conn, _MISCOUNTED)), what)
        retries_told.compare(self.conn, self.report, self._chunks_made(), self.lost)

    def take(self) -> FieldsTold:
        """What has been seen since the last time."""
        failed, twins = self._failed_seen().numbers(), self._twins_seen().numbers()
        told = FieldsTold(array("q", failed), array("q", twins), self._unsettled, self.rows)
        self._failed, self._twins, self._unsettled, self.rows = None, None, [], 0
        return told

    def merge(self, told: FieldsTold) -> None:
        """Add what another has seen, and look at what it has left unsettled."""
        self.rows += told.rows
        for number in self._failed_seen().add_all(told.failed):
            self._of_field(number, _TOLD_TWICE)
        self._twins_seen().add_all(told.twins)
        for start in range(0, len(told.unsettled), _AT_ONCE):
            self._compare_failures(told.unsettled[start : start + _AT_ONCE])

    def _failed_seen(self) -> Seen:
        if self._failed is None:
            self._failed = self._none_seen()
        return self._failed

    def _twins_seen(self) -> Seen:
        if self._twins is None:
            self._twins = self._none_seen()
        return self._twins

    def _none_seen(self) -> Seen:
        count = 0 if self.part else run(self.conn, "SELECT count(*) FROM field").scalar_one()
        return Seen(2 * count)

    def _compare(self, failures: list[Failed], twins: list[tuple[int, int]]) -> None:
        self._compare_failures(failures)
        self.rows += len(failures)
        shown = dict(rows_of(self.conn, _TWINS, sorted({number for number, _ in twins})))
        for number, event_id in twins:
            if number not in shown:
                self._of_field(number, f"is gone; event {event_id} tells of it")
            elif not shown[number]:
                self._of_field(number, f"does not show that {_TWIN_OF}, as event {event_id} tells")
            else:
                self._twins_seen().add(number)

    def _compare_failures(self, told: list[Failed]) -> None:
        found = {row[0]: row for row in rows_of(self.conn, _FAILURES, sorted({one.field for one in told}))}
        for one in told:
            row = found.get(one.field)
            in_place = row is not None and row[1] == one.chunk and row[2] == "failed"
            if not in_place or not _as_told(one, row):
                if self.part:
                    self._unsettled.append(one)
                    continue
                self._report_unless_retried(one, row)
            if in_place and not self._failed_seen().add(one.field):
                self._of_field(one.field, _TOLD_TWICE)

    def _report_unless_retried(self, one: Failed, row: tuple[Any, ...] | None) -> None:
        if row is None:
            self._of_field(one.field, f"is gone; event {one.event} tells that it failed")
        elif row[1] == one.chunk:
            self._of_field(one.field, f"differs from what event {one.event} tells of its failure")
        elif not self._of_retried(row[1], one.event):
            what = f"lies in another chunk than event {one.event} tells, and none tells that it was to be tried again"
            self._of_field(one.field, what)

    def _of_retried(self, chunk_id: Any, after: int) -> bool:
        """Whether a chunk is one of fields that were set to waiting again after an event, or a half of such a one."""
        return self._chunks_made().retried(chunk_id) > after

    def _chunks_made(self) -> retries_told.Chunks:
        if self._chunks is None:
            self._chunks = retries_told.Chunks.of(self.conn)
        return self._chunks

    def _name_untold(self, where: str, count: int, seen: Seen, what: str) -> None:
        if count == seen.count:
            return
        of_fields = f"FROM field f {{not_indexed}} WHERE {where}"
        ids = (row[0] for row in run(self.conn, f"SELECT f.id {of_fields} ORDER BY f.id"))
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
_HOW_MANY: Final = """
    SELECT count(CASE WHEN state = 'failed' THEN 1 END), count(CASE WHEN duplicate THEN 1 END)
    FROM field {not_indexed}
"""
_MISCOUNTED: Final = """
    WITH twins AS (SELECT slide_id, count(*) AS fields FROM field {not_indexed} WHERE duplicate GROUP BY slide_id)
    SELECT s.id FROM slide s {not_indexed} LEFT JOIN twins t ON t.slide_id = s.id
    WHERE coalesce(s.duplicates, -1) <> coalesce(t.fields, 0) ORDER BY s.id
"""


def _failures_of(event_id: int, kind: str, chunk_id: int | None, body: dict[str, Any]) -> list[Failed]:
    """The failures that an event tells of. KeyError, TypeError or ValueError when it doesn't say what it should."""
    told = body.get("failures", []) if kind == "chunk-recorded" else [body]
    if not isinstance(told, list):
        raise TypeError("no list")
    found = [
        Failed(_number(one["field"]), event_id, chunk_id, one["code"], one.get("sha256"), one.get("shown"))
        for one in told
    ]
    if not all(isinstance(one.code, str) for one in found):
        raise TypeError("no code")
    if not all(value is None or isinstance(value, str) for one in found for value in (one.sha256, one.shown)):
        raise TypeError("no SHA-256")
    return found


def _twins_of(body: dict[str, Any]) -> list[int]:
    """The fields that an event `twins-found` tells of. Raises as `_failures_of`."""
    if not isinstance(body["fields"], list):
        raise TypeError("no list")
    return [_number(one) for one in body["fields"]]


def _number(value: Any) -> int:
    """A row's number, as the database can hold it. ValueError for anything else."""
    if not retries_told.is_number(value):
        raise ValueError("no number of a row")
    return int(value)


def _as_told(one: Failed, row: Any) -> bool:
    """Whether a failed field shows the reason, the bytes, the slide and the path that the event tells of."""
    _, _, _, code, sha256, slide_id, path, sentence = row
    try:
        if code != one.code or (sha256 and blob(sha256).hex()) != one.sha256:
            return False
        return one.shown is None or failure_digest(one.field, slide_id, path, sentence) == one.shown
    except (TypeError, ValueError):  # what allq never writes
        return False
