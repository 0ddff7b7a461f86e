"""The database that the benchmarks fill by SQL is one that recording could have left."""

from __future__ import annotations

from benchmarks import filling
from db import artefacts, named, reads
from tests import store


def test_a_filled_database_has_right_sums_different_contents_and_reviews_and_takes_more(database):
    with database.begin() as conn:
        artefacts.remember_model(conn, filling.model())
    made = filling.fill(database, 1_000, long=600)
    assert made == [(1, 600), (2, 400)]
    store.assert_sums_hold(database)
    (contents,) = store.rows(database, "SELECT count(DISTINCT sha256), min(length(sha256)), count(*) FROM finding")
    assert contents == (1_000, 32, 1_000)
    with database.read() as conn:
        assert sum(1 for _ in reads.field_results(conn, 1)) == 600
        assert [slide.fields for slide in reads.slide_results(conn, 2)] == [40] * 10
        waiting = [row[0] for row in named.run(conn, "review_queue", {"limit": 100})[1]]
    reviewed = dict(store.rows(database, "SELECT slide, suspicion FROM worklist WHERE batch = 1 AND suspicion >= 0.5"))
    assert 0 < len(reviewed) < 15
    assert {slide for (slide,) in store.rows(database, "SELECT slide FROM slide_reviews WHERE latest")} == set(reviewed)
    assert len(waiting) == 25 - len(reviewed) and not set(waiting) & set(reviewed)
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 3)])
    store.work(database, chunk_ids)
    store.assert_sums_hold(database)


def test_what_keeps_rows_as_they_were_is_in_force_again_after_filling(database):
    with database.begin() as conn:
        artefacts.remember_model(conn, filling.model())

    def guards() -> list[tuple[object, ...]]:
        catalogue = "sqlite_master WHERE type = 'trigger'" if database.dialect == "sqlite" else "pg_trigger"
        return sorted(store.rows(database, f"SELECT {'name' if 'master' in catalogue else 'tgname'} FROM {catalogue}"))

    before = guards()
    filling.fill(database, 10)
    assert guards() == before
    if database.dialect == "sqlite":
        assert store.rows(database, "PRAGMA synchronous") == [(2,)]
        assert store.rows(database, "PRAGMA foreign_keys") == [(1,)]
    else:
        assert store.rows(database, "SHOW session_replication_role") == [("origin",)]
