"""Rows that are read block by block: as many as have so much text, in their order, each once, despite damage."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from db import events, statements
from db.damaged import blocks
from db.database import Database
from db.statements import plain_blocks, run
from tests.integration.test_ledger_damage import NO_TIMES

ALL = "SELECT id, at, body FROM event ORDER BY id"


def filled(database: Database, sizes: list[int]) -> None:
    with database.begin() as conn:
        for size in sizes:
            events.append(conn, "tested", {"x": "x" * size}, actor="tester")


@pytest.mark.parametrize("many_rows", [False, True])
def test_a_block_has_no_more_text_than_it_may_and_a_little(
    database: Database, monkeypatch: pytest.MonkeyPatch, many_rows: bool
) -> None:
    filled(database, [10] * 30 + [1_000] * 30 + [5_000] * 5 + [10] * 30)
    monkeypatch.setattr(statements, "_FEW", 2)
    monkeypatch.setattr(statements, "_MANY", 4)
    monkeypatch.setattr(statements, "TEXT_AT_ONCE", 8_000)
    monkeypatch.setattr(statements, "ROWS_AT_ONCE", 25)
    found = []
    with database.read() as conn:
        for block in plain_blocks(conn, ALL, many_rows=many_rows):
            within = run(conn, "SELECT count(*) FROM event").scalar_one()  # others may be asked meanwhile
            assert within == 95
            assert len(block) <= 25
            assert sum(len(body) for *_, body in block) <= 8_000 + 4 * 5_100
            found += [number for number, *_ in block]
    assert found == sorted(found)
    assert len(set(found)) == len(found) == 95


def test_a_block_that_nobody_waits_for_leaves_nothing_open(database: Database) -> None:
    filled(database, [10] * 300)
    with database.read() as conn:
        first = next(plain_blocks(conn, ALL))
        assert len(first) == 300
        assert not next(plain_blocks(conn, "SELECT id FROM event WHERE id < 0"), [])


@pytest.mark.parametrize("before", [0, 5, 30])
def test_a_value_that_no_driver_reads_costs_no_row(
    database: Database, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(statements, "_FEW", 2)
    monkeypatch.setattr(statements, "_MANY", 2)
    monkeypatch.setattr(statements, "ROWS_AT_ONCE", 4)
    filled(database, [10] * before)
    with database.begin() as conn:
        at = NO_TIMES[database.dialect][0]
        conn.execute(text(f"INSERT INTO event (at, kind, actor, body) VALUES ({at}, 'tested', 'tester', '{{}}')"))
    filled(database, [10] * 20)
    with database.read() as conn:
        found = [number for block in blocks(conn, ALL) for number, *_ in block]
    assert found == list(range(1, before + 22))
