"""Opening a database: made, upgraded, refused, unreachable; in one sentence and without the password."""

import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer

import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError

from allq import logging as allq_logging
from allq.errors import (
    AllqError,
    DatabaseUnreachable,
    ProgramOutdated,
    SchemaOutdated,
    SettingsError,
    StoreError,
)
from db import chunks, health, migrate, named, reads, turns
from db.database import Database
from tests import store
from tests.databases import settings_for
from worker import health as doctor


def test_the_embedded_database_makes_and_upgrades_itself(tmp_path):
    home = tmp_path / "new" / "home"
    database = Database.open(settings_for(home))
    assert (home / "allq.db").is_file()
    assert migrate.current(database) == migrate.HEAD
    with database.read() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert migrate.upgrade(database) == []
    database.close()


def test_several_processes_may_make_the_embedded_database_at_once(tmp_path):
    script = (
        "import sys; from tests.databases import settings_for; from pathlib import Path;"
        "from db.database import Database;"
        "sys.stdin.readline(); Database.open(settings_for(Path(sys.argv[1]))).close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "home")],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda process: process.communicate("go\n")[1], started))
    assert [process.returncode for process in started] == [0] * 4, errors


def test_a_file_that_is_not_to_be_upgraded_is_not_even_made(tmp_path):
    with pytest.raises(SchemaOutdated, match="allq db upgrade"):
        Database.open(settings_for(tmp_path / "home"), upgrade=False)
    assert not (tmp_path / "home").exists()


def test_a_servers_schema_is_upgraded_only_by_command(postgresql, tmp_path):
    url = postgresql.create_bare()
    settings = settings_for(tmp_path, url)
    with pytest.raises(SchemaOutdated, match=r"no allq schema yet. Run `allq db upgrade`"):
        Database.open(settings)
    heard = []
    database = Database.open(settings, upgrade=True)
    assert migrate.upgrade(database, heard.append) == []
    assert migrate.current(database) == migrate.HEAD
    database.close()
    Database.open(settings).close()
    postgresql.drop(url)


@pytest.mark.parametrize("made", [True, False])
def test_a_server_that_is_too_old_is_refused_in_a_sentence_by_whoever_opens_it(postgresql, tmp_path, monkeypatch, made):
    url = postgresql.create() if made else postgresql.create_bare()
    settings = settings_for(tmp_path, url)
    monkeypatch.setattr("db.database.OLDEST_POSTGRESQL", 99)
    sentence = r"is PostgreSQL \d+\.\d+, and allq needs 99 or later. Upgrade the server."
    for upgrade in (None, True, False):
        with pytest.raises(StoreError, match=sentence):
            Database.open(settings, upgrade=upgrade)
    found = next(check for check in doctor.checks(settings) if check.name == "database")
    assert (found.ok, "allq needs 99 or later" in found.detail) == (False, True)
    postgresql.drop(url)


def test_a_schema_from_the_future_is_refused(database, settings):
    with database.begin() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for upgrade in (None, True, False):
        with pytest.raises(SchemaOutdated, match="newer allq"):
            Database.open(settings, upgrade=upgrade)


def test_a_database_of_the_first_schema_is_upgraded_and_what_it_had_is_in_the_ledger(database, settings, monkeypatch):
    from sqlalchemy import text

    from db import lines, sealing, verifying
    from db.witness import Witness

    monkeypatch.setattr(lines, "row_digest", lambda *_: "0" * 64)
    monkeypatch.setattr(lines, "marks", lambda _: "")
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 3)])
    store.work(database, chunk_ids)
    monkeypatch.undo()
    with database.begin() as conn:  # back to the first schema, with the events that its code wrote
        for index in ("chunk_unpublished", "chunk_active", "batch_root"):
            conn.execute(text(f"DROP INDEX {index}"))
        conn.execute(text("DROP VIEW model_activations"))
        for table in ("activation", "review", "leaf", "checkpoint"):
            for view in ("review_queue", "slide_reviews"):
                conn.execute(text(f"DROP VIEW IF EXISTS {view}"))
            conn.execute(text(f"DROP TABLE {table}"))
        conn.execute(text("DROP INDEX event_slide_event_id"))
        if database.dialect == "sqlite":
            triggers = "SELECT sql FROM sqlite_master WHERE name IN ('event_no_update', 'event_no_delete')"
            back = list(conn.execute(text(triggers)).scalars())
            for verb in ("update", "delete"):
                conn.execute(text(f"DROP TRIGGER event_no_{verb}"))
            conn.execute(text("DROP TRIGGER event_slide_with_event"))
        else:
            conn.execute(text("DROP VIEW sealer_event"))
            conn.execute(text("DROP FUNCTION allq_with_event() CASCADE"))
            conn.execute(text("ALTER TABLE event ALTER COLUMN at DROP DEFAULT"))
            back = ["ALTER TABLE event ENABLE TRIGGER event_append_only"]
            conn.execute(text("ALTER TABLE event DISABLE TRIGGER event_append_only"))
        conn.execute(text("DELETE FROM event WHERE kind = 'model-remembered'"))
        for part in (f',"row":"{"0" * 64}"', ',"marks":""', ',"place_marks":""'):
            conn.execute(text("UPDATE event SET body = replace(body, :part, '')"), {"part": part})
        for statement in back:
            conn.exec_driver_sql(statement)
        conn.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert migrate.upgrade(database) == ["0002", "0003", "0004", "0005", "0006"]
    sealing.seal(database, settings)
    witness = Witness(settings.checkpoint_file)
    assert verifying.verify(database, witness, complete=True).problems == []
    with database.begin() as conn:
        conn.execute(text("UPDATE slide SET name = 'B'"))
    assert {problem.table for problem in verifying.verify(database, witness).problems} == {"slide"}
    with database.begin() as conn:
        conn.execute(text("UPDATE slide SET name = 'A'"))
        if database.dialect == "sqlite":
            conn.execute(text("DROP TRIGGER slide_call_no_update"))
        else:
            conn.execute(text("SET LOCAL session_replication_role = replica"))
        conn.execute(text("UPDATE slide_call SET suspects = suspects + 1"))
    said = {problem.table for problem in verifying.verify(database, witness).problems}
    assert said - {"trigger"} == {"slide_call"}


@pytest.fixture
def of_before(postgresql, tmp_path):
    """A PostgreSQL database one revision before the newest."""
    url = postgresql.create()
    database = Database.open(settings_for(tmp_path, url), upgrade=True)
    with database.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '0005'"))
    yield database
    database.close()
    postgresql.drop(url)


def test_an_upgrade_does_not_wait_without_end_for_those_at_work_nor_they_for_it(of_before, monkeypatch):
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.3)
    with of_before.begin(any_schema=True) as at_work:  # as who signs: first the review, then its event
        at_work.execute(text("LOCK TABLE review IN ROW EXCLUSIVE MODE"))
        with pytest.raises(StoreError, match="Stop workers"):
            migrate.upgrade(of_before)
        at_work.execute(text("LOCK TABLE event IN ROW EXCLUSIVE MODE NOWAIT"))
    assert migrate.current(of_before) == "0005"
    assert migrate.upgrade(of_before) == ["0006"]


def test_an_upgrade_goes_on_when_the_last_of_those_at_work_has_ended(of_before):
    with ThreadPoolExecutor(1) as pool:
        with of_before.begin(any_schema=True) as at_work:
            at_work.execute(text("LOCK TABLE review IN ROW EXCLUSIVE MODE"))
            upgraded = pool.submit(migrate.upgrade, of_before)
            time.sleep(0.5)
            assert not upgraded.done()
        assert upgraded.result() == ["0006"]


def test_who_was_at_work_before_an_upgrade_writes_nothing_after_it(of_before, monkeypatch):
    """As a program of before does it, whose revision is that of before: it waits for the upgrade, and is refused."""
    migrating, go_on = Event(), Event()

    def slowly(conn):
        migrating.set()
        assert go_on.wait(30)

    monkeypatch.setattr(chunks, "release_all", slowly)
    with ThreadPoolExecutor(2) as pool:
        upgraded = pool.submit(migrate.upgrade, of_before)
        assert migrating.wait(30)
        monkeypatch.setattr(migrate, "HEAD", "0005")
        begun = pool.submit(_begin_and_say, of_before)
        time.sleep(0.3)
        assert not begun.done(), "it waits for the upgrade's end"
        go_on.set()
        assert upgraded.result() == ["0006"]
        assert "newer allq (schema 0006, this one knows 0005). Update allq here" in begun.result()


def _begin_and_say(database):
    try:
        with database.begin():
            return "begun"
    except ProgramOutdated as error:
        return str(error)


def test_an_upgrade_waits_for_who_writes_by_the_schema_of_before(of_before, monkeypatch):
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(migrate, "HEAD", "0005")
    with of_before.begin():  # has asked for nothing yet
        monkeypatch.undo()
        monkeypatch.setattr(turns, "WAIT_SECONDS", 0.3)
        with pytest.raises(StoreError, match="Stop workers"):
            migrate.upgrade(of_before)
    assert migrate.upgrade(of_before) == ["0006"]


def test_a_schema_that_has_become_another_is_named_by_whatever_is_asked_of_it(database, monkeypatch):
    monkeypatch.setattr(migrate, "HEAD", "0005")
    with pytest.raises(ProgramOutdated, match="newer allq"), database.begin():
        pass
    for question in ("SELECT no_such FROM batch", "SELECT 1 FROM no_such"):
        with pytest.raises(ProgramOutdated, match="newer allq"), database.read() as conn:
            conn.exec_driver_sql(question)
    monkeypatch.setattr(migrate, "HEAD", "0007")
    with pytest.raises(SchemaOutdated, match="Run `allq db upgrade`"), database.begin():
        pass
    monkeypatch.undo()
    with pytest.raises(DBAPIError), database.read() as conn:
        conn.exec_driver_sql("SELECT no_such FROM batch")
    with database.begin() as conn:
        conn.exec_driver_sql("DROP TABLE alembic_version")
    with pytest.raises(SchemaOutdated, match="no allq schema"), database.begin():
        pass


def test_a_look_at_the_schema_is_no_question_of_its_own(database):
    asked = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with database.begin():
        pass
    assert [statement for statement in asked if not statement.startswith("BEGIN")] == [asked[-1]]
    assert "alembic_version" in asked[-1]
    if database.dialect == "postgresql":
        assert "idle_in_transaction_session_timeout" in asked[-1]


def test_an_upgrade_gives_back_what_workers_of_before_are_at(database):
    with database.begin() as conn:
        _, (first, second) = store.submit(conn, [store.new_slide("A", 4)], chunk_size=2)
    held = store.claimed(database, first)
    store.work(database, [second])
    with database.begin() as conn:
        conn.exec_driver_sql("DROP VIEW model_activations")
        conn.exec_driver_sql("DROP TABLE activation")
        if database.dialect == "postgresql":
            conn.exec_driver_sql("DROP VIEW sealer_event")
            conn.exec_driver_sql("DROP FUNCTION allq_with_event() CASCADE")
        else:
            conn.exec_driver_sql("DROP TRIGGER event_slide_with_event")
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
    assert migrate.upgrade(database) == ["0004", "0005", "0006"]
    asked = "SELECT state, attempt, crashes, owner, published_at FROM chunk ORDER BY id"
    assert store.rows(database, asked)[0] == ("pending", 1, 0, None, None)
    assert store.rows(database, asked)[1][0] == "done"
    assert store.record(database, held) is None, "fenced off"
    store.work(database, [first])
    store.assert_sums_hold(database)


def test_an_upgrade_takes_every_table():
    from db.tables import Base

    assert set(migrate.TABLES) == set(Base.metadata.tables)


def test_head_is_the_newest_migration():
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(migrate.SCRIPTS)).get_heads() == [migrate.HEAD]


def test_the_migrations_make_the_schema_that_the_tables_describe(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from db.tables import Base

    with database.begin() as conn, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = MigrationContext.configure(conn, opts={"compare_type": database.dialect == "postgresql"})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:s3cret@127.0.0.1:1/allq",
        "postgresql+psycopg://someone:s3cret@no-such-host.invalid/allq?connect_timeout=2",
        "postgres://someone:s3cret@%2Fnowhere%2Fat%2Fall/allq",
    ],
)
def test_an_unreachable_server_is_told_in_a_sentence_without_the_password(url, tmp_path):
    with pytest.raises(DatabaseUnreachable) as caught:
        Database.open(settings_for(tmp_path, url))
    assert "can't be reached" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__cause__)
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)


def test_a_refused_login_is_told_without_the_password(postgresql, tmp_path):
    url = make_url(postgresql.url).set(username="nobody_known", password="s3cret")
    with pytest.raises(DatabaseUnreachable) as caught:
        Database.open(settings_for(tmp_path, url.render_as_string(hide_password=False)))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:s3cret@h/x", "sqlite://", "://s3cret"])
def test_a_url_that_is_none_is_refused_without_repeating_it(url, tmp_path):
    with pytest.raises(SettingsError) as caught:
        Database.open(settings_for(tmp_path, url))
    assert "ALLQ_DATABASE_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "threshold"), [("", 5), ("?prepare_threshold=none", None), ("?prepare_threshold=9", 9)]
)
def test_a_url_says_whether_statements_are_prepared_which_a_pooler_of_transactions_does_not_bear(
    postgresql, said, threshold
):
    url = make_url(postgresql.url)
    with_query = url.update_query_string(said.removeprefix("?"))
    database = Database(with_query.render_as_string(hide_password=False))
    try:
        with database.read() as connection:
            assert connection.connection.driver_connection.prepare_threshold == threshold
    finally:
        database.close()


@pytest.mark.parametrize("value", ["sometimes", "-1"])
def test_a_url_that_says_how_often_in_no_number_is_refused(value, tmp_path):
    with pytest.raises(SettingsError, match="prepare_threshold=none"):
        Database.open(settings_for(tmp_path, f"postgresql://u@127.0.0.1:1/allq?prepare_threshold={value}"))


def test_the_password_shows_in_no_representation():
    database = Database.at("postgresql://someone:s3cret@host/allq")
    assert "s3cret" not in database.url + repr(database) + repr(database.engine)
    assert database.url == "postgresql+psycopg://someone:***@host/allq"
    among_options = Database.at("postgresql://host/allq?user=someone&password=s3cret&sslpassword=s3cret")
    assert "s3cret" not in among_options.url + repr(among_options)


def test_a_password_among_the_options_of_a_url_is_masked_in_what_a_driver_says(tmp_path):
    with pytest.raises(DatabaseUnreachable) as caught:
        Database.open(settings_for(tmp_path, "postgresql://127.0.0.1:1/allq?user=a&password=s3cret&sslkey=s3cret"))
    assert "s3cret" not in str(caught.value)


def test_the_values_of_a_failed_statement_are_in_no_log(database, settings, capsys, restored_logging):
    name = "Meier".join(("Anna ", ", 1961"))
    allq_logging.configure(settings)
    try:
        with database.begin() as conn:
            conn.execute(text("INSERT INTO batch (note) VALUES (:note)"), {"note": name})
    except DBAPIError:
        allq_logging.logger("test").exception("a statement failed")
    logged = capsys.readouterr().err
    assert "INSERT INTO batch" in logged
    assert name not in logged


def test_a_file_that_is_no_database_is_told_in_a_sentence(tmp_path):
    (tmp_path / "allq.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseUnreachable, match="not a SQLite database"):
        Database.open(settings_for(tmp_path))


@pytest.mark.parametrize(("code", "what"), [("XX001", "Restore it from a backup"), ("XX002", "REINDEX it")])
def test_damage_that_the_server_finds_is_told_in_a_sentence(postgresql, code, what):
    url = postgresql.create()
    database = Database.at(url)
    with pytest.raises(StoreError, match=rf"is damaged \(invalid page in block 7\)\. {what}"), database.read() as conn:
        conn.exec_driver_sql(f"DO $$ BEGIN RAISE 'invalid page in block 7' USING ERRCODE = '{code}'; END $$")
    database.close()
    postgresql.drop(url)


def test_a_home_that_is_no_folder_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnreachable, match="can't be created"):
        Database.open(settings_for(tmp_path / "file" / "home"))


def test_a_full_disk_is_told_in_a_sentence_and_leaves_the_database_whole(sqlite_template, tmp_path):
    import shutil

    shutil.copyfile(sqlite_template, tmp_path / "allq.db")
    database = Database.open(settings_for(tmp_path))
    with pytest.raises(StoreError, match="is full"), database.begin() as conn:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar()
        conn.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        store.submit(conn, [store.new_slide("A", 5_000)])
    with database.read() as conn:
        assert reads.batches(conn) == []
        assert conn.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()


def test_a_connection_that_the_server_has_cut_is_replaced(postgresql, tmp_path):
    url = postgresql.create()
    database = Database.open(settings_for(tmp_path, url))
    cut = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{make_url(url).database}'"
    with pytest.raises(DatabaseUnreachable), database.read() as conn:
        postgresql.execute(cut)
        reads.batches(conn)
    with database.read() as conn:
        assert reads.batches(conn) == []
    postgresql.execute(cut)
    with database.read() as conn:
        assert reads.batches(conn) == []
    database.close()
    postgresql.drop(url)


def test_a_database_that_is_set_to_be_read_only_is_not_written(postgresql, tmp_path):
    url = postgresql.create()
    postgresql.execute(f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = on")
    database = Database.open(settings_for(tmp_path, url))
    with database.read() as conn:
        assert reads.batches(conn) == []
    with pytest.raises(StoreError, match="read-only"), database.begin() as conn:
        conn.exec_driver_sql("DELETE FROM skipped")
    database.close()
    postgresql.drop(url)


def test_who_is_interrupted_while_the_server_is_asked_is_not_told_that_it_cant_be_reached(postgresql, tmp_path):
    url = postgresql.create()
    database = Database.open(settings_for(tmp_path, url))
    timer = Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), database.read() as conn:
        timer.start()
        conn.exec_driver_sql("SELECT pg_sleep(60)")
    with database.read() as conn:
        assert conn.exec_driver_sql("SELECT 1").scalar() == 1
    database.close()
    postgresql.drop(url)


def test_a_read_sees_one_moment_and_writes_nothing(database, settings):

    with database.read() as conn:
        assert reads.batches(conn) == []
        other = Database.open(settings)
        with other.begin() as writing:
            store.submit(writing, [store.new_slide("A", 1)])
        other.close()
        assert reads.batches(conn) == []
    with database.read() as conn:
        assert len(reads.batches(conn)) == 1


def test_status_imports_neither_the_orm_nor_alembic_nor_a_driver_that_is_not_used(tmp_path):
    script = (
        "import sys; from pathlib import Path; from tests.databases import settings_for;"
        "from db import reads; from db.database import Database;"
        "database = Database.open(settings_for(Path(sys.argv[1])));"
        "c = database.read(); conn = c.__enter__(); reads.batches(conn);"
        "print([name for name in ('sqlalchemy.orm', 'alembic', 'psycopg', 'numpy', 'torch') if name in sys.modules])"
    )
    Database.open(settings_for(tmp_path)).close()
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout.strip() == "[]"


def test_the_databases_clock_is_aware(database):
    with database.read() as conn:
        assert health.now(conn).utcoffset().total_seconds() == 0


def test_every_named_query_runs_on_an_empty_database(database):
    with database.read() as conn:
        for info in named.names():
            given = {parameter.name: "1" for parameter in info.parameters}
            columns, rows = named.run(conn, info.name, given)
            assert columns
            assert list(rows) == [] or info.name == "model_use"
            assert info.description.endswith("."), info.name
            assert all(parameter.description for parameter in info.parameters), info.name


def test_a_wrong_query_or_parameter_is_told_in_a_sentence(database):
    with database.read() as conn:
        for name, given, message in (
            ("nothing", {}, "There is no query named 'nothing'. There are: failure_kinds, "),
            ("../worklist", {}, "There is no query named"),
            ("failures", {}, "The query failures needs batch: number of the batch"),
            ("failures", {"batch": "one"}, "batch of the query failures is integer, not 'one'"),
            (
                "worklist",
                {"limit": 3, "slide": "A"},
                "The query worklist has no parameter 'slide'. It takes: batch, limit",
            ),
        ):
            with pytest.raises(AllqError, match=message):
                named.run(conn, name, given)
