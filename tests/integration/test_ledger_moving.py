"""Whatever one row or column of the tables that move on is made to be without the triggers, `verify` names it.

But for what docs/ledger.md lists: that list and the one here are held equal, and what is in it is shown to move unseen,
so that it excuses no more than it must.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from allq.settings import Settings
from allq.text import storable
from db import batches, batches_told, chunks, events, grouped, sealing
from db.database import Database
from db.records import Failure, NewField, NewSlide
from db.statements import known_moment
from db.tables import Base
from db.witness import Witness
from tests import store
from tests.integration.test_ledger_tampering import (
    TABLES,
    all_rows,
    as_owner,
    assert_named,
    attacks,
    attempt,
    delete,
    insert,
    keys_of,
    ledger,
    same,
    update,
)

__all__ = ["ledger"]

MOVING = ("batch", "slide", "chunk", "field")

MAY_MOVE = {
    ("slide", "call_due"): "all",
    ("slide", "complete"): "of a batch that takes fields",
    ("slide", "name"): "new in a batch that takes fields",
    **{
        ("chunk", name): "all"
        for name in (
            "state",
            "attempt",
            "crashes",
            "owner",
            "lease_until",
            "published_at",
            "started_at",
            "ended_at",
        )
    },
    ("field", "size"): "all",
    ("field", "modified_ns"): "all",
    ("field", "id"): "that wait or were cancelled",
    ("field", "path"): "that wait or were cancelled",
}
"""Which columns may be changed unseen, in which rows."""

TAKING = (5, 7)
"""The batches that take fields: one whose submission was cut off, one that was taken up again."""

WHERE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda row: True,
    "of a batch that takes fields": lambda row: row["batch_id"] in TAKING,
    "new in a batch that takes fields": lambda row: row["batch_id"] in TAKING and row["name"] in {"G", "I"},
    "that wait or were cancelled": lambda row: row["state"] in {"waiting", "cancelled"},
}
"""What the list says of rows."""

LEDGER = Path(__file__).parents[2] / "docs" / "ledger.md"


def test_what_may_move_unseen_is_what_the_page_on_the_ledger_lists() -> None:
    _, _, after = LEDGER.read_text("utf-8").partition("| table | columns that move unseen | in rows |\n|---|---|---|\n")
    listed = {}
    for line in itertools.takewhile(lambda line: line.startswith("| `"), after.splitlines()):
        table, columns, where = (cell.strip() for cell in line.strip("|").split("|"))
        listed |= {(table.strip("`"), column): where for column in re.findall(r"`(\w+)`", columns)}
    assert listed == MAY_MOVE


def test_the_tables_that_move_are_those_that_are_not_append_only() -> None:
    assert {*TABLES, *MOVING, "skipped"} == set(Base.metadata.tables)


@pytest.fixture(autouse=True)
def _some_batches_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_told, "_BATCHES_AT_ONCE", 2)
    monkeypatch.setattr(batches_told, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(grouped, "_ROWS_AT_ONCE", 2)


@pytest.fixture
def moving(ledger: Database, settings: Settings) -> Database:
    """Beside what was screened and reviewed: fields that wait, are worked on, were cancelled, were tried again in vain;
    names that are no text; a batch whose submission was cut off (5), one that was then cancelled (6), and one that was
    taken up again (7), of which a chunk was halved.
    """
    odd, path = storable(os.fsdecode(b"C\xff")), storable(os.fsdecode(b"C\xff/1\xff.png"))
    root = storable(os.fsdecode(b"/old/\xfe"))
    with ledger.begin() as conn:
        third = batches.create_batch(conn, root=root[0], raw_root=root[1], model_id=store.MODEL_ID, operator="tester")
        fields = [NewField(*path, 7, 8), NewField(f"{odd[0]}/2.png", b"C\xff/2.png", 7, 8)]
        slides = [NewSlide(name=odd[0], raw_name=odd[1], fields=fields), store.new_slide("D", 5)]
        chunk_ids = batches.register(conn, third, slides, chunk_size=1)
        batches.skip(conn, third, [("notes.txt", "no image")])
        batches.finish_registration(conn, third)
    store.work(ledger, chunk_ids[:1])
    store.work(ledger, chunk_ids[2:5], store.failed)
    with ledger.begin() as conn:
        retried = batches.retry(conn, third, "tester", chunk_size=1).chunk_ids
    store.work(ledger, retried[:1])
    store.work(ledger, retried[1:2], store.failed)
    store.claimed(ledger, retried[2])
    with ledger.begin() as conn:
        fourth, chunk_ids = store.submit(conn, [store.new_slide("E", 3), store.new_slide("F", 1)], chunk_size=2)
    store.work(ledger, chunk_ids[:1])
    with ledger.begin() as conn:
        batches.cancel(conn, fourth, "tester")
        cut_off, _ = store.submit(conn, [store.new_slide("G", 2)], finish=False, root="/cut/off")
        slides = [store.new_slide("K", 2), store.new_slide("L", 1)]
        cancelled, _ = store.submit(conn, slides, chunk_size=1, finish=False, root="/cut/off/and/cancelled")
        batches.skip(conn, cancelled, [("notes.txt", "no image")])
        batches.cancel(conn, cancelled, "tester")
        taken_up, chunk_ids = store.submit(conn, [store.new_slide("H", 4)], root="/taken/up")
    claim = store.claimed(ledger, chunk_ids[0])
    with ledger.begin() as conn:
        chunks.give_up(conn, claim, Failure(code="time-limit", sentence="it takes longer than allowed, even alone"))
        batches.reopen(conn, taken_up, "tester")
        batches.register(conn, taken_up, [store.new_slide("I", 1)], chunk_size=4)
    assert (cut_off, taken_up) == TAKING
    sealing.seal(ledger, settings)
    return ledger


def excused(table: str, column: str, row: dict[str, Any]) -> bool:
    where = MAY_MOVE.get((table, column))
    return where is not None and WHERE[where](row)


SAID_OF = {
    "batch": {"slide", "chunk"},
    "slide": {"batch", "review", "slide_call", "field", "finding"},
    "chunk": {"field", "finding", "slide"},
    "field": {"finding", "slide", "chunk"},
}
"""Tables in whose name the problem may be put: whoever counts a field, or calls it its own."""


@pytest.mark.parametrize("table", MOVING)
def test_any_change_of_what_moves_is_named_but_for_what_is_listed(
    moving: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    with as_owner(moving, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        before = all_rows(conn, table)
        for name in (column.name for column in Base.metadata.tables[table].columns):
            rows = [row for row in before if not excused(table, name, row)]
            if rows:
                attacks(conn, check, table, name, before, moving.dialect, rows=rows, said_of=SAID_OF[table])()


@pytest.mark.parametrize("table", MOVING)
def test_a_row_of_what_moves_taken_away_put_in_or_given_the_place_of_another_is_named(
    moving: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    (key,) = keys_of(table)
    with as_owner(moving, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        before = all_rows(conn, table)
        counters = {
            column.name for column in Base.metadata.tables[table].columns if str(column.server_default) != "None"
        }
        for row in before:
            with attempt(conn):
                delete(conn, table, row)
                assert_named(check(), table, ("deletion", row), SAID_OF[table])
            last = max(one[key] for one in before)
            for number in (-1, 0, last + 1, 10**9) if row is before[0] else (last + 1,):
                with attempt(conn):
                    insert(conn, table, row | {key: number})
                    assert_named(check(), table, ("insertion", row, number), SAID_OF[table])
            with attempt(conn):
                empty = {name: value for name, value in row.items() if name not in counters} | {key: 10**9}
                insert(conn, table, empty | ({"state": "done"} if table == "chunk" else {}))
                assert_named(check(), table, ("insertion of an empty one", row), SAID_OF[table])
        for first, second in itertools.pairwise(before):
            both = (first, second)
            exchanged = {name for name in first if name != key and first[name] != second[name]}
            if any(all(excused(table, name, row) for name in names for row in both) for names in ({key}, exchanged)):
                continue
            with attempt(conn):
                delete(conn, table, first)
                delete(conn, table, second)
                insert(conn, table, second | {key: first[key]})
                insert(conn, table, first | {key: second[key]})
                if not same(conn, table, before):
                    assert_named(check(), table, ("exchange", first, second), SAID_OF[table])


@pytest.mark.parametrize(("table", "column"), MAY_MOVE)
def test_each_column_that_is_listed_as_moving_unseen_does_so_in_some_row(
    moving: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str, column: str
) -> None:
    with as_owner(moving, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        before = all_rows(conn, table)
        (time,) = conn.exec_driver_sql("SELECT created_at FROM batch WHERE id = 1").one()
        others: dict[str, Callable[[Any], Any]] = {
            "UtcTimestamp": lambda old: time,
            "Boolean": lambda old: not old,
            "Integer": lambda old: old + 1,
            "BigInteger": lambda old: old + 100_000,
            "Text": lambda old: "cancelled" if old == "done" else f"{old}-other",
        }
        kind = Base.metadata.tables[table].columns[column].type.__class__.__name__
        for row in before:
            if excused(table, column, row) and (row[column] is not None or kind == "UtcTimestamp"):
                with attempt(conn):
                    update(conn, table, row, column, others[kind](row[column]))
                    if not same(conn, table, before) and check().problems == []:
                        return
    raise AssertionError("it is always named")


CONSISTENT = {
    "an empty slide, and counted": (
        "UPDATE batch SET slides = slides + 1 WHERE id = 3",
        "INSERT INTO slide (id, batch_id, name, complete) VALUES (900, 3, 'FORGED', true)",
    ),
    "an empty slide": ("INSERT INTO slide (id, batch_id, name, complete) VALUES (900, 3, 'FORGED', true)",),
    "a slide that waits and its chunks moved, and counted": (
        "UPDATE slide SET batch_id = 3 WHERE name = 'G'",
        "UPDATE chunk SET batch_id = 3 WHERE batch_id = 5",
        "UPDATE batch SET slides = 0, fields = 0 WHERE id = 5",
        "UPDATE batch SET slides = slides + 1, fields = fields + 2 WHERE id = 3",
    ),
    "a field that waits called off, and counted": (
        "UPDATE field SET state = 'cancelled' WHERE path = 'D/004.png'",
        "UPDATE slide SET cancelled = cancelled + 1 WHERE name = 'D'",
        "UPDATE chunk SET state = 'cancelled', cancelled = 1, waiting = 0 "
        "WHERE id = (SELECT chunk_id FROM field WHERE path = 'D/004.png')",
    ),
    "a field that waits taken away, and counted": (
        "DELETE FROM field WHERE path = 'D/004.png'",
        "UPDATE slide SET fields = fields - 1 WHERE name = 'D'",
        "DELETE FROM chunk WHERE state = 'pending' AND batch_id = 3 "
        "AND NOT EXISTS (SELECT 1 FROM field WHERE chunk_id = chunk.id)",
        "UPDATE batch SET fields = fields - 1 WHERE id = 3",
    ),
    "a slide that was never called renamed": ("UPDATE slide SET name = 'Z' WHERE name = 'D'",),
    "what was left out forgotten": (
        "DELETE FROM skipped WHERE batch_id = 3",
        "UPDATE batch SET skipped = 0 WHERE id = 3",
    ),
    "cancelled by nobody": ("UPDATE batch SET cancelled_at = created_at WHERE id = 3",),
    "cancelled at another time": ("UPDATE batch SET cancelled_at = created_at WHERE id = 4",),
    "submitted at another time": ("UPDATE batch SET registered_at = (SELECT created_at FROM batch WHERE id = 1)",),
    "begun at another time": (
        "UPDATE batch SET created_at = (SELECT created_at FROM batch WHERE id = 1) WHERE id = 3",
    ),
    "closed by nobody": ("UPDATE batch SET registered_at = created_at WHERE id = 5",),
    "a slide renamed of a batch that was cancelled while it took fields": (
        "UPDATE slide SET name = 'Z' WHERE name = 'L'",
    ),
    "an empty slide, and counted, in a batch that was cancelled while it took fields": (
        "UPDATE batch SET slides = slides + 1 WHERE id = 6",
        "INSERT INTO slide (id, batch_id, name, complete) VALUES (900, 6, 'FORGED', true)",
    ),
    "what was left out of a batch that was cancelled while it took fields forgotten": (
        "DELETE FROM skipped WHERE batch_id = 6",
        "UPDATE batch SET skipped = 0 WHERE id = 6",
    ),
    "a slide renamed of a batch that was taken up again": ("UPDATE slide SET name = 'Z' WHERE name = 'H'",),
    "a slide of a batch that was taken up again taken away with all it has, and counted": (
        "DELETE FROM field WHERE path LIKE 'H/%'",
        "DELETE FROM slide WHERE name = 'H'",
        "DELETE FROM chunk WHERE batch_id = 7 AND NOT EXISTS (SELECT 1 FROM field WHERE chunk_id = chunk.id)",
        "UPDATE batch SET slides = 1, fields = 1 WHERE id = 7",
    ),
    "more fields taken away from a batch that was taken up again than came since, and counted": (
        "DELETE FROM field WHERE path IN ('H/000.png', 'I/000.png')",
        "UPDATE slide SET fields = fields - 1 WHERE batch_id = 7",
        "UPDATE chunk SET fields = 1, waiting = 1 WHERE id = {whole}",
        "DELETE FROM chunk WHERE batch_id = 7 AND NOT EXISTS (SELECT 1 FROM field WHERE chunk_id = chunk.id)",
        "UPDATE batch SET fields = fields - 2 WHERE id = 7",
    ),
    "halves of a chunk laid together": (
        "UPDATE field SET chunk_id = {whole} WHERE chunk_id = {half}",
        "UPDATE chunk SET fields = 4, waiting = 4 WHERE id = {whole}",
        "DELETE FROM chunk WHERE id = {half}",
    ),
}
EMPTY = "has no fields, no event of the ledger tells of it, and its batch has other slides than told"
NAMED = {
    "an empty slide, and counted": f"slide 900: {EMPTY}",
    "an empty slide": f"slide 900: {EMPTY}",
    "a slide that waits and its chunks moved, and counted": "slide of batch 3: are not those that event {submitted_3} "
    "tells of: one was renamed, put in or taken away",
    "a field that waits called off, and counted": "batch 3: has 1 cancelled fields, and the events of the ledger tell "
    "of 0",
    "a field that waits taken away, and counted": "batch 3: counts 6 fields, and event {submitted_3} tells of 7",
    "a slide that was never called renamed": "slide of batch 3: are not those that event {submitted_3} tells of: "
    "one was renamed, put in or taken away",
    "what was left out forgotten": "batch 3: counts 0 skipped, and event {submitted_3} tells of 1",
    "cancelled by nobody": "batch 3: is said to be cancelled, and no event of the ledger tells of it",
    "cancelled at another time": "batch 4: is said to be cancelled at another time than event {cancelled_4} tells",
    "submitted at another time": "batch 3: is said to be submitted at another time than event {submitted_3} tells",
    "begun at another time": "batch 3: is said to be begun at another time than event {created_3} tells",
    "closed by nobody": "batch 5: is said to be submitted, and no event of the ledger tells of it",
    "a slide renamed of a batch that was cancelled while it took fields": "slide of batch 6: are not those that event "
    "{cancelled_6} tells of: one was renamed, put in or taken away",
    "an empty slide, and counted, in a batch that was cancelled while it took fields": f"slide 900: {EMPTY}",
    "what was left out of a batch that was cancelled while it took fields forgotten": "batch 6: counts 0 skipped, and "
    "event {cancelled_6} tells of 1",
    "a slide renamed of a batch that was taken up again": "slide of batch 7: are, of the first 1, not those that event "
    "{submitted_7} tells of: one was renamed, put in or taken away",
    "a slide of a batch that was taken up again taken away with all it has, and counted": "slide of batch 7: are, of "
    "the first 1, not those that event {submitted_7} tells of: one was renamed, put in or taken away",
    "more fields taken away from a batch that was taken up again than came since, and counted": "batch 7: counts 3 "
    "fields, and event {submitted_7} tells of 4, before it was taken up again",
    "halves of a chunk laid together": "chunk {half}: is gone; event {halved} tells of it",
}
CONSISTENT_UNSEEN = {
    "a field that waits laid into another slide": (
        "UPDATE field SET slide_id = (SELECT min(id) FROM slide WHERE batch_id = 3) WHERE path = 'D/003.png'",
        "UPDATE slide SET fields = fields - 1 WHERE name = 'D'",
        "UPDATE slide SET fields = fields + 1 WHERE id = (SELECT min(id) FROM slide WHERE batch_id = 3)",
    ),
    "a field that waits laid into another chunk": (
        "UPDATE field SET chunk_id = {chunk of D/004} WHERE path = 'D/003.png'",
        "UPDATE chunk SET fields = 2, waiting = 2 WHERE id = {chunk of D/004}",
        "DELETE FROM chunk WHERE id = {chunk of D/003}",
    ),
    "a field that was cancelled laid into another chunk": (
        "UPDATE field SET chunk_id = {chunk of K/000} WHERE path = 'K/001.png'",
        "UPDATE chunk SET fields = 2, cancelled = 2 WHERE id = {chunk of K/000}",
        "DELETE FROM chunk WHERE id = {chunk of K/001}",
    ),
    "a field of one half of a chunk laid into the other": (
        "UPDATE field SET chunk_id = {whole} WHERE path = 'H/003.png'",
        "UPDATE chunk SET fields = 3, waiting = 3 WHERE id = {whole}",
        "UPDATE chunk SET fields = 1, waiting = 1 WHERE id = {half}",
    ),
    "a field that waits given another path in text and bytes": (
        r"UPDATE field SET path = 'D/\xff.png', raw_path = {bytes} WHERE path = 'D/003.png'",
    ),
    "a field that waits given the path of another": ("UPDATE field SET path = 'D/003.png' WHERE path = 'D/004.png'",),
    "a slide of a batch that takes fields taken away with all it has": (
        "DELETE FROM field WHERE path LIKE 'G/%'",
        "DELETE FROM slide WHERE name = 'G'",
        "DELETE FROM chunk WHERE batch_id = 5",
        "UPDATE batch SET slides = 0, fields = 0 WHERE id = 5",
    ),
    "a slide that came since a batch was taken up again taken away with all it has": (
        "DELETE FROM field WHERE path LIKE 'I/%'",
        "DELETE FROM slide WHERE name = 'I'",
        "DELETE FROM chunk WHERE batch_id = 7 AND NOT EXISTS (SELECT 1 FROM field WHERE chunk_id = chunk.id)",
        "UPDATE batch SET slides = 1, fields = 4 WHERE id = 7",
    ),
    "an empty slide put into a batch that takes fields": (
        "INSERT INTO slide (id, batch_id, name, complete) VALUES (900, 7, 'FORGED', true)",
        "UPDATE batch SET slides = 3 WHERE id = 7",
    ),
    "other things said to be left out": ("UPDATE skipped SET path = 'other.txt', reason = 'hidden'",),
}
"""What docs/ledger.md says to move unseen with what counts it."""


def known(conn: Connection) -> dict[str, Any]:
    """Numbers of what the fixture has made: of the events of batches, of a chunk that was halved, of fields' chunks."""
    found: dict[str, Any] = {
        f"{kind.removeprefix('batch-')}_{batch}": number
        for number, batch, kind in conn.exec_driver_sql("SELECT id, batch_id, kind FROM event ORDER BY id")
    }
    halved = "SELECT id, chunk_id, body FROM event WHERE kind = 'chunk-halved'"
    found["halved"], found["whole"], body = conn.exec_driver_sql(halved).one()
    found["half"] = json.loads(body)["into"]
    for path, chunk in conn.exec_driver_sql("SELECT path, chunk_id FROM field"):
        found[f"chunk of {path.removesuffix('.png')}"] = chunk
    found["bytes"] = "x'442fff2e706e67'" if conn.dialect.name == "sqlite" else r"'\x442fff2e706e67'"
    return found


@pytest.mark.parametrize("attack", CONSISTENT)
def test_a_change_whose_counters_were_changed_with_it_is_named(
    moving: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    with as_owner(moving, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        numbers = known(conn)
        for statement in CONSISTENT[attack]:
            assert conn.execute(text(statement.format_map(numbers))).rowcount
        assert NAMED[attack].format_map(numbers) in [str(problem) for problem in check().problems]


@pytest.mark.parametrize("attack", CONSISTENT_UNSEEN)
def test_a_change_that_is_said_to_go_unseen_with_what_counts_it_does(
    moving: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    with as_owner(moving, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        numbers = known(conn)
        for statement in CONSISTENT_UNSEEN[attack]:
            assert conn.execute(text(statement.format_map(numbers))).rowcount
        assert check().problems == []


def test_events_from_before_times_and_names_were_in_them_hold_times_to_the_hour(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = events.append
    since = {"created_at", "registered_at", "cancelled_at", "slide_names"}

    def as_before(conn: Connection, kind: str, body: Mapping[str, Any], **about: Any) -> int:
        return append(conn, kind, {name: value for name, value in body.items() if name not in since}, **about)

    monkeypatch.setattr(events, "append", as_before)
    with database.begin() as conn:
        batch, _ = store.submit(conn, [store.new_slide("A", 2)])
        batches.cancel(conn, batch, "tester")
    sealing.seal(database, settings)
    witness = Witness(settings.checkpoint_file)
    with as_owner(database, witness, monkeypatch) as (conn, check):
        assert check().problems == []
        for column in ("created_at", "registered_at", "cancelled_at"):
            (at,) = conn.exec_driver_sql(f"SELECT {column} FROM batch").one()
            for minutes, named in ((-50, False), (50, False), (-70, True), (70, True)):
                with attempt(conn):
                    later = known_moment(at) + timedelta(minutes=minutes)
                    text_of_it = f"{later:%Y-%m-%d %H:%M:%S}.000"
                    value = text_of_it if database.dialect == "sqlite" else later
                    conn.execute(text(f"UPDATE batch SET {column} = :value"), {"value": value})
                    assert bool(check().problems) == named, (column, minutes)


def test_events_from_before_cancelling_told_what_there_is_are_no_alarm(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = events.append

    def as_before(conn: Connection, kind: str, body: Mapping[str, Any], **about: Any) -> int:
        told = {"fields", "cancelled_at"} if kind == "batch-cancelled" else set(body)
        return append(conn, kind, {name: value for name, value in body.items() if name in told}, **about)

    monkeypatch.setattr(events, "append", as_before)
    with database.begin() as conn:
        cut_off, _ = store.submit(conn, [store.new_slide("A", 2)], finish=False)
        batches.skip(conn, cut_off, [("notes.txt", "no image")])
        batches.cancel(conn, cut_off, "tester")
        taken_up, _ = store.submit(conn, [store.new_slide("B", 2)], root="/more")
        batches.reopen(conn, taken_up, "tester")
        batches.register(conn, taken_up, [store.new_slide("C", 2)], chunk_size=4)
        batches.cancel(conn, taken_up, "tester")
    sealing.seal(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        for name, named in (("A", False), ("B", True), ("C", False)):
            with attempt(conn):
                conn.execute(text("UPDATE slide SET name = 'Z' WHERE name = :name"), {"name": name})
                assert bool(check().problems) == named, name


AT_FIRST = [
    NewSlide(name=r"A\xff", fields=[NewField(r"A\xff/1.png", None, 1, 1)]),
    NewSlide(name=r"B\\xff", raw_name=b"B\\\xff", fields=[NewField(r"B\\xff/1.png", b"B\\\xff/1.png", 1, 1)]),
]
"""A name that only looks as if it had an escape, and one with a backslash beside a byte that is no UTF-8."""


@pytest.mark.parametrize("before", [True, False])
def test_names_as_they_were_stored_at_first_are_no_alarm_in_batches_from_before(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    append = events.append

    def as_before(conn: Connection, kind: str, body: Mapping[str, Any], **about: Any) -> int:
        return append(conn, kind, {name: value for name, value in body.items() if name != "created_at"}, **about)

    with monkeypatch.context() as patched, database.begin() as conn:
        if before:
            patched.setattr(events, "append", as_before)
        store.remember(conn)
        batch = batches.create_batch(conn, root=r"/s\x41", model_id=store.MODEL_ID, operator="tester")
        batches.register(conn, batch, AT_FIRST, chunk_size=4)
        batches.finish_registration(conn, batch)
    sealing.seal(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        named = {(one.table, one.row) for one in check().problems}
        everything = {("batch", "1"), ("slide", "1"), ("slide", "2"), ("field", "1"), ("field", "2")}
        assert named == (set() if before else everything)
        for table, column, row in (("slide", "raw_name", 2), ("field", "raw_path", 2), ("batch", "raw_root", 1)):
            with attempt(conn):
                conn.execute(text(f"UPDATE {table} SET {column} = :other WHERE id = :id"), {"other": b"X", "id": row})
                assert (table, str(row)) in {(one.table, one.row) for one in check().problems}
