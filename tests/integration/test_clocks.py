"""Leases go by the database's clock, and survive its being set; no other clock matters."""

import pytest
from sqlalchemy import text

from db import chunks
from tests import clocks, store
from worker import housekeeping
from worker.lease import LapsedLeases


@pytest.fixture
def chunk(database):
    with database.begin() as conn:
        _, (found,) = store.submit(conn, [store.new_slide("A", 1)])
        chunks.mark_published(conn, [found])
    return found


def shift(database, column, seconds):
    """Move a time in the table: the same as if the database's clock had been set by that much the other way."""
    moved = (
        f"strftime('%Y-%m-%d %H\\:%M\\:%f', {column}, '{seconds} seconds')"
        if database.dialect == "sqlite"
        else f"{column} + interval '{seconds} seconds'"
    )
    with database.begin() as conn:
        conn.execute(text(f"UPDATE chunk SET {column} = {moved}"))


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_lost_message_is_published_again_though_the_databases_clock_was_set(database, chunk, seconds):
    def lost():
        with database.read() as conn:
            return chunks.unpublished(conn, queue="routine", older_than_seconds=30, limit=10)

    assert lost() == []
    shift(database, "published_at", seconds)
    assert lost() == [chunk]


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_chunk_without_a_worker_is_freed_though_the_databases_clock_was_set(database, settings, chunk, seconds):
    store.claimed(database, chunk, owner="elsewhere/1/2/3/t4", lease=settings.lease_seconds)
    leases = LapsedLeases(settings.model_copy(update={"lease_seconds": 1e-9}))  # whose patience is over at once
    assert housekeeping.reclaim(database, leases, settings) == 0
    shift(database, "lease_until", seconds)
    assert housekeeping.reclaim(database, leases, settings) == 0, "it is watched for a while first"
    assert housekeeping.reclaim(database, leases, settings) == 1
    assert store.rows(database, "SELECT state, crashes FROM chunk") == [("pending", 1)]


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_living_worker_keeps_its_chunk_when_the_databases_clock_is_set(database, settings, chunk, seconds):
    claim = store.claimed(database, chunk, owner="elsewhere/1/2/3/t4", lease=settings.lease_seconds)
    leases = LapsedLeases(settings)
    shift(database, "lease_until", seconds)
    assert housekeeping.reclaim(database, leases, settings) == 0, "it is given the time to renew"
    with database.begin() as conn:
        assert chunks.renew(conn, claim, settings.lease_seconds)
        assert chunks.lapsed(conn, longest_lease=settings.lease_seconds) == []
    assert store.record(database, claim) is not None


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_workers_own_clock_plays_no_part(database, settings, chunk, seconds, tmp_path, monkeypatch):
    clock = tmp_path / "clock"
    clock.write_text(str(seconds))
    clocks.obey(clock)
    monkeypatch.setattr("time.time", clocks.wrong_time)
    try:
        claim = store.claimed(database, chunk, lease=settings.lease_seconds)
        with database.begin() as conn:
            assert chunks.lapsed(conn) == []
            assert chunks.claim(conn, chunk, "another", settings.lease_seconds) is None
            assert chunks.renew(conn, claim, settings.lease_seconds)
        assert store.record(database, claim) is not None
    finally:
        clocks.obey_nothing()
