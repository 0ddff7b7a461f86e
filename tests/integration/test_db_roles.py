"""deploy/postgres/roles.sql: each of the roles logs in, may do what it needs, and is refused everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from allq.errors import FailureCode, LedgerError, NoRight, StoreError
from db import activations, batches, chunks, events, migrate, named, reviews, schema, sealing, turns, verifying
from db.database import Database
from db.records import ClaimedField, Failure, FieldOutcome
from db.tables import Base
from db.witness import Witness
from imaging.synthetic import write_slides
from tests import store
from tests.databases import PostgresqlServer, settings_for
from tests.screening import submit_synthetic
from worker import health
from worker.calling import call_due_slides
from worker.health import _database, _schema
from worker.housekeeping import Housekeeper
from worker.run import _look_at_the_database
from worker.sealer import seal_until_told_to_stop
from worker.station import Station

ROLES = Path(__file__).parents[2] / "deploy" / "postgres" / "roles.sql"
GROUPS = ("owner", "worker", "sealer", "reviewer", "reader")


def apply(server: PostgresqlServer, url: str) -> None:
    """Run the file as the superuser, as psql would: statement after statement, as text."""
    database = Database.open(settings_for(Path("unused"), url), upgrade=False)
    try:
        driver = database.engine.raw_connection()
        try:
            driver.driver_connection.autocommit = True  # type: ignore[union-attr]
            driver.driver_connection.execute(ROLES.read_text("utf-8"))  # type: ignore[union-attr]
        finally:
            driver.close()
    finally:
        database.close()


class Laboratory:
    """A database with the roles in place and a login in each group."""

    def __init__(self, server: PostgresqlServer, url: str) -> None:
        self.server = server
        self.url = url

    def login(self, group: str) -> str:
        return f"{make_url(self.url).database}_{group}"

    def url_as(self, group: str) -> str:
        return make_url(self.url).set(username=self.login(group)).render_as_string(hide_password=False)

    @contextmanager
    def opened_as(self, group: str) -> Iterator[Database]:
        database = Database.open(settings_for(Path("unused"), self.url_as(group)), upgrade=False)
        try:
            yield database
        finally:
            database.close()

    def refuses(self, group: str, statement: str) -> None:
        """The role is refused for want of a right; by the trigger where the right would be there."""
        with (
            self.opened_as(group) as database,
            pytest.raises(NoRight, match=r"may not do this \((permission denied|must be (owner|superuser)).*roles"),
            database.begin() as conn,
        ):
            conn.exec_driver_sql(statement)


FAR = 4611686018427387904
"""A number far ahead."""


def rest(table: str) -> str:
    """The columns of a table that is never changed but its number, in their order."""
    return ", ".join(column.name for column in Base.metadata.tables[table].columns if column.name != "id")


@pytest.fixture(scope="module")
def laboratory(postgresql: PostgresqlServer) -> Iterator[Laboratory]:
    found = Laboratory(postgresql, postgresql.create())
    apply(postgresql, found.url)
    for group in GROUPS:
        postgresql.execute(f"CREATE ROLE {found.login(group)} LOGIN PASSWORD 'x' IN ROLE allq_{group}")
    postgresql.execute(f"ALTER ROLE {found.login('owner')} SET role TO allq_owner")
    yield found
    postgresql.drop(found.url)
    for group in GROUPS:
        postgresql.execute(f"DROP ROLE {found.login(group)}")
    for group in GROUPS:
        with suppress(Exception):  # on a server that isn't ours alone, another database may use them
            postgresql.execute(f"DROP ROLE allq_{group}")


@pytest.fixture(scope="module")
def written(laboratory: Laboratory) -> Laboratory:
    """With a slide screened, by the worker's role."""
    with laboratory.opened_as("worker") as database:
        with database.begin() as conn:
            _, chunk_ids = store.submit(conn, [store.new_slide("A", 3)])
        store.work(database, chunk_ids)
    return laboratory


def relations(laboratory: Laboratory) -> dict[str, str]:
    """Tables and views of the schema: name -> kind."""
    with laboratory.opened_as("owner") as database, database.read() as conn:
        rows = conn.exec_driver_sql(
            "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'v')"
        )
        return {name: "table" if kind == "r" else "view" for name, kind in rows}


def granted(laboratory: Laboratory, group: str) -> dict[str, set[str]]:
    """What a group may do with whole relations or some of their columns."""
    with laboratory.opened_as("owner") as database, database.read() as conn:
        rows = conn.exec_driver_sql(
            "SELECT table_name, privilege_type FROM information_schema.table_privileges WHERE grantee = %(role)s "
            "UNION "
            "SELECT table_name, privilege_type FROM information_schema.column_privileges WHERE grantee = %(role)s",
            {"role": f"allq_{group}"},
        )
        found: dict[str, set[str]] = {}
        for name, privilege in rows:
            found.setdefault(name, set()).add(privilege)
        return found


def stated() -> set[str]:
    """Every relation that the file names."""
    text = ROLES.read_text("utf-8")
    lists = re.findall(r"ARRAY\[([^\]]*)\]\) AS name", text)
    names = {name for entry in lists for name in re.findall(r"'(\w+)'", entry)}
    return names | set(re.findall(r"^    \('(\w+)', 'allq_", text, re.MULTILINE))


def test_every_table_and_view_has_its_rights_stated_and_no_other_is_named(laboratory: Laboratory) -> None:
    assert stated() == set(relations(laboratory))


def test_the_file_may_be_run_any_number_of_times_and_takes_back_what_was_given_beside_it(
    laboratory: Laboratory,
) -> None:
    before = {group: granted(laboratory, group) for group in GROUPS}
    with laboratory.opened_as("owner") as database, database.begin() as conn:
        conn.exec_driver_sql("GRANT DELETE ON event TO allq_worker")
        conn.exec_driver_sql("GRANT UPDATE (body) ON event TO allq_worker")
        conn.exec_driver_sql("GRANT SELECT ON field TO PUBLIC")
    apply(laboratory.server, laboratory.url)
    assert {group: granted(laboratory, group) for group in GROUPS} == before


def test_a_group_is_a_member_of_no_other_role_once_the_file_has_run_again(laboratory: Laboratory) -> None:
    database = make_url(laboratory.url).database
    for statement in (
        "GRANT allq_owner TO allq_worker WITH ADMIN OPTION",
        "GRANT pg_read_all_data TO allq_reader",
        f"GRANT TEMPORARY, CREATE ON DATABASE {database} TO allq_reader",
    ):
        laboratory.server.execute(statement)
    # by somebody else, too, whose own right it hangs on
    laboratory.server.execute(f"GRANT pg_monitor TO {laboratory.login('owner')} WITH ADMIN OPTION")
    laboratory.server.execute(f"GRANT pg_monitor TO allq_sealer GRANTED BY {laboratory.login('owner')}")
    try:
        with laboratory.opened_as("worker") as opened, opened.begin() as conn:
            conn.exec_driver_sql("SET LOCAL ROLE allq_owner")
            conn.rollback()
        apply(laboratory.server, laboratory.url)
        with laboratory.opened_as("owner") as opened:
            members = "SELECT r.rolname, m.roleid FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
            groups = ", ".join(f"'allq_{group}'" for group in GROUPS)
            assert store.rows(opened, f"{members} WHERE r.rolname IN ({groups})") == []
        laboratory.refuses("worker", "SET ROLE allq_owner")
        laboratory.refuses("reader", "SELECT * FROM event")
        laboratory.refuses("reader", "CREATE TEMPORARY TABLE mine (id integer)")
        laboratory.refuses("reader", "CREATE SCHEMA mine")
    finally:
        laboratory.server.execute(f"REVOKE pg_monitor FROM {laboratory.login('owner')} CASCADE")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_advisory_lock(hashtext('allq'), hashtext('sealer'))",
        "SELECT pg_advisory_lock_shared(hashtext('allq'), hashtext('sealer'))",
        "SELECT pg_try_advisory_lock(hashtext('allq activation'))",
        "SELECT pg_try_advisory_xact_lock_shared(hashtext('allq activation'))",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_create(0)",
        "SELECT lo_creat(-1)",
        "SELECT lo_import('/etc/hostname')",
        "SELECT pg_logical_emit_message(false, 'x', 'x')",
        "SELECT pg_logical_emit_message(false, 'x', CAST('x' AS bytea))",
    ],
)
def test_nobody_keeps_a_lock_or_fills_the_disk_by_a_function(written: Laboratory, statement: str) -> None:
    for group in GROUPS:
        written.refuses(group, statement)


def test_a_lock_is_taken_by_those_alone_whose_work_it_orders(written: Laboratory) -> None:
    sealing_, activation = "hashtext('allq'), hashtext('sealer')", "hashtext('allq activation')"
    for group in ("worker", "reviewer", "reader"):
        written.refuses(group, f"SELECT pg_advisory_xact_lock({sealing_})")
        written.refuses(group, f"SELECT pg_try_advisory_xact_lock({sealing_})")
    for group in ("worker", "sealer", "reader"):
        written.refuses(group, f"SELECT pg_advisory_xact_lock({activation})")
    with written.opened_as("reader") as database, database.read() as conn:
        conn.exec_driver_sql("SELECT pg_advisory_unlock_all()")  # as asyncpg does before a session is used again
    elsewhere = Database.at(written.server.url)
    try:
        with elsewhere.begin(any_schema=True) as conn:
            conn.exec_driver_sql("SET LOCAL ROLE allq_reader")
            conn.exec_driver_sql("SELECT pg_advisory_xact_lock(1), lo_create(0)")
            conn.rollback()
    finally:
        elsewhere.close()


def test_a_table_for_which_nothing_is_stated_is_refused_by_name(laboratory: Laboratory) -> None:
    with laboratory.opened_as("owner") as database:
        with database.begin() as conn:
            conn.exec_driver_sql("CREATE TABLE forgotten (id integer)")
        try:
            with pytest.raises(Exception, match="states no rights for: forgotten"):
                apply(laboratory.server, laboratory.url)
        finally:
            with database.begin() as conn:
                conn.exec_driver_sql("DROP TABLE forgotten")


def test_no_role_but_the_owner_may_more_than_read_and_append_what_is_never_changed(laboratory: Laboratory) -> None:
    moving = {"batch", "slide", "chunk", "field"}
    for group in ("worker", "sealer", "reviewer", "reader"):
        for name, rights in granted(laboratory, group).items():
            may_hold = moving | {"finding"} if group == "worker" else set()
            held = {"UPDATE"} if name in may_hold else set()
            assert rights <= {"SELECT", "INSERT"} | held, (group, name)
    kinds = relations(laboratory)
    assert {name for name in granted(laboratory, "reader") if kinds[name] == "table"} == {"alembic_version"}
    appended = {
        group: {name for name, rights in granted(laboratory, group).items() if "INSERT" in rights} for group in GROUPS
    }
    assert appended["reviewer"] == {"review", "model", "activation", "event", "event_slide"}
    assert appended["sealer"] == {"leaf", "checkpoint", "sealer_event"}
    assert not appended["worker"] & {"review", "activation", "leaf", "checkpoint"}


def test_a_worker_submits_and_screens_a_real_chunk_and_all_that_may_befall_one(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "home", laboratory.url_as("worker")).model_copy(update={"chunk_size": 4})
    settings.home.mkdir()
    write_slides(tmp_path / "slides", slides=1, fields=2, seed=3)
    with laboratory.opened_as("worker") as database:
        batch = submit_synthetic(database, settings, tmp_path / "slides").batch
        (chunk,) = (row[0] for row in store.rows(database, "SELECT id FROM chunk WHERE batch_id = :b", b=batch))
        station = Station(settings)
        try:
            result = station.screen_chunk(chunk)
        finally:
            station.close()
        assert result is not None
        assert (result.screened, result.failed) == (1, 1), "one of two synthetic fields is a broken file"
        assert store.rows(database, "SELECT count(*) FROM worklist WHERE batch = :b", b=batch) == [(1,)]

        with database.begin() as conn:
            other, (first, second) = store.submit(
                conn, [store.new_slide("B", 3), store.new_slide("C", 3)], chunk_size=3
            )
        claim = store.claimed(database, first)
        with database.begin() as conn:
            assert chunks.renew(conn, claim, 60)
            assert chunks.release(conn, claim)
        store.record(database, store.claimed(database, first), store.failed)
        with database.begin() as conn:
            assert batches.retry(conn, other, "tester@here", chunk_size=4).fields == 3
            chunks.mark_published(conn, [second])
        claim = store.claimed(database, second)
        with database.begin() as conn:  # halves it
            assert chunks.give_up(conn, claim, Failure(code=str(FailureCode.INTERNAL), sentence="tried")) is not None
            assert batches.cancel(conn, other, "tester@here") == 6
        call_due_slides(database, settings, worker="tester")
        store.assert_sums_hold(database)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET body = '{}'",
        "DELETE FROM event",
        "TRUNCATE event CASCADE",
        "UPDATE event_slide SET slide_id = 1",
        "UPDATE slide_call SET call = 'no-suspects-seen'",
        "UPDATE model SET name = 'x'",
        "UPDATE finding SET call = 'benign'",
        "DELETE FROM finding",
        "DELETE FROM field",
        "INSERT INTO event (id, at, kind, actor, body) VALUES (4611686018427387904, now(), 'x', 'x', '{}')",
        f"INSERT INTO slide_call SELECT {FAR}, {rest('slide_call')} FROM slide_call",
        f"INSERT INTO model SELECT {FAR}, {rest('model')} FROM model",
        f"INSERT INTO finding SELECT {FAR}, {rest('finding')} FROM finding",
        f"INSERT INTO batch (id) VALUES ({FAR})",
        f"INSERT INTO field (id) VALUES ({FAR})",
        "INSERT INTO field (slide_id, chunk_id, path, size, modified_ns, state) VALUES (1, 1, 'x', 1, 1, 'cancelled')",
        "UPDATE leaf SET hash = ''",
        "INSERT INTO leaf (seq, event_id, hash) VALUES (4611686018427387904, 1, '')",
        "INSERT INTO checkpoint SELECT * FROM checkpoint",
        "DELETE FROM checkpoint",
        "INSERT INTO review SELECT * FROM review",
        "INSERT INTO activation (model_id, activated_by, reason, activated_at) VALUES (1, 'x', 'x', now())",
        "UPDATE activation SET reason = 'x'",
        "DELETE FROM activation",
        "UPDATE batch SET operator = 'somebody else'",
        "UPDATE batch SET model_id = 1",
        "UPDATE field SET path = 'B/1.png'",
        "UPDATE field SET slide_id = 1",
        "UPDATE slide SET name = 'B'",
        "UPDATE alembic_version SET version_num = '0000'",
        "ALTER TABLE event DISABLE TRIGGER ALL",
        "DROP TRIGGER event_append_only ON event",
        "CREATE OR REPLACE FUNCTION allq_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "SELECT setval('event_id_seq', 1)",
        "SET session_replication_role = replica",
        "CREATE TABLE mine (id integer)",
        "CREATE TEMPORARY TABLE mine (id integer)",
        "SET ROLE allq_owner",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY event TO PROGRAM 'cat'",
    ],
)
def test_a_worker_is_refused_what_would_change_the_record(written: Laboratory, statement: str) -> None:
    written.refuses("worker", statement)


_ANOTHER_CHUNK = (
    "INSERT INTO chunk (id, batch_id, state, fields, waiting) SELECT nextval('chunk_id_seq'), max(id), 'pending', 1, 1 "
    "FROM batch"
)
_SCREENED = (
    "UPDATE field SET chunk_id = (SELECT max(id) FROM chunk), state = 'screened', linked = true, failure = NULL, "
    "failure_sentence = NULL, sha256 = NULL, finding_id = (SELECT max(id) FROM finding)"
)


@pytest.mark.parametrize(
    ("statements", "path"),
    [
        (["UPDATE field SET failure = 'missing', sha256 = NULL WHERE path = 'one/000.png'"], "one/000.png"),
        (["UPDATE field SET failure_sentence = 'it is not there' WHERE path = 'one/000.png'"], "one/000.png"),
        ([_ANOTHER_CHUNK, f"{_SCREENED} WHERE path = 'one/000.png'"], "one/000.png"),
        (
            [
                _ANOTHER_CHUNK,
                "INSERT INTO field (slide_id, chunk_id, size, modified_ns, path) "
                "SELECT max(slide_id), max(chunk_id), 1, 1, 'one/new.png' FROM field",
                f"{_SCREENED} WHERE path = 'one/new.png'",
            ],
            "one/new.png",
        ),
        (["UPDATE field SET duplicate = false WHERE path = 'one/001.png'"], "one/001.png"),
        (["UPDATE field SET duplicate = true WHERE path = 'one/002.png'"], "one/002.png"),
    ],
    ids=["another code", "another reason", "screened", "put in", "no twin", "a twin"],
)
def test_what_a_worker_may_do_to_a_field_beside_the_record_is_named(
    written: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statements: list[str], path: str
) -> None:
    def judge(field: ClaimedField) -> FieldOutcome:
        if field.path.endswith("000.png"):
            return store.failed(field)
        return store.screened(field, of="same" if field.path.endswith("001.png") else None)

    with written.opened_as("worker") as database:
        if not store.rows(database, "SELECT 1 FROM slide WHERE name = 'one'"):
            with database.begin() as conn:
                _, chunk_ids = store.submit(conn, [store.new_slide("one", 3), store.new_slide("two", 2)])
            store.work(database, chunk_ids, judge)
        with database.begin() as conn, monkeypatch.context() as patched:
            patched.setattr(database, "read", lambda: nullcontext(conn))
            before = verifying.verify(database, Witness(tmp_path / "none")).problems
            for statement in statements:
                assert conn.exec_driver_sql(statement).rowcount == 1
            (number,) = conn.exec_driver_sql(f"SELECT id FROM field WHERE path = '{path}'").scalars()
            found = verifying.verify(database, Witness(tmp_path / "none")).problems
            conn.rollback()
    assert [one for one in before if one.table == "field"] == []
    assert ("field", str(number)) in [(one.table, one.row) for one in found]


def test_the_one_column_of_a_finding_that_a_worker_may_hold_can_still_not_be_changed(written: Laboratory) -> None:
    with (
        written.opened_as("worker") as database,
        pytest.raises(Exception, match="never changed or removed"),
        database.begin() as conn,
    ):
        conn.exec_driver_sql("UPDATE finding SET recorded_at = now()")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE slide SET suspicion = 0",
        "UPDATE field SET state = 'cancelled'",
        "INSERT INTO slide_call SELECT * FROM slide_call",
        "INSERT INTO finding SELECT * FROM finding",
        "INSERT INTO batch (root, queue, model_id, operator, settings, created_at) "
        "VALUES ('/', 'stat', 1, 'x', '{}', now())",
        "UPDATE event SET body = '{}'",
        "DELETE FROM event",
        "INSERT INTO event (id, at, kind, actor, body) VALUES (4611686018427387904, now(), 'x', 'x', '{}')",
        "INSERT INTO checkpoint SELECT * FROM checkpoint",
        "UPDATE activation SET model_id = 1",
        f"INSERT INTO review SELECT {FAR}, {rest('review')} FROM review",
        "INSERT INTO activation (id, model_id, activated_by, reason, activated_at) "
        "VALUES (4611686018427387904, 1, 'x', 'x', now())",
        "SELECT nextval('slide_id_seq')",
    ],
)
def test_a_reviewer_reads_everything_and_changes_nothing_that_was_computed(written: Laboratory, statement: str) -> None:
    with written.opened_as("reviewer") as database:
        assert store.rows(database, "SELECT count(*) FROM finding")[0][0] > 0
    written.refuses("reviewer", statement)


def test_a_reviewer_looks_and_signs_and_can_move_no_slide(written: Laboratory) -> None:
    with written.opened_as("reviewer") as database, database.begin() as conn:
        slide = reviews.find(conn, "A")
        reviews.look(conn, slide, reviewer="m.meier")
        assert reviews.sign(conn, slide, call="insufficient", reason="out of focus", reviewer="m.meier")
    written.refuses("reviewer", "UPDATE slide SET id = id + 100000")


@pytest.mark.parametrize("group", ["sealer", "reviewer", "reader"])
def test_nobody_but_a_worker_keeps_rows_from_others(written: Laboratory, group: str) -> None:
    for name in Base.metadata.tables:
        written.refuses(group, f"SELECT 1 FROM {name} FOR KEY SHARE")


def test_what_a_reviewer_has_begun_and_not_ended_keeps_no_worker_from_recording(written: Laboratory) -> None:
    with written.opened_as("worker") as database, written.opened_as("reviewer") as other:
        with database.begin() as conn:
            batch, chunk_ids = store.submit(conn, [store.new_slide("B", 2)])
            slide = conn.exec_driver_sql(f"SELECT id FROM slide WHERE batch_id = {batch}").scalar_one()
        with other.begin() as open_still:  # what it tells of is held by its keys
            events.append(
                open_still, "test", {}, actor="m.meier", batch_id=batch, chunk_id=chunk_ids[0], slide_ids=[slide]
            )
            store.work(database, chunk_ids)
            open_still.rollback()


def test_a_reviewer_chooses_the_model_a_worker_and_a_reader_see_it_and_may_not(written: Laboratory) -> None:
    with written.opened_as("reviewer") as database:
        done = store.activate(database, "fits our smears", model_id="ef" * 32, name="not used before", by="m.meier")
    for group in ("worker", "reader"):
        with written.opened_as(group) as database:
            with database.read() as conn:
                assert activations.latest(conn) == done
            with pytest.raises(StoreError, match=r"may not do this .*roles\.sql"):
                store.activate(database, "x")
            with database.read() as conn:
                assert activations.latest(conn) == done


def test_a_reviewer_kept_from_choosing_the_model_is_told_by_which_session_and_work_goes_on(
    written: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.05)
    with written.opened_as("reviewer") as one, written.opened_as("reviewer") as other:
        before = store.activate(one, "fits our smears", by="m.meier")
        with one.begin() as keeping:
            keeping.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('allq activation'))")
            pid = keeping.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            told = f"with the activation: process {pid} of the server, login {written.login('reviewer')}. Try again"
            with pytest.raises(StoreError, match=told):
                store.activate(other, "fits them better", by="k.klein")
            with written.opened_as("worker") as database:
                with database.begin() as conn:
                    assert activations.latest(conn) == before
                    _, chunk_ids = store.submit(conn, [store.new_slide("while it is kept", 2)])
                store.work(database, chunk_ids)
        after = store.activate(other, "fits them better", by="k.klein")
        with one.read() as conn:
            assert activations.latest(conn) == after


def test_a_worker_starts_with_that_role_alone(written: Laboratory, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, written.url_as("worker"))
    with written.opened_as("worker") as database:
        before = store.rows(database, "SELECT count(*) FROM event WHERE kind = 'worker-started'")[0][0]
        _look_at_the_database(settings)
        told = store.rows(database, "SELECT count(*) FROM event WHERE kind = 'worker-started'")[0][0]
        assert told == before + 1  # type: ignore[operator]
        assert _database(database).ok or "fsync" in _database(database).detail


def test_only_who_may_seal_seals_and_a_worker_leaves_it_to_them_in_silence(
    written: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = settings_for(tmp_path / "worker", written.url_as("worker"))
    monkeypatch.setattr(Housekeeper, "_deliver", lambda *_: None)
    housekeeper = Housekeeper(None, worker)
    with capture_logs() as logged:
        for _ in range(2):
            housekeeper.tick()
            housekeeper._sealer._seal_at = 0.0
        housekeeper.end()
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [
        ("sealing the ledger is left to others", "info")
    ]
    assert not worker.ledger_key_file.exists()
    with written.opened_as("worker") as database, pytest.raises(LedgerError, match="in the group allq_sealer"):
        sealing.seal(database, worker, wait=True)
    sealer = settings_for(tmp_path / "sealer", written.url_as("sealer"))
    with written.opened_as("sealer") as database:
        assert sealing.seal(database, sealer, wait=True).events > 0
        sealing.rotate_key(database, sealer, actor="tester")
        assert sealing.go_on_after_restore(database, sealer, reason="none", actor="tester") is None
    with written.opened_as("reviewer") as database:
        assert verifying.verify(database, Witness(sealer.checkpoint_file), complete=True).problems == []
    assert not worker.checkpoint_file.exists(), "there was nothing to catch up with"
    with written.opened_as("worker") as database, pytest.raises(LedgerError, match="in the group allq_sealer"):
        sealing.seal(database, worker)
    assert worker.checkpoint_file.read_bytes() == sealer.checkpoint_file.read_bytes(), "kept by workers as well"
    for login in ("sealer", "worker"):
        with pytest.raises(LedgerError, match=r"has not the ledger's key|in the group allq_sealer"):
            seal_until_told_to_stop(settings_for(tmp_path / "elsewhere", written.url_as(login)))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM field",
        "SELECT * FROM worklist",
        "INSERT INTO finding SELECT * FROM finding",
        "INSERT INTO event_slide VALUES (1, 1)",
        "INSERT INTO event (id, at, kind, actor, body) VALUES (4611686018427387904, now(), 'x', 'x', '{}')",
        "INSERT INTO event (kind, actor, body) VALUES ('ledger-key-rotated', 'x', '{}')",
        "INSERT INTO sealer_event (at, kind, actor, body) VALUES ('infinity', 'ledger-key-rotated', 'x', '{}')",
        "INSERT INTO sealer_event (id, kind, actor, body) VALUES (77, 'ledger-key-rotated', 'x', '{}')",
        "UPDATE sealer_event SET body = '{}'",
        "DELETE FROM sealer_event",
        "UPDATE checkpoint SET size = 0",
        "DELETE FROM leaf",
        "TRUNCATE leaf",
        "UPDATE event SET body = '{}'",
        "SET session_replication_role = replica",
        "SET ROLE allq_worker",
    ],
)
def test_who_seals_may_do_nothing_else(written: Laboratory, statement: str) -> None:
    written.refuses("sealer", statement)


@pytest.mark.parametrize("kind", ["slide-called", "slide-reviewed", "ledger-began", "", "backup-restored "])
def test_who_seals_appends_no_event_but_of_keys_and_backups(written: Laboratory, kind: str) -> None:
    with written.opened_as("sealer") as database:
        with pytest.raises(Exception, match="violates check option"), database.begin() as conn:
            events.append_of_sealer(conn, kind, {}, actor="sealer")
        with pytest.raises(NoRight), database.begin() as conn:
            events.append(conn, kind, {}, actor="sealer")


@pytest.mark.parametrize("group", ["worker", "reviewer"])
@pytest.mark.parametrize("at", ["'infinity'", "'-infinity'", "'294276-01-01'", "'2001-01-01'", "now()", "DEFAULT"])
def test_nobody_who_appends_an_event_chooses_its_time(written: Laboratory, group: str, at: str) -> None:
    written.refuses(group, f"INSERT INTO event (at, kind, actor, body) VALUES ({at}, 'x', 'x', '{{}}')")
    with written.opened_as(group) as database, database.begin() as conn:
        before = conn.exec_driver_sql("SELECT clock_timestamp() - interval '1 ms'").scalar()
        number = events.append(conn, "x", {}, actor="x")
        statement = f"SELECT at, at BETWEEN %(before)s AND clock_timestamp() FROM event WHERE id = {number}"
        told_at, in_between = conn.exec_driver_sql(statement, {"before": before}).one()
        conn.rollback()
    assert in_between
    assert told_at.microsecond % 1000 == 0


@pytest.mark.parametrize("at", ["'infinity'", "'2001-01-01'", "now()", "DEFAULT"])
def test_who_chooses_the_active_model_does_not_choose_when(written: Laboratory, at: str) -> None:
    columns = "model_id, activated_by, reason"
    written.refuses("reviewer", f"INSERT INTO activation ({columns}, activated_at) VALUES (1, 'x', 'x', {at})")
    with written.opened_as("reviewer") as database, database.begin() as conn:
        before = conn.exec_driver_sql("SELECT clock_timestamp() - interval '1 ms'").scalar()
        conn.exec_driver_sql(f"INSERT INTO activation ({columns}) SELECT min(id), 'x', 'x' FROM model")
        newest = activations.latest(conn)
        after = conn.exec_driver_sql("SELECT clock_timestamp()").scalar()
        conn.rollback()
    assert newest is not None
    assert before <= newest.activated_at <= after


@pytest.mark.parametrize(
    ("group", "table", "column"),
    [
        ("worker", "batch", "created_at"),
        ("worker", "finding", "recorded_at"),
        ("worker", "slide_call", "called_at"),
        ("worker", "model", "added_at"),
        ("reviewer", "model", "added_at"),
        ("reviewer", "review", "decided_at"),
    ],
)
def test_nobody_who_submits_calls_or_decides_chooses_when(
    written: Laboratory, group: str, table: str, column: str
) -> None:
    for at in ("'infinity'", "'2020-01-01'", "now()", "DEFAULT"):
        written.refuses(group, f"INSERT INTO {table} ({column}) VALUES ({at})")
    with written.opened_as("reviewer") as database:
        store.review(database, "A", "insufficient", "out of focus", reviewer="m.meier")
        now = f"{column} BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp()"
        assert set(store.rows(database, f"SELECT {now} FROM {table}")) == {(True,)}


@pytest.mark.parametrize("group", ["worker", "reviewer"])
def test_nobody_adds_a_slide_to_an_event_of_before(written: Laboratory, group: str) -> None:
    with (
        written.opened_as(group) as database,
        pytest.raises(IntegrityError, match="written in the transaction of their event"),
        database.begin() as conn,
    ):
        conn.exec_driver_sql("INSERT INTO event_slide SELECT 4711, min(id) FROM event")


def test_every_login_that_may_read_the_tables_sees_whether_the_schema_is_allqs(written: Laboratory) -> None:
    for group in ("owner", "worker", "reviewer"):
        with written.opened_as(group) as database, database.read() as conn:
            assert schema.differences(conn) == [], group
    with (
        written.opened_as("reader") as database,
        database.read() as conn,
        pytest.raises(NoRight, match="may not read the tables"),
    ):
        schema.differences(conn)


def test_who_may_not_read_all_tables_is_told_which_login_looks_at_the_rest_of_the_schema(
    written: Laboratory, tmp_path: Path
) -> None:
    for group in ("sealer", "reader"):
        with written.opened_as(group) as database:
            check = _schema(database)
        assert check.ok is None, check
        assert "field" in check.detail
        assert "worker's or a reviewer's" in (check.advice or "")
        settings = settings_for(tmp_path, written.url_as(group))
        refused = {check.name for check in health.checks(settings) if check.ok is False and "crash" not in check.detail}
        assert not refused & {"database", "schema", "ledger", "clock"}, "the tests' server forgets in a crash"
    with written.opened_as("owner") as database, database.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE leaf DISABLE TRIGGER leaf_append_only")
    try:
        with written.opened_as("sealer") as database:
            check = _schema(database)
        assert check.ok is False
        assert "trigger leaf_append_only is switched off" in check.detail
    finally:
        with written.opened_as("owner") as database, database.begin() as conn:
            conn.exec_driver_sql("ALTER TABLE leaf ENABLE TRIGGER leaf_append_only")


def test_after_an_upgrade_a_login_without_rights_to_what_is_new_is_told_to_run_the_file_again(
    written: Laboratory, tmp_path: Path
) -> None:
    with written.opened_as("owner") as database, database.begin() as conn:
        conn.exec_driver_sql("REVOKE ALL ON activation, model_activations FROM allq_worker")
    try:
        with written.opened_as("worker") as database:
            check = _schema(database)
            assert check.ok is None
            assert "activation, model_activations" in check.detail
            assert "run deploy/postgres/roles.sql again" in (check.advice or "")
            with pytest.raises(NoRight, match=r"activation, model_activations.*run deploy/postgres/roles\.sql again"):
                verifying.verify(database, Witness(tmp_path / "none"))
    finally:
        apply(written.server, written.url)


RIGHTS_TO_SET = "SELECT to_regclass('pg_catalog.pg_parameter_acl') IS NOT NULL"
OTHER_PROGRAM = (
    "CREATE SCHEMA lims",
    "CREATE TABLE lims.review (id bigint)",
    "GRANT CONNECT ON DATABASE {database} TO {stranger}",
    "GRANT USAGE ON SCHEMA lims, public TO {stranger}",
)
"""A program that has nothing to do with allq but stands in the same database, and its login."""


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (
            ["ALTER ROLE {worker} SET session_replication_role = replica"],
            {"setting session_replication_role is replica for role {worker}: no trigger fires"},
        ),
        (
            ["ALTER ROLE {worker} IN DATABASE {database} SET session_replication_role = 'REPLICA'"],
            {"setting session_replication_role is replica for role {worker} in this database: no trigger fires"},
        ),
        (
            ["ALTER DATABASE {database} SET session_replication_role = replica"],
            {"setting session_replication_role is replica for every role in this database: no trigger fires"},
        ),
        (["ALTER ROLE {worker} IN DATABASE postgres SET session_replication_role = replica"], set()),
        (["ALTER ROLE {stranger} SET session_replication_role = replica"], set()),
        (
            ["ALTER ROLE {worker} SET session_replication_role = local", "ALTER ROLE {worker} SET work_mem = '8MB'"],
            set(),
        ),
        (
            [
                'CREATE SCHEMA "Better still"',
                'CREATE VIEW "Better still".worklist AS SELECT 1 AS slide',
                'GRANT USAGE ON SCHEMA "Better still" TO {reader}',
                'ALTER ROLE {reader} SET search_path = "Better still", public',
            ],
            {"view Better still.worklist is seen in place of allq's by {reader}"},
        ),
        (
            [
                "CREATE SCHEMA {reader}",
                "CREATE TABLE {reader}.event (id bigint)",
                "GRANT USAGE ON SCHEMA {reader} TO {reader}",
            ],
            {"table {reader}.event is seen in place of allq's by {reader}"},
        ),
        (
            [
                "CREATE SCHEMA apart",
                "CREATE VIEW apart.worklist AS SELECT 1 AS slide",
                "GRANT USAGE ON SCHEMA apart TO {reader}",
                "ALTER ROLE {reader} SET search_path = public, apart",
                "ALTER ROLE {worker} SET search_path = apart",
            ],
            set(),
        ),
        (
            [
                *OTHER_PROGRAM,
                "ALTER ROLE {stranger} SET search_path = lims, public",
            ],
            set(),
        ),
        (
            ["GRANT SET ON PARAMETER session_replication_role TO allq_worker, {reader}, {stranger}, {owner}"],
            {
                "setting session_replication_role may be made replica by role {worker}: no trigger fires for it then",
                "setting session_replication_role may be made replica by role {reader}: no trigger fires for it then",
            },
        ),
        (
            [
                *OTHER_PROGRAM,
                "ALTER ROLE {stranger} SET search_path = lims, public",
                "GRANT SELECT (slide) ON worklist TO {stranger}",
            ],
            {"table lims.review is seen in place of allq's by {stranger}"},
        ),
        (
            [
                "CREATE VIEW public.pg_trigger AS SELECT * FROM pg_catalog.pg_trigger",
                "ALTER ROLE {reader} SET search_path = public, pg_catalog",
            ],
            {
                "setting search_path names public before pg_catalog for role {reader}, and with it others' things in "
                "place of PostgreSQL's"
            },
        ),
        (
            [
                "CREATE FUNCTION public.upper(text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
                "ALTER ROLE {reader} SET search_path = pg_catalog, public",
                *OTHER_PROGRAM,
                "ALTER ROLE {stranger} SET search_path = public, pg_catalog",
            ],
            set(),
        ),
        (
            [
                "CREATE FUNCTION public.aside(text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
                "ALTER DATABASE {database} SET search_path = public, pg_catalog",
            ],
            set(),
        ),
    ],
)
def test_what_logins_begin_with_that_lets_them_past_the_triggers_or_shows_them_other_tables_is_named(
    written: Laboratory, statements: list[str], told: set[str]
) -> None:
    names = {group: written.login(group) for group in (*GROUPS, "stranger")}
    names["database"] = str(make_url(written.url).database)
    superuser = Database.at(written.url)
    try:
        with superuser.begin() as conn:
            if "ON PARAMETER" in statements[0] and not conn.exec_driver_sql(RIGHTS_TO_SET).scalar():
                pytest.skip("before PostgreSQL 15 only superusers set it")
            conn.exec_driver_sql(f"CREATE ROLE {names['stranger']} LOGIN")
            for statement in statements:
                conn.exec_driver_sql(statement.format(**names))
            for role in ("worker", "reviewer"):
                conn.exec_driver_sql(f"SET LOCAL ROLE {names[role]}")
                conn.exec_driver_sql("SET LOCAL search_path = public")
                found = {str(one) for one in schema.differences(conn)}
                conn.exec_driver_sql("RESET ROLE")
                assert found == {one.format(**names) for one in told}
            conn.rollback()
    finally:
        superuser.close()


def test_the_right_to_pass_the_triggers_is_taken_back_when_the_file_is_run_again(laboratory: Laboratory) -> None:
    with laboratory.opened_as("owner") as database:
        if not store.rows(database, RIGHTS_TO_SET)[0][0]:
            pytest.skip("before PostgreSQL 15 only superusers set it")
    setting = "SET LOCAL session_replication_role = replica"
    laboratory.server.execute("GRANT SET ON PARAMETER session_replication_role TO allq_worker WITH GRANT OPTION")
    try:
        with laboratory.opened_as("worker") as database, database.begin() as conn:
            conn.exec_driver_sql(setting)
            conn.rollback()
    finally:
        apply(laboratory.server, laboratory.url)
    laboratory.refuses("worker", setting)


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_a_reader_sees_the_views_and_no_table(written: Laboratory, table: str) -> None:
    with written.opened_as("reader") as database, database.read() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM slide_findings").scalar()
        columns, rows = named.run(conn, "worklist", {})
        assert "slide" in columns
        assert list(rows)
    written.refuses("reader", f"SELECT * FROM {table}")
    written.refuses("reader", f"INSERT INTO {table} SELECT * FROM {table}")


def test_the_queries_of_which_a_reader_is_refused_are_those_that_the_page_names(written: Laboratory) -> None:
    given = {"batch": 1, "slide": "A", "model": "tester"}
    refused = set()
    with written.opened_as("reader") as database:
        for query in named.names():
            try:
                with database.read() as conn:
                    named.run(conn, query.name, {one.name: given[one.name] for one in query.parameters if one.required})
            except NoRight:
                refused.add(query.name)
    page = (ROLES.parents[2] / "docs" / "deployment.md").read_text("utf-8")
    told = re.search(r"All named queries but\s(.*?) \(", page, re.DOTALL)
    assert told, refused
    assert set(re.findall(r"`(\w+)`", told[1])) == refused


def test_who_is_in_none_of_the_groups_does_not_even_enter(laboratory: Laboratory) -> None:
    stranger = laboratory.login("stranger")
    laboratory.server.execute(f"CREATE ROLE {stranger} LOGIN PASSWORD 'x'")
    try:
        with pytest.raises(Exception, match="permission denied for database"), laboratory.opened_as("stranger"):
            pass
    finally:
        laboratory.server.execute(f"DROP ROLE {stranger}")


def test_an_upgrade_by_the_owners_login_finds_the_schema_in_order(laboratory: Laboratory) -> None:
    database = Database.open(settings_for(Path("unused"), laboratory.url_as("owner")), upgrade=True)
    try:
        with database.begin() as conn:
            assert conn.exec_driver_sql("SELECT current_user").scalar() == "allq_owner"
        assert migrate.upgrade(database) == [], "it may wait for another's upgrade"
    finally:
        database.close()
