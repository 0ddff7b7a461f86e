"""A long ledger is verified by several processes: each reads parts of it, hashes their events and compares their rows.

What they return is put together in order by one. A part that is not simply in order (a gap, a hash that differs, text
that can't be read) is returned as such, and read again by that one, which names what is wrong.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError

from db.database import Database
from db.lines import event_text
from db.merkle import SIZE, leaf_hash
from db.rows_told import Problem, RowsTold, Told
from db.sealing import event_columns
from db.statements import run

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
    problems: tuple[Problem, ...]

    def leaves(self) -> list[bytes]:
        """The hashes, each by itself."""
        data = self.hashes or b""
        return [data[at : at + SIZE] for at in range(0, len(data), SIZE)]


def parts(database: Database, after: int, upto: int) -> Iterator[Part]:
    """All parts of the leaves after `after` up to `upto`, in their order."""
    url = database.engine.url.render_as_string(hide_password=False)
    workers = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")  # a fork would share the connection to the database
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(url,)) as pool:
        waiting: deque[Future[Part]] = deque()
        for start in range(after, upto, PART):
            waiting.append(pool.submit(_verify, start, min(start + PART, upto)))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_database: Database | None = None


def _open(url: str) -> None:
    global _database  # noqa: PLW0603 - one for each process of the pool
    _database = Database.at(url)


def _verify(after: int, upto: int) -> Part:
    if _database is None:
        raise RuntimeError("not a process of the pool")
    problems: list[Problem] = []
    with _database.read() as conn:
        rows_told = RowsTold(conn, problems.append, part=True)
        statement = f"""
            SELECT l.seq, l.hash, {event_columns(conn)} FROM leaf l JOIN event e ON e.id = l.event_id
            WHERE l.seq > :after AND l.seq <= :upto ORDER BY l.seq
        """
        try:
            rows = run(conn, statement, {"after": after, "upto": upto}, many_rows=True).all()
            hashes = [leaf_hash(event_text(row[2:]).encode("utf-8", "surrogatepass")) for row in rows]
            in_order = len(rows) == upto - after and hashes == [row[1] for row in rows]
            if in_order:
                rows_told.check([(row[2], row[4], row[7], row[9]) for row in rows])
        except DBAPIError:
            in_order = False
        joined = b"".join(hashes) if in_order else None
        return Part(
            after=after,
            upto=upto,
            hashes=joined,
            told=rows_told.take() if in_order else Told({}, {}, 0),
            problems=tuple(problems) if in_order else (),
        )
