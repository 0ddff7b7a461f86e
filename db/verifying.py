"""`verify`: recomputes the ledger from the rows as they stand, and names what is not as it was sealed.

Everything is read once, in blocks: leaves with their events in the order of the tree (by several processes where there
are many), checkpoints and the exported file beside them in lockstep. For that a process takes some 80 MB, of which 32
are SQLite's cache, whatever there is to verify. What grows is a quarter of a byte for each row that is told of, 50
bytes for each slide, 65 for each chunk, 25 for each event of a batch, 8 for each batch, some hundred for each chunk
that was halved or made of fields tried again, and for each field of the largest event of these, and some thirty for
each field with a twin (`benchmarks/verifying.py`). No table is sorted as a whole on SQLite, which would do it in
memory (`db.grouped`).

What is trusted: the exported checkpoints, and the first public key that their name, the origin, was made of. The
signatures of the first and last checkpoint are verified, of those that change the key or give up others, and of all
that were not exported; each of the others is vouched for by its successor, which has the SHA-256 of its whole note,
signature and all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from allq.errors import LedgerError, NotFound
from allq.text import plural
from db import batches_told, checkpoints, fields_told, history, indexes, keys, merkle, review_times, rows_shown, schema
from db.checkpoints import NO_PREVIOUS, Checkpoint
from db.damaged import despite_damage
from db.database import Database
from db.fields_told import Fields
from db.grouped import LEAST, MOST
from db.interruptible import interruptible
from db.lines import event_text, is_time
from db.lost import Lost
from db.merkle import Frontier, leaf_hash
from db.rows_told import NAMED, Problem, RowsTold
from db.sealing import event_columns
from db.statements import known_moment, plain_blocks, run
from db.verifying_parts import WORTH_IT, Part, parts
from db.witness import Witness, as_line, read_line

BLOCK: Final = 10_000
"""Leaves read at once."""

MOST_PROBLEMS: Final = 1_000
"""So many are named; a table that was changed as a whole would fill the memory with them."""

EXPORTED_WITHIN: Final = 600.0
"""Seconds that a checkpoint may lie in the database alone. What seals or works on a machine adds to its file every few
seconds what others have sealed; what came just before the file was looked at is nobody's omission."""

AGAIN_SECONDS: Final = 0.5
"""How often it is told how far it is while that stays the same."""

_LEAVES_ALONE: Final = f"""
    SELECT seq, NULL, hash, {", ".join(["NULL"] * 8)} FROM leaf
    WHERE seq >= :start AND seq <= :upto ORDER BY seq LIMIT :size
"""
"""As the leaves with their events, without events."""

_OF_ANOTHER_SHAPE: Final = (DBAPIError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading rows comes to where a column is gone, or holds what it never did."""

Progress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and how much there is."""


@dataclass(slots=True, kw_only=True)
class Verified:
    """What was verified, and what is wrong. `waiting`: events that are not sealed yet, the newest ones.

    `finished`: all was looked at that was to be.
    """

    finished: bool = False
    events: int = 0
    rows: int = 0
    checkpoints: int = 0
    exported: int = 0
    waiting: int = 0
    newest: Checkpoint | None = None
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """True when all was looked at and nothing is wrong."""
        return self.finished and not self.problems


def verify(
    database: Database,
    witness: Witness,
    *,
    since: int | None = None,
    complete: bool = False,
    origin: str | None = None,
    key_file: Path | None = None,
    progress: Progress = lambda *_: None,
    found: Verified | None = None,
) -> Verified:
    """Verify the ledger and the rows that it tells of; with `since`, what was sealed after that checkpoint.

    With `complete`, an event that waits to be sealed is a problem as well: for a database that nobody writes to.
    `origin` is the name that the ledger must have, as it was written down elsewhere; else that of the exported ones.
    `key_file`: where this machine's key lies, if it has one; where nothing was exported, the ledger is known by it.
    `since` leaves out rows that no event tells of, events put in among the older ones, what slides and batches show,
    whether fields lie where they were to be tried again, whether reviews are dated before their calls, and whether
    indexes on SQLite hold what their tables do.
    The checkpoint that it begins with must have been exported, or be chained to the newest before it that was;
    LedgerError where that went with a restored backup, NotFound when there is no such checkpoint.

    `found` is what is returned, and is filled as it comes: what was wrong is in it whatever error ends this. Where the
    schema has lost columns, or has others, it ends without one at the first rows that can't be read; what goes by a
    table that is gone is left out.
    `progress` is told again how far it is while one statement takes long, so that a clock can be shown.
    """
    # Before the database is looked at: workers go on sealing, and what they export meanwhile is not in what is read.
    exported = _Exported(witness, origin)
    stage = _Stage(progress)
    with database.read() as conn, interruptible(conn, stage.again):
        found = found or Verified()
        held = keys.public_keys(key_file) if key_file else frozenset()
        _Verification(database, conn, exported, found, complete=complete, held=held, progress=stage).run(since)
        return found


class _Stage:
    """How far it is, which can be told again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: tuple[str, int, int] | None = None
        self._told = time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        self._last = name, done, total
        self._told = time.monotonic()
        self._progress(name, done, total)

    def again(self) -> None:
        """The same once more, if that is due."""
        if self._last is not None and time.monotonic() - self._told >= AGAIN_SECONDS:
            self(*self._last)


class _Verification:
    def __init__(
        self,
        database: Database,
        conn: Connection,
        exported: _Exported,
        found: Verified,
        *,
        complete: bool,
        held: Set[bytes],
        progress: Progress,
    ) -> None:
        self._database = database
        self._conn = conn
        self._complete = complete
        self._held = held
        self._progress = progress
        self._found = found
        self._more = 0
        self._misshapen = False
        self._lost = Lost()
        self._hidden = False
        self._rows = RowsTold(conn, self._report)
        self._fields = Fields(conn, self._report)
        self._exported = exported
        exported.report = self._report

    def run(self, since: int | None) -> None:
        """All of it, or as far as the shape of the tables lets it come."""
        try:
            self._schema()
            self._ledger(since)
            if self._lost.tables:
                self._found.remarks.append(self._lost.remark())
            self._found.finished = not (self._lost.tables or self._hidden)
        except _OF_ANOTHER_SHAPE as error:
            if not self._misshapen:
                raise
            self._remark_unfinished(error)
        finally:
            if self._more:
                more = Problem(table="and", row=f"{self._more:,} more", what="are not listed")
                self._found.problems.append(more)

    def _ledger(self, since: int | None) -> None:
        found = self._found
        due = run(self._conn, "SELECT {ago}", {"seconds": EXPORTED_WITHIN}).scalar_one()
        before, tree = self._start(since)
        last = None if self._lost.leaves else run(self._conn, "SELECT max(seq) FROM leaf").scalar()
        self._total = 0 if last is None else last + 1
        chain = _Chain(before, self._exported, self._report, self._giving_up)
        leaves = _Leaves(self._blocks(tree.size), tree.size, self._report)
        for checkpoint, frontier in self._checkpoints(before.number if before else None):
            found.checkpoints += 1
            if not chain.follows(checkpoint) or self._lost.leaves:
                continue
            tree = self._seal(checkpoint, frontier, tree, leaves)
        leaves.the_rest()
        chain.finish()
        found.newest = chain.last
        found.exported = self._exported.count
        found.remarks += chain.remarks
        self._remark_unknown(chain.last, whole=since is None)
        self._remark_not_exported(due)
        events_there = not (self._lost.events or self._lost.leaves)
        if events_there:
            self._unsealed(chain.last, since is not None)
            self._fields.hold_retried()
        if since is None:
            if events_there:
                self._strays()
                self._rows.finish()
                self._fields.finish(self._rows)
            if events_there and not self._lost.shown:
                rows_shown.compare(self._conn, self._report)
            if events_there:
                batches_told.compare(self._conn, self._report, self._rows.of_batches, self._lost.tables)
            if not self._lost.shown:
                found.remarks += review_times.remarks(self._conn)
            indexes.compare(self._conn, self._report, self._progress)
        found.rows = self._rows.rows + self._fields.rows

    def _giving_up(self, exported: int, note: str, after: int) -> str | None:
        if self._lost.events or self._lost.leaves:
            return None
        return history.giving_up(self._conn, exported=exported, note=note, after=after)

    def _report(self, problem: Problem) -> None:
        if len(self._found.problems) < MOST_PROBLEMS:
            self._found.problems.append(problem)
        else:
            self._more += 1

    def _start(self, since: int | None) -> tuple[Checkpoint | None, Frontier]:
        if since is None:
            return None, Frontier()
        found = checkpoints.by_number(self._conn, since)
        if found is None:
            for line in self._exported.before(since + 1):
                if line.number == since and not checkpoints.giving_up(self._conn, since):
                    what = "was exported and is gone: the ledger was cut back, or a backup restored"
                    self._report(_of_checkpoint(since, what))
            raise NotFound(f"The ledger has no checkpoint {since}. `allq audit verify --json` names the newest.")
        checkpoint, nodes = found
        anchor = self._exported.upto(checkpoint)
        if self._exported.origin not in {None, checkpoint.origin}:
            self._report(_of_checkpoint(since, _OTHER_ORIGIN))
        if anchor is not None:
            self._chained(anchor, checkpoint)
        if not checkpoint.is_signed():
            self._report(_of_checkpoint(since, "its signature is not that of its key"))
        try:
            tree = Frontier.from_bytes(checkpoint.size, nodes)
        except ValueError:
            tree = None
        if tree is None or tree.root() != checkpoint.root:
            raise LedgerError(f"Checkpoint {since} is damaged: verify the whole ledger, without --since.")
        return checkpoint, tree

    def _chained(self, anchor: Checkpoint, checkpoint: Checkpoint) -> None:
        """Name what keeps a checkpoint that was not exported from following on the newest before it that was.

        Its own signature would do for one whose key was made for the purpose.
        """
        found = checkpoints.by_number(self._conn, anchor.number)
        if found is None and checkpoints.giving_up(self._conn, anchor.number):
            raise LedgerError(
                f"Checkpoint {checkpoint.number} can't be held against the exported ones, which end with "
                f"{anchor.number}: a restored backup has lost that. Verify the whole ledger, without --since."
            )
        if found is None or found[0] != anchor:
            what = "was exported and is gone" if found is None else "is not the one that was exported"
            self._report(_of_checkpoint(anchor.number, what))
            return
        chain = _Chain(anchor, self._exported, self._report, self._giving_up)
        for one, _ in checkpoints.after(self._conn, anchor.number):
            chain.follows(one)
            if one.number >= checkpoint.number:
                break
        self._found.remarks += chain.remarks

    def _checkpoints(self, number: int | None) -> Iterator[tuple[Checkpoint, bytes]]:
        """Those after `number`, all of them for None; one that can't be read is named and left out."""
        columns = ", ".join(checkpoints.COLUMNS)
        after = "" if number is None else "AND number > :number"
        statement = f"SELECT {columns} FROM checkpoint WHERE number >= :start {after} ORDER BY number LIMIT :size"
        for rows in self._pages(statement, {} if number is None else {"number": number}, 1_000):
            for row in rows:
                try:
                    yield checkpoints.of_row(row)
                except (TypeError, ValueError) as error:
                    self._report(_of_checkpoint(row[0], f"holds what allq never writes ({error})"))

    def _blocks(self, first: int) -> Iterator[list[Any] | Part]:
        """The leaves from `first` on, in their order: by several processes where there are many and none is missing."""
        if self._lost.leaves:
            return
        if self._lost.events:
            yield from self._pages(_LEAVES_ALONE, {"upto": MOST}, BLOCK, first if first else LEAST)
            return
        in_order = run(self._conn, "SELECT count(*), min(seq), max(seq) FROM leaf {not_indexed}").one()
        if self._total - first < WORTH_IT or tuple(in_order) != (self._total, 0, self._total - 1):
            yield from self._leaf_rows(first if first else LEAST, MOST)
            return
        for part in parts(self._database, self._conn, first - 1, self._total - 1):
            if part.hashes is None:
                yield from self._leaf_rows(part.after + 1, part.upto)
                continue
            self._found.events += part.upto - part.after
            for problem in part.problems:
                self._report(problem)
            self._rows.merge(part.told)
            self._fields.merge(part.fields)
            self._progress("Verifying events", self._found.events, self._total - first)
            yield part

    def _leaf_rows(self, start: int, upto: int) -> Iterator[list[Any]]:
        statement = (
            f"SELECT l.seq, l.event_id, l.hash, {event_columns(self._conn)} "
            "FROM leaf l LEFT JOIN event e ON e.id = l.event_id "
            "WHERE l.seq >= :start AND l.seq <= :upto ORDER BY l.seq LIMIT :size"
        )
        for rows in self._pages(statement, {"upto": upto}, BLOCK, start):
            self._found.events += len(rows)
            self._times((row[3], row[4]) for row in rows if row[3] is not None)
            told = ((row[3], row[5], row[8], row[10]) for row in rows if type(row[10]) is str)
            fields_told.compare(told, self._rows, self._fields)
            self._progress("Verifying events", self._found.events, max(self._total, self._found.events))
            yield rows

    def _times(self, events: Iterable[tuple[Any, Any]]) -> None:
        for event_id, at in events:
            if not is_time(at):
                self._report(Problem(table="event", row=str(event_id), what="has a time that is none"))

    def _seal(self, checkpoint: Checkpoint, frontier: bytes, tree: Frontier, leaves: _Leaves) -> Frontier:
        """Grow the tree to the checkpoint's size, and compare. Returns the tree to go on with."""
        start, nodes = tree.size, bytes(tree)
        if checkpoint.size <= start:
            self._report(
                _of_checkpoint(checkpoint.number, f"has {checkpoint.size} leaves, no more than the one before")
            )
            return tree
        segment = leaves.take(checkpoint.size - start)
        tree.extend(segment.computed)
        if tree.size == checkpoint.size and tree.root() == checkpoint.root:
            for seq, event_id in segment.differing:
                self._report(Problem(table="leaf", row=str(seq), what=f"its hash is not that of event {event_id}"))
        else:
            as_stored = Frontier.from_bytes(start, nodes)
            as_stored.extend(segment.stored)
            if as_stored.size == checkpoint.size and as_stored.root() == checkpoint.root:
                tree = as_stored
                what = "is not as it was sealed: it, or the list of its slides, was changed"
            else:
                what = "is not as its leaf has it"
                self._report(
                    _of_checkpoint(
                        checkpoint.number,
                        f"its root is not that of the leaves {start} to {checkpoint.size - 1} as they are",
                    )
                )
                tree = self._resumed(checkpoint, frontier)
            for _, event_id in segment.differing:
                self._report(Problem(table="event", row=str(event_id), what=what))
        if bytes(tree) != frontier:
            self._report(_of_checkpoint(checkpoint.number, "its frontier is not that of its tree"))
        return tree

    def _resumed(self, checkpoint: Checkpoint, frontier: bytes) -> Frontier:
        """The tree as the checkpoint has it, so that what follows can be verified on its own."""
        try:
            return Frontier.from_bytes(checkpoint.size, frontier)
        except ValueError:
            return Frontier.from_bytes(checkpoint.size, bytes(merkle.SIZE * checkpoint.size.bit_count()))

    def _unsealed(self, newest: Checkpoint | None, part: bool) -> None:
        settled = newest.settled if newest else 0
        statement = f"""
            SELECT {event_columns(self._conn)} FROM event e
            WHERE {"e.id > :settled AND" if part else ""} NOT EXISTS (SELECT 1 FROM leaf l WHERE l.event_id = e.id)
              AND e.id >= :start ORDER BY e.id LIMIT :size
        """
        late = 0
        for rows in self._pages(statement, {"settled": settled} if part else {}, BLOCK):
            self._times((row[0], row[1]) for row in rows)
            told = ((row[0], row[2], row[5], row[7]) for row in rows if type(row[7]) is str)
            fields_told.compare(told, self._rows, self._fields)
            for row in rows:
                if row[0] <= settled:
                    late += 1
                    if late <= NAMED:
                        what = f"is not sealed, as all up to {settled} are: put in later, or its leaf taken away"
                        self._report(Problem(table="event", row=str(row[0]), what=what))
                    continue
                self._found.waiting += 1
                if self._complete and self._found.waiting <= NAMED:
                    self._report(Problem(table="event", row=str(row[0]), what="is not sealed"))
        if self._found.waiting:
            self._remark_waiting(settled)

    def _remark_waiting(self, settled: int) -> None:
        now = known_moment(run(self._conn, "SELECT {now}").scalar_one())
        waiting = "NOT EXISTS (SELECT 1 FROM leaf l WHERE l.event_id = e.id)"
        statement = f"SELECT min(e.at) FROM event e WHERE e.id > :settled AND {waiting}"
        oldest = run(self._conn, statement, {"settled": settled}).scalar()
        try:
            since: datetime | None = known_moment(oldest)
        except (TypeError, ValueError):
            since = None
        waits = f", the oldest since {(now - since).total_seconds():,.0f} s" if since else ""
        self._found.remarks.append(
            f"{plural(self._found.waiting, 'event waits', 'events wait')} to be sealed{waits}. "
            "Workers or the sealer do it every few seconds; `allq audit seal` does it now."
        )

    def _remark_unfinished(self, error: Exception) -> None:
        reason = str(getattr(error, "orig", error)).partition("\n")[0]
        self._found.remarks.append(
            f"Not all rows were looked at: with the tables and columns as they are, they can't be read ({reason}). Put "
            "back what is named, as docs/backup.md says, and verify again."
        )

    def _remark_unknown(self, newest: Checkpoint | None, *, whole: bool) -> None:
        """What can't be known without exported checkpoints: a ledger rebuilt with another key fits in itself.

        It is the one that it was where a key of this machine has signed it, or where its first key is that of a given
        origin, down from which a whole `verify` has followed it.
        """
        if newest is None and self._held and not self._exported.count:
            self._found.remarks.append(
                "This machine has a key, as the first seal makes it: that nothing was sealed and cut off can't be "
                "known."
            )
        if newest is None or self._exported.count:
            return
        if newest.public_key in self._held or (whole and self._exported.origin is not None):
            unknown, key = "that nothing was cut off at the end", ""
        else:
            unknown = (
                "that this is the ledger it was, and not one cut off at the end or rewritten and sealed anew with "
            )
            unknown += "another key,"
            key = f" The newest is signed with {keys.short(newest.public_key)}, and this machine's key is another."
        self._found.remarks.append(
            f"No exported checkpoints are at hand: {unknown} can't be known.{key if self._held else ''} Name the file "
            "with --checkpoints."
        )

    def _remark_hidden(self, tables: list[str]) -> None:
        self._hidden = True
        names = ", ".join(tables)
        own = f"allq's own table {names} was" if len(tables) == 1 else f"allq's own tables {names} were"
        self._found.remarks.append(
            f"Not all rows were looked at: {own} not, but what stands before it in search_path. Set that right for "
            "this login, and verify again."
        )

    def _remark_not_exported(self, due: Any) -> None:
        """A file that has stopped growing; `due`: what was sealed until then should be in it."""
        newest = self._exported.newest
        statement = "SELECT count(*) FROM checkpoint WHERE number > :newest AND sealed_at < :due"
        lacks = run(self._conn, statement, {"newest": min(newest, MOST), "due": due}).scalar_one()
        if newest and lacks:
            self._found.remarks.append(
                f"The exported checkpoints end with number {newest} and lack {lacks:,} that were sealed more than "
                f"{EXPORTED_WITHIN / 60:.0f} minutes ago: that nothing was cut off at the end can't be known. "
                "`allq audit seal` adds them to this machine's file, as whatever seals or works here should have done: "
                "its log says what kept it. Name another file with --checkpoints."
            )

    def _schema(self) -> None:
        """What keeps the rows as they are, and what people are shown of them; how fast they are found is no matter."""
        found = schema.differences(self._conn)
        self._lost = Lost(frozenset(one.name for one in found if one.is_lost_table))
        self._rows.lost = self._fields.lost = self._lost
        if hidden := [one.name for one in found if one.is_hidden_table]:
            self._remark_hidden(hidden)
        for one in found:
            self._misshapen |= one.of_shape or one.is_hidden_table
            if not one.only_slower:
                self._report(Problem(table=one.kind, row=one.name, what=one.what))

    def _strays(self) -> None:
        rows = run(
            self._conn,
            """
            SELECT es.slide_id, es.event_id FROM event_slide es
            WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = es.event_id) ORDER BY es.event_id LIMIT :most
            """,
            {"most": NAMED},
        )
        for slide_id, event_id in rows:
            row = f"(slide {slide_id}, event {event_id})"
            self._report(Problem(table="event_slide", row=row, what="there is no such event"))

    def _pages(self, statement: str, values: dict[str, Any], size: int, start: int = LEAST) -> Iterator[list[Any]]:
        """The rows of a statement that asks for `:size` of them from the number `:start` on, number first.

        Fewer at once where the texts of its last column are long.
        """
        values = {**values, "start": start, "size": size}
        while rows := despite_damage(self._conn, partial(self._page, statement, values)):
            yield rows
            if rows[-1][0] == MOST:
                return
            values["start"] = rows[-1][0] + 1

    def _page(self, statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        with closing(plain_blocks(self._conn, statement, values)) as blocks:
            return next(blocks, [])


@dataclass(slots=True)
class _Segment:
    """The leaves between two checkpoints: hashes from the events, and as they are stored; where they differ."""

    computed: list[bytes]
    stored: list[bytes]
    differing: list[tuple[int, int]]


class _Leaves:
    """The stream of leaves, taken by the checkpoint. Gaps are named and filled with what hashes to nothing."""

    def __init__(self, blocks: Iterator[list[Any] | Part], first: int, report: Callable[[Problem], None]) -> None:
        self._blocks = blocks
        self._next = first
        self._report = report
        self._computed: list[bytes] = []
        self._stored: list[bytes] = []
        self._differing: list[tuple[int, int]] = []
        self._at = 0

    def take(self, count: int) -> _Segment:
        """The next `count` leaves; fewer at the end."""
        while len(self._computed) - self._at < count and (rows := next(self._blocks, None)) is not None:
            self._drop_taken()
            self._add(rows)
        start, end = self._at, self._at + count
        self._at = min(end, len(self._computed))
        first = self._next - len(self._computed)
        differing = self._differing
        if differing:
            taken = [pair for pair in differing if pair[0] < first + self._at]
            self._differing = differing[len(taken) :]
            differing = taken
        if (missing := end - len(self._computed)) > 0:
            what = "are gone" if missing > 1 else "is gone"
            self._report(Problem(table="leaf", row=_span(self._next, self._next + missing - 1), what=what))
        return _Segment(self._computed[start : self._at], self._stored[start : self._at], differing)

    def the_rest(self) -> None:
        """Name the leaves after the last checkpoint."""
        left = self._next - len(self._computed) + self._at
        for rows in self._blocks:
            self._add(rows)
        if self._next > left:
            what = "no checkpoint covers it: it was put in, or the checkpoint taken away"
            self._report(Problem(table="leaf", row=_span(left, self._next - 1), what=what))

    def _drop_taken(self) -> None:
        del self._computed[: self._at], self._stored[: self._at]
        self._at = 0

    def _add(self, rows: list[Any] | Part) -> None:
        if isinstance(rows, Part):
            hashes = rows.leaves()
            self._computed += hashes
            self._stored += hashes
            self._next += len(hashes)
            return
        rows = self._in_place(rows)
        computed = [
            leaf_hash(event_text(row[3:]).encode("utf-8", "surrogatepass")) if row[3] is not None else _as_stored(row)
            for row in rows
        ]
        stored = [row[2] for row in rows]
        if computed != stored:
            stored = [value if _is_hash(value) else bytes(merkle.SIZE) for value in map(_plain, stored)]
            for row, ours, theirs in zip(rows, computed, stored, strict=True):
                if row[1] is not None and row[3] is None:
                    what = f"is gone; it was sealed as leaf {row[0]}"
                    self._report(Problem(table="event", row=str(row[1]), what=what))
                elif ours != theirs:
                    self._differing.append((row[0], row[1]))
        elif any(row[3] is None for row in rows):
            for row in rows:
                if row[1] is not None and row[3] is None:
                    what = f"is gone; it was sealed as leaf {row[0]}"
                    self._report(Problem(table="event", row=str(row[1]), what=what))
        self._computed += computed
        self._stored += stored

    def _in_place(self, rows: list[Any]) -> list[Any]:
        """The rows, one for each place from `_next` on."""
        if [row[0] for row in rows] == list(range(self._next, self._next + len(rows))):
            self._next += len(rows)
            return rows
        placed: list[Any] = []
        for row in rows:
            if row[0] < self._next:
                self._report(Problem(table="leaf", row=str(row[0]), what="there is no such place in the tree"))
                continue
            if row[0] - self._next > NAMED:
                self._report(Problem(table="leaf", row=_span(self._next, row[0] - 1), what="are gone"))
                return placed  # far out of its place: what comes after has none either
            while row[0] > self._next:
                self._report(Problem(table="leaf", row=str(self._next), what="is gone"))
                placed.append((self._next, None, bytes(merkle.SIZE), *[None] * 8))
                self._next += 1
            placed.append(row)
            self._next += 1
        return placed


class _Exported:
    """The exported checkpoints as they are now, to be read in lockstep with the database's."""

    def __init__(self, witness: Witness, origin: str | None = None) -> None:
        self._lines = witness.lines(witness.size())
        self.report: Callable[[Problem], None] = lambda _: None
        self._raw: bytes | None = None
        self._ahead: Checkpoint | None = None
        self.newest = 0
        self.count = 0
        self.origin = origin

    def _peek(self) -> Checkpoint | None:
        """The next line, read."""
        while self._ahead is None:
            try:
                if (raw := self._next()) is None:
                    return None
                line = read_line(raw)
            except LedgerError as error:
                self.report(Problem(table="exported checkpoints", row=f"after {self.newest}", what=str(error)))
                self._raw = None
                continue
            self._raw = None
            self._took(line)
            if line.number <= self.newest:
                self.report(Problem(table="exported checkpoints", row=str(line.number), what="is out of its order"))
                continue
            self.newest = line.number
            self._ahead = line
        return self._ahead

    def _next(self) -> bytes | None:
        if self._raw is None:
            self._raw = next(self._lines, None)
        return self._raw

    def _took(self, line: Checkpoint) -> None:
        self.count += 1
        if self.origin is None:
            self.origin = line.origin

    def before(self, number: int | None) -> Iterator[Checkpoint]:
        """Those that come before `number`, all for None, each once."""
        while (line := self._peek()) is not None and (number is None or line.number < number):
            self._ahead = None
            yield line

    def matches(self, checkpoint: Checkpoint) -> bool | None:
        """Whether the exported one of that number is the same; None when none of that number was exported."""
        line = self._peek()
        if line is None or line.number != checkpoint.number:
            return None
        self._ahead = None
        return line == checkpoint

    def skip_same(self, checkpoint: Checkpoint) -> bool:
        """True when the next line is, to the byte, this checkpoint's: the common case, without reading it."""
        if self._ahead is None and self._next() == as_line(checkpoint):
            self._raw = None
            self._took(checkpoint)
            self.newest = checkpoint.number
            return True
        return False

    def upto(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """Pass over what was exported up to this checkpoint, and compare it with the last of that.

        Where it was not exported itself, the newest before it that was.
        """
        newest = None
        for line in self.before(checkpoint.number):
            newest = line
        same = self.matches(checkpoint)
        if same is False:
            self.report(_of_checkpoint(checkpoint.number, "is not the one that was exported"))
        return newest if same is None else None


class _Chain:
    """The checkpoints, one after the other: numbers, the chain of their notes, keys, signatures, the exported ones."""

    def __init__(
        self,
        before: Checkpoint | None,
        exported: _Exported,
        report: Callable[[Problem], None],
        giving_up: Callable[[int, str, int], str | None],
    ) -> None:
        self.last = before
        self.remarks: list[str] = []
        self._exported = exported
        self._report = report
        self._giving_up = giving_up
        self._since = before is not None
        self._broken = False

    def follows(self, checkpoint: Checkpoint) -> bool:
        """Compare a checkpoint with the one before it; False when its place is none."""
        number, last = checkpoint.number, self.last
        if number < 1:
            self._report(_of_checkpoint(number, "there is no such number"))
            return False
        same = self._exported.skip_same(checkpoint)
        lost = [] if same else list(self._exported.before(number))
        expected = last.number + 1 if last else 1
        if number != expected and checkpoint.given_up is None:
            self._report(_of_checkpoint(_span(expected, number - 1), "is gone"))
        elif checkpoint.given_up is not None:
            self._accept(checkpoint, lost)
            lost = []
        for gone in lost:
            self._report(_of_checkpoint(gone.number, "was exported and is gone"))
        exported = same or self._exported.matches(checkpoint)
        if exported is False:
            self._report(_of_checkpoint(number, "is not the one that was exported"))
        if checkpoint.previous != (last.digest if last else NO_PREVIOUS):
            self._report(_of_checkpoint(number, "is not chained to the one before it: one of the two was changed"))
        self._origin(checkpoint)
        key = last.key_after if last else checkpoint.public_key
        if checkpoint.public_key != key:
            self._report(_of_checkpoint(number, "is signed with a key that the one before does not name"))
        if (last is None or checkpoint.next_key or checkpoint.given_up or not exported) and not checkpoint.is_signed():
            self._report(_of_checkpoint(number, "its signature is not that of its key"))
        self.last = checkpoint
        return True

    def finish(self) -> None:
        """After the last: its signature, and what was exported and isn't there."""
        if self.last is not None and not self._since and not self.last.is_signed():
            self._report(_of_checkpoint(self.last.number, "its signature is not that of its key"))
        for line in self._exported.before(None):
            self._report(
                _of_checkpoint(line.number, "was exported and is gone: the ledger was cut back, or a backup restored")
            )
        if self.last is None and self._exported.count == 0 and self._exported.origin is not None:
            what = "is gone, and all after it: a ledger has its name from the first"
            self._report(_of_checkpoint(1, what))
        elif self.last is None and self._exported.count == 0:
            self.remarks.append("Nothing is sealed yet. `allq audit seal` does it now.")

    def _origin(self, checkpoint: Checkpoint) -> None:
        last = self.last
        if last is None and checkpoint.origin != checkpoints.origin_of(checkpoint.public_key):
            self._report(_of_checkpoint(checkpoint.number, "its origin is not that of its key"))
        if last is not None and checkpoint.origin != last.origin:
            self._report(_of_checkpoint(checkpoint.number, "has another origin than the one before it"))
        if last is None and self._exported.origin not in {None, checkpoint.origin}:
            self._report(_of_checkpoint(checkpoint.number, _OTHER_ORIGIN))

    def _accept(self, checkpoint: Checkpoint, lost: Iterable[Checkpoint]) -> None:
        """A restored backup: the lost checkpoints are named by the signed one that follows."""
        number, _, digest = str(checkpoint.given_up).partition(" ")
        if int(number) != checkpoint.number - 1:
            self._report(_of_checkpoint(checkpoint.number, "gives up another checkpoint than the one before it"))
        for line in lost:
            if line.number == int(number) and line.digest.hex() != digest:
                self._report(_of_checkpoint(line.number, "was exported and is not the one that was given up"))
        first = self.last.number + 1 if self.last else 1
        lost_ones = (
            f"Checkpoint {number} was" if first == int(number) else f"Checkpoints {_span(first, int(number))} were"
        )
        who = self._giving_up(int(number), digest, self.last.size if self.last else 0)
        self.remarks.append(
            f"{lost_ones} lost with a restored backup; checkpoint {checkpoint.number} says so, and "
            f"{who or 'no event says who gave it up'}."
        )


_OTHER_ORIGIN: Final = "has another origin than the exported checkpoints, or than the one it must have"


def _of_checkpoint(number: int | str, what: str) -> Problem:
    return Problem(table="checkpoint", row=str(number), what=what)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def _is_hash(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == merkle.SIZE


def _as_stored(row: Any) -> bytes:
    value = _plain(row[2])
    return value if _is_hash(value) else bytes(merkle.SIZE)
