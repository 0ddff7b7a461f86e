"""A trigger, view, index or constraint that is not the one allq makes is named, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from allq.settings import Settings
from db import migrate, schema, sealing, verifying
from db.database import Database
from db.tables import Base
from db.witness import Witness
from tests import store
from tests.databases import PostgresqlServer
from worker.health import _schema

ON_SQLITE = [
    (["DROP TRIGGER event_no_update"], {"trigger event_no_update is missing"}),
    (["DROP TRIGGER finding_no_replace"], {"trigger finding_no_replace is missing"}),
    (
        [
            "DROP TRIGGER review_no_delete",
            "CREATE TRIGGER review_no_delete BEFORE DELETE ON review BEGIN SELECT 1; END",
        ],
        {"trigger review_no_delete is not as allq makes it"},
    ),
    (
        ["CREATE TRIGGER kinder AFTER INSERT ON slide_call BEGIN UPDATE slide SET suspicion = 0; END"],
        {"trigger kinder on slide_call is none of allq's"},
    ),
    (
        ["CREATE TRIGGER loud AFTER INSERT ON SLIDE_CALL BEGIN UPDATE slide SET suspicion = 0; END"],
        {"trigger loud on SLIDE_CALL is none of allq's"},
    ),
    (["DROP VIEW review_queue"], {"view review_queue is missing"}),
    (
        ["DROP VIEW turnaround", "CREATE VIEW turnaround AS SELECT 1 AS batch"],
        {"view turnaround is not as allq makes it"},
    ),
    (["DROP INDEX chunk_pending"], {"index chunk_pending is missing"}),
    (
        ["DROP INDEX slide_name", "CREATE INDEX slide_name ON slide (batch_id)"],
        {"index slide_name is not as allq makes it"},
    ),
    (
        ["ALTER TABLE skipped RENAME TO hidden", "CREATE TABLE skipped (id INTEGER PRIMARY KEY)"],
        {
            "constraint skipped_batch_id_fkey of skipped is missing",
            "constraint skipped_pkey of skipped is missing",
            "index skipped_batch_id is not as allq makes it",
        },
    ),
]
ON_POSTGRESQL = [
    (["DROP TRIGGER event_append_only ON event"], {"trigger event_append_only is missing"}),
    (["ALTER TABLE finding DISABLE TRIGGER USER"], {"trigger finding_append_only is switched off"}),
    (
        ["ALTER TABLE finding ENABLE REPLICA TRIGGER finding_append_only"],
        {"trigger finding_append_only is switched off"},
    ),
    (
        ["ALTER TABLE finding_leukocytes DISABLE TRIGGER ALL"],
        {
            "trigger finding_leukocytes_append_only is switched off",
            "table finding_leukocytes has its foreign keys switched off",
        },
    ),
    (
        [
            "CREATE OR REPLACE TRIGGER review_append_only BEFORE UPDATE OR TRUNCATE ON review "
            "FOR EACH STATEMENT EXECUTE FUNCTION allq_append_only()"
        ],
        {"trigger review_append_only is not as allq makes it"},
    ),
    (
        [
            "CREATE OR REPLACE TRIGGER review_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON review "
            "FOR EACH STATEMENT WHEN (current_user <> 'owner') EXECUTE FUNCTION allq_append_only()"
        ],
        {"trigger review_append_only is not as allq makes it"},
    ),
    (
        ["CREATE OR REPLACE FUNCTION allq_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"],
        {"function allq_append_only is not as allq makes it: its triggers refuse something else"},
    ),
    (
        ["ALTER FUNCTION allq_append_only() SET search_path = other"],
        {"function allq_append_only is not as allq makes it: its triggers refuse something else"},
    ),
    (
        ["CREATE TRIGGER kinder AFTER INSERT ON slide_call FOR EACH STATEMENT EXECUTE FUNCTION allq_append_only()"],
        {"trigger kinder on slide_call is none of allq's"},
    ),
    (
        ["SET LOCAL session_replication_role = replica"],
        {"setting session_replication_role is replica for this login: no trigger fires"},
    ),
    (["CREATE RULE away AS ON INSERT TO review DO INSTEAD NOTHING"], {"rule away on review is none of allq's"}),
    (
        ["ALTER TABLE review ENABLE ROW LEVEL SECURITY"],
        {"table review has row security, which allq does not use: it hides rows"},
    ),
    (["DROP VIEW review_queue"], {"view review_queue is missing"}),
    (["DROP VIEW turnaround", "CREATE TABLE turnaround (batch int)"], {"view turnaround is not as allq makes it"}),
    (["ALTER VIEW slide_history RENAME COLUMN actor TO who"], {"view slide_history is not as allq makes it"}),
    (["ALTER VIEW sealer_event RESET (check_option)"], {"view sealer_event is not as allq makes it"}),
    (["DROP INDEX chunk_pending"], {"index chunk_pending is missing"}),
    (
        ["DROP INDEX slide_name", "CREATE INDEX slide_name ON slide (batch_id)"],
        {"index slide_name is not as allq makes it"},
    ),
    (
        ["ALTER TABLE finding DROP CONSTRAINT finding_sha256_model_id_key"],
        {"constraint finding_sha256_model_id_key of finding is missing"},
    ),
    (
        ["ALTER TABLE skipped RENAME TO hidden", "CREATE VIEW skipped AS SELECT * FROM hidden WHERE reason = ''"],
        {
            "table skipped is no table of its own",
            "constraint skipped_batch_id_fkey of skipped is missing",
            "constraint skipped_pkey of skipped is missing",
            "index skipped_batch_id is not as allq makes it",
        },
    ),
]


def differing(conn: Connection) -> set[str]:
    return {str(one) for one in schema.differences(conn)}


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """An empty database, which every test leaves as it was."""
    found = Database.at(f"sqlite:///{tmp_path_factory.mktemp('schema') / 'allq.db'}")
    migrate.upgrade(found)
    yield found
    found.close()


@pytest.fixture(scope="module")
def on_server(postgresql: PostgresqlServer) -> Iterator[Database]:
    """Another, on PostgreSQL, with rows and statistics, by which plans are made."""
    url = postgresql.create()
    found = Database.at(url)
    with found.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 3), store.new_slide("B", 2)])
    store.work(found, chunk_ids)
    store.review(found, "A", "all-suspected", "seen with the eye as well")
    with found.begin() as conn:
        conn.exec_driver_sql("ANALYZE")
    yield found
    found.close()
    postgresql.drop(url)


def harmed(database: Database, statements: list[str]) -> set[str]:
    """What is told of a schema to which this was done; it is undone."""
    with database.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement.replace("%", "%%") if database.dialect == "postgresql" else statement)
        found = differing(conn)
        conn.rollback()
        return found


def test_what_allq_has_made_is_in_order_and_what_others_add_beside_it_is_theirs(database: Database) -> None:
    check = _schema(database)
    assert (check.ok, check.advice) == (True, None), check
    beside = [
        "CREATE TABLE notes (id integer)",
        "CREATE VIEW suspects AS SELECT slide FROM worklist WHERE suspects > 0",
        "CREATE INDEX by_operator ON batch (operator)",
    ]
    assert harmed(database, beside) == set()


@pytest.mark.parametrize(("statements", "told"), ON_SQLITE)
def test_whatever_is_not_as_allq_makes_it_is_named_on_sqlite(
    sqlite: Database, statements: list[str], told: set[str]
) -> None:
    assert harmed(sqlite, statements) == told


@pytest.mark.parametrize(("statements", "told"), ON_POSTGRESQL)
def test_whatever_is_not_as_allq_makes_it_is_named_on_postgresql(
    on_server: Database, statements: list[str], told: set[str]
) -> None:
    assert harmed(on_server, statements) == told


@pytest.mark.parametrize("view", sorted(schema._made_on_postgresql().views))
def test_a_view_that_a_server_spells_otherwise_is_the_same_and_one_that_hides_or_swaps_anything_is_not(
    on_server: Database, view: str
) -> None:
    select = schema._made_on_postgresql().views[view]
    with on_server.read() as conn:
        spelled = conn.exec_driver_sql(f"SELECT pg_get_viewdef('{view}'::regclass)").scalar_one()
        names = list(conn.exec_driver_sql(f"SELECT * FROM {view} LIMIT 0").keys())
        options = conn.exec_driver_sql(f"SELECT reloptions FROM pg_class WHERE oid = '{view}'::regclass").scalar()
    kept = f" WITH ({', '.join(options)})" if options else ""
    assert harmed(on_server, [f"CREATE OR REPLACE VIEW {view}{kept} AS {spelled}"]) == set()
    told = {f"view {view} is not as allq makes it"}
    hiding = f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM ({select}) x WHERE x.{names[0]}::text <> '7'"
    assert told <= harmed(on_server, [hiding])
    capped = f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM ({select}) x LIMIT 1000"
    assert told <= harmed(on_server, [capped])
    swapped = [
        f"ALTER VIEW {view} RENAME COLUMN {old} TO {new}"
        for old, new in ((names[0], "aside"), (names[1], names[0]), ("aside", names[1]))
    ]
    assert told <= harmed(on_server, swapped)


def test_all_that_the_migrations_make_is_looked_at(database: Database) -> None:
    made = schema._made_on_postgresql()
    tables = Base.metadata.tables
    assert made.tables == set(tables)
    assert set(made.indexes) == {str(index.name) for table in tables.values() for index in table.indexes}
    constraints = {
        (table.name, str(one.name)) for table in tables.values() for one in table.constraints if one.name is not None
    }
    assert {name for _, name in made.constraints} >= {name for _, name in constraints if "None" not in name}
    assert {statement.split()[1] for statement in schema.statements()} <= {
        "TABLE",
        "INDEX",
        "VIEW",
        "FUNCTION",
        "TRIGGER",
    }
    with database.read() as conn:
        if database.dialect == "postgresql":
            views = conn.exec_driver_sql("SELECT viewname FROM pg_views WHERE schemaname = 'public'").scalars()
            triggers = conn.exec_driver_sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal").scalars()
            assert (set(views), set(triggers)) == (set(made.views), {name for _, name in made.triggers})


def test_verify_says_so_as_well_and_the_doctor_what_to_do(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 3)])
    store.work(database, chunk_ids)
    sealing.seal(database, settings)
    with database.begin() as conn:
        conn.exec_driver_sql("DROP VIEW turnaround")
        conn.exec_driver_sql("DROP INDEX chunk_pending")  # slow, but nothing that anybody is shown is changed by it
        if database.dialect == "sqlite":
            conn.exec_driver_sql("DROP TRIGGER finding_no_update")
        else:
            conn.exec_driver_sql("ALTER TABLE finding DISABLE TRIGGER finding_append_only")
    trigger = (
        "finding_no_update: is missing" if database.dialect == "sqlite" else "finding_append_only: is switched off"
    )
    for since in (None, 1):
        found = verifying.verify(database, Witness(settings.checkpoint_file), since=since)
        assert {str(one) for one in found.problems} == {f"trigger {trigger}", "view turnaround: is missing"}
    check = _schema(database)
    assert check.ok is False
    assert "view turnaround is missing" in check.detail
    assert "index chunk_pending is missing" in check.detail
    assert "allq audit verify" in (check.advice or "")
