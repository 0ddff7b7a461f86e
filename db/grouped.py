"""Rows by what they belong to, in little memory: what SQLite sorts, or groups by what is in no order, it holds whole
(`temp_store = MEMORY`, since a folder for temporary files may be absent, full or itself in memory).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import partial
from heapq import merge
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import Connection

from db.damaged import despite_damage
from db.statements import on_sqlite, plain_blocks, plain_rows

LEAST: Final = -(1 << 63)
MOST: Final = (1 << 63) - 1
"""The ends of the numbers that a row can have: what was put in may stand anywhere between them."""

_ROWS_AT_ONCE: Final = 50_000


class Grouped:
    """Numbers by the batch that they belong to, ascending: 16 bytes each, and as much again while they are put in
    order, where they do not come so. `of_none`: what stands in place of a batch and is no number of one.
    """

    def __init__(self, rows: Iterable[tuple[Any, ...]] = ()) -> None:
        self._batches, self._numbers = array("q"), array("q")
        self.of_none: set[Any] = set()
        for batch, number in rows:
            if type(batch) is int:
                self._batches.append(batch)
                self._numbers.append(number)
            else:  # as somebody wrote it who changed the column
                self.of_none.add(batch)
        if not all(one <= other for one, other in pairwise(zip(self._batches, self._numbers, strict=True))):
            self._put_in_order()

    def of(self, first: int, last: int) -> array[int]:
        """Those of the batches from one number to another."""
        return self._numbers[bisect_left(self._batches, first) : bisect_right(self._batches, last)]

    def _put_in_order(self) -> None:
        """Sort by parts and merge these: sorted at once, each number would be an object of Python's."""
        parts = []
        with memoryview(self._batches) as batches, memoryview(self._numbers) as numbers:
            for start in range(0, len(batches), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                ordered = sorted(zip(batches[part], numbers[part], strict=True))
                batches[part], numbers[part] = (array("q", of) for of in zip(*ordered, strict=True))
                parts.append(part)
            in_order = array("q"), array("q")
            for batch, number in merge(*(zip(batches[part], numbers[part], strict=True) for part in parts)):
                in_order[0].append(batch)
                in_order[1].append(number)
        self._batches, self._numbers = in_order


def groups(conn: Connection, table: str, columns: str, *, by: str, sums: str) -> Iterator[tuple[Any, ...]]:
    """`SELECT by, sums … GROUP BY by` of the rows themselves of a table with an `id`, of which these columns are asked.

    On SQLite so many rows at a time in the order of their numbers, in which those of a group lie mostly together: a
    group may come again, and what it comes to is to be added up. (PostgreSQL takes the memory that it is given.)
    """
    if not on_sqlite(conn):
        for block in plain_blocks(conn, f"SELECT {by}, {sums} FROM {table} GROUP BY {by}"):
            yield from block
        return
    some = f"SELECT id, {columns} FROM {table} {{not_indexed}} WHERE id >= :start ORDER BY id LIMIT :size"
    statement = f"SELECT {by}, {sums}, max(id) FROM ({some}) AS part GROUP BY {by}"
    start = LEAST
    while rows := despite_damage(conn, partial(plain_rows, conn, statement, {"start": start, "size": _ROWS_AT_ONCE})):
        for row in rows:
            yield row[:-1]
        if (last := max(row[-1] for row in rows)) == MOST:
            return
        start = last + 1
