"""Sealing, keys, exported checkpoints, restored backups, bundles and reviews, as they work when nobody tampers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import syslog
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from allq.errors import BrokerUnreachable, LedgerError, NotFound, StoreError, UsageError
from allq.settings import Settings
from db import (
    bundle,
    checkpoints,
    history,
    hooks,
    keys,
    lines,
    review_times,
    reviews,
    sealing,
    turns,
    verifying,
    verifying_parts,
    witness,
)
from db.database import Database
from db.tables import Base
from db.verifying import Verified
from db.witness import Witness
from tests import store
from tests.databases import settings_for
from tests.screening import wait_for
from worker import health, sealer


def screen(database: Database, name: str, fields: int = 2) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide(name, fields)], root=f"/{name}")
    store.work(database, chunk_ids)


def verify(database: Database, settings: Settings, **how: Any) -> Verified:
    return verifying.verify(database, Witness(settings.checkpoint_file), **how)


def numbers(settings: Settings) -> list[int]:
    return [one.number for one in Witness(settings.checkpoint_file)]


def test_a_rows_line_is_canonical_json_of_its_columns() -> None:
    row = (3, 'quoted "ü"\n', "a", "b", 1, '{"x":[]}', "0.1", "2026-01-05 08:30:00.250")
    named = dict(zip(lines.MODEL, row, strict=True)) | {"synthetic": True, "added_at": "2026-01-05T08:30:00.250Z"}
    assert lines.line("model", row) == lines.canonical(named)
    numbers = [0.1, 1e-07, 1e16, 0.0, 1.0, 2.5e22, 0.30000000000000004]
    call = (1, 2, "insufficient", *numbers[:5], numbers[5], None, "", 410, 0, 1, 2, 3, 4, "2026-01-05 08:30:00.250")
    named = dict(zip(lines.SLIDE_CALL, call, strict=True)) | {"called_at": "2026-01-05T08:30:00.250Z"}
    assert lines.line("slide_call", call) == lines.canonical(named)
    for value in (2, b"x", None):
        with pytest.raises((TypeError, ValueError)):
            lines.line("model", (*row[:4], value, *row[5:]))


@pytest.mark.parametrize("table", lines.COLUMNS)
def test_a_rows_line_has_every_column(table: str) -> None:
    assert set(lines.COLUMNS[table]) == {column.name for column in Base.metadata.tables[table].columns}


def test_what_has_happened_is_sealed_exported_and_found_sound(database: Database, settings: Settings) -> None:
    screen(database, "A")
    before = verify(database, settings)
    assert (before.sound, before.events, before.waiting, before.rows) == (True, 0, 5, 4)
    sealed = sealing.seal(database, settings)
    assert (sealed.events, sealed.checkpoints) == (5, 1)
    assert sealing.seal(database, settings).checkpoints == 0
    screen(database, "B")
    sealing.seal(database, settings)
    found = verify(database, settings, complete=True)
    assert (found.problems, found.remarks, found.waiting) == ([], [], 0)
    assert (found.events, found.checkpoints, found.exported) == (9, 2, 2)
    part = verify(database, settings, since=1, complete=True)
    assert (part.problems, part.events, part.checkpoints) == ([], 4, 1)
    assert numbers(settings) == [1, 2]
    with pytest.raises(NotFound, match="no checkpoint 7"):
        verify(database, settings, since=7)


def test_a_ledger_that_was_sealed_anew_with_another_key_is_named_from_whichever_checkpoint_on(
    database: Database, settings: Settings
) -> None:
    for name in "AB":
        screen(database, name)
        sealing.seal(database, settings)
    origin = verify(database, settings).newest.origin
    kept = settings.checkpoint_file.rename(settings.checkpoint_file.with_name("kept.jsonl"))
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("DELETE FROM leaf")
        conn.exec_driver_sql("DELETE FROM checkpoint")
    settings.ledger_key_file.unlink()
    for name in "CDE":
        sealing.seal(database, settings)
        screen(database, name)
    sealing.seal(database, settings)
    for since in (None, 1, 2, 3, 4):
        forged = verifying.verify(database, Witness(kept), since=since)
        assert any("another origin" in one.what for one in forged.problems), since
        assert verify(database, settings, since=since).problems == []
        assert "another origin" in verify(database, settings, since=since, origin=origin).problems[0].what
    none = Witness(kept.with_name("none"))
    unknown = verifying.verify(database, none)
    assert "rewritten and sealed anew with another key, can't be known" in unknown.remarks[0]
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("DELETE FROM leaf")
        conn.exec_driver_sql("DELETE FROM checkpoint")
    assert "is gone, and all after it" in verifying.verify(database, none, origin=origin).problems[0].what
    assert "that nothing was sealed and cut off can't be known" in str(
        verifying.verify(database, none, key_file=settings.ledger_key_file).remarks
    )
    cut_off = Verified()
    with pytest.raises(NotFound, match="no checkpoint 2"):
        verifying.verify(database, Witness(kept), since=2, found=cut_off)
    assert "was exported and is gone" in cut_off.problems[0].what


def test_a_checkpoint_to_begin_with_that_was_not_exported_is_held_against_the_newest_before_it_that_was(
    database: Database, settings: Settings
) -> None:
    for name in "ABCD":
        screen(database, name)
        sealing.seal(database, settings)
    kept = settings.checkpoint_file.with_name("kept.jsonl")
    kept.write_bytes(b"".join(settings.checkpoint_file.read_bytes().splitlines(keepends=True)[:1]))
    assert verifying.verify(database, Witness(kept), since=3).problems == []
    with database.read() as conn:
        third, _ = next(checkpoints.after(conn, 2))
    key = keys.SigningKey.generate()
    values = {
        name: getattr(third, name)
        for name in checkpoints.COLUMNS
        if name not in {"public_key", "signature", "frontier"}
    }
    forged = checkpoints.signed(key, **values)
    with database.begin() as conn, unprotected(conn):
        change = text("UPDATE checkpoint SET public_key = :key, signature = :signature WHERE number = 3")
        conn.execute(change, {"key": forged.public_key, "signature": forged.signature})
    (named,) = verifying.verify(database, Witness(kept), since=3).problems[:1]
    assert (named.row, named.what) == ("3", "is signed with a key that the one before does not name")


def test_many_events_are_sealed_by_several_checkpoints(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "AT_ONCE", 3)
    monkeypatch.setattr(verifying, "BLOCK", 4)
    for name in "ABC":
        screen(database, name)
    assert sealing.seal(database, settings).checkpoints == 5
    assert verify(database, settings, complete=True).problems == []
    screen(database, "D")
    with database.read() as conn:
        made = [one for one, _ in checkpoints.after(conn, 0)]
        sealed_by = checkpoints.covering(conn, list(range(made[-1].size + 1)))
        (of_b,), (waits,) = history.of_slide(conn, "B"), history.of_slide(conn, "D")
    expected = {leaf: next(one.number for one in made if one.size > leaf) for leaf in range(made[-1].size)}
    assert {leaf: number for leaf, (number, _) in sealed_by.items()} == expected
    assert {event.leaf: event.checkpoint for event in of_b.events} == {
        event.leaf: expected[event.leaf] for event in of_b.events if event.leaf is not None
    }
    assert all(event.at <= event.sealed_at for event in of_b.events if event.at and event.sealed_at)
    assert {(event.leaf, event.checkpoint, event.sealed_at) for event in waits.events} == {(None, None, None)}


def test_a_long_ledger_is_verified_by_several_processes_with_the_same_result(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ABC":
        screen(database, name)
        store.review(database, name, "insufficient", "smudged")
        sealing.seal(database, settings)
    alone = verify(database, settings, complete=True)
    monkeypatch.setattr(verifying, "WORTH_IT", 1)
    monkeypatch.setattr(verifying_parts, "PART", 5)
    assert verify(database, settings, complete=True) == alone
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("UPDATE event SET actor = 'somebody else' WHERE id = 7")
        conn.exec_driver_sql("UPDATE slide_call SET suspects = 99 WHERE id = 3")
        conn.exec_driver_sql("UPDATE finding SET novelty = 0.5 WHERE id = 2")
    found = verify(database, settings)
    assert {(one.table, one.row.split(" ")[0]) for one in found.problems} == {
        ("event", "7"),
        ("slide_call", "3"),
        ("finding", "2"),
        ("finding", "of"),
    }
    monkeypatch.undo()
    assert set(verify(database, settings).problems) == set(found.problems)


@pytest.mark.parametrize("part", [None, 5])
def test_a_second_row_of_a_number_and_a_second_leaf_of_a_place_are_named(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, part: int | None
) -> None:
    """The owner has laid a table beneath one of ours, and another column under the key of the same name."""
    if database.dialect == "sqlite":
        pytest.skip("SQLite lays no table beneath another")
    for name in "ABC":
        screen(database, name)
        store.review(database, name, "insufficient", "smudged")
        sealing.seal(database, settings)
    if part:
        monkeypatch.setattr(verifying, "WORTH_IT", 1)
        monkeypatch.setattr(verifying_parts, "PART", part)
    for table in ("finding", "review"):
        with database.begin() as conn:
            conn.exec_driver_sql(f"CREATE TABLE beneath () INHERITS ({table})")
            conn.exec_driver_sql(f"INSERT INTO beneath SELECT * FROM ONLY {table} WHERE id = 2")
        said = [str(one) for one in verify(database, settings).problems]
        assert said.count(f"{table} 2: stands there twice") == 1, said
        with database.begin() as conn:
            conn.exec_driver_sql("DROP TABLE beneath")
    with database.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE beneath () INHERITS (review)")
        conn.exec_driver_sql("INSERT INTO beneath SELECT * FROM ONLY review WHERE id = 3")
        conn.exec_driver_sql("UPDATE beneath SET reviewer = 'somebody else', call = 'no-suspects-seen'")
    assert "review 3: stands there twice" in {str(one) for one in verify(database, settings).problems}
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("DROP TABLE beneath")
        conn.exec_driver_sql(
            "ALTER TABLE leaf DROP CONSTRAINT leaf_pkey, ADD CONSTRAINT leaf_pkey PRIMARY KEY (event_id)"
        )
        conn.exec_driver_sql("UPDATE leaf SET seq = 6 WHERE seq = 7")
    said = {str(one) for one in verify(database, settings).problems}
    assert {"leaf 6: there is no such place in the tree", "leaf 7: is gone"} <= said


def test_an_event_that_is_committed_late_is_sealed_later(
    database: Database, settings: Settings, postgresql: object
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("one writer: none is late")
    screen(database, "A")
    with database.engine.begin() as late:
        number = late.exec_driver_sql(
            "INSERT INTO event (at, kind, actor, body) VALUES (now(), 'late', 'x', '{}') RETURNING id"
        ).scalar_one()
        screen(database, "B")
        with database.engine.begin() as conn:
            conn.exec_driver_sql("INSERT INTO event (at, kind, actor, body) VALUES ('2020-01-01', 'old', 'x', '{}')")
        sealed = sealing.seal(database, settings)
        assert sealed.checkpoint is not None
        assert sealed.checkpoint.settled < number
    (remark,) = verify(database, settings).remarks
    waits = re.match(r"1 event waits to be sealed, the oldest since (\d+) s", remark)
    assert waits, f"what is sealed beyond it does not wait: {remark}"
    assert sealing.seal(database, settings).events == 1
    screen(database, "C")
    last = sealing.seal(database, settings).checkpoint
    assert last is not None
    assert last.settled > number
    found = verify(database, settings, complete=True)
    # our event's time has microseconds, which events of ours never have, but it is sealed as it is
    assert found.problems == []


def test_what_is_sealed_while_it_is_verified_is_no_fault(database: Database, settings: Settings) -> None:
    for name in "AB":
        screen(database, name)
        sealing.seal(database, settings)
    screen(database, "C")
    found = verify(database, settings, progress=lambda *_: sealing.seal(database, settings))
    assert (found.problems, found.checkpoints, found.exported) == ([], 2, 2)
    assert numbers(settings) == [1, 2, 3]
    assert verify(database, settings, complete=True).problems == []


def test_exported_checkpoints_that_have_stopped_growing_are_remarked_upon(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ABC":
        screen(database, name)
        sealing.seal(database, settings)
    file = settings.checkpoint_file
    whole = file.read_bytes()
    file.write_bytes(whole.splitlines(keepends=True)[0])
    assert verify(database, settings).remarks == [], "what was sealed just now may be on its way"
    monkeypatch.setattr(verifying, "EXPORTED_WITHIN", 0.0)
    for since in (None, 1, 2, 3):
        found = verify(database, settings, since=since)
        assert (found.problems, len(found.remarks)) == ([], 1)
        assert "end with number 1 and lack 2" in found.remarks[0]
    sealing.seal(database, settings)
    assert file.read_bytes() == whole
    assert verify(database, settings).remarks == []
    screen(database, "D")
    found = verify(database, settings, progress=lambda *_: sealing.seal(database, settings))
    assert numbers(settings) == [1, 2, 3, 4]
    assert not [remark for remark in found.remarks if "lack" in remark], "sealed after the file was looked at"


def test_without_exported_checkpoints_a_ledger_is_known_by_its_origin_or_by_the_key_that_signs_here(
    database: Database, settings: Settings
) -> None:
    screen(database, "A")
    origin = getattr(sealing.seal(database, settings).checkpoint, "origin", "")
    key = settings.ledger_key_file
    settings.checkpoint_file.unlink()

    def said(**how: Any) -> str:
        found = verify(database, settings, **how)
        assert found.sound
        return " ".join(found.remarks)

    assert "sealed anew with another key" in said()
    assert "sealed anew with another key" in said(since=1, origin=origin)
    for how in ({"origin": origin}, {"key_file": key}, {"key_file": key, "since": 1}):
        assert "that nothing was cut off at the end can't be known" in said(**how)
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("DELETE FROM leaf")
        conn.exec_driver_sql("DELETE FROM checkpoint")
    forged = {"ledger_key": settings.home / "forged.pem", "ledger_file": settings.home / "forged.jsonl"}
    sealing.seal(database, settings.model_copy(update=forged))
    assert "this machine's key is another" in said(key_file=key)
    for other in (origin, ""):
        assert not verify(database, settings, origin=other, key_file=key).sound


def test_a_file_that_begins_with_old_checkpoints_is_warned_of(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned() -> bool:
        with capture_logs() as logged:
            sealing.seal(database, settings)
        return any("was missing or empty" in entry["event"] for entry in logged)

    screen(database, "A")
    assert not warned(), "a new ledger"
    settings.checkpoint_file.write_bytes(b"")
    assert not warned(), "what was sealed just now may be on its way"
    monkeypatch.setattr(witness, "LONG_SEALED", -1.0)
    assert not warned()
    settings.checkpoint_file.write_bytes(b"")
    assert warned()
    assert numbers(settings) == [1]


def test_there_is_one_sealer_at_a_time(database: Database, settings: Settings) -> None:
    if database.dialect == "sqlite":
        pytest.skip("whoever writes is alone")
    screen(database, "A")
    with database.engine.begin() as other:
        assert turns.taken(other, "sealing")
        assert sealing.seal(database, settings).events == 0
    assert sealing.seal(database, settings).events == 5


@contextmanager
def kept(database: Database, lock: str) -> Iterator[str]:
    """Another session that takes a lock and does nothing with it; yields how it is named."""
    with database.engine.begin() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
        pid, login = other.exec_driver_sql("SELECT pg_backend_pid(), session_user").one()
        yield f"process {pid} of the server, login {login}"


def test_who_waits_for_a_sealer_that_does_not_let_go_is_told_which(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite's own lock is told by its own sentence")
    screen(database, "A")
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.05)
    told = re.escape("waiting for 0 s with the sealing: ")
    with kept(database, "hashtext('allq'), hashtext('sealer')") as holder:
        assert sealing.seal(database, settings).held_by == holder
        with pytest.raises(StoreError, match=told + holder):
            sealing.seal(database, settings, wait=True)
        with pytest.raises(StoreError, match=told + holder):
            sealing.go_on_after_restore(database, settings, reason="none", actor="tester")
    with kept(database, "hashtext('allq activation')") as holder:
        assert sealing.seal(database, settings).held_by is None
        with pytest.raises(StoreError, match="with the activation: " + holder):
            store.activate(database, "fits our smears")
    assert store.activate(database, "fits our smears").number == 1
    with database.begin() as conn:
        before = conn.exec_driver_sql("SHOW lock_timeout").scalar()
        turns.wait(conn, "sealing")
        assert conn.exec_driver_sql("SHOW lock_timeout").scalar() == before, "what follows waits as it did"


def test_a_session_that_keeps_all_sealers_waiting_is_named_once(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite's own lock is told by its own sentence")
    screen(database, "A")
    one = sealer.Sealer(settings)
    with capture_logs() as logged, kept(database, "hashtext('allq'), hashtext('sealer')") as holder:
        for _ in range(3):
            one.seal(database, now=True)
        assert logged == [], "a sealer's turn may take its time"
        monkeypatch.setattr(sealer, "_HELD_LONG", 0.0)
        for _ in range(3):
            one.seal(database, now=True)
    assert [(entry["log_level"], entry["session"]) for entry in logged] == [("warning", holder)]
    one.seal(database, now=True)
    with database.read() as conn:
        assert not sealing.unsealed(conn)


def test_who_seals_a_long_backlog_keeps_nobody_waiting_as_long_as_checkpoints_are_made(
    monkeypatch: pytest.MonkeyPatch, database: Database, settings: Settings
) -> None:
    screen(database, "A")
    newest = sealing.seal(database, settings).checkpoint
    assert newest is not None
    at_it = [
        sealing.Sealed(events=0, checkpoints=0, held_by="7", checkpoint=replace(newest, number=number))
        for number in (1, 2, 3, 3)
    ]
    monkeypatch.setattr(sealer, "_HELD_LONG", 0.0)
    monkeypatch.setattr(sealing, "seal", lambda *_, **__: at_it.pop(0))
    one = sealer.Sealer(settings)
    with capture_logs() as logged:
        for _ in range(3):
            one.seal(database, now=True)
        assert logged == []
        one.seal(database, now=True)
    assert [entry["session"] for entry in logged] == ["7"]


def test_the_key_is_made_once_and_for_nobody_else(database: Database, settings: Settings) -> None:
    screen(database, "A")
    sealing.seal(database, settings)
    key = settings.ledger_key_file
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    screen(database, "B")
    with pytest.raises(LedgerError, match="may be read by others"):
        sealing.seal(database, settings)
    key.chmod(0o600)
    key.unlink()
    keys.SigningKey.generate().write(key)
    with pytest.raises(LedgerError, match="has not the ledger's key"):
        sealing.seal(database, settings)
    assert verify(database, settings).sound


def test_a_new_key_is_signed_for_by_the_old_one(database: Database, settings: Settings) -> None:
    screen(database, "A")
    sealing.seal(database, settings)
    old = keys.SigningKey.read(settings.ledger_key_file)
    new = sealing.rotate_key(database, settings, actor="tester@here")
    screen(database, "B")
    sealing.seal(database, settings)
    signed_by = [one.public_key for one in Witness(settings.checkpoint_file)]
    assert signed_by == [old.public, old.public, new.public]
    assert verify(database, settings, complete=True).problems == []
    assert store.rows(database, "SELECT actor FROM event WHERE kind = 'ledger-key-rotated'") == [("tester@here",)]


def test_a_worker_seals_with_its_housekeeping_and_when_it_goes(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import housekeeping

    told: list[str] = []
    left: list[str] = []
    monkeypatch.setattr(sealer.log, "error", lambda *_, problem: told.append(problem))
    monkeypatch.setattr(sealer.log, "info", lambda *_, reason: left.append(reason))
    housekeeper = housekeeping.Housekeeper(None, settings)
    screen(database, "A")
    housekeeper._sealer.seal(database)
    screen(database, "B")
    housekeeper._sealer.seal(database)  # too soon
    assert numbers(settings) == [1]
    housekeeper.end()
    assert numbers(settings) == [1, 2]
    assert told == left == []
    settings.ledger_key_file.unlink()
    for name in "CD":
        screen(database, name)
        housekeeper.end()
    said, silent = (told, left) if database.dialect == "sqlite" else (left, told)  # on a server others may have it
    assert (len(said), silent) == (1, [])  # it is said once
    assert "has not the ledger's key" in said[0]


def test_what_seals_and_nothing_else_goes_on_until_it_is_told_to_stop(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by a real signal; a database that is away in between is waited for."""
    settings = settings.model_copy(update={"seal_seconds": 0.01})
    rounds: list[int] = []
    seal = sealing.seal

    def sealed(*arguments: Any, **how: Any) -> sealing.Sealed:
        rounds.append(len(rounds))
        if len(rounds) == 2:
            raise StoreError("away")
        if len(rounds) == 3:
            screen(database, "B")
        if len(rounds) == 4:
            screen(database, "C")
            os.kill(os.getpid(), signal.SIGTERM)
        return seal(*arguments, **how)

    monkeypatch.setattr(sealing, "seal", sealed)
    screen(database, "A")
    with capture_logs() as logged:
        sealer.seal_until_told_to_stop(settings)
    assert numbers(settings) == [1, 2, 3]
    assert verify(database, settings, complete=True).problems == []
    assert [entry["event"] for entry in logged if entry["log_level"] != "debug"] == [
        "sealer starts",
        "sealing failed; it is tried again until it succeeds",
        "sealing goes on",
        "sealer ended",
    ]


@pytest.mark.parametrize("signals", [1, 500])
def test_what_seals_ends_at_once_when_it_is_told_to_however_often(tmp_path: Path, signals: int) -> None:
    """The signal comes when it likes: while the wait begins, goes on or ends."""
    settings = settings_for(tmp_path / "home")
    settings.home.mkdir()
    database = Database.open(settings)
    try:
        screen(database, "A")
        log = tmp_path / "log"
        own = {"ALLQ_HOME": str(settings.home), "ALLQ_SEAL_SECONDS": "600", "ALLQ_LOG_LEVEL": "info"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "allq", "audit", "seal", "--watch"], env=os.environ | own, stderr=file
            )
        try:
            wait_for(lambda: b"sealer starts" in log.read_bytes(), what="the sealer starts", seconds=60)
            screen(database, "B")
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
        assert verify(database, settings, complete=True).problems == []
    finally:
        database.close()


def test_what_seals_is_interrupted_by_the_keyboard(database: Database, settings: Settings) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            sealer.seal_until_told_to_stop(settings.model_copy(update={"seal_seconds": 600.0}))
    finally:
        timer.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_what_does_nothing_but_seal_and_may_no_longer_says_so_as_an_error_and_again_when_it_changes(
    database: Database, settings: Settings
) -> None:
    """A worker says once that it leaves the sealing to others; here there are none."""
    alone = sealer.Sealer(settings, alone=True)
    screen(database, "A")
    alone.seal(database, now=True)
    key = settings.ledger_key_file.read_bytes()
    screen(database, "B")
    with capture_logs() as logged:
        settings.ledger_key_file.unlink()
        for _ in range(3):
            alone.seal(database, now=True)
        settings.ledger_key_file.write_text("no key")
        settings.ledger_key_file.chmod(0o600)
        for _ in range(3):
            alone.seal(database, now=True)
        settings.ledger_key_file.write_bytes(key)
        for _ in range(3):
            alone.seal(database, now=True)
    said = [entry for entry in logged if entry["log_level"] != "debug"]
    assert [(entry["event"], entry["log_level"]) for entry in said] == [
        ("the ledger was not sealed", "error"),
        ("the ledger was not sealed", "error"),
        ("sealing goes on", "warning"),
    ]
    assert "has not the ledger's key" in said[0]["problem"]
    assert "has not the ledger's key" not in said[1]["problem"]
    assert said[2]["after"] == said[1]["problem"]


def test_the_doctor_tells_when_nobody_has_sealed_for_long(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert health._ledger(database, settings).ok
    screen(database, "A")
    check = health._ledger(database, settings)
    assert (check.ok, check.advice) == (True, None)
    monkeypatch.setattr(health, "SEALED_WITHIN", -1.0)
    check = health._ledger(database, settings)
    assert check.ok is None, "no worker runs, and with the embedded broker nothing else seals"
    assert "allq audit seal" in (check.advice or "")
    check = health._ledger(database, settings.model_copy(update={"broker_url": "redis://broker"}))
    assert check.ok is False
    assert "allq_sealer" in (check.advice or "")
    sealing.seal(database, settings)
    assert health._ledger(database, settings).detail == "everything is sealed"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_work_is_published_before_the_ledger_is_sealed_and_a_broker_that_is_away_keeps_nobody_from_it(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import housekeeping

    published: list[list[int]] = []

    def broken(*_: object) -> None:
        published.append(numbers(settings))
        raise BrokerUnreachable("away")

    monkeypatch.setattr(housekeeping.Housekeeper, "_deliver", broken)
    screen(database, "A")
    housekeeping.Housekeeper(None, settings).tick()
    assert (published, numbers(settings)) == ([[]], [1])


def test_a_rotation_that_was_cut_short_is_completed(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen(database, "A")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keys, "promote", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        sealing.rotate_key(database, settings, actor="tester")
    screen(database, "B")
    assert sealing.seal(database, settings).checkpoints == 1
    assert not keys.successor(settings.ledger_key_file).exists()
    assert verify(database, settings, complete=True).problems == []


def test_what_was_not_exported_is_caught_up_with_and_a_torn_line_is_written_anew(
    database: Database, settings: Settings
) -> None:
    for name in "ABC":
        screen(database, name)
        sealing.seal(database, settings)
    file = settings.checkpoint_file
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 60])
    assert verify(database, settings).exported == 2
    screen(database, "D")
    sealing.seal(database, settings)
    assert numbers(settings) == [1, 2, 3, 4]
    assert verify(database, settings, complete=True).problems == []
    file.write_bytes(whole.replace(b'"checkpoint":2', b'"checkpoint":9'))
    assert [one.table for one in verify(database, settings).problems] == ["exported checkpoints"]


def test_checkpoints_are_handed_to_a_command_and_put_as_objects(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    received: dict[str, Any] = {}

    class Store(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            there = self.path in received
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(412 if there else 200)
            self.end_headers()
            received.setdefault(self.path, (self.headers["If-None-Match"], json.loads(body)["checkpoint"], body))

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(received[self.path][2])

        def log_message(self, *_: object) -> None:
            pass

    command = tmp_path / "hook"
    command.write_text(f"#!/bin/sh\ncat >> {tmp_path}/handed\n")
    command.chmod(0o755)
    with HTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        places = (str(command), str(tmp_path / "missing"), f"http://127.0.0.1:{server.server_port}/ledger")
        hooked = settings.model_copy(update={"ledger_hooks": places})
        screen(database, "A")
        sealing.seal(database, settings)
        screen(database, "B")
        sealing.seal(database, hooked)
        settings.checkpoint_file.with_name("delivered.json").unlink()
        screen(database, "C")
        sealing.seal(database, hooked)
        server.shutdown()
    origin = getattr(Witness(settings.checkpoint_file).last(), "origin", "")
    assert {path: had[:2] for path, had in received.items()} == {
        f"/ledger/{origin}/{number:012}.json": ("*", number) for number in (1, 2, 3)
    }
    handed = [json.loads(line)["checkpoint"] for line in (tmp_path / "handed").read_text().splitlines()]
    assert handed == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("readable", "said"), [(True, "Another checkpoint 1 of"), (False, "whether it is the same")])
def test_what_lies_under_a_checkpoints_name_is_compared_and_no_secret_is_said_or_kept(
    database: Database, settings: Settings, readable: bool, said: str
) -> None:
    asked: list[tuple[str, str, str]] = []

    class Store(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(412)

        def do_GET(self) -> None:
            self._answer(200 if readable else 403)

        def _answer(self, code: int) -> None:
            asked.append((self.command, self.path, self.headers["Authorization"]))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"" if code == 412 else b'{"checkpoint":1}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/kept"
        hook = f"{place.replace('//', '//lab:s%40cret@', 1)}/?sig=ABC"
        hooked = settings.model_copy(update={"ledger_hooks": (hook,)})
        memory = settings.checkpoint_file.with_name("delivered.json")
        memory.parent.mkdir(parents=True)
        memory.write_text(json.dumps({hook: 0}))
        screen(database, "A")
        with capture_logs() as logged:
            sealing.seal(database, hooked)
            sealing.seal(database, hooked)
        server.shutdown()
    origin = getattr(Witness(settings.checkpoint_file).last(), "origin", "")
    name, who = f"/kept/{origin}/000000000001.json?sig=ABC", "Basic bGFiOnNAY3JldA=="
    assert asked == [("PUT", name, who), ("GET", name, who)] * (2 if readable else 1)
    warned = [str(entry) for entry in logged]
    assert len(warned) == (2 if readable else 1)
    assert all(said in entry and f"{place}/" in entry for entry in warned)
    assert not any(secret in entry for entry in warned for secret in ("s%40", "ABC"))
    if not readable:
        assert not any(secret in memory.read_text() for secret in ("s%40", "ABC"))
        assert list(json.loads(memory.read_text()).values()) == [1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_doctor_tells_of_hooks_that_are_no_command_or_lack_what_is_in_the_file(
    database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "hook"
    command.write_text("#!/bin/sh\nexit 1\n")
    hooked = settings.model_copy(update={"ledger_hooks": (str(command),)})
    screen(database, "A")
    check = health._hooks(database, hooked)
    assert (check.ok, f"{command} is no command that this account may run" in check.detail) == (False, True)
    command.chmod(0o755)
    sealing.seal(database, hooked)
    assert health._hooks(database, hooked).ok, "what was sealed just now may be on its way"
    monkeypatch.setattr(health, "SEALED_WITHIN", -1.0)
    check = health._hooks(database, hooked)
    assert (check.ok, f"{command} lacks 1 of the checkpoints" in check.detail) == (False, True)
    command.write_text("#!/bin/sh\n")
    sealing.seal(database, hooked)
    assert health._hooks(database, hooked).ok


def test_checkpoints_are_handed_to_the_system_log(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(syslog, "openlog", lambda *how: said.append(how))
    monkeypatch.setattr(syslog, "syslog", lambda priority, line: said.append((priority, json.loads(line))))
    screen(database, "A")
    sealed = sealing.seal(database, settings.model_copy(update={"ledger_hooks": ("syslog",)})).checkpoint
    assert sealed is not None
    assert said == [("allq", 0, syslog.LOG_AUTHPRIV), (syslog.LOG_NOTICE, sealed.as_json())]


def test_a_hook_that_has_much_to_catch_up_with_does_so_by_rounds(
    database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ABC":
        screen(database, name)
        sealing.seal(database, settings)
    monkeypatch.setattr(hooks, "ROUND_SECONDS", 0.0)
    command = tmp_path / "hook"
    command.write_text(f"#!/bin/sh\ncat >> {tmp_path}/handed\n")
    command.chmod(0o755)
    hooked = settings.model_copy(update={"ledger_hooks": (str(command),)})
    for count in (1, 2, 3):
        assert sealing.seal(database, hooked).checkpoints == 0
        handed = [json.loads(line)["checkpoint"] for line in (tmp_path / "handed").read_text().splitlines()]
        assert handed == [1, 2, 3][:count]


def test_a_hook_that_answers_nonsense_holds_up_nothing(database: Database, settings: Settings) -> None:
    asked: list[bytes] = []

    def answer(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                guest, _ = server.accept()
                with guest:
                    asked.append(guest.recv(1 << 16))
                    guest.sendall(b"nonsense\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        hook = f"http://127.0.0.1:{server.getsockname()[1]}/ledger"
        hooked = settings.model_copy(update={"ledger_hooks": (hook,)})
        for name in "AB":
            screen(database, name)
            assert sealing.seal(database, hooked).checkpoints == 1
        server.shutdown(socket.SHUT_RDWR)
    paths = [data.split(b" ")[1] for data in asked]
    assert [path[-18:] for path in paths] == [b"/000000000001.json"] * 2, "from the same one again"
    assert numbers(settings) == [1, 2]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param("[]", id="list"),
        pytest.param('{"HOOK": "x"}', id="word"),
        pytest.param('{"HOOK": -1}', id="negative"),
        pytest.param('{"HOOK": 1e9, "\\ud800": 1}', id="fraction"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_record_of_deliveries_is_taken_for_none(
    database: Database, settings: Settings, tmp_path: Path, left: str
) -> None:
    command = tmp_path / "hook"
    command.write_text(f"#!/bin/sh\ncat >> {tmp_path}/handed\n")
    command.chmod(0o755)
    memory = settings.checkpoint_file.with_name("delivered.json")
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(left.replace("HOOK", str(command)))
    screen(database, "A")
    assert sealing.seal(database, settings.model_copy(update={"ledger_hooks": (str(command),)})).checkpoints == 1
    assert json.loads((tmp_path / "handed").read_text())["checkpoint"] == 1
    assert json.loads(memory.read_text()) == {str(command): 1}


@pytest.mark.parametrize("blocked", ["delivered.json", "delivered.new"])
def test_a_record_of_deliveries_that_can_not_be_kept_is_warned_of_and_holds_up_nothing(
    database: Database, settings: Settings, tmp_path: Path, blocked: str
) -> None:
    command = tmp_path / "hook"
    command.write_text(f"#!/bin/sh\ncat >> {tmp_path}/handed\n")
    command.chmod(0o755)
    hooked = settings.model_copy(update={"ledger_hooks": (str(command),)})
    obstacle = settings.checkpoint_file.with_name(blocked)
    obstacle.mkdir(parents=True)
    warned: list[Any] = []
    for name in "ABC":
        screen(database, name)
        with capture_logs() as logged:
            assert sealing.seal(database, hooked).checkpoints == 1
        warned += [entry["log_level"] for entry in logged if "what hooks have had" in entry["event"]]
    assert warned == ["warning"], "once, not every round"
    obstacle.rmdir()
    sealing.seal(database, hooked)
    handed = [json.loads(line)["checkpoint"] for line in (tmp_path / "handed").read_text().splitlines()]
    assert handed == [1, 2, 3], "each once"
    assert json.loads(settings.checkpoint_file.with_name("delivered.json").read_text()) == {str(command): 3}
    obstacle.unlink(missing_ok=True)
    obstacle.mkdir()
    screen(database, "D")
    with capture_logs() as logged:
        sealing.seal(database, hooked)
    assert any("what hooks have had" in entry["event"] for entry in logged), "of another time as well"


@contextmanager
def unprotected(conn: Connection) -> Iterator[None]:
    """Without what keeps rows as they are, which the database's owner can take away, and puts back afterwards."""
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        triggers = conn.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
        for name, _ in triggers:
            conn.exec_driver_sql(f"DROP TRIGGER {name}")
        yield
        for _, sql in triggers:
            conn.exec_driver_sql(sql)
    else:
        conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
        yield
        conn.exec_driver_sql("SET LOCAL session_replication_role = origin")


def cut_back(database: Database, number: int) -> None:
    """The state of an old backup, as far as the ledger is concerned."""
    with database.engine.begin() as conn, unprotected(conn):
        size = conn.execute(text("SELECT size FROM checkpoint WHERE number = :n"), {"n": number}).scalar_one()
        last = conn.execute(text("SELECT event_id FROM leaf WHERE seq = :n"), {"n": size - 1}).scalar_one()
        conn.exec_driver_sql(f"DELETE FROM checkpoint WHERE number > {number}")
        conn.exec_driver_sql(f"DELETE FROM leaf WHERE seq >= {size}")
        for table, column in (("event_slide", "event_id"), ("event", "id"), ("review", "id"), ("slide_call", "id")):
            bound = last if "event" in table else 0
            conn.exec_driver_sql(f"DELETE FROM {table} WHERE {column} > {bound}")
        conn.exec_driver_sql("UPDATE field SET state = 'waiting', finding_id = NULL, linked = false")
        conn.exec_driver_sql("UPDATE slide SET slide_call_id = NULL, suspicion = NULL, screened = 0")
        conn.exec_driver_sql("UPDATE chunk SET state = 'pending', waiting = fields, screened = 0, linked = 0")
        for table in ("finding_leukocytes", "finding"):
            conn.exec_driver_sql(f"DELETE FROM {table}")


def test_after_a_restored_backup_nothing_is_sealed_until_somebody_says_so(
    database: Database, settings: Settings
) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 2)])
    sealing.seal(database, settings)
    assert sealing.go_on_after_restore(database, settings, reason="none", actor="tester") is None
    store.work(database, chunk_ids)
    sealing.seal(database, settings)
    cut_back(database, 1)
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("B", 2)])
    with pytest.raises(LedgerError, match=r"Checkpoint 2 was exported .* stands at checkpoint 1"):
        sealing.seal(database, settings)
    assert "was exported and is gone" in verify(database, settings).problems[0].what
    with pytest.raises(UsageError, match="needs a reason"):
        sealing.go_on_after_restore(database, settings, reason=" ", actor="tester@here")
    lost = sealing.go_on_after_restore(database, settings, reason="the disk failed", actor="tester@here")
    assert lost is not None
    assert lost.number == 2
    assert numbers(settings) == [1, 2, 3]
    found = verify(database, settings, complete=True)
    assert found.problems == []
    with database.read() as conn:
        (told,) = history.of_ledger(conn)
    assert (told.kind, told.actor, told.body["reason"]) == ("backup-restored", "tester@here", "the disk failed")
    assert found.remarks == [
        "Checkpoint 2 was lost with a restored backup; checkpoint 3 says so, and "
        f"tester@here gave it up at {told.at:%Y-%m-%d %H:%M:%S} UTC, because: the disk failed."
    ]


def verify_bundle(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    with zipfile.ZipFile(path) as zipped:
        script = path.with_name("verify.py")
        script.write_bytes(zipped.read("verify.py"))
    # -I: nothing of ours is on its path
    command = [sys.executable, "-I", str(script), str(path), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def changed(path: Path, member: str, old: bytes, new: bytes) -> Path:
    other = path.with_name(f"changed-{member}.zip")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            assert name != member or old in data
            target.writestr(name, data.replace(old, new) if name == member else data)
    return other


def test_a_bundle_is_verified_without_allq_and_a_changed_one_is_refused(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(LedgerError, match="Nothing is sealed yet"), database.read() as conn:
        bundle.export(conn, tmp_path / "none.zip")
    for name in "AB":
        screen(database, name)
        store.review(database, name, "insufficient", "smudged")
        sealing.rotate_key(database, settings, actor="tester")
    path = tmp_path / "evidence.zip"
    with database.read() as conn:
        done = bundle.export(conn, path, slide="B")
        with pytest.raises(NotFound):
            bundle.export(conn, tmp_path / "none.zip", slide="Z")
    assert not list(tmp_path.glob(".*"))
    assert (done.rows, done.checkpoint.number) == (5, 4)
    origin = done.checkpoint.origin
    good = verify_bundle(path, "--origin", origin, "--checkpoint", str(settings.checkpoint_file))
    assert (good.returncode, good.stderr) == (0, "")
    assert "Everything fits" in good.stdout
    assert "origin" not in verify_bundle(path).stderr
    assert "The ledger is" in verify_bundle(path, "--origin", "allq-ledger-0").stderr
    for member, old, new, sentence in (
        ("rows.jsonl", b"smudged", b"bright!", "The row of review is not the one of event"),
        ("rows.jsonl", b"0.25", b"0.26", "are not those of event|is not the one of event"),
        ("events.jsonl", b"smudged", b"bright!", "is not in the tree of checkpoint 4"),
        ("events.jsonl", b'"leaf":0', b'"leaf":1', "is not in the tree of checkpoint 4"),
        ("events.jsonl", b'"leaf":0,', b'"leaf":256,', "There is no leaf 256"),
        ("events.jsonl", b'"leaf":0,', b'"leaf":false,', "There is no leaf False"),
        ("rows.jsonl", b'"table":"review"', b'"table":"slide_call"', "tells of no rows of slide_call"),
        ("checkpoints.jsonl", b"number 2", b"number 7", "Checkpoint|signature"),
    ):
        bad = verify_bundle(changed(path, member, old, new))
        assert bad.returncode == 1
        assert bad.stdout == ""
        assert any(part in bad.stderr for part in sentence.split("|")), bad.stderr


def exported(database: Database, settings: Settings, folder: Path) -> bundle.Exported:
    """A bundle of all of a ledger with one slide, screened and reviewed."""
    screen(database, "A")
    store.review(database, "A", "insufficient", "smudged")
    sealing.seal(database, settings)
    with database.read() as conn:
        return bundle.export(conn, folder / "evidence.zip")


def test_a_bundle_with_an_event_twice_is_refused_and_one_that_lacks_some_says_how_many(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    done = exported(database, settings, tmp_path)
    path = done.path
    assert f"over {done.events} events, of which 0 are not in this bundle" in verify_bundle(path, "--complete").stdout
    with zipfile.ZipFile(path) as whole:
        events, rows = (whole.read(f"{name}.jsonl").splitlines(keepends=True) for name in ("events", "rows"))
    assert "came before" in verify_bundle(changed(path, "events.jsonl", events[0], 2 * events[0])).stderr
    assert "came before" in verify_bundle(changed(path, "rows.jsonl", rows[0], 2 * rows[0])).stderr
    (review,) = (line for line in events if b"slide-reviewed" in line)
    (of_review,) = (line for line in rows if b'"table":"review"' in line)
    thinned = changed(path, "events.jsonl", review, b"").rename(tmp_path / "thinned.zip")
    thinned = changed(thinned, "rows.jsonl", of_review, b"")
    assert "of which 1 are not in this bundle" in verify_bundle(thinned).stdout
    refused = verify_bundle(thinned, "--complete")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"1 of {done.events} events of the ledger are not in this bundle" in refused.stderr


def test_a_time_that_no_driver_reads_keeps_nobody_from_an_export_and_is_refused_in_it(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    for name in "AB":
        screen(database, name)
        store.review(database, name, "insufficient", "smudged")
    sealing.seal(database, settings)
    with database.begin() as conn:
        if database.dialect == "sqlite":
            conn.exec_driver_sql("DROP TRIGGER review_no_update")
        else:
            conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
        conn.exec_driver_sql("UPDATE review SET looked_at = 'infinity' WHERE id = 1")
    for name, slide, sentence in (("all", None, "The row of review is not the one of event"), ("b", "B", "")):
        with database.read() as conn:
            bundle.export(conn, tmp_path / f"{name}.zip", slide=slide)
        assert sentence in verify_bundle(tmp_path / f"{name}.zip").stderr
    assert verify_bundle(tmp_path / "b.zip").returncode == 0


def test_a_bundle_from_which_rows_were_left_out_is_refused(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = exported(database, settings, tmp_path).path
    with zipfile.ZipFile(path) as whole:
        rows = whole.read("rows.jsonl").splitlines(keepends=True)
    assert len(rows) == 4
    for row in rows:
        done = verify_bundle(changed(path, "rows.jsonl", row, b""))
        assert done.returncode == 1
        assert "are not in the bundle" in done.stderr


def test_a_review_stands_beside_the_machines_call_and_earlier_reviews(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen(database, "A")
    with database.begin() as conn:
        slide = reviews.find(conn, "A")
        with pytest.raises(StoreError, match="has not looked at"):
            reviews.sign(conn, slide, call="insufficient", reason="x", reviewer="Dr Tester")
        for call, reason in (("maybe", "x"), ("insufficient", "  ")):
            with pytest.raises(UsageError):
                reviews.sign(conn, slide, call=call, reason=reason, reviewer="Dr Tester")
    store.review(database, "A", "insufficient", "out of focus")
    store.review(database, "A", slide.call, "photographed again", reviewer="Dr Second")
    with database.read() as conn:
        found = reviews.find(conn, "A")
        (told,) = history.of_slide(conn, "A")
    assert found.call == slide.call
    assert [(one.reviewer, one.call, one.latest) for one in found.reviews] == [
        ("Dr Tester", "insufficient", False),
        ("Dr Second", slide.call, True),
    ]
    assert all(one.looked_at <= one.decided_at for one in found.reviews)
    kinds = [event.kind for event in told.events]
    assert kinds[:4] == ["batch-created", "batch-submitted", "chunk-recorded", "slide-called"]
    assert kinds[4:] == ["slide-looked-at", "slide-reviewed"] * 2
    assert {(one.computed_by, one.engine) for one in told.fields} == {("worker-1", "openvino")}
    assert not [remark for remark in verify(database, settings).remarks if "Review" in remark]
    with database.begin() as conn, unprotected(conn):
        conn.exec_driver_sql("UPDATE review SET decided_at = '2021-01-05 08:30:00.000' WHERE id = 2")
    (remark,) = [remark for remark in verify(database, settings).remarks if "Review" in remark]
    assert "Review 2 of slide A is dated 2021-01-05 08:30:00 UTC, before the call" in remark
    monkeypatch.setattr(review_times, "NAMED", 0)
    with database.read() as conn:
        assert review_times.remarks(conn) == ["1 more review is dated so: `allq query reviews` has the times."]


@pytest.mark.parametrize("body", ["", "7", "[", '{"slide_call":[]}'])
def test_an_event_without_sense_keeps_nobody_from_a_slide(database: Database, body: str) -> None:
    screen(database, "A")
    with database.begin() as conn:
        values = {"body": body}
        statement = "SELECT at, 'slide-looked-at', 'Dr Tester', :body FROM event ORDER BY id LIMIT 1"
        conn.execute(text(f"INSERT INTO event (at, kind, actor, body) {statement}"), values)
        conn.exec_driver_sql("INSERT INTO event_slide SELECT s.id, max(e.id) FROM slide s, event e GROUP BY s.id")
    with database.read() as conn:
        (told,) = history.of_slide(conn, "A")
    assert [event.kind for event in told.events][-1] == "slide-looked-at"
    assert store.review(database, "A", "insufficient", "out of focus") == 1


def test_a_slide_that_was_called_anew_must_be_looked_at_again(database: Database) -> None:
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 2)])
    store.work(database, chunk_ids, lambda f: store.failed(f) if f.path == "A/001.png" else store.screened(f))
    with database.begin() as conn:
        slide = reviews.find(conn, "A")
        reviews.look(conn, slide, reviewer="Dr Tester")
    from db import batches

    with database.begin() as conn:
        again = batches.retry(conn, batch, "tester", chunk_size=4)
    store.work(database, again.chunk_ids)
    with pytest.raises(StoreError, match="called anew"), database.begin() as conn:
        reviews.sign(conn, slide, call="insufficient", reason="x", reviewer="Dr Tester")


def test_a_checkpoint_is_read_back_as_it_was_written(database: Database, settings: Settings) -> None:
    screen(database, "A")
    sealed = sealing.seal(database, settings).checkpoint
    assert sealed is not None
    assert checkpoints.Checkpoint.from_json(json.loads(json.dumps(sealed.as_json()))) == sealed
    for bad in ({}, [], {"note": "x"}, sealed.as_json() | {"checkpoint": 9}, sealed.as_json() | {"note": sealed.text}):
        with pytest.raises(ValueError, match="no checkpoint"):
            checkpoints.Checkpoint.from_json(bad)
