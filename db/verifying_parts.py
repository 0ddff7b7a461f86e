"""A long ledger is verified by several processes: each reads parts of it, hashes their events and compares their rows.

What they return is put together in order by one. A part that is not simply in order (a gap, a hash that differs, text
that can't be read), or is not of the tables that this one sees, is returned as such, and read again by this one, which
names what is wrong.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from allq.cores import cores
from allq.errors import AllqError
from db.database import Database
from db.fields_told import Fields, FieldsTold, compare
from db.lines import event_text, is_time, number_text
from db.merkle import SIZE
from db.rows_told import Problem, RowsTold, Told
from db.statements import on_sqlite, plain_blocks, plain_rows, run

PART: Final = 10_000
"""Leaves of one part."""

WORTH_IT: Final = 100_000
"""With fewer leaves, starting processes takes longer than they save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The leaves after `after`, up to `upto`. `hashes`: one after the other, None where they are not in order."""

    after: int
    upto: int
    hashes: bytes | None
    told: Told
    fields: FieldsTold
    problems: tuple[Problem, ...]

    def leaves(self) -> list[bytes]:
        """The hashes, each by itself."""
        data = self.hashes or b""
        return [data[at : at + SIZE] for at in range(0, len(data), SIZE)]


def parts(database: Database, conn: Connection, after: int, upto: int) -> Iterator[Part]:
    """All parts of the leaves after `after` up to `upto`, in their order, as `conn`'s transaction sees them."""
    done = after
    try:
        for part in _by_processes(database, conn, after, upto):
            done = part.upto
            yield part
    except BrokenProcessPool:  # one of them was killed, for its memory perhaps: the rest is read by this one
        for start in range(done, upto, PART):
            yield _unread(start, min(start + PART, upto))


def _by_processes(database: Database, conn: Connection, after: int, upto: int) -> Iterator[Part]:
    sight = _Sight.of(conn)
    workers = cores()
    context = multiprocessing.get_context("spawn")  # a fork would share the connection to the database
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_ctrl_c)
    try:
        waiting: deque[Future[Part]] = deque()
        for start in range(after, upto, PART):
            waiting.append(pool.submit(_verify, database.url_as_given, sight, start, min(start + PART, upto)))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # whoever breaks off doesn't wait for what is only queued


def _leave_ctrl_c() -> None:
    """A terminal interrupts all processes; the one that began ends the others, which would each print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a transaction sees. A file of services, settings of the login or several servers in one URL may lead a
    second connection of the same URL to other tables.

    `snapshot`: PostgreSQL's name for the moment, which only transactions of the same database can take. `tables`: by
    number, the relations that names stand for without a schema; on SQLite the file.
    """

    snapshot: str | None
    tables: Any

    @classmethod
    def of(cls, conn: Connection) -> _Sight:
        if on_sqlite(conn):
            return cls(None, _tables(conn))
        return cls(run(conn, "SELECT pg_export_snapshot()").scalar_one(), _tables(conn))

    def shared(self, conn: Connection) -> bool:
        """Let a transaction that has just begun see the same; False where it can't."""
        if self.snapshot is not None:
            conn.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{self.snapshot}'")
        return bool(_tables(conn) == self.tables)


def _tables(conn: Connection) -> Any:
    if on_sqlite(conn):
        return run(conn, "SELECT file FROM pragma_database_list WHERE name = 'main'").scalar_one()
    visible = "SELECT array_agg(CAST(oid AS bigint) ORDER BY oid) FROM pg_class WHERE pg_table_is_visible(oid)"
    return run(conn, visible).scalar_one()


@cache
def _opened(url: str) -> Database:
    """One for all parts that a process of the pool reads."""
    return Database.at(url)


def _verify(url: str, sight: _Sight, after: int, upto: int) -> Part:
    database = _opened(url)
    try:
        with database.read() as conn:
            if sight.shared(conn):
                return verify_part(conn, after, upto)
    except (AllqError, DBAPIError):
        pass  # nor can this process connect, perhaps: whoever waits for the part reads it, and is told why
    return _unread(after, upto)


def verify_part(conn: Connection, after: int, upto: int) -> Part:
    """Verify a part by what `conn` sees."""
    problems: list[Problem] = []
    rows_told = RowsTold(conn, problems.append)
    fields = Fields(conn, problems.append, part=True)
    of_part = {"after": after, "upto": upto}
    hashes: list[bytes] = []
    try:
        for rows in plain_blocks(conn, _EVENTS, of_part, column=_BODY, many_rows=True):
            slides = _slides(conn, {"after": rows[0][8] - 1, "upto": rows[-1][8]})
            # each row is taken apart once: a slice of it, or another loop for one column, costs a tenth of the whole
            computed = [
                sha256(
                    b"\x00"
                    + event_text((number, at, kind, actor, batch, chunk, slides.get(number, "[]"), body)).encode()
                ).digest()
                for _, number, at, kind, actor, batch, chunk, body, _ in rows
            ]
            first = after + 1 + len(hashes)
            in_place = list(map(itemgetter(8), rows)) == list(range(first, first + len(rows)))
            in_order = in_place and computed == list(map(itemgetter(0), rows))
            if not in_order or not all(map(is_time, set(map(itemgetter(2), rows)))):
                return _unread(after, upto)
            hashes += computed
            told = ((number, kind, chunk, body) for _, number, _, kind, _, _, chunk, body, _ in rows)
            compare(told, rows_told, fields)
    except (DBAPIError, UnicodeError):
        return _unread(after, upto)
    if len(hashes) < upto - after:
        return _unread(after, upto)
    of_rows, of_fields = rows_told.take(), fields.take()
    return Part(
        after=after, upto=upto, hashes=b"".join(hashes), told=of_rows, fields=of_fields, problems=tuple(problems)
    )


def _unread(after: int, upto: int) -> Part:
    return Part(after=after, upto=upto, hashes=None, told=Told.nothing(), fields=FieldsTold.nothing(), problems=())


_EVENTS: Final = """
    SELECT l.hash, e.id, e.at, e.kind, e.actor, e.batch_id, e.chunk_id, e.body, l.seq
    FROM leaf l JOIN event e ON e.id = l.event_id WHERE l.seq > :after AND l.seq <= :upto ORDER BY l.seq
"""
_BODY: Final = 7
_SLIDES: Final = """
    SELECT s.event_id, s.slide_id FROM leaf l JOIN event_slide s ON s.event_id = l.event_id
    WHERE l.seq > :after AND l.seq <= :upto ORDER BY l.seq, s.slide_id
"""


def _slides(conn: Connection, of_part: Mapping[str, int]) -> dict[int, str]:
    """The slides of the events that have any, as `event_text` wants them: one query, not one for each event."""
    rows = plain_rows(conn, _SLIDES, of_part, many_rows=True)
    found = {event_id: f"[{number_text(slide_id)}]" for event_id, slide_id in rows}
    if len(found) < len(rows):
        for event_id, of_event in groupby(rows, itemgetter(0)):
            found[event_id] = f"[{','.join(number_text(slide_id) for _, slide_id in of_event)}]"
    return found
