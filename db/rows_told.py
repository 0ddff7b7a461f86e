"""Rows against what the ledger's events tell of them: models, activations, slide calls, reviews, findings, leukocytes.

Every row is told of by one event. So a row that differs from its event was changed, one without an event was put in,
and an event without its row had one taken away.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from json.encoder import encode_basestring
from operator import lt
from typing import Any, Final

from sqlalchemy import Connection

from db import findings, lines
from db.damaged import despite_damage
from db.lost import Lost
from db.statements import plain_rows, run, without_indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it was written: in which table, which row, and what about it."""

    table: str
    row: str
    what: str

    def __str__(self) -> str:
        return f"{self.table} {self.row}: {self.what}"


@dataclass(frozen=True, slots=True)
class Told:
    """Which rows a part of the events tells of, by table, ascending; how many were compared.

    `gone`: how many rows fewer there are than these, or more where one stands there twice, as was said of it.
    """

    seen: dict[str, array[int]]
    gone: dict[str, int]
    rows: int


Report = Callable[[Problem], None]

NAMED: Final = 100
"""So many rows of one kind are named; how many more there are is said."""

_ROW: Final = re.compile(r'"row":"([0-9a-f]{64})"')
KEYS: Final = {
    "model-remembered": ("model", re.compile(r'"key":(\d{1,18})[,}]')),
    "model-activated": ("activation", re.compile(r'"activation":(\d{1,18})[,}]')),
    "slide-called": ("slide_call", re.compile(r'"slide_call":(\d{1,18})[,}]')),
    "slide-reviewed": ("review", re.compile(r'"review":(\d{1,18})[,}]')),
}
"""Which table an event of this kind tells of, and where its body has the row's number: one that the database can hold.

No text of a user's looks so within canonical JSON: quotation marks in it are escaped. That it is canonical is not asked
of each event, which would take as long as all else together: only that nothing which is looked for stands there twice.
"""
_NAME_OF_KEY: Final = {kind: pattern.pattern.partition("(")[0] for kind, (_, pattern) in KEYS.items()}

_CHUNKS_AT_ONCE: Final = 16

_TOLD_TWICE: Final = "two events tell of it"
_TWICE: Final = "stands there twice"


class Seen:
    """Which numbers have occurred: a byte each, for there are millions of them."""

    def __init__(self, likely: int) -> None:
        self._bytes = bytearray(likely + 1)
        self._others: set[int] = set()
        self.count = 0

    def add(self, number: int) -> bool:
        """Note a number; False when it was there already."""
        if number in self:
            return False
        self.count += 1
        if 0 <= number < len(self._bytes):
            self._bytes[number] = 1
        else:
            self._others.add(number)
        return True

    def add_all(self, numbers: Sequence[int]) -> list[int]:
        """Note numbers; return those that were there already. Fast where they are strictly ascending."""
        if not numbers:
            return []
        if not all(map(lt, numbers, numbers[1:])):
            return [number for number in numbers if not self.add(number)]
        first, last = numbers[0], numbers[-1]
        without_gaps = first >= 0 and last < len(self._bytes) and last - first + 1 == len(numbers)
        if without_gaps and self._bytes.find(1, first, last + 1) < 0:
            self._bytes[first : last + 1] = b"\x01" * len(numbers)
            self.count += len(numbers)
            return []
        if first >= len(self._bytes) and self._others.isdisjoint(numbers):
            self._others.update(numbers)
            self.count += len(numbers)
            return []
        return [number for number in numbers if not self.add(number)]

    def numbers(self) -> list[int]:
        """What has occurred, ascending."""
        return sorted({at for at, seen in enumerate(self._bytes) if seen} | self._others)

    def __contains__(self, number: object) -> bool:
        if isinstance(number, int) and 0 <= number < len(self._bytes):
            return bool(self._bytes[number])
        return number in self._others


@dataclass(slots=True)
class RowsTold:
    """Compares rows with events, block by block. `rows` counts those compared.

    `part`: one of several that work side by side; what they have seen is put together with `take` and `merge`. `lost`:
    tables that are not there; nothing is said of their rows.
    """

    conn: Connection
    report: Report
    rows: int = 0
    part: bool = False
    lost: Lost = field(default_factory=Lost)
    _seen: dict[str, Seen] = field(default_factory=dict)
    _gone: dict[str, int] = field(default_factory=dict)

    def check(self, told: Iterable[tuple[int, str, int | None, str]]) -> None:
        """Compare what these events tell of: (event, kind, chunk, body)."""
        rows: dict[str, dict[int, tuple[int, str, str]]] = {table: {} for table, _ in KEYS.values()}
        chunks: list[tuple[int, int | None, str]] = []
        for event_id, kind, chunk_id, body in told:
            if kind == "chunk-recorded" and not self.lost.findings:
                chunks.append((event_id, chunk_id, body))
            elif kind in KEYS and not self.lost.rows_of(KEYS[kind][0]):
                table, pattern = KEYS[kind]
                key, row = pattern.search(body), _ROW.search(body)
                if body.count('"row":') > 1 or body.count(_NAME_OF_KEY[kind]) > 1:
                    self._of_event(event_id, f"says more than once which {table} it tells of")
                elif key is None:
                    self._of_event(event_id, f"does not say which {table} it tells of")
                elif row is None:
                    self._compare_values(event_id, table, int(key[1]), body)
                elif (number := int(key[1])) in rows[table]:
                    self._of_event(event_id, f"tells of {table} {number}, as another event does")
                else:
                    rows[table][number] = (event_id, row[1], body)
            elif kind == "ledger-began":
                self._compare_ranges(event_id, body)
        for table, of_table in rows.items():
            if of_table:
                self._compare_digests(table, of_table)
        self._compare_findings(chunks)

    def finish(self) -> None:
        """After all events: name the rows that none tells of."""
        with without_indexes(self.conn):
            for table in (*lines.COLUMNS, "finding"):
                if not self.lost.rows_of(table):
                    self._name_untold(table, "id", self._seen_of(table))
            if not self.lost.findings:
                for table, statement, what in _MISPLACED:
                    name_rows(self.report, table, (row[0] for row in run(self.conn, statement)), what)
        if self.lost.findings:
            return
        name_rows(
            self.report,
            "finding_leukocytes",
            (row[0] for row in run(self.conn, _STRAY_LEUKOCYTES)),
            "belongs to no finding",
        )

    def take(self) -> Told:
        """What has been seen since the last time."""
        told = Told({table: array("q", seen.numbers()) for table, seen in self._seen.items()}, self._gone, self.rows)
        self._seen, self._gone, self.rows = {}, {}, 0
        return told

    def merge(self, told: Told) -> None:
        """Add what another has seen."""
        self.rows += told.rows
        for table, count in told.gone.items():
            self._gone[table] = self._gone.get(table, 0) + count
        for table, numbers in told.seen.items():
            for number in self._seen_of(table).add_all(numbers):
                self.report(Problem(table=table, row=str(number), what=_TOLD_TWICE))

    def _seen_of(self, table: str) -> Seen:
        if table not in self._seen and self.part:
            self._seen[table] = Seen(0)
        elif table not in self._seen:
            count = run(self.conn, _COUNT.format(table=table)).scalar_one()
            # numbers may have gaps where a transaction was rolled back; far ones cost a little more
            self._seen[table] = Seen(2 * count + 1_000)
        return self._seen[table]

    def _name_untold(self, table: str, key: str, seen: Seen) -> None:
        there = seen.count - self._gone.get(table, 0)
        over = run(self.conn, _COUNT.format(table=table)).scalar_one() - there
        if not over:
            return
        of_table = f"FROM {table} {{not_indexed}}"
        ids = (row[0] for row in run(self.conn, f"SELECT {key} {of_table} ORDER BY {key}"))
        untold = (number for number in ids if number not in seen)
        if name_rows(self.report, table, untold, "no event of the ledger tells of it") != over:
            twice = f"SELECT {key} {of_table} GROUP BY {key} HAVING count(*) > 1 ORDER BY {key}"
            name_rows(self.report, table, (row[0] for row in run(self.conn, twice)), _TWICE)

    def _compare_digests(self, table: str, told: dict[int, tuple[int, str, str]]) -> None:
        wanted = sorted(told)
        for number in self._seen_of(table).add_all(wanted):
            self._of_event(told.pop(number)[0], f"tells of {table} {number}, as another event does")
        columns = ", ".join(f"r.{name}" for name in lines.COLUMNS[table])
        statement = f"SELECT {columns} FROM {table} r"
        if named := table == "slide_call":
            statement = f"SELECT {columns}, s.id, s.name FROM {table} r LEFT JOIN slide s ON s.id = r.slide_id"
        left = told.copy()
        for row in rows_of(self.conn, f"{statement} WHERE r.id", wanted):
            if (of_row := left.pop(row[0], None)) is None:
                if row[0] in told:  # its key was taken away, or another table laid beneath it
                    self._gone[table] = self._gone.get(table, 0) - 1
                    self.report(Problem(table=table, row=str(row[0]), what=_TWICE))
                continue
            event_id, digest, body = of_row
            try:
                same = lines.row_digest(table, row) == digest
            except (TypeError, ValueError):
                same = False
            if not same:
                self._differs(table, row[0], event_id)
            elif named and row[-2] is not None and not _names_slide(body, row[-1]):
                self._renamed(row[-2], event_id)
        self.rows += len(told) - len(left)
        for key in sorted(left):
            self._gone[table] = self._gone.get(table, 0) + 1
            self.report(Problem(table=table, row=str(key), what=f"is gone; event {told[key][0]} tells of it"))

    def _of_event(self, event_id: int, what: str) -> None:
        self.report(Problem(table="event", row=str(event_id), what=what))

    def _differs(self, table: str, key: int, event_id: int) -> None:
        self.report(Problem(table=table, row=str(key), what=f"differs from what event {event_id} tells of it"))

    def _renamed(self, slide: Any, event_id: int) -> None:
        self.report(Problem(table="slide", row=str(slide), what=f"has another name than in event {event_id}"))

    def _all(self, statement: str, values: Mapping[str, Any], lists: tuple[str, ...] = ()) -> Sequence[Any]:
        return despite_damage(self.conn, lambda: run(self.conn, statement, values, lists=lists).all())

    def _compare_values(self, event_id: int, table: str, key: int, body: str) -> None:
        """An event from before events had digests of rows: it has the values themselves, of a slide call."""
        values = object_of(body)
        columns = [name for name in lines.COLUMNS[table] if name in values and name != "id"]
        rows = self._all(f"SELECT {', '.join(columns or ['id'])} FROM {table} WHERE id = :id", {"id": key})
        if not rows:
            self.report(Problem(table=table, row=str(key), what=f"is gone; event {event_id} tells of it"))
        elif not columns or list(rows[0]) != [values[name] for name in columns]:
            self._differs(table, key, event_id)
        elif table == "slide_call":
            statement = "SELECT s.id, s.name FROM slide_call r JOIN slide s ON s.id = r.slide_id WHERE r.id = :id"
            for slide, name in _plain(self.conn, statement, {"id": key}):
                if not _names_slide(body, name):
                    self._renamed(slide, event_id)

    def _compare_ranges(self, event_id: int, body: str) -> None:
        """The rows that were there before events had digests of them: one digest over all."""
        began = {table: told for table, told in object_of(body).items() if table in lines.COLUMNS}
        if not began or not all(_is_range(told) for told in began.values()):
            self.report(Problem(table="event", row=str(event_id), what="does not say which rows it tells of"))
            return
        for table, told in began.items():
            if self.lost.rows_of(table):
                continue
            total = hashlib.sha256()
            columns = ", ".join(lines.COLUMNS[table])
            after = -(1 << 62)
            while rows := self._all(
                f"SELECT {columns} FROM {table} WHERE id > :after AND id <= :through ORDER BY id LIMIT 10000",
                {"after": after, "through": told["through"]},
            ):
                after = rows[-1][0]
                for number in self._seen_of(table).add_all([row[0] for row in rows]):
                    self._of_event(event_id, f"tells of {table} {number}, as another event does")
                for row in rows:
                    try:
                        total.update(lines.line(table, row).encode("utf-8", "surrogatepass") + b"\n")
                    except (TypeError, ValueError):
                        total.update(b"not a row of ours\n")
                self.rows += len(rows)
            if total.hexdigest() != told.get("digest"):
                self.report(
                    Problem(
                        table=table,
                        row=f"up to {told['through']}",
                        what=f"are not the rows that event {event_id} tells of: one was changed, put in or taken away",
                    )
                )

    def _compare_findings(self, recorded: Sequence[tuple[int, int | None, str]]) -> None:
        wanted: dict[int, tuple[int, dict[str, Any]]] = {}
        for event_id, chunk_id, body in recorded:
            told = object_of(body)
            if not isinstance(chunk_id, int):
                self._of_event(event_id, "does not say which chunk it tells of")
                continue
            if not self._seen_of("chunk").add(chunk_id):
                self.report(Problem(table="chunk", row=str(chunk_id), what=_TOLD_TWICE))
                continue
            wanted[chunk_id] = (event_id, told)
        ids = sorted(wanted)
        for start in range(0, len(ids), _CHUNKS_AT_ONCE):
            part = ids[start : start + _CHUNKS_AT_ONCE]
            left = set(part)
            covered = self._covered(part)
            for chunk_id, group in groupby(covered, lambda one: one.chunk_id):
                left.discard(chunk_id)
                self._compare_chunk(chunk_id, list(group), *wanted[chunk_id])
            for chunk_id in left:
                self._compare_chunk(chunk_id, [], *wanted[chunk_id])

    def _covered(self, chunk_ids: Sequence[int]) -> list[findings.Covered]:
        return despite_damage(self.conn, lambda: list(findings.covered(self.conn, chunk_ids)))

    def _compare_chunk(self, chunk_id: int, rows: list[findings.Covered], event_id: int, told: dict[str, Any]) -> None:
        seen = self._seen_of("finding")
        for one in rows:
            if one.made and isinstance(one.finding_id, int) and not seen.add(one.finding_id):
                self._finding(one, "two fields are recorded as the one that it was made for")
            elif one.made and one.gone:
                self._gone["finding"] = self._gone.get("finding", 0) + 1
            if one.problem is not None:
                self._finding(one, one.problem)
        self.rows += len(rows)
        if "places" in told and lines.digest(one.place for one in rows) != told["places"]:
            what = f"has another slide or path than event {event_id} tells"
            for at in _differing([one.place for one in rows], told.get("place_marks")):
                self.report(Problem(table="field", row=str(rows[at].field_id), what=what))
            self.report(Problem(table="field", row=f"of chunk {chunk_id}", what=f"one of its screened fields {what}"))
        texts = [one.line for one in rows]
        if lines.digest(texts) == told.get("findings"):
            return
        for at in _differing(texts, told.get("marks")):
            if rows[at].problem is None:
                self._finding(rows[at], f"differs from what event {event_id} tells of it")
        self.report(
            Problem(
                table="finding",
                row=f"of chunk {chunk_id}",
                what=f"the chunk's {len(rows)} screened fields and their findings are not those of event {event_id}",
            )
        )

    def _finding(self, one: findings.Covered, what: str) -> None:
        self.report(Problem(table="finding", row=f"{one.finding_id} of field {one.field_id}", what=what))


_COUNT: Final = "SELECT count(*) FROM {table} {{not_indexed}}"
"""Of the rows themselves: databases count by the smallest index, which may have been made to leave some out."""

_CHUNKS_TOLD: Final = """
    WITH told AS MATERIALIZED (
        SELECT chunk_id, min(batch_id) AS batch_id FROM event {not_indexed} WHERE kind = 'chunk-recorded'
        GROUP BY chunk_id
    )
"""
_MISPLACED: Final = (
    (
        "field",
        f"""
        {_CHUNKS_TOLD} SELECT f.id FROM field f {{not_indexed}} LEFT JOIN told t ON t.chunk_id = f.chunk_id
        WHERE f.state = 'screened' AND t.chunk_id IS NULL ORDER BY f.id
        """,
        "shows a finding, and no event of the ledger tells of its chunk",
    ),
)
"""Of which table, where they are, and what is wrong: fields without an event, and who submitted them made another."""

_STRAY_LEUKOCYTES: Final = """
    SELECT l.finding_id FROM finding_leukocytes l
    WHERE NOT EXISTS (SELECT 1 FROM finding i WHERE i.id = l.finding_id) ORDER BY l.finding_id
"""


def rows_of(conn: Connection, statement: str, ids: Sequence[int], size: int = 5_000) -> Iterator[tuple[Any, ...]]:
    """The rows of a statement that ends with the name of a number, for these ascending numbers, and some between."""
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        if part[-1] - part[0] < 2 * len(part):  # nearly all between: a range costs less than a list
            yield from _plain(conn, f"{statement} BETWEEN :first AND :last", {"first": part[0], "last": part[-1]})
        else:
            yield from _plain(conn, f"{statement} IN :ids", {"ids": part}, lists=("ids",))


def _plain(
    conn: Connection, statement: str, values: Mapping[str, Any], lists: tuple[str, ...] = ()
) -> list[tuple[Any, ...]]:
    return despite_damage(conn, lambda: plain_rows(conn, statement, values, lists=lists))


def object_of(body: str) -> dict[str, Any]:
    """An event's body; empty where it is no JSON object, whoever has written it."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names_slide(body: str, name: Any) -> bool:
    """Whether a call's event has this name of the slide; one from before events had it has any."""
    if not isinstance(name, str):
        return False
    return f'"slide":{encode_basestring(name)}' in body or object_of(body).get("slide", name) == name


def _differing(texts: Sequence[str], marks: Any) -> list[int]:
    """Which of the lines don't bear their marks; none where there are no marks, or another number of lines."""
    if not isinstance(marks, str) or len(marks) != lines.MARK * len(texts):
        return []
    return [
        at for at, text in enumerate(texts) if lines.marks([text]) != marks[lines.MARK * at : lines.MARK * (at + 1)]
    ]


def _is_range(told: Any) -> bool:
    return isinstance(told, dict) and type(told.get("through")) is int and 0 <= told["through"] < 1 << 63


def name_rows(report: Report, table: str, keys: Iterable[Any], what: str) -> int:
    """Report rows, the first hundred of them by name; return how many there are."""
    count = 0
    for count, key in enumerate(keys, start=1):
        if count <= NAMED:
            report(Problem(table=table, row=str(key), what=what))
    if count > NAMED:
        report(Problem(table=table, row=f"and {count - NAMED:,} more", what=what))
    return count
