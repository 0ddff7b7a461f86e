"""Nothing keeps `verify` from its work: no value that a driver refuses, no number at the ends, no senseless event."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from allq.errors import DatabaseDamaged, LedgerError, StoreError
from allq.settings import Settings
from db import bundle, events, history, indexes, interruptible, recording, reviews, sealing, verifying, verifying_parts
from db.database import Database
from db.rows_told import Problem
from db.schema import made as makings
from db.tables import Base
from db.witness import Witness
from tests import store
from tests.integration.test_ledger import verify, verify_bundle
from tests.integration.test_ledger_tampering import (
    TABLES,
    all_rows,
    as_owner,
    assert_named,
    attempt,
    insert,
    keys_of,
    ledger,
)
from worker.sealer import Sealer

__all__ = ["ledger"]

ENDS = (-(1 << 63), -(1 << 62) - 1, (1 << 62) + 1, (1 << 63) - 1)


def test_a_row_put_in_at_the_ends_of_the_numbers_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        for table, key in itertools.product(TABLES, ENDS):
            row = all_rows(conn, table)[-1]
            copy = row | {keys_of(table)[-1]: key}
            if "sha256" in row:
                copy["sha256"] = "ee" * 32 if table == "model" else b"e" * 32
            if table == "leaf":
                copy["event_id"] = 77000
            with attempt(conn):
                insert(conn, table, copy)
                assert_named(check(), table, ("insertion", table, key))


UNREADABLE = {
    "sqlite": {"Text": "CAST(x'ff' AS TEXT)", "UtcTimestamp": "CAST(x'ff' AS TEXT)", "BigInteger": "x'01'"},
    "postgresql": {"UtcTimestamp": "'infinity'"},
}
"""In SQL, by the kind of column: what the database takes and its driver refuses to read, or reads as no such thing."""


@pytest.mark.parametrize("parts_first", [False, True])
def test_a_value_that_the_driver_does_not_read_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, parts_first: bool
) -> None:
    witness = Witness(settings.checkpoint_file)
    for table in TABLES:
        where = " AND ".join(f"{key} = :{key}" for key in keys_of(table))
        for column in Base.metadata.tables[table].columns:
            value = UNREADABLE[ledger.dialect].get(type(column.type).__name__)
            if value is None:
                continue
            # each on a connection that has met no such value before
            owned = as_owner(ledger, witness, monkeypatch, parts_first=parts_first)
            with owned as (conn, check), attempt(conn):
                row = all_rows(conn, table)[0]
                change = text(f"UPDATE {table} SET {column.name} = {value} WHERE {where}")
                conn.execute(change, {key: row[key] for key in keys_of(table)})
                assert_named(check(), table, (table, column.name))


OTHER_KIND = {"sqlite": "BLOB DEFAULT x'00'", "postgresql": "bytea DEFAULT 'x'"}


@pytest.mark.parametrize("change", ["gone", "of another kind"])
@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_a_table_or_column_that_is_gone_or_of_another_kind_is_named_and_ends_nothing_with_an_error(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str, change: str
) -> None:
    for column in (None, *(column.name for column in Base.metadata.tables[table].columns)):
        with ledger.begin() as conn, monkeypatch.context() as patched:
            patched.setattr(ledger, "read", lambda conn=conn: nullcontext(conn))
            patched.setattr(conn, "detach", lambda: None)
            for kind, view in makings.on_sqlite() if ledger.dialect == "sqlite" else ():
                if kind == "view":  # one that can't follow keeps its column from being renamed
                    conn.exec_driver_sql(f"DROP VIEW {view}")
            conn.exec_driver_sql(f"ALTER TABLE {table} RENAME {f'COLUMN {column}' if column else ''} TO elsewhere")
            if change != "gone":
                added = f"{column or 'id'} {OTHER_KIND[ledger.dialect]}"
                how = f"ALTER TABLE {table} ADD COLUMN {added}" if column else f"CREATE TABLE {table} ({added})"
                conn.exec_driver_sql(how)
            found = verifying.verify(ledger, Witness(settings.checkpoint_file))
            conn.rollback()
        assert not found.sound
        named = {(one.table, one.row) for one in found.problems}
        assert named & {("table", table), ("column", column or "id")}, (table, column, found.problems)
    assert verify(ledger, settings, complete=True).problems == []


@pytest.mark.parametrize(("table", "column"), [("review", "reason"), ("checkpoint", None)])
def test_what_can_not_be_read_for_its_schema_is_remarked_upon(
    ledger: Database, settings: Settings, table: str, column: str | None
) -> None:
    with ledger.begin() as conn:
        conn.exec_driver_sql(f"ALTER TABLE {table} RENAME {f'COLUMN {column}' if column else ''} TO elsewhere")
    found = verify(ledger, settings)
    assert not found.finished
    assert any(one.what.endswith("is missing") for one in found.problems)
    (remark,) = found.remarks
    assert "no such" in remark or "does not exist" in remark


def drop_table(database: Database, table: str) -> None:
    if database.dialect == "postgresql":
        with database.begin() as conn:
            conn.exec_driver_sql(f"DROP TABLE {table} CASCADE")
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT", allq_begin="SELECT 1") as conn:
        conn.exec_driver_sql("PRAGMA foreign_keys = OFF")
        conn.exec_driver_sql(f"DROP TABLE {table}")
        conn.exec_driver_sql("PRAGMA foreign_keys = ON")


@pytest.mark.parametrize("table", sorted(Base.metadata.tables.keys() - {"checkpoint"}))
def test_a_table_that_is_gone_is_named_once_and_the_rest_is_verified(
    ledger: Database, settings: Settings, table: str
) -> None:
    drop_table(ledger, table)
    found = verify(ledger, settings)
    assert [(one.table, one.row) for one in found.problems if one.table != "view"] == [("table", table)]
    assert not found.finished
    (remark,) = found.remarks
    assert remark.startswith(f"Table {table} is gone: not all rows were looked at")
    assert (found.checkpoints, found.exported) == (4, 4)
    if table == "leaf":
        return
    with ledger.begin() as conn:  # a root tells that a leaf's hash was changed, whether its event is there or not
        trigger = "leaf_append_only ON leaf" if ledger.dialect == "postgresql" else "leaf_no_update"
        conn.exec_driver_sql(f"DROP TRIGGER {trigger}")
        conn.exec_driver_sql("UPDATE leaf SET hash = (SELECT hash FROM leaf WHERE seq = 2) WHERE seq = 1")
    named = {one.table for one in verify(ledger, settings).problems}
    assert named & ({"checkpoint"} if table in {"event", "event_slide"} else {"leaf"})


def test_checkpoints_are_held_against_the_exported_ones_without_events(ledger: Database, settings: Settings) -> None:
    drop_table(ledger, "event")
    with ledger.begin() as conn:
        postgresql = ledger.dialect == "postgresql"
        conn.exec_driver_sql(f"DROP TRIGGER checkpoint_{'append_only ON checkpoint' if postgresql else 'no_delete'}")
        conn.exec_driver_sql("DELETE FROM checkpoint WHERE number = 4")
    named = [(one.table, one.row, one.what) for one in verify(ledger, settings).problems if one.table == "checkpoint"]
    assert [(table, row) for table, row, _ in named] == [("checkpoint", "4")]
    assert "was exported and is gone" in named[0][2]


NO_TIMES = {
    "sqlite": (
        "CAST(x'ff' AS TEXT)",
        "'yesterday'",
        "x'00'",
        "'2026-13-45 00:00:00.000'",
        "'2026-02-30 08:30:00.000'",
        "'2026-W01-1 08:30:00.000'",
        "'abcdefghij klmnopqrstuv'",
    ),
    "postgresql": ("'infinity'", "'-infinity'", "'10000-01-01 00:00:00'", "'0044-03-15 BC'"),
}


@pytest.mark.parametrize("alone", [False, True])
def test_an_event_whose_time_is_none_stops_nothing_and_is_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: bool
) -> None:
    """Of before the server set it, when whoever might append an event might choose its time."""
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 2)])
    store.work(database, chunk_ids)
    sealing.seal(database, settings)
    with database.begin() as conn:
        slide = reviews.find(conn, "A")
        reviews.look(conn, slide, reviewer="Dr Tester")
        body = conn.exec_driver_sql("SELECT body FROM event WHERE kind = 'slide-looked-at'").scalar()
        damaged = []
        for at in NO_TIMES[database.dialect]:
            values = f"({at}, 'slide-looked-at', 'Dr Tester', :body)"
            insert = text(f"INSERT INTO event (at, kind, actor, body) VALUES {values} RETURNING id")
            damaged.append(conn.execute(insert, {"body": body}).scalar_one())
            link = text("INSERT INTO event_slide (slide_id, event_id) VALUES (:slide, :event)")
            conn.execute(link, {"slide": slide.slide_id, "event": damaged[-1]})
    with database.read() as conn:
        waited = sealing.waiting_seconds(conn)
        assert waited is not None
        assert 0 <= waited < 60
        (told,) = history.of_slide(conn, "A")
    assert [event.at for event in told.events if event.event in damaged] == [None] * len(damaged)
    assert store.review(database, "A", "insufficient", "out of focus") == 1
    with capture_logs() as logged:
        Sealer(settings, alone=alone).seal(database)
        Sealer(settings, alone=alone).seal(database)
    assert [entry["events"] for entry in logged if entry["log_level"] == "error"] == [damaged]
    with database.read() as conn:
        assert sealing.waiting_seconds(conn) is None
    with database.begin() as conn:  # alone, none is left to go by
        values = f"({NO_TIMES[database.dialect][0]}, 'x', 'x', '{{}}')"
        insert = text(f"INSERT INTO event (at, kind, actor, body) VALUES {values} RETURNING id")
        damaged.append(conn.execute(insert).scalar_one())
        assert sealing.waiting_seconds(conn) == 0
    named = [f"event {number}: has a time that is none" for number in damaged]
    assert [str(one) for one in verify(database, settings).problems] == named
    assert sealing.seal(database, settings).damaged == (damaged[-1],)
    assert [str(one) for one in verify(database, settings).problems] == named
    monkeypatch.setattr(verifying, "WORTH_IT", 1)
    monkeypatch.setattr(verifying_parts, "PART", 5)
    assert [str(one) for one in verify(database, settings).problems] == named
    with database.read() as conn:
        if database.dialect == "sqlite":
            with pytest.raises(LedgerError, match=f"Event {damaged[0]} holds what is no text"):
                bundle.export(conn, tmp_path / "all.zip")
        else:
            bundle.export(conn, tmp_path / "all.zip")
            assert verify_bundle(tmp_path / "all.zip").returncode == 0


@pytest.mark.parametrize(
    "change", ["slide_id = (SELECT min(id) + max(id) FROM slide) - slide_id", "path = 'A/elsewhere.png'"]
)
def test_a_field_that_was_laid_elsewhere_is_named_itself(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Events of before have no marks of places: there its chunk is named, as it was."""
    with database.begin() as conn:
        _, (chunk, other) = store.submit(conn, [store.new_slide("A", 4), store.new_slide("B", 2)], chunk_size=4)
    store.work(database, [chunk])
    with monkeypatch.context() as of_before:
        recorded = recording.events.append

        def without_marks(conn: Connection, kind: str, body: dict[str, Any], **how: Any) -> int:
            return recorded(conn, kind, {key: told for key, told in body.items() if key != "place_marks"}, **how)

        of_before.setattr(recording.events, "append", without_marks)
        store.work(database, [other])
    sealing.seal(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        for moved, has_marks in ((chunk, True), (other, False)):
            *_, field, _ = conn.execute(
                text("SELECT id FROM field WHERE chunk_id = :chunk ORDER BY id"), {"chunk": moved}
            ).scalars()
            with attempt(conn):
                conn.execute(text(f"UPDATE field SET {change} WHERE id = :field"), {"field": field})
                said = {problem.row for problem in check().problems if problem.table == "field"}
                assert said == ({str(field)} if has_marks else set()) | {f"of chunk {moved}"}


HUGE = 10**30
ROW = f'"row":"{"0" * 64}"'


SAYS_NOTHING = [
    *(
        (kind, body)
        for kind in (
            "ledger-began",
            "slide-called",
            "slide-reviewed",
            "model-remembered",
            "model-activated",
            "chunk-recorded",
        )
        for body in ("", "null", "[]", "7", '{"a":NaN}', "[" * 100_000, "9" * 5_000)
    ),
    ("ledger-began", '{"model":7}'),
    ("ledger-began", f'{{"model":{{"digest":"","through":{HUGE}}}}}'),
    ("ledger-began", '{"model":{"digest":7,"through":true}}'),
    ("slide-called", f'{{{ROW},"slide_call":{HUGE}}}'),
    ("slide-called", f'{{{ROW},"slide_call":-1}}'),
    ("slide-called", '{"slide_call":1}'),
    ("model-remembered", f'{{"key":{HUGE},{ROW}}}'),
    ("model-activated", f'{{"activation":{HUGE},{ROW}}}'),
    ("slide-reviewed", f'{{"review":{HUGE},{ROW}}}'),
    ("batch-created", "[" * 100_000),
]


def test_an_event_that_says_two_things_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name that stands twice, JSON's readers take the last, others the first."""
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        kind, body = conn.exec_driver_sql("SELECT kind, body FROM event WHERE kind = 'slide-called' LIMIT 1").one()
        twice = {"kind": kind, "body": f"{{{ROW},{body[1:]}"}
        with attempt(conn):
            conn.execute(text("UPDATE event SET body = :body WHERE kind = :kind"), twice)
            assert any("says more than once which slide_call" in problem.what for problem in check().problems)


def test_a_bundle_with_an_event_that_says_two_things_is_refused(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    with database.begin() as conn:
        events.append(conn, "tested", {"a": 1}, actor="tester")
        body = '{"a":1,"a":2}'
        conn.execute(
            text("INSERT INTO event (at, kind, actor, body) SELECT at, kind, actor, :b FROM event"), {"b": body}
        )
    sealing.seal(database, settings)
    with database.read() as conn:
        bundle.export(conn, tmp_path / "all.zip")
    done = verify_bundle(tmp_path / "all.zip")
    assert done.returncode == 1
    assert "leaf 1 is not in canonical JSON" in done.stderr


def test_an_event_that_says_nothing_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may append an event can write such a one, and it can't be taken away again."""
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        at = conn.exec_driver_sql("SELECT at FROM event LIMIT 1").scalar()
        for kind, body in SAYS_NOTHING:
            with attempt(conn):
                values = {"at": at, "kind": kind, "body": body}
                conn.execute(text("INSERT INTO event (at, kind, actor, body) VALUES (:at, :kind, 'x', :body)"), values)
                named = {problem.what for problem in check().problems} - {"is not sealed"}
                assert named, f"not detected: {kind} {body[:60]}"


FIRST = "(SELECT min(id) FROM slide)"
LAST = "(SELECT max(id) FROM slide)"
SHOWN = [
    ("slide", f"UPDATE slide SET suspicion = 0 WHERE id = {FIRST}"),
    ("slide", f"UPDATE slide SET suspicion = NULL WHERE id = {FIRST}"),
    ("slide", f"UPDATE slide SET slide_call_id = NULL, suspicion = NULL WHERE id = {FIRST}"),
    (
        "slide",
        f"UPDATE slide SET slide_call_id = (SELECT slide_call_id FROM slide WHERE id = {LAST}) WHERE id = {FIRST}",
    ),
    ("slide", f"UPDATE slide SET name = 'Z' WHERE id = {FIRST}"),
    ("slide", f"DELETE FROM slide WHERE id = {FIRST}"),
    ("finding", "UPDATE field SET finding_id = NULL WHERE state = 'screened'"),
    ("finding", f"UPDATE field SET state = 'cancelled', finding_id = NULL WHERE slide_id = {LAST}"),
    ("field", f"UPDATE field SET slide_id = {LAST} WHERE slide_id = {FIRST}"),
    ("field", "UPDATE field SET path = 'A/other.png' WHERE path = 'A/000.png'"),
    ("batch", "DELETE FROM batch WHERE id = (SELECT min(id) FROM batch)"),
    *(("batch", f"UPDATE batch SET {name} = 'stat'") for name in ("root", "queue", "note", "operator", "settings")),
    (
        "batch",
        "INSERT INTO batch (id, root, queue, model_id, operator, settings, created_at) "
        "SELECT 77, root, queue, model_id, operator, settings, created_at FROM batch WHERE id = 1",
    ),
]


def test_what_slides_and_batches_show_is_what_the_ledger_tells(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        for table, change in SHOWN:
            with attempt(conn):
                assert conn.exec_driver_sql(change).rowcount
                assert_named(check(), table, change)


def test_a_review_that_says_another_time_of_looking_than_the_ledger_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reviewer's login writes both the review and its event, which then agree."""
    when = datetime(2020, 1, 5, 8, 30, 0, 250_000, UTC)
    text_of_it = f"{when:%Y-%m-%d %H:%M:%S}.250"
    with monkeypatch.context() as patched:
        patched.setattr(reviews, "_looked_at", lambda *_: text_of_it if ledger.dialect == "sqlite" else when)
        number = store.review(ledger, "B", "insufficient", "too few leukocytes still")
    (told,) = verify(ledger, settings).problems
    assert (told.table, told.row) == ("review", str(number))
    assert "of which no event tells" in told.what


def test_a_file_that_is_kept_busy_is_not_taken_for_a_damaged_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect != "sqlite":
        pytest.skip("SQLite's indexes")
    told: list[Problem] = []
    errors = {"busy": StoreError("kept busy"), "damaged": DatabaseDamaged("damaged")}

    def failing(error: Exception) -> Callable[..., list[str]]:
        def fail(*_: Any) -> list[str]:
            raise error

        return fail

    with database.read() as conn:
        monkeypatch.setattr(indexes, "despite_damage", failing(errors["busy"]))
        with pytest.raises(StoreError, match="kept busy"):
            indexes.compare(conn, told.append, lambda *_: None)
        assert told == []
        monkeypatch.setattr(indexes, "despite_damage", failing(errors["damaged"]))
        indexes.compare(conn, told.append, lambda *_: None)
    assert {problem.what for problem in told} == {"SQLite finds it damaged: damaged"}


def test_verify_is_interrupted_while_sqlite_looks_at_its_indexes(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ledger.dialect != "sqlite":
        pytest.skip("SQLite's indexes")
    with ledger.begin() as conn:
        conn.exec_driver_sql("DROP VIEW turnaround")
    monkeypatch.setattr(interruptible, "STEPS", 10)
    monkeypatch.setattr(verifying, "AGAIN_SECONDS", 0.0)
    told: list[tuple[str, int, int]] = []

    def progress(*stage: Any) -> None:
        if stage[0].startswith("Comparing") and told[-3:] == [stage] * 3:
            os.kill(os.getpid(), signal.SIGINT)
        told.append(stage)

    found = verifying.Verified()
    with pytest.raises(KeyboardInterrupt):
        verify(ledger, settings, progress=progress, found=found)
    assert not found.finished
    assert [(one.table, one.row) for one in found.problems] == [("view", "turnaround")]
    assert verify(ledger, settings).finished


_A_CHUNK_OF_NOBODY = (
    "INSERT INTO chunk (id, batch_id, state, fields, waiting, screened, linked) VALUES (900, 1, 'done', 1, 0, 1, 1)"
)


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (
            (
                _A_CHUNK_OF_NOBODY,
                "INSERT INTO field (id, slide_id, chunk_id, state, linked, finding_id, size, modified_ns, path) "
                "VALUES (900, 1, 900, 'screened', true, 1, 1, 1, 'A/zz.png')",
            ),
            "field 900: shows a finding, and no event of the ledger tells of its chunk",
        ),
        (
            (
                _A_CHUNK_OF_NOBODY,
                "UPDATE field SET chunk_id = 900, state = 'screened', linked = true, finding_id = 1, failure = NULL, "
                "failure_sentence = NULL, sha256 = NULL WHERE path = 'A/001.png'",
            ),
            "field 2: shows a finding, and no event of the ledger tells of its chunk",
        ),
        (("UPDATE slide SET batch_id = 2 WHERE id = 1",), "slide 1: is of another batch than the chunks of its fields"),
        (("UPDATE chunk SET batch_id = 2 WHERE id = 1",), "chunk 1: is of another batch than its event says"),
    ],
    ids=["a field added", "a failed field", "a slide", "a chunk"],
)
def test_a_field_that_no_event_tells_of_and_another_batch_are_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, statements: tuple[str, ...], named: str
) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 2)])
        store.submit(conn, [store.new_slide("B", 2)])
    store.work(
        database, chunk_ids, lambda field: (store.failed if field.path == "A/001.png" else store.screened)(field)
    )
    sealing.seal(database, settings)
    assert not verify(database, settings).problems
    with database.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement)
    assert named in [str(one) for one in verify(database, settings).problems]
    monkeypatch.setattr(verifying, "WORTH_IT", 1)
    monkeypatch.setattr(verifying_parts, "PART", 1)
    assert named in [str(one) for one in verify(database, settings).problems]
