"""Batches, slides and chunks against what the ledger's events tell of them, and their counters against what they count.

No event has a digest of these rows, which move on by design. But who submitted what, when and from where stays as the
event that began the batch has it; the events that closed and cancelled it have its times, its sums and its slides,
which are the least that it has when it is taken up again; the event of a chunk's work has its batch. What they count
lies in the database: submitted is the sum of the states. (Slides and chunks against their fields are `db.counters`'
part. Which fields failed and have twins, and how many of these a slide counts, `db.fields_told` sees; where fields lie
that are tried again, `db.retries_told`.)
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection

from allq.text import is_utf8, storable
from db import counters
from db.damaged import blocks, despite_damage, readable_moment
from db.grouped import LEAST, MOST, Grouped, groups
from db.lines import blob, instant, name_line
from db.rows_told import NAMED, Problem, Report, Seen, object_of, rows_of
from db.statements import run, without_indexes

NEAR: Final = timedelta(hours=1)
"""How far a time may lie from that of its event, where the event is from before events had it: of one transaction."""

_BATCHES_AT_ONCE: Final = 1_000
_ROWS_AT_ONCE: Final = 5_000

_TOLD_OF_A_BATCH: Final = ("root", "queue", "note", "model", "settings")
_COUNTED: Final = ("slides", "fields", "skipped")
_COLUMNS: Final = ("operator", *_TOLD_OF_A_BATCH, "raw_root", *_COUNTED, "created_at", "registered_at", "cancelled_at")

_EVENTS_OF: Final = "SELECT id, batch_id FROM event WHERE id"
_SLIDES_OF: Final = "SELECT batch_id, id FROM slide {not_indexed} ORDER BY id"
_IDS: Final = "SELECT id FROM batch {not_indexed} ORDER BY id"
_EVENTS: Final = "SELECT id, batch_id, kind, at, actor, body FROM event WHERE id"
_BATCHES: Final = """
    SELECT b.id, b.operator, b.root, b.queue, b.note, m.sha256, b.settings, b.raw_root, b.slides, b.fields, b.skipped,
           b.created_at, b.registered_at, b.cancelled_at
    FROM batch b LEFT JOIN model m ON m.id = b.model_id WHERE b.id
"""
_SLIDES: Final = "SELECT id, batch_id, name, raw_name, complete, fields, cancelled FROM slide WHERE id"
_EMPTY: Final = """
    SELECT s.id FROM slide s {not_indexed}
    WHERE s.batch_id = :batch AND NOT EXISTS (SELECT 1 FROM field f WHERE f.slide_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM event_slide x WHERE x.slide_id = s.id)
    ORDER BY s.id
"""
_NO_BATCH: Final = """
    SELECT s.id FROM slide s {not_indexed} WHERE NOT EXISTS (SELECT 1 FROM batch b WHERE b.id = s.batch_id)
    ORDER BY s.id
"""
_OF_CHUNKS: Final = """
    WITH told AS (
        SELECT chunk_id, min(batch_id) AS first_batch, max(batch_id) AS last_batch FROM event
        WHERE kind IN ('chunk-recorded', 'chunk-halved', 'field-crashed-worker', 'field-failed')
          AND chunk_id IS NOT NULL
        GROUP BY chunk_id
    )
    SELECT t.chunk_id, CASE WHEN c.id IS NULL THEN 'is gone; there are events of it'
                            ELSE 'is of another batch than its event says' END
    FROM told t LEFT JOIN chunk c ON c.id = t.chunk_id
    WHERE c.id IS NULL OR t.first_batch <> c.batch_id OR t.last_batch <> c.batch_id
    ORDER BY t.chunk_id
"""
_ODD_FIELDS: Final = r"""
    SELECT id, slide_id, path, raw_path, odd FROM (
        SELECT id, slide_id, path, raw_path,
               (state <> 'failed' AND (sha256 IS NOT NULL OR failure_sentence IS NOT NULL))
               OR (state = 'screened') <> (finding_id IS NOT NULL) OR (state = 'failed') <> (failure IS NOT NULL)
               OR (state <> 'screened' AND (linked OR duplicate))
               OR linked NOT IN (true, false) OR duplicate NOT IN (true, false)
               OR state NOT IN ('waiting', 'screened', 'failed', 'cancelled') AS odd
        FROM field {not_indexed}
    ) AS looked_at
    WHERE odd OR raw_path IS NOT NULL OR path LIKE '%\x%' ESCAPE '!' ORDER BY id
"""
"""Fields that have what no field of their state has, and those whose name's bytes are to be looked at."""
_BATCH_OF: Final = "SELECT id, batch_id FROM slide WHERE id"
_OTHER_PATH: Final = "has another path in bytes than in text"


@dataclass(frozen=True, slots=True)
class _Event:
    id: int
    at: Any
    actor: Any
    body: Mapping[str, Any]


@dataclass(slots=True)
class _Told:
    """What the events tell of one batch: which began it, submitted it (if none reopened it since), and cancelled it.

    `counted`: the last that tells how many slides and fields it has, and how much was left out; with `closed`, nothing
    has come since. `waiting`: the fields that were waiting when it was cancelled, each time.
    """

    begun: _Event | None = None
    submitted: _Event | None = None
    cancelled: _Event | None = None
    counted: _Event | None = None
    closed: bool = False
    waiting: int = 0

    @property
    def old(self) -> bool:
        """Whether it may be from before every name that looks as if it had escapes was stored with its bytes."""
        return self.begun is not None and "created_at" not in self.begun.body

    @property
    def counts(self) -> Mapping[str, Any]:
        """What that event has of `_COUNTED`, and the digest of its slides' names; from before there were such, none."""
        return {} if self.counted is None else self.counted.body

    @property
    def first(self) -> int | None:
        """Of how many slides the digest is, where more may have come since; None: of all."""
        slides = self.counts.get("slides")
        return slides if type(slides) is int and not self.closed else None


class _There:
    """What there is of a batch: how many slides, what they count, how much was left out; and the digest of the slides'
    names, of the first `most` if given, as the event that closes it has it.
    """

    def __init__(self, most: int | None = None) -> None:
        self.slides = self.fields = self.cancelled = self.skipped = 0
        self._names = hashlib.sha256()
        self._most = most

    def add(self, slide_id: int, name: Any, fields: Any, cancelled: Any) -> None:
        if self._most is None or self.slides < self._most:
            line = name_line(slide_id, name) if isinstance(name, str) else f"no text: {name!r}"
            self._names.update(line.encode("utf-8", "surrogatepass") + b"\n")
        self.slides += 1
        self.fields += fields if type(fields) is int else 0
        self.cancelled += cancelled if type(cancelled) is int else 0

    def digest(self) -> str:
        return self._names.hexdigest()


def compare(conn: Connection, report: Report, told_by: Collection[int], lost: Collection[str] = ()) -> None:
    """Name batches, slides, chunks and fields that are not as the events tell, or count other than what there is.

    `told_by`: the events of the kinds `OF_BATCHES`. `lost`: tables that are not there; what goes by one of them is left
    out.
    """

    def there(*tables: str) -> bool:
        return not set(tables).intersection(lost)

    seen = Seen()
    once = array("q", (number for number in told_by if seen.add(number)))
    events = Grouped((batch, number) for number, batch in _rows(conn, _EVENTS_OF, once))
    batches: array[int] = array("q")
    with without_indexes(conn):
        if there("batch", "model"):
            batches.extend(row[0] for rows in blocks(conn, _IDS) for row in rows)
        slides = Grouped(row for rows in blocks(conn, _SLIDES_OF) for row in rows) if there("slide") else Grouped()
        skipped = _skipped(conn) if there("skipped") else None
        if there("batch", "slide"):
            _name_each(report, (("slide", row[0], "is of a batch that is not there") for row in _all(conn, _NO_BATCH)))
        if there("chunk", "field", "slide"):
            _name_each(report, counters.compare(conn))
    if there("chunk"):
        _name_each(report, (("chunk", number, what) for number, what in _all(conn, _OF_CHUNKS)))
    old: set[Any] = set()
    odd = _Each(report)
    for first, last, ids in _pages(batches):
        told = _told(_rows(conn, _EVENTS, events.of(first, last)), report)
        old.update(batch for batch, of_batch in told.items() if of_batch.old)
        rows = {row[0]: dict(zip(_COLUMNS, row[1:], strict=True)) for row in _rows(conn, _BATCHES, ids)}
        found = _compare_slides(odd, _rows(conn, _SLIDES, slides.of(first, last)), rows, told)
        if there("batch", "model"):
            _name_gone(report, told, rows)
        for batch, row in rows.items():
            of_batch, of_slides, as_told = told.get(batch, _Told()), found.get(batch, _There()), True
            _compare_batch(report, batch, row, of_batch)
            if skipped is not None and there("slide"):
                of_slides.skipped = sum(skipped.of(batch, batch))
                as_told = _compare_sums(report, batch, row, of_batch, of_slides)
            if there("slide"):
                as_told = _compare_names(report, batch, of_batch, of_slides.digest()) and as_told
            if not as_told and there("field", "slide"):
                _name_empty(conn, report, batch)
    odd.finish()
    if there("batch", "model"):
        _name_gone(report, dict.fromkeys(events.of_none, _Told()), {})
    if there("field"):
        with without_indexes(conn):
            fields = _odd_fields(conn, old if there("slide") else set())
            _name_each(report, (("field", number, what) for number, what in fields))


def _skipped(conn: Connection) -> Grouped:
    return Grouped(groups(conn, "skipped", "batch_id", by="batch_id", sums="count(*)"))


def _pages(batches: array[int]) -> Iterator[tuple[int, int, array[int]]]:
    """Some batches at a time, with the first and the last number of those to which the page belongs, whichever are."""
    first = LEAST
    for start in range(0, max(1, len(batches)), _BATCHES_AT_ONCE):
        ids = batches[start : start + _BATCHES_AT_ONCE]
        last = ids[-1] if start + _BATCHES_AT_ONCE < len(batches) else MOST
        yield first, last, ids
        first = last + 1


def _rows(conn: Connection, statement: str, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The rows with these numbers, which come first in them; each part that is read in the order of its numbers."""
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = sorted(ids[start : start + _ROWS_AT_ONCE])
        wanted = set(part)
        found = [row for row in rows_of(conn, statement, part) if row[0] in wanted]
        if lacking := sorted(wanted.difference(row[0] for row in found)):  # the index has not what the table has
            with without_indexes(conn):
                found += [row for row in rows_of(conn, statement, lacking) if row[0] in lacking]
        yield from sorted(found, key=itemgetter(0))


def _name_gone(report: Report, told: Mapping[Any, _Told], batches: Mapping[Any, Any]) -> None:
    for batch in sorted(told.keys() - batches.keys(), key=str):
        begun = told[batch].begun
        what = "is gone; there are events of it" if begun is None else f"is gone; event {begun.id} tells of it"
        report(Problem(table="batch", row=str(batch), what=what))


def _told(events: Iterable[tuple[Any, ...]], report: Report) -> dict[Any, _Told]:
    found: dict[Any, _Told] = {}
    for event_id, batch, kind, at, actor, body in events:
        event = _Event(event_id, at, actor, object_of(body) if isinstance(body, str) else {})
        of_batch = found.setdefault(batch, _Told())
        if kind == "batch-created" and of_batch.begun is not None:
            report(Problem(table="event", row=str(event_id), what=f"begins batch {batch}, as another event does"))
        elif kind == "batch-created":
            of_batch.begun = event
        elif kind == "batch-cancelled":
            of_batch.cancelled = event
            waiting = event.body.get("fields")
            of_batch.waiting += waiting if type(waiting) is int else 0
            if "slides" in event.body:  # it still took fields; `fields` are those that were waiting
                counts = {name: value for name, value in event.body.items() if name != "fields"}
                of_batch.counted, of_batch.closed = replace(event, body=counts), True
        elif kind == "batch-submitted":
            of_batch.submitted = of_batch.counted = event
            of_batch.closed = True
        else:
            of_batch.submitted, of_batch.closed = None, False
    return found


def _compare_batch(report: Report, batch: Any, row: Mapping[str, Any], told: _Told) -> None:
    """What the batch was submitted with, and when it was begun, closed and cancelled."""

    def say(what: str) -> None:
        report(Problem(table="batch", row=str(batch), what=what))

    begun = told.begun
    if begun is None:
        say("no event of the ledger tells of it")
    elif begun.actor != row["operator"] or any(begun.body.get(name) != row[name] for name in _TOLD_OF_A_BATCH):
        say(f"differs from what event {begun.id} tells of it")
    if not _is_its_text(row["root"], row["raw_root"], old=told.old):
        say("has another folder in bytes than in text")
    for column, event, done in (
        ("created_at", begun, "begun"),
        ("registered_at", told.submitted, "submitted"),
        ("cancelled_at", told.cancelled, "cancelled"),
    ):
        if event is None and (column == "created_at" or row[column] is None):
            continue
        if event is None:
            say(f"is said to be {done}, and no event of the ledger tells of it")
        elif not _same_time(row[column], column, event):
            say(f"is said to be {done} at another time than event {event.id} tells")


def _compare_sums(report: Report, batch: Any, row: Mapping[str, Any], told: _Told, there: _There) -> bool:
    """Slides, fields and what was left out: as they are counted, there, and told. False where slides differ."""
    slides_as_told = True
    for name, count in zip(_COUNTED, (there.slides, there.fields, there.skipped), strict=True):
        known = told.counts.get(name, count)
        as_told = count == known or (not told.closed and type(known) is int and count > known)
        if row[name] == count and as_told:
            continue
        slides_as_told = slides_as_told and name != "slides"
        said = f"there are {count}" if row[name] != count else _tells(told, known)
        report(Problem(table="batch", row=str(batch), what=f"counts {row[name]} {name}, and {said}"))
    if there.cancelled != told.waiting:
        what = f"has {there.cancelled} cancelled fields, and the events of the ledger tell of {told.waiting}"
        report(Problem(table="batch", row=str(batch), what=what))
    return slides_as_told


def _tells(told: _Told, known: Any) -> str:
    tells = f"event {told.counted and told.counted.id} tells of {known}"
    return tells if told.closed else f"{tells}, before it was taken up again"


def _compare_names(report: Report, batch: Any, told: _Told, digest: str) -> bool:
    if told.counted is None or told.counts.get("slide_names", digest) == digest:
        return True
    which = "are" if told.first is None else f"are, of the first {told.first},"
    what = f"{which} not those that event {told.counted.id} tells of: one was renamed, put in or taken away"
    report(Problem(table="slide", row=f"of batch {batch}", what=what))
    return False


def _name_empty(conn: Connection, report: Report, batch: Any) -> None:
    """Slides that stand for nothing, of a batch that has other slides than told."""
    with without_indexes(conn):
        empty = _all(conn, _EMPTY, {"batch": batch})
    what = "has no fields, no event of the ledger tells of it, and its batch has other slides than told"
    _name_each(report, (("slide", row[0], what) for row in empty))


def _compare_slides(
    odd: _Each, rows: Iterable[tuple[Any, ...]], batches: Mapping[Any, Mapping[str, Any]], told: Mapping[Any, _Told]
) -> dict[Any, _There]:
    """Look at each slide's name and whether more fields may come; return what they come to, by batch."""
    closed = {
        batch for batch, row in batches.items() if row["registered_at"] is not None or row["cancelled_at"] is not None
    }
    found: dict[Any, _There] = {}
    for slide, batch, name, raw, complete, fields, cancelled in rows:
        of_batch = told.get(batch)
        if batch not in found:
            found[batch] = _There(of_batch.first if of_batch else None)
        found[batch].add(slide, name, fields, cancelled)
        if complete != 1 and batch in closed:
            odd.name("slide", slide, "waits for more fields, and its batch takes none")
        if not _is_its_text(name, raw, old=of_batch is not None and of_batch.old):
            odd.name("slide", slide, "has another name in bytes than in text")
    return found


def _odd_fields(conn: Connection, old: Collection[Any]) -> Iterator[tuple[Any, str]]:
    """Each field that is odd, and what about it. `old`: batches of which names may be stored as they were at first."""
    for rows in blocks(conn, _ODD_FIELDS):
        as_at_first: list[tuple[Any, Any]] = []
        for number, slide, path, raw, odd in rows:
            if odd:
                yield number, "has what no field of its state has"
            if _is_its_text(path, raw):
                continue
            if old and isinstance(slide, int) and _is_its_text(path, raw, old=True):
                as_at_first.append((number, slide))
            else:
                yield number, _OTHER_PATH
        batches = dict(rows_of(conn, _BATCH_OF, sorted({slide for _, slide in as_at_first})))
        for number, slide in as_at_first:
            if batches.get(slide) not in old:
                yield number, _OTHER_PATH


def _is_its_text(text: Any, raw: Any, *, old: bool = False) -> bool:
    """Whether a name's text and bytes are of one name, as `storable` gives them; with `old`, or as it did at first."""
    if not isinstance(text, str):
        return False
    if raw is None and "\\x" not in text:
        return True
    try:
        name = text if raw is None else blob(raw).decode("utf-8", "surrogateescape")
    except TypeError:
        return False
    return storable(name) == (text, None if raw is None else bytes(raw)) or (old and _is_old(text, raw, name))


def _is_old(text: str, raw: Any, name: str) -> bool:
    """Whether they are as `storable` gave them at first: bytes of names that are no UTF-8 alone, backslashes kept."""
    if raw is None:
        return is_utf8(name)
    return not is_utf8(name) and blob(raw).decode("utf-8", "backslashreplace") == text


def _same_time(value: Any, column: str, event: _Event) -> bool:
    if column in event.body:
        return bool(instant(value) == event.body[column])
    moment, told = readable_moment(value), readable_moment(event.at)
    return moment is not None and told is not None and abs(moment - told) <= NEAR


class _Each:
    """Reports rows, of each table and kind the first hundred by name, and at the end how many more there are."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._counts: dict[tuple[str, str], int] = {}

    def name(self, table: str, number: Any, what: str) -> None:
        self._counts[table, what] = count = self._counts.get((table, what), 0) + 1
        if count <= NAMED:
            self._report(Problem(table=table, row=str(number), what=what))

    def finish(self) -> None:
        for (table, what), count in self._counts.items():
            if count > NAMED:
                self._report(Problem(table=table, row=f"and {count - NAMED:,} more", what=what))


def _name_each(report: Report, found: Iterable[tuple[str, Any, str]]) -> None:
    each = _Each(report)
    for table, number, what in found:
        each.name(table, number, what)
    each.finish()


def _all(conn: Connection, statement: str, values: Mapping[str, Any] = MappingProxyType({})) -> Sequence[Any]:
    return despite_damage(conn, lambda: run(conn, statement, values).all())
