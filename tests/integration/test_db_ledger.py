"""Findings, slide calls and the ledger can't be changed through SQL."""

import pytest
from sqlalchemy.exc import DBAPIError

from db import events, sealing, verifying
from db.witness import Witness
from tests import store

APPEND_ONLY = {
    "model": "name",
    "activation": "reason",
    "finding": "call",
    "finding_leukocytes": "data",
    "slide_call": "call",
    "event": "body",
    "event_slide": "event_id",
    "review": "reason",
    "leaf": "hash",
    "checkpoint": "signature",
}


@pytest.fixture
def written(database, settings):
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 3)])
    store.work(database, chunk_ids)
    store.review(database, "A", "insufficient", "out of focus")
    store.activate(database, "fits our smears")
    assert sealing.seal(database, settings).events == 8
    return database


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_rows_are_never_changed_or_removed(written, table):
    column = APPEND_ONLY[table]
    before = store.rows(written, f"SELECT * FROM {table}")
    assert before
    attacks = [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"]
    if written.dialect == "sqlite":
        attacks += [
            f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
            f"REPLACE INTO {table} SELECT * FROM {table}",
            f"UPDATE OR REPLACE {table} SET {column} = {column}",
        ]
    else:
        attacks += [f"TRUNCATE {table} CASCADE", f"DELETE FROM {table} WHERE false"]
    for attack in attacks:
        with pytest.raises(DBAPIError, match="never changed or removed"), written.begin() as conn:
            conn.exec_driver_sql(attack)
    assert store.rows(written, f"SELECT * FROM {table}") == before


def test_a_finding_is_not_replaced_under_a_new_number(written):
    columns = "model_id, confidence, p_benign, p_early_pre_b, p_pre_b, p_pro_b, suspicion, novelty, recorded_at, "
    columns += "leukocytes, suspects, width, height, sha256, call, flags, quality, engine, code_version"
    verb = "INSERT OR REPLACE" if written.dialect == "sqlite" else "INSERT"
    with pytest.raises(DBAPIError), written.begin() as conn:
        conn.exec_driver_sql(f"{verb} INTO finding ({columns}) SELECT {columns} FROM finding")
    with written.begin() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM finding").scalar() == 3


def test_the_slides_of_an_event_are_given_with_it_and_none_is_added_later(database, settings):
    """An event's slides are sealed with it: one more would make `verify` say for ever that it is not as sealed."""
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 2), store.new_slide("B", 2)], chunk_size=2)
    store.work(database, chunk_ids)
    before = store.rows(database, "SELECT slide_id, event_id FROM event_slide ORDER BY 1, 2")
    laid = (
        "INSERT INTO event_slide (slide_id, event_id) SELECT s.id, e.id FROM slide s, event e "
        "WHERE NOT EXISTS (SELECT 1 FROM event_slide x WHERE x.slide_id = s.id AND x.event_id = e.id)"
    )
    refused = "rows of event_slide are (never changed|written in the transaction of their event)"
    if database.dialect == "postgresql":  # a sealer may be at it at this moment
        with pytest.raises(DBAPIError, match=refused), database.begin() as conn:
            conn.exec_driver_sql(laid)
    sealing.seal(database, settings)
    with pytest.raises(DBAPIError, match=refused), database.begin() as conn:
        conn.exec_driver_sql(laid)
    assert store.rows(database, "SELECT slide_id, event_id FROM event_slide ORDER BY 1, 2") == before
    assert verifying.verify(database, Witness(settings.checkpoint_file), complete=True).problems == []


def test_events_are_in_canonical_json_and_belong_to_slides(database):
    with database.begin() as conn:
        event = events.append(conn, "tested", {"b": 1, "a": [0.1, "ü"]}, actor="tester", slide_ids={9, 7})
    assert store.rows(database, "SELECT id, kind, actor, body FROM event") == [
        (event, "tested", "tester", '{"a":[0.1,"ü"],"b":1}')
    ]
    assert store.rows(database, "SELECT slide_id FROM event_slide ORDER BY slide_id") == [(7,), (9,)]


def test_an_event_vanishes_with_the_transaction_it_tells_of(database):
    with pytest.raises(RuntimeError), database.begin() as conn:
        events.append(conn, "tested", {}, actor="tester")
        raise RuntimeError
    assert store.rows(database, "SELECT count(*) FROM event") == [(0,)]
