"""A backup made while a worker writes is of one moment, and the screening goes on from it."""

import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest
from sqlalchemy import make_url

from db.database import Database
from tests import accounts, standin
from tests.databases import KillablePostgresql, PostgresqlMissing, PostgresqlServer, settings_for
from tests.processes import Runner, Task
from tests.screening import status, wait_for
from worker import embedded, submission

SLIDES, FIELDS = 6, 8


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

    def copy():
        address = ["--host", str(server.data), "--port", str(server.port), "--username", "postgres"]
        dump = subprocess.run(
            [server.programs / "pg_dump", *address, "--format=custom", "laboratory"], check=True, capture_output=True
        )
        PostgresqlServer(server.url()).execute("CREATE DATABASE restored")
        command = [server.programs / "pg_restore", *address, "--exit-on-error", "--dbname=restored"]
        subprocess.run(command, input=dump.stdout, check=True, capture_output=True)

    backed_up_in_mid_batch_goes_on_elsewhere(
        settings_for(tmp_path / "before", url), copy, settings_for(tmp_path / "after", after), tmp_path
    )


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
        worker.kill()  # the disaster; nothing of the old place is looked at any more
        database.close()
        embedded.stop(before)
        shutil.rmtree(before.home)
        restored = Database.open(after)
        assert accounts.violations(restored, ended=False) == []
        assert 0 < status(restored, batch).screened < SLIDES * FIELDS
        worker = Runner(Task(settings=after, log=folder / "after.log"))
        wait_for(lambda: status(restored, batch).state == "done", what="the batch ends in the new place")
        assert status(restored, batch).screened == SLIDES * FIELDS
        assert accounts.violations(restored) == []
        assert accounts.mistaken(restored) == []
        restored.close()
    finally:
        worker.kill()
        embedded.stop(before)
        embedded.stop(after)
