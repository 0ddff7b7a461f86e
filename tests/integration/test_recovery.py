"""What an operator can mend is told in one sentence, at the start, in `doctor` and by a worker that runs; and a worker
goes on by itself when it is mended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from allq.errors import BrokerUnreachable, DatabaseUnreachable, SchemaOutdated, StoreError
from db import chunks, migrate, turns
from db import health as store_health
from db.database import Database
from tests import standin, store
from tests.brokers import KillableValkey
from tests.databases import (
    KillablePostgresql,
    NoSmallDisk,
    PostgresqlMissing,
    PostgresqlServer,
    fill,
    mount_small_disk,
    settings_for,
    unmount,
)
from tests.processes import Runner, Task
from tests.screening import status, wait_for
from worker import broker, health, run, submission


@pytest.fixture(scope="module")
def server():
    try:
        made = KillablePostgresql(listen="127.0.0.1")
    except PostgresqlMissing as missing:
        pytest.skip(str(missing))
    PostgresqlServer(made.url()).execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def on_server(server):
    return server.create("recovery")


@pytest.fixture
def small_home(tmp_path):
    """A home on a file system that can be filled."""
    home = tmp_path / "home"
    home.mkdir()
    try:
        mount_small_disk(home, 64 << 20)
    except NoSmallDisk as error:
        pytest.skip(f"no right to mount: {error}")
    yield home
    unmount(home)


def check(settings, name):
    return next(found for found in health.checks(settings) if found.name == name)


def assert_one_sentence(text, *words):
    assert "\n" not in text
    assert all(word in text for word in words), text


class Working:
    """A worker on a home or a database, with one batch that it has screened already."""

    def __init__(self, settings, folder):
        settings = settings.model_copy(
            update={"lease_seconds": 2.0, "housekeeping_seconds": 0.2, "republish_seconds": 0.5, "chunk_size": 4}
        )
        self.settings, self.folder, self.number = settings, folder, 0
        self.database = Database.open(settings)
        self.runner = Runner(Task(settings=settings, log=folder / "log"))
        self.screen_more()

    def submit(self):
        self.number += 1
        slides = standin.write_fields(self.folder / f"{self.number}", slides=2, fields=6, first=1000 * self.number)
        options = submission.SubmitOptions(model=standin.model(self.settings), operator="tester")
        return submission.submit(self.database, self.settings, slides, options).batch

    def screen_more(self):
        batch = self.submit()
        self.until_done(batch)

    def until_done(self, batch):
        wait_for(lambda: status(self.database, batch).state == "done", what="the batch ends")
        assert status(self.database, batch).screened == 12
        assert self.runner.alive(), "it is the worker of the beginning"

    def says(self, words):
        wait_for(lambda: words in (self.folder / "log").read_text(errors="replace"), what=f"the worker says: {words}")

    def close(self):
        self.runner.stop()
        self.database.close()


@pytest.fixture
def working(tmp_path):
    made = []

    def begin(settings):
        made.append(Working(settings, tmp_path))
        return made[-1]

    yield begin
    for each in made:
        print((each.folder / "log").read_text(errors="replace")[-6000:])
        each.close()


# ------------------------------------------------------------------------------------------------------------- disk


def test_a_worker_goes_on_by_itself_when_there_is_room_on_the_disk_again(small_home, working):
    here = working(settings_for(small_home))
    batch = here.submit()
    ballast = fill(small_home)
    with pytest.raises(StoreError, match=r"is full. Make room; nothing is lost"), here.database.begin() as conn:
        store.submit(conn, [store.new_slide("A", 20_000)])
    assert check(here.settings, "disk").ok is False
    ballast.unlink()
    here.until_done(batch)
    here.screen_more()


def test_a_disk_that_is_full_at_the_start_is_named_as_such(small_home):
    settings = settings_for(small_home)
    Database.open(settings).close()
    fill(small_home)
    with pytest.raises(StoreError) as caught:
        run._look_at_the_database(settings)
    assert_one_sentence(str(caught.value), "is full", "Make room")
    assert "Make room" in check(settings, "database").detail


# -------------------------------------------------------------------------------------------------------- read-only


WRITES_AGAIN = """
import sys
from pathlib import Path

from allq.errors import StoreError
from db import turns
from db.database import Database
from tests.databases import settings_for
from worker import health, run

settings = settings_for(Path(sys.argv[1]))
file = settings.home / "allq.db"
worker = Database.open(settings)
worker.close()
file.chmod(0o444)


def refused(attempt):
    try:
        attempt()
    except StoreError as error:
        assert "is read-only. Make the file and its folder writable" in str(error), error
        return
    raise AssertionError("not refused")


def write():
    with worker.begin() as conn:
        turns.wait(conn, "sealing")
        conn.exec_driver_sql("DELETE FROM skipped")


def found(name):
    return next(check for check in health.checks(settings) if check.name == name)


refused(lambda: run._look_at_the_database(settings))
refused(write)
assert found("database").ok is False
with worker.read() as conn:
    conn.exec_driver_sql("SELECT count(*) FROM batch").one()
assert file.with_name("allq.db-shm").exists()
file.chmod(0o644)
write()
run._look_at_the_database(settings)
assert found("database").ok is True
"""


def test_a_read_only_file_is_named_as_such_at_the_start_and_by_the_doctor_and_written_again_when_it_may_be(tmp_path):
    """Whoever reads such a file leaves an index of its log beside it that is as read-only as the file was."""
    as_anyone = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    if os.geteuid() == 0 and subprocess.run([*as_anyone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("nothing is read-only for this account")
    prefix = as_anyone if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, sys.executable, "-c", WRITES_AGAIN, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def test_a_standby_is_named_as_such_and_a_worker_goes_on_when_it_is_promoted(server, on_server, tmp_path, working):
    here = working(settings_for(tmp_path / "home", on_server))
    server.become_standby()
    try:
        here.says("is read-only just now. Check that it is the primary server, and that default_transaction")
        with pytest.raises(StoreError) as caught:
            run._look_at_the_database(here.settings)
        assert_one_sentence(str(caught.value), "read-only", "primary")
        found = check(here.settings, "database")
        assert found.ok is False
        assert "read-only" in found.detail
    finally:
        server.promote()
    here.screen_more()


def cut_sessions(server):
    PostgresqlServer(server.url()).execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'recovery'"
    )


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("user", "name", "words"),
    [
        ("guarded:wrong", "recovery", "refuses this user or password. Correct them in ALLQ_DATABASE_URL"),
        ("guarded", "recovery", "refuses this user or password. Correct them in ALLQ_DATABASE_URL"),
        ("postgres", "no_such", "does not exist on that server. Create it, or correct its name"),
    ],
)
def test_what_a_server_refuses_is_told_by_its_name(server, on_server, tmp_path, user, name, words):
    settings = settings_for(tmp_path, f"postgresql://{user}@127.0.0.1:{server.port}/{name}")
    with pytest.raises(DatabaseUnreachable) as caught:
        run._look_at_the_database(settings)
    assert_one_sentence(str(caught.value), words)
    assert "wrong" not in str(caught.value)
    found = check(settings, "database")
    assert (found.ok, words in found.detail) == (False, True)


def test_a_worker_goes_on_when_the_password_is_right_again(server, on_server, tmp_path, working):
    url = f"postgresql://guarded:right@127.0.0.1:{server.port}/recovery"
    here = working(settings_for(tmp_path / "home", url))
    PostgresqlServer(server.url()).execute("ALTER ROLE guarded PASSWORD 'other'")
    cut_sessions(server)
    here.says("refuses this user or password")
    PostgresqlServer(server.url()).execute("ALTER ROLE guarded PASSWORD 'right'")
    here.screen_more()


def test_an_outdated_schema_is_named_with_the_command_that_mends_it(server, tmp_path):
    PostgresqlServer(server.url()).execute("CREATE DATABASE bare")
    settings = settings_for(tmp_path, server.url("bare"))
    with pytest.raises(SchemaOutdated) as caught:
        run._look_at_the_database(settings)
    assert_one_sentence(str(caught.value), "Run `allq db upgrade`")
    found = check(settings, "database")
    assert "allq db upgrade" in found.detail
    assert "allq db upgrade" in found.advice


def test_a_server_that_forgets_in_a_crash_is_found_by_the_doctor(server, on_server, tmp_path):
    found = check(settings_for(tmp_path, on_server), "database")
    assert found.ok is False
    assert "a crash loses what was recorded (fsync = off)" in found.detail


# ----------------------------------------------------------------------------------------------------------- broker


def test_a_broker_that_refuses_the_password_is_named_as_such(tmp_path):
    valkey = KillableValkey(password="right")
    try:
        settings = settings_for(tmp_path).model_copy(update={"broker_url": SecretStr(valkey.url(password="wrong"))})
        with pytest.raises(BrokerUnreachable) as caught:
            broker.ping(settings)
        assert_one_sentence(str(caught.value), "refuses the password. Correct it in ALLQ_BROKER_URL")
        assert "wrong" not in str(caught.value)
        assert check(settings, "broker").ok is False
        right = settings.model_copy(update={"broker_url": SecretStr(valkey.url(password="right"))})
        broker.ping(right)
    finally:
        valkey.close()


# ------------------------------------------------------------------------------------------------------------ clock


def test_a_wrong_clock_is_told_at_the_start_and_by_the_doctor(database, settings, monkeypatch):
    import time

    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    found = check(settings, "clock")
    assert (found.ok, found.advice) == (False, health.CLOCK_ADVICE)
    assert "3600.0 s apart" in found.detail
    with capture_logs() as logged:
        run._look_at_the_database(settings)
    assert health.CLOCK_ADVICE in str(logged)


# ------------------------------------------------------------------------------------ who stands still, or is gone


def test_a_writer_that_stands_still_in_a_transaction_does_not_hold_up_the_others_for_ever(
    server, on_server, tmp_path, monkeypatch
):
    monkeypatch.setattr("db.database.IDLE_SECONDS", 0.2)
    database = Database.open(settings_for(tmp_path, on_server))
    with database.begin() as conn:
        batch, _ = store.submit(conn, [store.new_slide("A", 1)])
    with pytest.raises(DatabaseUnreachable), database.begin() as conn:
        conn.exec_driver_sql(f"UPDATE batch SET note = 'held' WHERE id = {batch}")
        with database.engine.connect() as other:
            other.exec_driver_sql(f"UPDATE batch SET note = 'free' WHERE id = {batch}")  # waits until the server acts
            other.commit()
        conn.exec_driver_sql("SELECT 1")
    assert store.rows(database, f"SELECT note FROM batch WHERE id = {batch}") == [("free",)]
    database.close()


def test_a_prepared_transaction_that_keeps_the_sealing_waiting_is_named_though_no_process_has_it(
    server, on_server, tmp_path, monkeypatch
):
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.3)
    database = Database.open(settings_for(tmp_path, on_server))
    with database.begin() as conn:
        turns.wait(conn, "sealing")
        conn.exec_driver_sql("PREPARE TRANSACTION 'left behind'")
    try:
        with database.begin() as conn, pytest.raises(StoreError) as caught:
            turns.wait(conn, "sealing")
        assert_one_sentence(
            str(caught.value), "the prepared transaction 'left behind', login postgres", "ROLLBACK PREPARED"
        )
        assert "None" not in str(caught.value)
    finally:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("ROLLBACK PREPARED 'left behind'")
        database.close()


def test_both_sides_of_a_connection_notice_a_network_that_was_cut(server, on_server, tmp_path):
    url = on_server.replace(f"host={server.data}", "host=127.0.0.1")
    database = Database.open(settings_for(tmp_path, url))
    with database.read() as conn:
        shown = {
            name: conn.exec_driver_sql(f"SHOW tcp_{name}").scalar()
            for name in ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
        }
        driver = conn.connection.driver_connection
        ours = {part.keyword.decode(): part.val for part in driver.pgconn.info}
    assert shown == {
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "user_timeout": "25000",
    }
    assert (ours["keepalives_idle"], ours["tcp_user_timeout"]) == (b"10", b"25000")
    store_health.require_writable(database)
    database.close()


# ----------------------------------------------------------------------------------------------- an upgrade meanwhile


def _become(database, revision):
    """As an upgrade to that revision leaves the database."""
    with database.begin(any_schema=True) as conn:
        conn.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
        chunks.release_all(conn)


def test_a_worker_whose_database_was_upgraded_ends_writes_nothing_more_and_leaves_its_work_to_a_newer_one(
    database, settings, tmp_path
):
    settings = settings.model_copy(
        update={"lease_seconds": 60.0, "housekeeping_seconds": 0.5, "republish_seconds": 1.0, "chunk_size": 4}
    )
    slides = standin.write_fields(tmp_path / "slides", slides=2, fields=12)
    older = Runner(Task(settings=settings, log=tmp_path / "older", seconds=0.7))
    options = submission.SubmitOptions(model=standin.model(settings), operator="tester")
    batch = submission.submit(database, settings, slides, options).batch
    wait_for(lambda: store.rows(database, "SELECT 1 FROM chunk WHERE state = 'done'"), what="the first chunk is done")
    wait_for(lambda: store.rows(database, "SELECT 1 FROM chunk WHERE state = 'running'"), what="another is under way")
    _become(database, "9999")
    asked = "SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM finding), (SELECT count(*) FROM leaf)"
    before = store.rows(database, asked)
    try:
        older.process.join(30)
        said = (tmp_path / "older").read_text(errors="replace")
        assert older.process.exitcode == 1, said
    finally:
        older.kill()
    assert said.count("this worker ends: only a newer one can go on") == 1
    assert "written by a newer allq (schema 9999, this one knows " in said
    assert "Traceback" not in said
    assert store.rows(database, asked) == before
    assert set(store.rows(database, "SELECT state, crashes FROM chunk")) == {("done", 0), ("pending", 0)}
    _become(database, migrate.HEAD)
    newer = Runner(Task(settings=settings, log=tmp_path / "newer"))
    try:
        wait_for(lambda: status(database, batch).state == "done", what="the batch ends")
    finally:
        newer.stop()
    assert status(database, batch).screened == 24
    assert store.rows(database, "SELECT DISTINCT crashes FROM chunk") == [(0,)]
    store.assert_sums_hold(database)


def test_a_worker_whose_database_has_an_older_schema_waits_until_it_is_upgraded(database, settings, tmp_path):
    settings = settings.model_copy(update={"housekeeping_seconds": 0.3, "republish_seconds": 0.5, "chunk_size": 4})
    (tmp_path / "log").touch()
    runner = Runner(Task(settings=settings, log=tmp_path / "log"))

    def says(words):
        return words in (tmp_path / "log").read_text(errors="replace")

    try:
        wait_for(lambda: says("worker starts"), what="the worker starts")
        slides = standin.write_fields(tmp_path / "slides", slides=2, fields=12)
        options = submission.SubmitOptions(model=standin.model(settings), operator="tester")
        batch = submission.submit(database, settings, slides, options).batch
        _become(database, "0001")
        wait_for(lambda: says("Run `allq db upgrade`"), what="it says so")
        _become(database, migrate.HEAD)
        wait_for(lambda: status(database, batch).state == "done", what="the batch ends")
    finally:
        runner.stop()
    assert status(database, batch).screened == 24
    assert store.rows(database, "SELECT DISTINCT crashes FROM chunk") == [(0,)]
