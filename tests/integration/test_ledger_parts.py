"""A long ledger, verified by several processes: what they find is what one finds, whichever tables they are led to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allq.settings import Settings
from db import sealing, verifying, verifying_parts
from db.database import Database
from db.verifying import Verified
from db.verifying_parts import Part
from db.witness import Witness
from tests import store
from tests.databases import PostgresqlServer, settings_for
from tests.integration.test_ledger import unprotected


def fill(database: Database, settings: Settings, *, reviewer: str) -> None:
    for name in "ABC":
        with database.begin() as conn:
            _, chunk_ids = store.submit(conn, [store.new_slide(name, 2)], root=f"/{name}")
        store.work(database, chunk_ids)
        store.review(database, name, "insufficient", "smudged", reviewer=reviewer)
        sealing.seal(database, settings)


def verify(database: Database, settings: Settings) -> Verified:
    return verifying.verify(database, Witness(settings.checkpoint_file), complete=True)


@pytest.fixture
def laboratory(postgresql: PostgresqlServer, tmp_path: Path) -> Iterator[tuple[Database, Settings, str]]:
    """A ledger in a schema of its own, and the URL of the database without the options that name the schema.

    `public`, which others see there, holds another one of the same length.
    """
    url = postgresql.create()
    elsewhere = settings_for(tmp_path / "public", url)
    public = Database.open(elsewhere)
    fill(public, elsewhere, reviewer="Dr Elsewhere")
    with public.engine.begin() as conn:
        conn.exec_driver_sql("CREATE SCHEMA lab")
    public.close()
    settings = settings_for(tmp_path / "lab", f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Dlab")
    lab = Database.open(settings, upgrade=True)
    fill(lab, settings, reviewer="Dr Tester")
    yield lab, settings, url
    lab.close()
    postgresql.drop(url)


def in_parts(patched: pytest.MonkeyPatch) -> list[bool]:
    """Have several processes verify; returns, of each part to come, whether they have read it."""
    read: list[bool] = []
    parts = verifying.parts

    def spied(*where: Any) -> Iterator[Part]:
        for part in parts(*where):
            read.append(part.hashes is not None)
            yield part

    patched.setattr(verifying, "parts", spied)
    patched.setattr(verifying, "WORTH_IT", 1)
    patched.setattr(verifying_parts, "PART", 5)
    return read


def test_what_processes_that_were_killed_leave_is_read_by_the_first_one(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, settings, reviewer="Dr Tester")
    alone = verify(database, settings)
    read = in_parts(monkeypatch)
    parts = verifying.parts

    def killed(*where: Any) -> Iterator[Part]:
        for part in parts(*where):
            for process in multiprocessing.active_children():
                process.kill()
            yield part

    monkeypatch.setattr(verifying, "parts", killed)
    monkeypatch.setattr(verifying_parts, "PART", 1)
    assert verify(database, settings) == alone
    assert read[0] and not read[-1]


def test_what_is_in_order_is_read_by_several_processes(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, settings, reviewer="Dr Tester")
    alone = verify(database, settings)
    read = in_parts(monkeypatch)
    assert verify(database, settings) == alone
    assert read == [True] * 4
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("UPDATE leaf SET hash = (SELECT hash FROM leaf WHERE seq = 6) WHERE seq = 7")
    assert not verify(database, settings).sound
    assert read[4:] == [True, False, True, True]


def test_several_processes_read_the_schema_that_the_options_of_the_url_name(
    laboratory: tuple[Database, Settings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, settings, _ = laboratory
    alone = verify(database, settings)
    assert alone.problems == []
    read = in_parts(monkeypatch)
    assert verify(database, settings) == alone
    assert read == [True] * 4
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("UPDATE review SET reviewer = 'Dr Elsewhere' WHERE id = 2")
    assert [str(one) for one in verify(database, settings).problems] == [
        "review 2: differs from what event 13 tells of it",
        "review 2: says that its reviewer was shown the slide at a time of which no event tells that",
    ]


@pytest.mark.parametrize("another", ["schema", "database"])
def test_a_process_that_sees_other_tables_than_the_first_is_not_believed(
    laboratory: tuple[Database, Settings, str],
    postgresql: PostgresqlServer,
    monkeypatch: pytest.MonkeyPatch,
    another: str,
) -> None:
    """What is no part of the URL leads it there: a file of services, a server among several, its login's settings."""
    database, settings, url = laboratory
    alone = verify(database, settings)
    read = in_parts(monkeypatch)
    database.url_as_given = url if another == "schema" else postgresql.create()
    try:
        assert verify(database, settings) == alone
        assert read == [False] * 4
    finally:
        if another == "database":
            postgresql.drop(database.url_as_given)


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_chunk_that_two_events_tell_of_is_named_however_far_apart_they_are(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, by_parts: bool
) -> None:
    """Of a chunk whose fields have failed there are no findings by which it could be noticed."""
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("Z", 2)])
    store.work(database, [chunk], store.failed)
    fill(database, settings, reviewer="Dr Tester")
    with database.begin() as conn:
        columns = "at, kind, actor, batch_id, chunk_id, body"
        again = f"SELECT {columns} FROM event WHERE chunk_id = {chunk} AND kind = 'chunk-recorded'"
        conn.exec_driver_sql(f"INSERT INTO event ({columns}) {again}")
    sealing.seal(database, settings)
    monkeypatch.setattr(verifying, "BLOCK", 5)
    if by_parts:
        in_parts(monkeypatch)
    assert sorted(str(one) for one in verify(database, settings).problems) == [
        f"chunk {chunk}: two events tell of it",
        "field 1: two events tell that it failed",
        "field 2: two events tell that it failed",
    ]
