"""Rows against what the ledger's events tell of them: models, activations, slide calls, reviews, findings, leukocytes.

Every row is told of by one event. So a row that differs from its event was changed, one without an event was put in,
and an event without its row had one taken away.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import defaultdict
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
from db.statements import plain_blocks, plain_rows, run, without_indexes


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
    """Which rows a part of the events tells of, by table; how many were compared.

    `gone`: how many rows fewer there are than these, or more where one stands there twice, as was said of it.
    `screened`: how many of the rows are screened fields. `of_batches`: the events of these kinds; `makes_chunks`:
    whether there are any of those.
    """

    seen: dict[str, Seen]
    gone: dict[str, int]
    rows: int
    screened: int
    of_batches: array[int]
    makes_chunks: bool

    @classmethod
    def nothing(cls) -> Told:
        """Of a part that was not read."""
        return cls({}, {}, 0, 0, array("q"), makes_chunks=False)


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
OF_BATCHES: Final = frozenset({"batch-created", "batch-submitted", "batch-reopened", "batch-cancelled"})
MAKING_CHUNKS: Final = frozenset({"fields-retried", "chunk-halved"})
"""Kinds of events that tell of what is looked at after all of them (`db.batches_told`, `db.retries_told`)."""

_NAME_OF_KEY: Final = {kind: pattern.pattern.partition("(")[0] for kind, (_, pattern) in KEYS.items()}

_PAGE: Final = 10
_PLACES: Final = (1 << _PAGE) - 1
"""Of a number, the bits that tell its place on a page; the others tell the page."""

_TOLD_TWICE: Final = "two events tell of it"
_TWICE: Final = "stands there twice"


class Seen:
    """Which numbers have occurred: a bit each in pages, for there are millions of them, most of them close together."""

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}
        self.count = 0

    def add(self, number: int) -> bool:
        """Note a number; False when it was there already."""
        page, bit = number >> _PAGE, 1 << (number & _PLACES)
        there = self._pages.get(page, 0)
        if there & bit:
            return False
        self._pages[page] = there | bit
        self.count += 1
        return True

    def add_all(self, numbers: Sequence[int]) -> list[int]:
        """Note numbers; return those that were there already. Fast where they are in a row."""
        if not numbers or numbers[-1] - numbers[0] != len(numbers) - 1 or not all(map(lt, numbers, numbers[1:])):
            return [number for number in numbers if not self.add(number)]
        there: list[int] = []
        first, last = numbers[0], numbers[-1]
        for page in range(first >> _PAGE, (last >> _PAGE) + 1):
            low = max(first - (page << _PAGE), 0)
            high = min(last - (page << _PAGE), _PLACES)
            there += self._add_page(page, (1 << high + 1) - (1 << low))
        return there

    def merge(self, other: Seen) -> list[int]:
        """Note what another has seen; return what was there already."""
        return [number for page, bits in other._pages.items() for number in self._add_page(page, bits)]

    def numbers(self) -> list[int]:
        """What has occurred, ascending."""
        return [number for page in sorted(self._pages) for number in _numbers(page, self._pages[page])]

    def _add_page(self, page: int, bits: int) -> list[int]:
        there = self._pages.get(page, 0)
        self._pages[page] = there | bits
        self.count += (bits & ~there).bit_count()
        return _numbers(page, there & bits)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and bool(self._pages.get(number >> _PAGE, 0) >> (number & _PLACES) & 1)


def _numbers(page: int, bits: int) -> list[int]:
    found = []
    while bits:
        lowest = bits & -bits
        found.append((page << _PAGE) + lowest.bit_length() - 1)
        bits ^= lowest
    return found


@dataclass(slots=True)
class RowsTold:
    """Compares rows with events, block by block. `rows` counts those compared, `screened` the screened fields of them.

    `of_batches` and `makes_chunks` are noted for who looks at these. What several that work side by side have seen is
    put together with `take` and `merge`. `lost`: tables that are not there; nothing is said of their rows.
    """

    conn: Connection
    report: Report
    rows: int = 0
    screened: int = 0
    of_batches: array[int] = field(default_factory=lambda: array("q"))
    makes_chunks: bool = False
    lost: Lost = field(default_factory=Lost)
    _seen: defaultdict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    _gone: dict[str, int] = field(default_factory=dict)

    def check(self, told: Iterable[tuple[int, str, int | None, str]]) -> None:
        """Compare what these events tell of: (event, kind, chunk, body). Those of chunks are for `check_chunks`."""
        rows: dict[str, dict[int, tuple[int, str, str]]] = {table: {} for table, _ in KEYS.values()}
        for event_id, kind, _, body in told:
            if kind in KEYS and not self.lost.rows_of(KEYS[kind][0]):
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
            elif kind in OF_BATCHES:
                self.of_batches.append(event_id)
            elif kind in MAKING_CHUNKS:
                self.makes_chunks = True
            elif kind == "ledger-began":
                self._compare_ranges(event_id, body)
        for table, of_table in rows.items():
            if of_table:
                self._compare_digests(table, of_table)

    def check_chunks(self, recorded: Sequence[tuple[int, int | None, Mapping[str, Any]]]) -> None:
        """Compare the findings of chunks with what events tell of them: (event, chunk, body as it was read).

        The rows of all of them are in memory at once.
        """
        if self.lost.findings:
            return
        wanted: dict[int, tuple[int, Mapping[str, Any]]] = {}
        for event_id, chunk_id, told in recorded:
            if not isinstance(chunk_id, int):
                self._of_event(event_id, "does not say which chunk it tells of")
            elif not self._seen["chunk"].add(chunk_id):
                self.report(Problem(table="chunk", row=str(chunk_id), what=_TOLD_TWICE))
            else:
                wanted[chunk_id] = (event_id, told)
        if not wanted:
            return
        left = set(wanted)
        for chunk_id, group in groupby(self._covered(sorted(wanted)), lambda one: one.chunk_id):
            left.discard(chunk_id)
            self._compare_chunk(chunk_id, list(group), *wanted[chunk_id])
        for chunk_id in sorted(left):
            self._compare_chunk(chunk_id, [], *wanted[chunk_id])

    def finish(self) -> None:
        """After all events: name the rows that none tells of."""
        with without_indexes(self.conn):
            for table in (*lines.COLUMNS, "finding"):
                if not self.lost.rows_of(table):
                    self._name_untold(table, "id", self._seen[table])
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
        told = Told(
            dict(self._seen), self._gone, self.rows, self.screened, self.of_batches, makes_chunks=self.makes_chunks
        )
        self._seen, self._gone, self.rows, self.screened = defaultdict(Seen), {}, 0, 0
        self.of_batches, self.makes_chunks = array("q"), False
        return told

    def merge(self, told: Told) -> None:
        """Add what another has seen."""
        self.rows += told.rows
        self.screened += told.screened
        self.of_batches += told.of_batches
        self.makes_chunks |= told.makes_chunks
        for table, count in told.gone.items():
            self._gone[table] = self._gone.get(table, 0) + count
        for table, seen in told.seen.items():
            for number in self._seen[table].merge(seen):
                self.report(Problem(table=table, row=str(number), what=_TOLD_TWICE))

    def _name_untold(self, table: str, key: str, seen: Seen) -> None:
        there = seen.count - self._gone.get(table, 0)
        over = run(self.conn, _COUNT.format(table=table)).scalar_one() - there
        if not over:
            return
        of_table = f"FROM {table} {{not_indexed}}"
        ids = (row[0] for rows in plain_blocks(self.conn, f"SELECT {key} {of_table} ORDER BY {key}") for row in rows)
        untold = (number for number in ids if number not in seen)
        if name_rows(self.report, table, untold, "no event of the ledger tells of it") != over:
            twice = f"SELECT {key} {of_table} GROUP BY {key} HAVING count(*) > 1 ORDER BY {key}"
            name_rows(self.report, table, (row[0] for row in run(self.conn, twice)), _TWICE)

    def _compare_digests(self, table: str, told: dict[int, tuple[int, str, str]]) -> None:
        wanted = sorted(told)
        for number in self._seen[table].add_all(wanted):
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
                for number in self._seen[table].add_all([row[0] for row in rows]):
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

    def _covered(self, chunk_ids: Sequence[int]) -> list[findings.Covered]:
        return despite_damage(self.conn, lambda: list(findings.covered(self.conn, chunk_ids)))

    def _compare_chunk(
        self, chunk_id: int, rows: list[findings.Covered], event_id: int, told: Mapping[str, Any]
    ) -> None:
        seen = self._seen["finding"]
        for one in rows:
            if one.made and isinstance(one.finding_id, int) and not seen.add(one.finding_id):
                self._finding(one, "two fields are recorded as the one that it was made for")
            elif one.made and one.gone:
                self._gone["finding"] = self._gone.get("finding", 0) + 1
            if one.problem is not None:
                self._finding(one, one.problem)
        self.rows += len(rows)
        self.screened += len({one.field_id for one in rows})
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
