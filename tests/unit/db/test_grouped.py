from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine

from db import grouped
from db.grouped import LEAST, MOST, Grouped, groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


@pytest.fixture(autouse=True)
def _a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_ROWS_AT_ONCE", 4)


@pytest.fixture
def conn() -> Iterator[Connection]:
    with create_engine("sqlite://").connect() as conn:
        conn.exec_driver_sql("CREATE TABLE field (id INTEGER PRIMARY KEY, slide_id, state)")
        yield conn


@pytest.mark.parametrize("count", [0, 1, 4, 5, 50])
def test_numbers_are_found_by_their_batch_in_whatever_order_they_came(count: int) -> None:
    chance = random.Random(count)
    rows = [(chance.choice([LEAST, -3, 1, 2, 5, MOST]), number) for number in range(count)]
    chance.shuffle(rows)
    found = Grouped(rows)
    for first, last in [(LEAST, MOST), (LEAST, LEAST), (-3, 2), (3, 4), (5, 5), (MOST, MOST)]:
        assert list(found.of(first, last)) == [number for batch, number in sorted(rows) if first <= batch <= last]


def test_what_is_no_batch_is_kept_apart() -> None:
    found = Grouped([("x", 1), (2, 2), (None, 3), (1, 4)])
    assert found.of_none == {"x", None}
    assert list(found.of(LEAST, MOST)) == [4, 2]


def test_groups_are_summed_a_few_rows_at_a_time_whatever_their_numbers(conn: Connection) -> None:
    ids = [LEAST, -5, *range(1, 11), 1 << 40, MOST]
    rows = [(number, f"slide {at // 6}", "failed" if at % 3 == 0 else "waiting") for at, number in enumerate(ids)]
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.executemany("INSERT INTO field VALUES (?, ?, ?)", rows)
    found = list(groups(conn, "field", "slide_id, state", by="slide_id", sums="count(*), sum(state = 'failed')"))
    assert max(count for _, count, _ in found) <= 4
    for slide in ("slide 0", "slide 1", "slide 2"):
        states = [state for _, of, state in rows if of == slide]
        assert sum(count for of, count, _ in found if of == slide) == len(states)
        assert sum(failed for of, _, failed in found if of == slide) == states.count("failed")
