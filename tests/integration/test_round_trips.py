"""How many questions a worker asks of PostgreSQL one after the other: each is a way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from sqlalchemy import event, make_url

from allq.settings import Settings
from benchmarks.scaling import model
from benchmarks.scaling.relay import Target, Traffic, relay
from db import chunks, findings
from db.database import Database
from db.records import Claim
from tests import store
from tests.databases import PostgresqlServer, settings_for
from worker import embedded
from worker.app import make_app
from worker.housekeeping import Housekeeper


@pytest.fixture
def far(postgresql: PostgresqlServer, tmp_path: Path) -> Iterator[tuple[Settings, Traffic]]:
    """Settings of a database by way of a relay, and what goes by it."""
    url = postgresql.create()
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    socket = Path(folder) / f".s.PGSQL.{parts.port or 5432}" if folder else None
    target = Target(socket=socket, host=parts.hostname or "127.0.0.1", port=parts.port or 5432)
    with relay(target) as way:
        by_way = make_url(url).set(host="127.0.0.1", port=way.port).difference_update_query(["host"])
        yield settings_for(tmp_path / "home", by_way.render_as_string(hide_password=False)), way.traffic
    postgresql.drop(url)


def asked(traffic: Traffic, what: Callable[[], object]) -> int:
    before = traffic.round_trips
    what()
    return traffic.round_trips - before


def test_a_chunk_asks_five_times_to_begin_once_for_each_group_and_fourteen_times_to_end(
    far: tuple[Settings, Traffic],
) -> None:
    """Where no slide ends by it."""
    settings, traffic = far
    database = Database.open(settings)
    with database.begin() as conn:
        _, (first, _) = store.submit(conn, [store.new_slide("A", 16)], chunk_size=8)
    held: list[Claim] = []

    def begin() -> None:
        with database.ask() as conn:
            assert chunks.model_wanted(conn, first) == store.MODEL_ID
        held.append(store.claimed(database, first))

    def look_up() -> None:
        with database.ask() as conn:
            assert not findings.existing(conn, {store.content("x")}, store.MODEL_ID)

    assert asked(traffic, begin) == 5
    assert asked(traffic, look_up) == 1
    assert asked(traffic, lambda: store.record(database, held[0])) == 14
    database.close()


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """What is executed in the block, and its commits."""
    found: list[str] = []

    def on_statement(_conn: object, _cursor: object, sql: str, *_: object) -> None:
        found.append(" ".join(sql.split()))

    def on_commit(_conn: object) -> None:
        found.append("COMMIT")

    event.listen(database.engine, "before_cursor_execute", on_statement)
    event.listen(database.engine, "commit", on_commit)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", on_statement)
        event.remove(database.engine, "commit", on_commit)


def test_a_slide_is_held_from_its_counting_on_while_as_little_as_can_be_is_asked(far: tuple[Settings, Traffic]) -> None:
    settings, _ = far
    database = Database.open(settings)
    with database.begin() as conn:
        _, (first, _) = store.submit(conn, [store.new_slide("A", 16)], chunk_size=8)
    claim = store.claimed(database, first)
    with statements(database) as found:
        assert store.record(database, claim) is not None
    held = found[next(at for at, sql in enumerate(found) if sql.startswith("UPDATE slide")) :]
    assert len(held) == model.SLIDE_TRIPS
    database.close()


def test_a_round_of_housekeeping_asks_the_less_the_longer_it_knows_the_server(
    far: tuple[Settings, Traffic],
) -> None:
    """While it waits for answers no chunk is delivered or acknowledged."""
    settings, traffic = far
    with embedded.in_use(settings), relay(Target(socket=embedded.socket_path(settings))) as broker:
        url = SecretStr(f"redis://127.0.0.1:{broker.port}/0")
        keeper = Housekeeper(make_app(settings), settings.model_copy(update={"broker_url": url}))
        first, second = (asked(traffic, keeper.tick) for _ in range(2))
        assert second <= 17 < first
        assert asked(broker.traffic, keeper.tick) == model.ROUND_BROKER_TRIPS


def test_a_session_that_was_used_lately_is_not_asked_whether_it_lives(
    far: tuple[Settings, Traffic], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, traffic = far
    database = Database.open(settings)

    def question() -> None:
        with database.ask() as conn:
            conn.exec_driver_sql("SELECT 1")

    question()
    assert asked(traffic, question) == 1
    monkeypatch.setattr("db.database._FRESH_SECONDS", 0.0)
    assert asked(traffic, question) == 2
    database.close()
