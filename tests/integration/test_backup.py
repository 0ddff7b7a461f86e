"""A backup made while a worker writes is of one moment, and the screening goes on from it."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from allq.errors import LedgerError
from db import events, schema, sealing
from db.database import Database
from db.verifying import verify
from db.witness import Witness
from tests import accounts, standin, store
from tests.databases import KillablePostgresql, PostgresqlMissing, PostgresqlServer, settings_for
from tests.processes import Runner, Task
from tests.screening import status, wait_for
from worker import embedded, health, submission

SLIDES, FIELDS = 6, 8
ROLES = Path(__file__).parents[2] / "deploy" / "postgres" / "roles.sql"


def briskly(settings):
    return settings.model_copy(
        update={"lease_seconds": 1.5, "housekeeping_seconds": 0.2, "republish_seconds": 0.5, "chunk_size": 4}
    )


def vacuum_into(source, target):
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def online_backup(source, target):
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)


@pytest.fixture
def server():
    try:
        made = KillablePostgresql()
    except PostgresqlMissing as missing:
        pytest.skip(str(missing))
    yield made
    made.stop()


@pytest.mark.parametrize("back_up", [vacuum_into, online_backup])
def test_sqlite(tmp_path, back_up):
    before, after = settings_for(tmp_path / "before"), settings_for(tmp_path / "after")

    def copy():
        after.home.mkdir()
        back_up(before.home / "allq.db", after.home / "allq.db")

    backed_up_in_mid_batch_goes_on_elsewhere(before, copy, after, tmp_path)
    with closing(sqlite3.connect(after.home / "allq.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_postgresql(server, tmp_path):
    url = server.create("laboratory")
    after = make_url(url).set(database="restored").render_as_string(hide_password=False)

    backed_up_in_mid_batch_goes_on_elsewhere(
        settings_for(tmp_path / "before", url),
        lambda: restore(server, "laboratory"),
        settings_for(tmp_path / "after", after),
        tmp_path,
    )


def test_a_restored_dump_has_the_schema_that_allq_makes(server):
    restore(server, make_url(server.create("laboratory")).database)
    database = Database.at(server.url("restored"))
    with database.read() as conn:
        assert schema.differences(conn) == []
    database.close()


def test_a_restored_dump_has_the_rights_that_the_file_gave(server):
    url = server.create("laboratory")
    database = Database.at(url)
    with closing(database.engine.raw_connection()) as session:
        session.driver_connection.autocommit = True
        session.driver_connection.execute(ROLES.read_text("utf-8"))
    database.close()
    restore(server, "laboratory")
    database = Database.at(server.url("restored"))
    with database.read() as conn:
        may = "SELECT has_function_privilege(%(role)s, %(name)s, 'EXECUTE')"
        for role, name, expected in (
            ("allq_reader", "pg_advisory_lock(bigint)", False),
            ("allq_worker", "lo_create(oid)", False),
            ("allq_reviewer", "pg_advisory_xact_lock(bigint)", True),
            ("allq_sealer", "pg_try_advisory_xact_lock(integer, integer)", True),
        ):
            assert conn.exec_driver_sql(may, {"role": role, "name": name}).scalar() is expected, (role, name)
        assert schema.differences(conn) == []
    database.close()


def test_what_a_restored_database_lacks_beside_it_is_told_by_the_doctor_and_never_taken_for_nothing(tmp_path):
    before, after = settings_for(tmp_path / "before"), settings_for(tmp_path / "after")
    database = Database.open(before)
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("A", 1)])
    assert sealing.seal(database, before).checkpoints == 1
    after.home.mkdir()
    vacuum_into(before.home / "allq.db", after.home / "allq.db")
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("B", 1)])
    assert sealing.seal(database, before).checkpoints == 1  # which the backup has not

    restored = Database.open(after)
    assert_not_sealable(restored, after, "This machine has not the ledger's key")
    after.ledger_key_file.parent.mkdir(exist_ok=True)
    shutil.copy(before.ledger_key_file, after.ledger_key_file)
    after.ledger_key_file.chmod(0o644)
    assert_not_sealable(restored, after, "may be read by others")
    after.ledger_key_file.chmod(0o600)
    assert ledger_check(after).ok is True  # that the file is missing, nobody knows here
    with pytest.raises(LedgerError, match="No exported checkpoint is at hand"):
        sealing.go_on_after_restore(restored, after, reason="the disk failed", actor="tester")
    shutil.copy(before.checkpoint_file, after.checkpoint_file)
    assert_not_sealable(restored, after, "Checkpoint 2 was exported to")
    assert sealing.go_on_after_restore(restored, after, reason="the disk failed", actor="tester") is not None
    assert ledger_check(after).ok is True
    assert not sealing.lost_change_of_key(restored, after)

    again = settings_for(tmp_path / "again")
    again.home.mkdir()
    vacuum_into(after.home / "allq.db", again.home / "allq.db")
    sealing.rotate_key(restored, after, actor="tester")  # which this backup has not
    shutil.copytree(after.home / "ledger", again.home / "ledger")
    once_more = Database.open(again)
    assert sealing.go_on_after_restore(once_more, again, reason="the disk failed", actor="tester") is not None
    assert sealing.lost_change_of_key(once_more, again)
    sealing.rotate_key(once_more, again, actor="tester")
    assert not sealing.lost_change_of_key(once_more, again)
    assert verify(once_more, Witness(again.checkpoint_file)).problems == []
    once_more.close()
    restored.close()
    database.close()


def ledger_check(settings):
    return next(check for check in health.checks(settings) if check.name == "ledger")


def assert_not_sealable(database, settings, words):
    found = ledger_check(settings)
    assert found.ok is False
    assert words in found.detail
    with database.begin() as conn:
        events.append(conn, "worker-started", {}, actor="tester")
    with pytest.raises(LedgerError, match=words):
        sealing.seal(database, settings)


def test_a_copy_without_a_right_to_write_it_is_read_without_a_change_of_a_byte(tmp_path):
    before, after = settings_for(tmp_path / "before"), settings_for(tmp_path / "archive")
    database = Database.open(before)
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("A", 3)])
    database.close()
    after.home.mkdir()
    copy = after.home / "allq.db"
    vacuum_into(before.home / "allq.db", copy)
    copy.chmod(0o444)
    bytes_before = copy.read_bytes()
    archive = Database.open(after)
    with archive.read() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM field").scalar() == 3
    archive.close()
    assert copy.read_bytes() == bytes_before
    assert [path.name for path in after.home.iterdir()] == ["allq.db"]


def restore(server, name):
    """Dump a database, and restore it as `restored`."""
    address = ["--host", str(server.data), "--port", str(server.port), "--username", "postgres"]
    dump = subprocess.run(
        [server.programs / "pg_dump", *address, "--format=custom", name], check=True, capture_output=True
    )
    PostgresqlServer(server.url()).execute("CREATE DATABASE restored")
    command = [server.programs / "pg_restore", *address, "--exit-on-error", "--dbname=restored"]
    subprocess.run(command, input=dump.stdout, check=True, capture_output=True)


def say_in_the_ledger_that_it_was_restored(database, settings):
    with pytest.raises(LedgerError, match="allq audit restored"):
        sealing.seal(database, settings, wait=True)
    problems = verify(database, Witness(settings.checkpoint_file)).problems
    assert problems
    assert all("was exported and is gone" in problem.what for problem in problems)
    assert sealing.go_on_after_restore(database, settings, reason="the disk failed", actor="tester") is not None
    assert verify(database, Witness(settings.checkpoint_file)).problems == []


def backed_up_in_mid_batch_goes_on_elsewhere(before, copy, after, folder):
    before, after = briskly(before), briskly(after)
    database = Database.open(before)
    slides = standin.write_fields(folder / "slides", slides=SLIDES, fields=FIELDS)
    options = submission.SubmitOptions(model=standin.model(before), operator="tester")
    batch = submission.submit(database, before, slides, options).batch
    worker = Runner(Task(settings=before, log=folder / "before.log", seconds=0.1))
    try:
        wait_for(lambda: status(database, batch).screened > 0, what="the worker writes")
        copy()
        wait_for(lambda: status(database, batch).state == "done", what="the worker writes what the backup has not")
        worker.kill()  # the disaster; nothing of the old place is looked at any more, but the ledger's own folder
        sealing.seal(database, before, wait=True)
        database.close()
        embedded.stop(before)
        shutil.copytree(before.home / "ledger", after.home / "ledger")
        shutil.rmtree(before.home)
        restored = Database.open(after)
        assert accounts.violations(restored, ended=False) == []
        assert 0 < status(restored, batch).screened < SLIDES * FIELDS
        say_in_the_ledger_that_it_was_restored(restored, after)
        worker = Runner(Task(settings=after, log=folder / "after.log"))
        wait_for(lambda: status(restored, batch).state == "done", what="the batch ends in the new place")
        assert status(restored, batch).screened == SLIDES * FIELDS
        worker.stop()
        sealing.seal(restored, after, wait=True)
        assert accounts.violations(restored, exported=after.checkpoint_file) == []
        assert accounts.mistaken(restored) == []
        restored.close()
    finally:
        worker.kill()
        embedded.stop(before)
        embedded.stop(after)
