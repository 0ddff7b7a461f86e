"""The ways of writing and reading that are compared do the same."""

from __future__ import annotations

import pytest

from benchmarks import filling, ways
from db import artefacts, reads
from tests import store

FIELDS = 6_000


@pytest.fixture
def filled(database):
    with database.begin() as conn:
        artefacts.remember_model(conn, filling.model())
    filling.fill(database, FIELDS, long=FIELDS)
    return database


def test_all_fields_are_read_either_way_and_counters_are_what_is_counted(filled) -> None:
    with filled.read() as conn:
        assert ways.by_keyset(conn) == ways.by_offset(conn) == FIELDS
        status = reads.batch_status(conn, ways.BATCH)
        assert ways.by_counting(conn) == {"screened": status.screened}


def test_each_way_of_writing_leaves_the_same_fields(filled) -> None:
    found = {}
    for name, (timed, _, unit) in ways.ways(filled.dialect, 50).items():
        if unit == "ms":
            continue
        with filled.engine.connect() as conn, conn.begin() as transaction:
            assert timed(conn) > 0
            rows = conn.exec_driver_sql(
                "SELECT slide_id, chunk_id, path, size, modified_ns, state, failure, failure_sentence FROM field "
                f"WHERE id > {FIELDS} ORDER BY modified_ns"
            )
            found[name] = [tuple(row) for row in rows]
            transaction.rollback()
    put, failed = ([rows for name, rows in found.items() if f"fields {what}," in name] for what in ("put in", "set"))
    assert len(put) == len(failed) == (4 if filled.dialect == "sqlite" else 5)
    assert all(rows == put[0] for rows in put) and all(rows == failed[0] for rows in failed)
    assert (
        len(put[0]) == 50 and {row[5] for row in put[0]} == {"waiting"} and {row[5] for row in failed[0]} == {"failed"}
    )
    assert store.rows(filled, f"SELECT count(*) FROM field WHERE id > {FIELDS}") == [(0,)]
