"""Whatever one row or column of the ledger's tables is made to be without the triggers, `verify` names it.

Tables and columns come from the schema itself, so that a new one can't be forgotten. Each attack is tried in a
transaction that is rolled back, as the owner of the database: no trigger, no foreign key.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from allq.settings import Settings
from db import indexes, schema, sealing, verifying
from db.database import Database
from db.lines import COLUMNS as STATED
from db.tables import Base
from db.verifying import Verified
from db.verifying_parts import Part, verify_part
from db.witness import Witness
from tests import store

TABLES = (
    "model",
    "activation",
    "finding",
    "finding_leukocytes",
    "slide_call",
    "review",
    "event",
    "event_slide",
    "leaf",
    "checkpoint",
)
COLUMNS = [(table, column.name) for table in TABLES for column in Base.metadata.tables[table].columns]
SAID_OF = {
    "model": {"model", "finding"},
    "finding_leukocytes": {"finding", "finding_leukocytes"},
    "event_slide": {"event", "event_slide"},
    "leaf": {"leaf", "event", "checkpoint"},
}
"""Tables in whose name the problem may be put: an event's slides are part of the event, leukocytes of the finding."""


examples = hypothesis_settings(
    max_examples=6,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def test_every_table_that_is_append_only_is_attacked() -> None:
    """The tables that triggers protect, by the triggers there are, are those that are attacked here."""
    documented = {
        mapper.local_table.name  # type: ignore[attr-defined]
        for mapper in Base.registry.mappers
        if "Append only" in (mapper.class_.__doc__ or "") or "ever changed" in (mapper.class_.__doc__ or "")
    }
    assert documented | {"finding_leukocytes"} == set(TABLES)


@pytest.fixture
def ledger(database: Database, settings: Settings) -> Database:
    """Two slides screened and reviewed, a field that failed, one linked, two models activated; four checkpoints, a new
    key among them.
    """
    with database.begin() as conn:
        _, first = store.submit(conn, [store.new_slide("A", 3)], chunk_size=2)
    store.work(database, first, lambda f: store.failed(f) if f.path == "A/001.png" else store.screened(f))
    sealing.seal(database, settings)
    sealing.rotate_key(database, settings, actor="tester")
    with database.begin() as conn:
        _, second = store.submit(conn, [store.new_slide("B", 2), store.new_slide("A", 1)], root="/more")
    sealing.seal(database, settings)
    store.work(database, second)
    store.review(database, "A", "all-suspected", "seen with the eye as well")
    store.review(database, "B", "insufficient", "too few leukocytes")
    store.activate(database, "fits our smears")
    store.activate(database, "fits the new stain better", model_id="cd" * 32, name="newer", by="Dr Second")
    sealed = sealing.seal(database, settings)
    assert sealed.checkpoint is not None
    assert sealed.checkpoint.number == 4
    return database


@contextmanager
def as_owner(
    database: Database, witness: Witness, monkeypatch: pytest.MonkeyPatch, *, parts_first: bool = False
) -> Iterator[tuple[Connection, Any]]:
    """A connection on which nothing is refused, whose work `check` sees, and which leaves nothing behind.

    `check` verifies the ledger as a short one and as a long one, part by part: no row may be named by the one alone.
    """
    if database.dialect == "sqlite":
        conn = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT", allq_begin="SELECT 1")
        conn.exec_driver_sql("PRAGMA foreign_keys = OFF")
        conn.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        triggers = conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
        conn.exec_driver_sql("BEGIN IMMEDIATE")
        for name in triggers:
            conn.exec_driver_sql(f"DROP TRIGGER {name}")
    else:
        conn = database.engine.connect()
        conn.exec_driver_sql("SET session_replication_role = replica")

    def check() -> Verified:
        @contextmanager
        def read() -> Iterator[Connection]:
            yield conn

        with monkeypatch.context() as patched:
            patched.setattr(database, "read", read)
            patched.setattr(conn, "detach", lambda: None)
            patched.setattr(schema, "differences", lambda _: [])  # that triggers are off is no answer here
            patched.setattr(indexes, "compare", lambda *_: None)  # nor is what SQLite itself finds of kinds of values
            patched.setattr(verifying, "parts", parts_here)
            long, short = 1, verifying.WORTH_IT
            found: dict[int, Verified] = {}
            for worth_it in (long, short) if parts_first else (short, long):
                patched.setattr(verifying, "WORTH_IT", worth_it)
                found[worth_it] = verifying.verify(database, witness, complete=True)
        assert rows_named(found[long]) >= rows_named(found[short])
        assert found[long].sound == found[short].sound
        return found[short]

    try:
        yield conn, check
    finally:
        conn.exec_driver_sql("ROLLBACK")
        conn.invalidate()
        conn.close()


def parts_here(_: Database, conn: Connection, after: int, upto: int) -> Iterator[Part]:
    """As several processes verify them, but by a connection that sees what is not committed."""
    for start in range(after, upto, 5):
        yield verify_part(conn, start, min(start + 5, upto))


def rows_named(found: Verified) -> set[tuple[str, str]]:
    return {(problem.table, problem.row) for problem in found.problems}


@contextmanager
def attempt(conn: Connection) -> Iterator[None]:
    """What is done inside is undone; a change that the database itself refuses is no attack."""
    conn.exec_driver_sql("SAVEPOINT attack")
    try:
        yield
    except DBAPIError as error:
        assert re.search("violates|constraint|out of range|datatype mismatch", str(error)), error
    finally:
        conn.exec_driver_sql("ROLLBACK TO SAVEPOINT attack")


def keys_of(table: str) -> list[str]:
    return [column.name for column in Base.metadata.tables[table].primary_key.columns]


def all_rows(conn: Connection, table: str) -> list[dict[str, Any]]:
    return [
        dict(row._mapping) for row in conn.execute(text(f"SELECT * FROM {table} ORDER BY {', '.join(keys_of(table))}"))
    ]


def update(conn: Connection, table: str, row: dict[str, Any], column: str, value: Any) -> None:
    where = " AND ".join(f"{key} = :key_{key}" for key in keys_of(table))
    values = {"value": value} | {f"key_{key}": row[key] for key in keys_of(table)}
    conn.execute(text(f"UPDATE {table} SET {column} = :value WHERE {where}"), values)


def insert(conn: Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    conn.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in row)})"), row)


def delete(conn: Connection, table: str, row: dict[str, Any]) -> None:
    where = " AND ".join(f"{key} = :{key}" for key in keys_of(table))
    conn.execute(text(f"DELETE FROM {table} WHERE {where}"), {key: row[key] for key in keys_of(table)})


def assert_named(found: Verified, table: str, what: object, said_of: Collection[str] | None = None) -> None:
    assert found.problems, f"not detected: {what}"
    said = {problem.table for problem in found.problems}
    of = SAID_OF.get(table, set()) if said_of is None else set(said_of)
    assert said & (of | {table}), f"{what}: named as {[str(one) for one in found.problems]}"


def other_values(old: Any, table: str, column: str, dialect: str) -> st.SearchStrategy[Any]:
    """Values that the column can hold and has not: of its own kind, and on SQLite of any other."""
    kind = Base.metadata.tables[table].columns[column].type.__class__.__name__
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
    own: dict[str, st.SearchStrategy[Any]] = {
        "BigInteger": st.integers(-3, 60) | st.integers(-(2**62), 2**62),
        "Integer": st.integers(-(2**31), 2**31 - 1),
        "Double": st.floats(allow_nan=dialect == "postgresql"),
        "Boolean": st.booleans(),
        "LargeBinary": st.binary(max_size=40),
        "Text": texts | st.just(f"{old} ") | st.just(f"{old}".swapcase()),
        "UtcTimestamp": st.timedeltas(timedelta(microseconds=-5_000), timedelta(days=900)),
    }
    found = own[kind]
    if kind == "UtcTimestamp":
        if dialect == "sqlite":
            found = (
                st.sampled_from([f"{old}0", f" {old}", f"{old}".replace(" ", "T"), f"{old}"[:-1], f"1{old}"]) | texts
            )
        else:
            since = old or datetime(2026, 1, 5, tzinfo=UTC)
            found = found.map(lambda shift: since + shift) | st.just(datetime(1, 1, 1, tzinfo=UTC))
    elif kind == "LargeBinary" and old is not None:
        found |= (
            st.just(bytes(old)[:-1])
            | st.just(bytes(old) + b"\0")
            | st.just(bytes([bytes(old)[0] ^ 1]) + bytes(old)[1:])
        )
    if dialect == "sqlite":
        found |= texts | st.binary(max_size=3) | st.just("null") | st.integers(0, 3)
    if Base.metadata.tables[table].columns[column].nullable:
        found |= st.none()
    return found


def same(conn: Connection, table: str, before: list[dict[str, Any]]) -> bool:
    """True when the table is, to the type of each value, what it was: no attack has taken place."""
    return repr(all_rows(conn, table)) == repr(before)


def attacks(
    conn: Connection,
    check: Callable[[], Verified],
    table: str,
    name: str,
    before: list[dict[str, Any]],
    dialect: str,
    *,
    rows: list[dict[str, Any]] | None = None,
    said_of: Collection[str] | None = None,
) -> Callable[[], None]:
    """Set a column of some row, of `rows` only if given, to other values, one after the other."""

    @seed(20260105)
    @examples
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(before if rows is None else rows))
        value = data.draw(other_values(row[name], table, name, dialect))
        with attempt(conn):
            update(conn, table, row, name, value)
            if not same(conn, table, before):
                assert_named(check(), table, (table, name, row[name], value), said_of)

    return attack


@pytest.mark.parametrize("table", TABLES)
def test_any_change_of_any_column_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        assert check().problems == []
        before = all_rows(conn, table)

        for name in (column.name for column in Base.metadata.tables[table].columns):
            attacks(conn, check, table, name, before, ledger.dialect)()


@pytest.mark.parametrize("table", TABLES)
def test_a_row_taken_away_put_in_or_given_the_place_of_another_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    keys = keys_of(table)
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        before = all_rows(conn, table)
        unique = {name for name in ("sha256", "event_id") if name in before[0] and name not in keys}
        for row in before:
            with attempt(conn):
                delete(conn, table, row)
                assert_named(check(), table, ("deletion", row))
            for key in (-1, 0, max(one[keys[-1]] for one in before) + 1, 10**9):
                copy = row | {keys[-1]: key}
                copy |= dict.fromkeys(unique & {"sha256"}, "ee" * 32 if table == "model" else b"e" * 32)
                copy |= dict.fromkeys(unique & {"event_id"}, 77000)
                with attempt(conn):
                    insert(conn, table, copy)
                    assert_named(check(), table, ("insertion", copy))
        for first, second in itertools.pairwise(before):
            with attempt(conn):
                delete(conn, table, first)
                delete(conn, table, second)
                insert(conn, table, second | {key: first[key] for key in keys})
                insert(conn, table, first | {key: second[key] for key in keys})
                if not same(conn, table, before):
                    assert_named(check(), table, ("exchange", first, second))


@pytest.mark.parametrize("checkpoints_left", [0, 1, 2, 3])
def test_a_ledger_that_is_cut_back_to_an_earlier_state_is_named(
    ledger: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, checkpoints_left: int
) -> None:
    with as_owner(ledger, Witness(settings.checkpoint_file), monkeypatch) as (conn, check):
        sizes = {row[0]: row[1] for row in conn.exec_driver_sql("SELECT number, size FROM checkpoint")}
        conn.exec_driver_sql(f"DELETE FROM checkpoint WHERE number > {checkpoints_left}")
        kept = sizes.get(checkpoints_left, 0)
        last = conn.exec_driver_sql(f"SELECT coalesce(max(event_id), 0) FROM leaf WHERE seq < {kept}").scalar()
        conn.exec_driver_sql(f"DELETE FROM leaf WHERE seq >= {kept}")
        conn.exec_driver_sql(f"DELETE FROM event_slide WHERE event_id > {last}")
        conn.exec_driver_sql(f"DELETE FROM event WHERE id > {last}")
        for problem in (problems := check().problems):
            assert problem.table in {*STATED, "checkpoint", "finding", "field", "slide", "chunk", "batch"}
        gone = [one.row for one in problems if one.table == "checkpoint" and "was exported and is gone" in one.what]
        assert gone == [str(number) for number in range(checkpoints_left + 1, 5)]


A_REVIEW = """
    INSERT INTO review (slide_id, slide_call_id, reviewer, call, reason, looked_at, decided_at)
    SELECT slide_id, slide_call_id, 'F', call, reason, looked_at, decided_at FROM review WHERE id = 2
"""
A_BATCH = """
    INSERT INTO batch (root, queue, model_id, operator, settings, created_at)
    SELECT '/away', queue, model_id, operator, settings, created_at FROM batch WHERE id = 1
"""
A_SLIDE = "INSERT INTO event_slide (slide_id, event_id) VALUES (2, (SELECT min(id) FROM event))"
HIDING: list[tuple[str, str, str, str, tuple[str, str] | None]] = [
    ("review_slide_id", "slide_id", "reviewer <> 'F'", A_REVIEW, ("review", "3")),
    ("batch_root", "root", "root <> '/away'", A_BATCH, ("batch", "3")),
    ("event_slide_event_id", "event_id, slide_id", "event_id > 1", A_SLIDE, None),
    ("slide_suspicion", "suspicion, id", "suspicion IS NOT NULL AND name <> 'A'", "", None),
    ("event_batch_id", "batch_id", "chunk_id IS NULL AND batch_id <> 1", "", None),
]
"""An index's name and columns, the condition with which it is made anew, what is put in without it, which row it is."""


@pytest.mark.parametrize(("index", "columns", "condition", "put_in", "row"), HIDING)
def test_an_index_on_sqlite_that_leaves_rows_out_beneath_the_text_of_allqs_is_named(
    ledger: Database,
    settings: Settings,
    index: str,
    columns: str,
    condition: str,
    put_in: str,
    row: tuple[str, str] | None,
) -> None:
    if ledger.dialect != "sqlite":
        pytest.skip("there it is amcheck that tells")
    with closing(sqlite3.connect(settings.home / "allq.db", isolation_level=None)) as owner:
        of = "SELECT tbl_name, sql FROM sqlite_master WHERE name = ?"
        table, definition = owner.execute(of, (index,)).fetchone()
        owner.execute(f"DROP INDEX {index}")
        owner.execute(f"CREATE INDEX {index} ON {table} ({columns}) WHERE {condition}")
        if put_in:
            triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
            kept = owner.execute(triggers, (table,)).fetchall()
            for name, _ in kept:
                owner.execute(f"DROP TRIGGER {name}")
            owner.execute(put_in)
            for _, trigger in kept:
                owner.execute(trigger)
        owner.execute("PRAGMA writable_schema = ON")
        owner.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (definition, index))
    with ledger.read() as conn:
        assert schema.differences(conn) == []
    stages: list[str] = []
    witness = Witness(settings.checkpoint_file)
    found = verifying.verify(ledger, witness, progress=lambda stage, *_: stages.append(stage))
    assert ("index", index) in rows_named(found)
    assert rows_named(found) - {("index", index)} == ({row} if row else set())
    assert "Comparing indexes, by table" in stages


PUT_IN_UNSEEN = {
    "review": """
        INSERT INTO review (slide_id, slide_call_id, reviewer, call, reason, looked_at)
        SELECT slide_id, slide_call_id, reviewer, call, 'for no reason', looked_at FROM review LIMIT 1
    """,
    "model": """
        INSERT INTO model (sha256, name, architecture, code_version, synthetic, configuration, added_at)
        SELECT repeat('ee', 32), name, architecture, code_version, synthetic, configuration, added_at FROM model LIMIT 1
    """,
    "batch": """
        INSERT INTO batch (root, queue, model_id, operator, settings)
        SELECT '/unseen', queue, model_id, operator, settings FROM batch LIMIT 1
    """,
}


@pytest.mark.parametrize("table", PUT_IN_UNSEEN)
def test_a_row_that_was_put_in_past_all_indexes_on_postgresql_is_named(
    ledger: Database, settings: Settings, table: str
) -> None:
    if ledger.dialect != "postgresql":
        pytest.skip("SQLite's indexes are compared with their tables")
    ready = f"UPDATE pg_index SET indisready = %s WHERE indrelid = '{table}'::regclass"
    conn = ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with closing(conn):
        conn.exec_driver_sql("SET session_replication_role = replica")
        conn.exec_driver_sql(ready, (False,))
        conn.exec_driver_sql(PUT_IN_UNSEEN[table])
        conn.exec_driver_sql(ready, (True,))
        conn.exec_driver_sql("SET session_replication_role = origin")
        conn.exec_driver_sql(f"VACUUM {table}")  # after it an index alone counts
        name = conn.exec_driver_sql("SELECT current_database()").scalar_one()
        conn.exec_driver_sql(f'ALTER DATABASE "{name}" SET enable_seqscan = off')
    ledger.engine.dispose()
    with ledger.read() as conn:
        plan = " ".join(conn.exec_driver_sql(f"EXPLAIN SELECT count(*) FROM {table}").scalars())
        assert "Index" in plan
        assert schema.differences(conn) == []
    found = verifying.verify(ledger, Witness(settings.checkpoint_file))
    assert [problem.table for problem in found.problems] == [table]
    assert found.problems[0].what == "no event of the ledger tells of it"


def test_an_index_of_somebody_elses_that_fails_keeps_verify_from_nothing(ledger: Database, settings: Settings) -> None:
    if ledger.dialect != "sqlite":
        pytest.skip("there it is amcheck that tells")
    with closing(sqlite3.connect(settings.home / "allq.db", isolation_level=None)) as owner:
        owner.execute("CREATE INDEX aside ON review (upper(reason))")
        owner.execute("PRAGMA writable_schema = ON")
        owner.execute("UPDATE sqlite_master SET sql = replace(sql, 'upper(', 'json(') WHERE name = 'aside'")
    found = verifying.verify(ledger, Witness(settings.checkpoint_file))
    assert {problem.table for problem in found.problems} == {"review"}
    assert "malformed JSON" in found.problems[0].what or "damaged" in found.problems[0].what
