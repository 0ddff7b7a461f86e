"""What the ledger tells of fields beside their findings holds for the rows: which failed and why, which have a twin.

Whatever becomes of a failed field by rights is no false alarm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from allq.settings import Settings
from db import batches, bundle, chunks, events, history, sealing, verifying, verifying_parts
from db.database import Database
from db.records import ClaimedField, Failure, FieldOutcome
from db.verifying_parts import Part
from db.witness import Witness
from tests import store
from tests.integration.test_ledger import verify_bundle
from tests.integration.test_ledger_tampering import as_owner, attempt, parts_here

GAVE_UP = Failure(code="time-limit", sentence="it takes longer than allowed, even alone")


def judge(field: ClaimedField) -> FieldOutcome:
    """Fields named 001 fail; all others are screened, and have the same bytes by their number."""
    if field.path.endswith("001.png"):
        return store.failed(field)
    return store.screened(field, of=field.path.partition("/")[2])


def retry(database: Database, batch: int) -> list[int]:
    with database.begin() as conn:
        return list(batches.retry(conn, batch, "tester@here", chunk_size=4).chunk_ids)


def give_up(database: Database, chunk_id: int, failure: Failure = GAVE_UP) -> list[int]:
    claim = store.claimed(database, chunk_id)
    with database.begin() as conn:
        publish = chunks.give_up(conn, claim, failure)
    assert publish is not None
    return publish


@pytest.fixture
def ledger(database: Database, settings: Settings) -> Database:
    """A field that failed (1), one that crashed its worker (5), one that failed, was retried and failed again (4), one
    that was retried and screened (8), one that waits again (10); twins among the rest.
    """
    with database.begin() as conn:
        _, first = store.submit(conn, [store.new_slide("A", 3)], chunk_size=4)  # fields 1 to 3
        second, again = store.submit(conn, [store.new_slide("B", 2)], chunk_size=1)  # 4, 5
        third, later = store.submit(conn, [store.new_slide("C", 3)], chunk_size=4)  # 6 to 8
        fourth, last = store.submit(conn, [store.new_slide("D", 3)], chunk_size=4)  # 9 to 11
    store.work(database, first, judge)
    store.work(database, again[:1], store.failed)
    store.work(database, retry(database, second), store.failed)
    give_up(database, again[1])
    give_up(database, again[1])
    sealing.seal(database, settings)
    store.work(database, later, lambda field: (judge if field.path != "C/002.png" else store.failed)(field))
    store.work(database, retry(database, third), store.screened)
    store.work(database, last, judge)
    retry(database, fourth)
    sealing.seal(database, settings)
    return database


def in_place(database: Database) -> dict[str, tuple[object, ...]]:
    found = store.rows(database, "SELECT path, id, chunk_id, state, duplicate, failure FROM field ORDER BY id")
    return {str(row[0]): tuple(row[1:]) for row in found}


NOT_AS_TOLD = "differs from what event "
MOVED = "lies in another chunk than event "
GONE = "is gone; event "
UNTOLD = "failed, and no event of the ledger tells of it"
UNSAID = "does not say which fields were to be tried again, or in which chunks"
NO_TWIN = "does not show that its bytes lie in another slide's folder, as event "
NEVER_TWIN = "shows that its bytes lie in another slide's folder, and no event of the ledger tells of it"
MISCOUNTED = "counts other fields whose bytes lie in another slide's folder than show it"

ATTACKS = {
    "another code": ("UPDATE field SET failure = 'missing' WHERE path = 'A/001.png'", "A/001.png", NOT_AS_TOLD),
    "no bytes": ("UPDATE field SET sha256 = NULL WHERE path = 'A/001.png'", "A/001.png", NOT_AS_TOLD),
    "other bytes": ("UPDATE field SET sha256 = {bytes} WHERE path = 'A/001.png'", "A/001.png", NOT_AS_TOLD),
    "another reason": (
        "UPDATE field SET failure_sentence = 'the file is not there' WHERE path = 'A/001.png'",
        "A/001.png",
        NOT_AS_TOLD,
    ),
    "another path": ("UPDATE field SET path = 'A/009.png' WHERE path = 'A/001.png'", "A/001.png", NOT_AS_TOLD),
    "another slide": ("UPDATE field SET slide_id = 2 WHERE path = 'A/001.png'", "A/001.png", NOT_AS_TOLD),
    "gone": ("DELETE FROM field WHERE path = 'A/001.png'", "A/001.png", GONE),
    "waiting again": (
        "UPDATE field SET state = 'waiting', failure = NULL, failure_sentence = NULL, sha256 = NULL "
        "WHERE path = 'A/001.png'",
        "A/001.png",
        NOT_AS_TOLD,
    ),
    "cancelled": (
        "UPDATE field SET state = 'cancelled', failure = NULL, failure_sentence = NULL, sha256 = NULL "
        "WHERE path = 'A/001.png'",
        "A/001.png",
        NOT_AS_TOLD,
    ),
    "moved": (
        "UPDATE field SET chunk_id = CASE chunk_id WHEN 2 THEN 3 ELSE 2 END WHERE path = 'A/001.png'",
        "A/001.png",
        MOVED,
    ),
    "moved to a chunk retried before": (
        "UPDATE field SET chunk_id = (SELECT chunk_id FROM field WHERE path = 'B/000.png') WHERE path = 'B/001.png'",
        "B/001.png",
        MOVED,
    ),
    "a crash made another": ("UPDATE field SET failure = 'missing' WHERE path = 'B/001.png'", "B/001.png", NOT_AS_TOLD),
    "a crash of other bytes": ("UPDATE field SET sha256 = {bytes} WHERE path = 'B/001.png'", "B/001.png", NOT_AS_TOLD),
    "a crash elsewhere": ("UPDATE field SET path = 'B/009.png' WHERE path = 'B/001.png'", "B/001.png", NOT_AS_TOLD),
    "failed again, otherwise": (
        "UPDATE field SET failure = 'missing' WHERE path = 'B/000.png'",
        "B/000.png",
        NOT_AS_TOLD,
    ),
    "failed, then gone": ("DELETE FROM field WHERE path = 'D/001.png'", "D/001.png", GONE),
    "failed without an event": (
        "UPDATE field SET state = 'failed', failure = 'missing', failure_sentence = 'so they say' "
        "WHERE path = 'D/001.png'",
        "D/001.png",
        UNTOLD,
    ),
    "no twin": ("UPDATE field SET duplicate = false WHERE path = 'A/000.png'", "A/000.png", NO_TWIN),
    "no twin of the later": ("UPDATE field SET duplicate = false WHERE path = 'C/000.png'", "C/000.png", NO_TWIN),
    "a twin": ("UPDATE field SET duplicate = true WHERE path = 'D/001.png'", "D/001.png", NEVER_TWIN),
    "no twins at all": ("UPDATE field SET duplicate = false", "A/000.png", NO_TWIN),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_failure_or_a_twin_that_is_not_as_told_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    statement, path, what = ATTACKS[name]
    of_bytes = "x'00ff'" if ledger.dialect == "sqlite" else "'\\x00ff'"
    field = in_place(ledger)[path][0]
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        with attempt(conn):
            conn.exec_driver_sql(statement.format(bytes=of_bytes))
            found = [str(one) for one in check().problems]
            assert any(one.startswith(f"field {field}: {what}") for one in found), found


def test_a_failed_field_that_is_put_in_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check), attempt(conn):
        conn.exec_driver_sql(
            "INSERT INTO field (id, slide_id, chunk_id, state, linked, size, modified_ns, path, failure) "
            "VALUES (900, 1, 1, 'failed', false, 1, 1, 'A/900.png', 'corrupt')"
        )
        assert f"field 900: {UNTOLD}" in [str(one) for one in check().problems]


BACK = (
    "UPDATE field SET chunk_id = 1, state = 'failed', failure = 'corrupt', failure_sentence = 'it can''t be read', "
    "sha256 = {bytes} WHERE path = '{path}'"
)
"""A field laid back to where it had failed, as it had."""
RETRIES: dict[str, tuple[list[str], list[str], tuple[str, ...]]] = {
    "one field laid back, and counted": (
        ["A/000.png"],
        ["A/000.png"],
        (
            "UPDATE chunk SET fields = 1, failed = 1 WHERE id = 1",
            "UPDATE chunk SET fields = 1, waiting = 1 WHERE id = 2",
            "UPDATE slide SET failed = 1",
        ),
    ),
    "all laid back, counted, and their chunks taken away": (
        ["A/000.png", "A/001.png", "A/002.png", "A/003.png"],
        ["A/000.png", "A/001.png", "A/002.png", "A/003.png"],
        (
            "UPDATE chunk SET fields = 4, failed = 4 WHERE id = 1",
            "DELETE FROM chunk WHERE id > 1",
            "UPDATE slide SET failed = 4",
        ),
    ),
    "one field laid elsewhere, and counted": (
        [],
        ["A/000.png"],
        (
            "UPDATE field SET chunk_id = 3 WHERE path = 'A/000.png'",
            "UPDATE chunk SET fields = 1, waiting = 1 WHERE id = 2",
            "UPDATE chunk SET fields = 3, waiting = 3 WHERE id = 3",
        ),
    ),
}
"""Which fields are laid back, which are named, and what else is changed, of four that failed in chunk 1 and are to be
tried again in chunks 2 and 3.
"""


def undo_retry(conn: Connection, attack: str, dialect: str) -> None:
    back, _, statements = RETRIES[attack]
    for path in back:
        sha256 = store.content(path).hex()
        of_bytes = f"x'{sha256}'" if dialect == "sqlite" else f"'\\x{sha256}'"
        assert conn.exec_driver_sql(BACK.format(path=path, bytes=of_bytes)).rowcount == 1
    for statement in statements:
        assert conn.exec_driver_sql(statement).rowcount


def four_tried_again(database: Database, settings: Settings) -> int:
    """The batch of four fields that failed in chunk 1 and are to be tried again in chunks 2 and 3."""
    with database.begin() as conn:
        batch, first = store.submit(conn, [store.new_slide("A", 4)])
    store.work(database, first, store.failed)
    with database.begin() as conn:
        assert batches.retry(conn, batch, "tester", chunk_size=2).chunk_ids == (2, 3)
    sealing.seal(database, settings)
    return batch


@pytest.mark.parametrize("attack", RETRIES)
def test_a_retry_that_was_undone_is_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    four_tried_again(database, settings)
    (event,) = store.rows(database, "SELECT id FROM event WHERE kind = 'fields-retried'")[0]
    ids = {path: found[0] for path, found in in_place(database).items()}
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        undo_retry(conn, attack, database.dialect)
        found = {str(one) for one in check().problems}
    what = f"lies in another chunk than that in which it was to be tried again, as event {event} tells"
    gone = {f"chunk {chunk}: is gone; event {event} tells of it" for chunk in (2, 3)}
    expected = {f"field {ids[path]}: {what}" for path in RETRIES[attack][1]}
    assert found == expected | (gone if "taken away" in attack else set())


def test_a_field_to_be_tried_again_that_is_gone_is_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_tried_again(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        conn.exec_driver_sql("DELETE FROM field WHERE id = 1")
        found = [str(one) for one in check().problems]
    assert any(re.fullmatch(r"field 1: is gone; event \d+ tells that it was to be tried again", one) for one in found)


@contextmanager
def retries_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Events of retries that don't tell which fields are tried again, as those of earlier versions."""
    append = events.append

    def as_before(conn: Connection, kind: str, body: Any, **rest: Any) -> int:
        return append(conn, kind, {name: value for name, value in body.items() if name != "placed"}, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(events, "append", as_before)
        yield


def test_retries_from_before_they_told_which_fields_are_no_alarm_beside_those_that_do(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problems() -> list[str]:
        return [str(one) for one in verifying.verify(database, Witness(settings.checkpoint_file)).problems]

    with retries_as_before(monkeypatch):
        batch = four_tried_again(database, settings)
        assert problems() == []
        store.work(database, [2, 3], store.failed)
        before = retry(database, batch)
    assert problems() == []
    store.work(database, before, store.failed)
    assert problems() == []
    after = retry(database, batch)
    assert problems() == []
    store.work(database, give_up(database, after[0]), judge)
    assert problems() == []
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        conn.exec_driver_sql(f"UPDATE field SET chunk_id = {before[0]} WHERE path = 'A/003.png'")
        assert any("in which it was to be tried again" in one.what for one in check().problems)


TO_WAIT = (
    "UPDATE field SET chunk_id = {chunk}, state = 'waiting', failure = NULL, failure_sentence = NULL, sha256 = NULL "
    "WHERE id = {field}"
)
PUT_IN = "INSERT INTO chunk (id, batch_id, state, fields, waiting) VALUES (900, 1, 'pending', 1, 1)"


@pytest.mark.parametrize("telling", [True, False])
def test_a_failed_field_laid_among_those_of_another_batch_that_are_tried_again_is_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, telling: bool
) -> None:
    with database.begin() as conn:
        _, first = store.submit(conn, [store.new_slide("A", 2)])
        second, others = store.submit(conn, [store.new_slide("B", 2)])
    store.work(database, first + others, store.failed)
    with nullcontext() if telling else retries_as_before(monkeypatch):
        (chunk,) = retry(database, second)
    sealing.seal(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        for statement in (
            TO_WAIT.format(chunk=chunk, field=1),
            "UPDATE field SET slide_id = 2 WHERE id = 1",
            "UPDATE slide SET fields = 1, failed = 1 WHERE id = 1",
            "UPDATE slide SET fields = 3 WHERE id = 2",
            "UPDATE chunk SET fields = 1, failed = 1 WHERE id = 1",
            f"UPDATE chunk SET fields = 3, waiting = 3 WHERE id = {chunk}",
        ):
            assert conn.exec_driver_sql(statement).rowcount == 1
        found = [str(one) for one in check().problems if one.table == "field"]
    assert len(found) == 1
    assert re.fullmatch(r"field 1: lies in a chunk of another batch than that in which event \d+ has it fail", found[0])


def test_a_failed_field_laid_where_no_retry_has_placed_it_is_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.begin() as conn:
        _, first = store.submit(conn, [store.new_slide("A", 2)])
    store.work(database, first, store.failed)
    sealing.seal(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        conn.exec_driver_sql(PUT_IN)
        body = {"chunks": [900], "fields": 1, "placed": [[2]]}
        event = events.append(conn, "fields-retried", body, actor="nobody", batch_id=1)
        conn.exec_driver_sql(TO_WAIT.format(chunk=900, field=1))
        conn.exec_driver_sql(TO_WAIT.format(chunk=900, field=2))
        found = {str(one) for one in check().problems if one.table == "field"}
    assert found == {
        f"field 1: lies among fields that were to be tried again, and event {event} does not tell that it was"
    }


def test_what_was_sealed_after_a_checkpoint_is_held_against_retries_that_place_other_fields(
    database: Database, settings: Settings
) -> None:
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("Z", 1)])
    since = sealing.seal(database, settings).checkpoint
    assert since is not None
    with database.begin() as conn:
        batch, found = store.submit(conn, [store.new_slide("A", 2)])  # fields 2 and 3
    store.work(database, found, store.failed)
    with database.begin() as conn:
        _, other = batches.retry(conn, batch, "tester", chunk_size=1).chunk_ids
    store.work(database, [other], store.failed)
    (again,) = retry(database, batch)
    sealing.seal(database, settings)
    witness = Witness(settings.checkpoint_file)
    assert verifying.verify(database, witness, since=since.number).problems == []
    with database.begin() as conn:
        conn.exec_driver_sql(f"UPDATE field SET chunk_id = {again} WHERE id = 2")
    (problem,) = verifying.verify(database, witness, since=since.number).problems
    assert str(problem).startswith("field 2: lies among fields that were to be tried again, and event ")


def test_a_retry_that_does_not_tell_which_fields_after_one_that_did_is_named_and_excuses_nothing(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_tried_again(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        conn.exec_driver_sql(PUT_IN)
        event = events.append(conn, "fields-retried", {"chunks": [900], "fields": 1}, actor="nobody", batch_id=1)
        conn.exec_driver_sql("UPDATE field SET chunk_id = 900 WHERE id = 1")
        found = {str(one) for one in check().problems}
    assert f"event {event}: {UNSAID}" in found
    assert any(
        re.match(r"field 1: lies in another chunk than that in which it was to be tried again", one) for one in found
    )


def test_a_slides_history_is_read_without_the_list_of_all_fields_that_were_tried_again(
    database: Database, settings: Settings
) -> None:
    four_tried_again(database, settings)
    otherwise = ({"placed": [[1]]}, {"fields": 1, "placed": "all"}, {"fields": 1, "placed": [], "reason": "x"}, {})
    with database.begin() as conn:
        for body in otherwise:
            events.append(conn, "fields-retried", body, actor="nobody", batch_id=1, slide_ids=[1])
    with database.read() as conn:
        (told,) = history.of_slide(conn, "A")
    bodies = [event.body for event in told.events if event.kind == "fields-retried"]
    assert bodies == [{"chunks": [2, 3], "fields": 4}, *otherwise]


def test_two_events_that_tell_of_one_chunk_made_of_fields_to_be_tried_again_are_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_tried_again(database, settings)
    with as_owner(database, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        for kind, body in (("fields-retried", {"chunks": [2], "placed": [[3]]}), ("chunk-halved", {"into": 3})):
            events.append(conn, kind, body, actor="nobody", batch_id=1, chunk_id=1)
        found = {str(one) for one in check().problems}
    assert {f"chunk {number}: two events tell that it was made" for number in (2, 3)} <= found


@pytest.mark.parametrize("counted", [0, 3])
def test_a_slide_that_counts_other_twins_than_it_has_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check), attempt(conn):
        conn.execute(text("UPDATE slide SET duplicates = :counted WHERE name = 'A'"), {"counted": counted})
        assert [str(one) for one in check().problems] == [f"slide 1: {MISCOUNTED}"]


@pytest.mark.parametrize("name", ["another code", "no twin", "gone", "moved"])
def test_what_was_sealed_after_a_checkpoint_is_held_against_failures_and_twins_as_well(
    database: Database, settings: Settings, name: str
) -> None:
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("Z", 1)])
    since = sealing.seal(database, settings).checkpoint
    assert since is not None
    with database.begin() as conn:
        _, found = store.submit(conn, [store.new_slide("A", 2), store.new_slide("B", 2)], chunk_size=2)
    store.work(database, found, judge)
    witness = Witness(settings.checkpoint_file)
    assert verifying.verify(database, witness, since=since.number).problems == []
    with database.begin() as conn:
        conn.exec_driver_sql(ATTACKS[name][0])
    assert len(verifying.verify(database, witness, since=since.number).problems) == 1


def test_two_events_that_tell_of_one_failure_are_named(ledger: Database, settings: Settings) -> None:
    with ledger.begin() as conn:
        body = {"attempt": 1, "field": 2, "code": "corrupt"}
        events.append(conn, "field-failed", body, actor="nobody", batch_id=1, chunk_id=1)
    found = {str(one) for one in verifying.verify(ledger, Witness(settings.checkpoint_file)).problems}
    assert "field 2: two events tell that it failed" in found


SENSELESS: dict[str, tuple[str, Any]] = {
    "failures that are no list": ("chunk-recorded", {"failures": 7}),
    "failures that are no objects": ("chunk-recorded", {"failures": [7, None, []]}),
    "a field that is a text": ("chunk-recorded", {"failures": [{"field": "2", "code": "corrupt", "sha256": None}]}),
    "a field without a number": ("field-failed", {"code": "corrupt"}),
    "a field beyond numbers": ("field-failed", {"field": 1 << 70, "code": "corrupt"}),
    "a field below numbers": ("field-crashed-worker", {"field": -(1 << 70), "code": "corrupt"}),
    "a code that is none": ("field-failed", {"field": 2, "code": ["corrupt"]}),
    "bytes that are none": ("chunk-recorded", {"failures": [{"field": 2, "code": "corrupt", "sha256": {}}]}),
    "twins that are no list": ("twins-found", {"fields": {"2": 3}}),
    "a twin that is none": ("twins-found", {"fields": [None]}),
    "a twin that is true": ("twins-found", {"fields": [True]}),
    "a twin beyond numbers": ("twins-found", {"fields": [1 << 64]}),
    "nothing of twins": ("twins-found", {}),
    "no object": ("twins-found", [1]),
    "a retry that places no lists": ("fields-retried", {"chunks": [1], "placed": 7}),
    "a retry that places more than it has chunks": ("fields-retried", {"chunks": [1], "placed": [[1], [2]]}),
    "a retry that places in no chunks": ("fields-retried", {"placed": [[1]]}),
    "a retry that places in what is no chunk": ("fields-retried", {"chunks": ["1"], "placed": [[1]]}),
    "a retry that places what is no list": ("fields-retried", {"chunks": [1], "placed": [1]}),
    "a retry that places what is no field": ("fields-retried", {"chunks": [1], "placed": [[None]]}),
    "a retry that places beyond numbers": ("fields-retried", {"chunks": [1], "placed": [[1 << 70]]}),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_an_event_without_sense_about_fields_is_named_and_ends_nothing(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, body = SENSELESS[name]
    with ledger.begin() as conn:
        event = events.append(conn, kind, body, actor="nobody", batch_id=1, chunk_id=400)
    for _ in range(2):
        found = verifying.verify(ledger, Witness(settings.checkpoint_file))
        assert found.finished
        assert any((one.table, one.row) == ("event", str(event)) for one in found.problems), found.problems
        sealing.seal(ledger, settings)
        monkeypatch.setattr(verifying, "WORTH_IT", 1)
        monkeypatch.setattr(verifying_parts, "PART", 3)


@pytest.mark.parametrize("kind", ["fields-retried", "chunk-halved"])
@pytest.mark.parametrize("body", [{}, {"chunks": 7, "into": "x"}, {"chunks": [None, "a", []], "into": [1]}, [1]])
def test_an_event_without_sense_about_chunks_excuses_nothing_and_ends_nothing(
    ledger: Database, settings: Settings, kind: str, body: Any
) -> None:
    with ledger.begin() as conn:
        event = events.append(conn, kind, body, actor="nobody", batch_id=1, chunk_id=1)
    found = [str(one) for one in verifying.verify(ledger, Witness(settings.checkpoint_file)).problems]
    assert found == ([f"event {event}: {UNSAID}"] if kind == "fields-retried" else [])
    with ledger.begin() as conn:
        conn.exec_driver_sql(ATTACKS["moved"][0])
    found = [str(one) for one in verifying.verify(ledger, Witness(settings.checkpoint_file)).problems]
    assert any(one.startswith(f"field 2: {MOVED}") for one in found), found


def test_chunks_that_are_halved_in_a_circle_end_nothing(ledger: Database, settings: Settings) -> None:
    with ledger.begin() as conn:
        for chunk, into in ((2, 400), (400, 2)):
            events.append(conn, "chunk-halved", {"into": into}, actor="nobody", batch_id=1, chunk_id=chunk)
        conn.exec_driver_sql(ATTACKS["moved"][0])
    found = [str(one) for one in verifying.verify(ledger, Witness(settings.checkpoint_file)).problems]
    assert any(one.startswith(f"field 2: {MOVED}") for one in found), found


@pytest.mark.parametrize("since", [False, True])
def test_whatever_becomes_of_a_failed_field_by_rights_is_no_alarm(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, since: bool
) -> None:
    """Retried many times, halved, given up, crashed, cancelled, linked, a twin of one in another batch."""
    started = sealing.seal(database, settings).checkpoint
    assert started is None
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("Z", 1)])
    started = sealing.seal(database, settings).checkpoint
    assert started is not None

    def check() -> None:
        for long in (False, True):
            with monkeypatch.context() as patched:
                if long:
                    patched.setattr(verifying, "WORTH_IT", 1)
                    patched.setattr(verifying, "parts", parts_here)
                number = started.number if since else None
                assert verifying.verify(database, Witness(settings.checkpoint_file), since=number).problems == []

    with database.begin() as conn:
        batch, found = store.submit(conn, [store.new_slide("A", 9)], chunk_size=4)
    store.work(database, found, store.failed)
    check()
    first = retry(database, batch)
    check()
    halves = give_up(database, first[0])  # 4 fields: halved, to one that stands alone
    check()
    alone = give_up(database, halves[1])
    give_up(database, alone[1])
    give_up(database, alone[1], chunks.CRASHED)
    check()
    store.work(database, [halves[0], alone[0]], judge)
    check()
    store.work(database, first[1:], store.failed)
    sealing.seal(database, settings)
    check()
    second = retry(database, batch)
    store.work(database, second[:1], store.failed)
    check()
    with database.begin() as conn:
        batches.cancel(conn, batch, "tester@here")
    check()
    store.work(database, retry(database, batch), judge)
    sealing.seal(database, settings)
    check()
    with database.begin() as conn:
        _, found = store.submit(conn, [store.new_slide("B", 9)], chunk_size=4, root="/elsewhere")
    store.work(database, found, judge)
    check()
    sealing.seal(database, settings)
    check()
    store.assert_sums_hold(database)


def test_events_from_before_failures_had_digests_are_held_by_code_and_bytes(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    append = events.append

    def as_before(conn: Connection, kind: str, body: Any, **rest: Any) -> int:
        told = dict(body)
        told.pop("shown", None)
        for one in told.get("failures", ()):
            del one["shown"]
        return append(conn, kind, told, **rest)

    monkeypatch.setattr(events, "append", as_before)
    with database.begin() as conn:
        _, found = store.submit(conn, [store.new_slide("A", 2), store.new_slide("B", 1)], chunk_size=2)
    store.work(database, found[:1], judge)
    give_up(database, found[1])
    give_up(database, found[1])
    sealing.seal(database, settings)
    witness = Witness(settings.checkpoint_file)
    assert verifying.verify(database, witness).problems == []
    with database.read() as conn:
        bundle.export(conn, tmp_path / "of-before.zip")
    assert verify_bundle(tmp_path / "of-before.zip").returncode == 0
    for number in (2, 3):
        with database.begin() as conn:
            conn.execute(text("UPDATE field SET failure = 'missing' WHERE id = :id"), {"id": number})
        assert f"field {number}: {NOT_AS_TOLD}" in str(verifying.verify(database, witness).problems[-1])


def test_a_part_that_was_read_later_than_the_rest_gives_no_alarm(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite the processes that read parts may see more than the first one: that fields were retried since."""

    def retried_meanwhile(_: Database, __: Connection, after: int, upto: int) -> Iterator[Part]:
        for batch in (1, 2):
            assert retry(ledger, batch)
        with ledger.read() as later:
            yield from parts_here(ledger, later, after, upto)

    monkeypatch.setattr(verifying, "WORTH_IT", 1)
    with monkeypatch.context() as patched:
        patched.setattr(verifying, "parts", retried_meanwhile)
        assert verifying.verify(ledger, Witness(settings.checkpoint_file)).problems == []
    assert store.rows(ledger, "SELECT state FROM field WHERE path = 'A/001.png'") == [("waiting",)]
    assert verifying.verify(ledger, Witness(settings.checkpoint_file)).problems == []
