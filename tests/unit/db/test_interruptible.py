"""A signal ends a statement on SQLite, and only that."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection

from db.database import Database
from db.interruptible import interruptible
from db.statements import plain_rows, run

WITHOUT_END = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def conn() -> Iterator[Connection]:
    database = Database("sqlite://")
    with database.read() as conn:
        yield conn
    database.close()


def after(calls: int, what: Callable[[], None]) -> Callable[[], None]:
    called: list[None] = []

    def tick() -> None:
        called.append(None)
        if len(called) == calls:
            what()

    return tick


@pytest.mark.parametrize("ask", [run, plain_rows])
def test_ctrl_c_ends_a_statement_that_takes_long(conn: Connection, ask: Callable[..., object]) -> None:
    def press_it() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interruptible(conn, after(3, press_it)):
        ask(conn, WITHOUT_END)
    assert run(conn, "SELECT 1").scalar_one() == 1


def test_what_the_tick_raises_comes_out(conn: Connection) -> None:
    def fail() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), interruptible(conn, after(3, fail)):
        run(conn, WITHOUT_END)


def test_an_interruption_outside_of_a_statement_stays_one(conn: Connection) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(conn, lambda: None):
        raise KeyboardInterrupt
