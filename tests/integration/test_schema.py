"""A trigger, view, index or constraint that is not the one allq makes is named, on both databases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import sleep

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url

from allq.settings import Settings
from db import migrate, schema, sealing, verifying
from db.database import Database
from db.schema import made as makings
from db.schema.printed import statements
from db.tables import Base
from db.witness import Witness
from tests import store
from tests.databases import KINDS, PostgresqlServer
from worker.health import _schema

REVISIONS = [one.revision for one in reversed(list(ScriptDirectory(str(migrate.SCRIPTS)).walk_revisions()))]


def rewritten(name: str, old: str, new: str, kind: str = "table") -> list[str]:
    """On SQLite: a table, view or trigger whose definition says something else from the start."""
    texts = ", ".join("'" + text.replace("'", "''") + "'" for text in (old, new))
    return [
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = replace(sql, {texts}) WHERE type = '{kind}' AND name = '{name}'",
        "PRAGMA writable_schema = OFF",
    ]


def changed(table: str, name: str, says: str) -> list[str]:
    """On PostgreSQL: a constraint that says something else under its name."""
    return [
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
        f"ALTER TABLE {table} ADD CONSTRAINT {name} {says}",
    ]


VIEWS = makings.on_postgresql().views
MANY_ACTIVATIONS = [
    "INSERT INTO activation (model_id, activated_by, reason) "
    "SELECT m.id, 'somebody', 'because' FROM (SELECT min(id) AS id FROM model) m, generate_series(1, 3000)",
    "ANALYZE activation",
]
"""So many that the latest is looked up in an index, as a LIMIT is."""
MANY_BATCHES = [
    "INSERT INTO batch (root, queue, model_id, operator, settings, created_at) "
    "SELECT b.root, b.queue, b.model_id, b.operator, b.settings, b.created_at "
    "FROM (SELECT * FROM batch LIMIT 1) b, generate_series(1, 3000)",
    "INSERT INTO slide (batch_id, name, complete) SELECT id, 'x', true FROM batch",
    "ANALYZE batch, slide",
]
"""So many that slides are looked up in a hash table."""
MAX_ACTIVATION = "(SELECT max(x.id) FROM activation x)"
BEFORE_IT = "(SELECT x.id FROM activation x WHERE x.id IS NOT NULL ORDER BY x.id DESC LIMIT 1 OFFSET 1)"


def instead(view: str, old: str, new: str) -> str:
    """On PostgreSQL: a view with other words somewhere."""
    assert old in VIEWS[view]
    return f"CREATE OR REPLACE VIEW {view} AS {VIEWS[view].replace(old, new)}"


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
            "column batch_id of skipped is missing",
            "column id of skipped is not as allq makes it",
            "column path of skipped is missing",
            "column reason of skipped is missing",
            "constraint skipped_batch_id_fkey of skipped is missing",
            "constraint skipped_pkey of skipped is missing",
            "index skipped_batch_id is not as allq makes it",
        },
    ),
    (
        rewritten("batch", "('routine', 'stat')", "('routine', 'stat', 'never')"),
        {"constraint batch_queue of batch is not as allq makes it"},
    ),
    (
        rewritten("leaf", "UNIQUE (event_id)", "UNIQUE (event_id) ON CONFLICT REPLACE"),
        {"constraint leaf_event_id_key of leaf is not as allq makes it"},
    ),
    (
        rewritten("review", "REFERENCES slide (id)", "REFERENCES slide (id) ON DELETE CASCADE"),
        {"constraint review_slide_id_fkey of review is not as allq makes it"},
    ),
    (
        rewritten("review", "PRIMARY KEY (id)", "PRIMARY KEY (id), CHECK (reviewer <> 'A')"),
        {"constraint check ( reviewer <> 'A' ) of review is none of allq's"},
    ),
    (
        rewritten("review", "PRIMARY KEY (id)", "PRIMARY KEY (id), CONSTRAINT review_call CHECK (slide_id < 9)"),
        {"constraint review_call of review is none of allq's"},
    ),
    (
        rewritten("slide", "PRIMARY KEY (id)", "PRIMARY KEY (id), CONSTRAINT once UNIQUE (name)"),
        {"constraint once of slide is none of allq's"},
    ),
    (rewritten("event", "body TEXT NOT NULL", "body TEXT"), {"column body of event is not as allq makes it"}),
    (
        rewritten("model", "sha256 TEXT NOT NULL", "sha256 TEXT NOT NULL COLLATE nocase"),
        {"column sha256 of model is not as allq makes it"},
    ),
    (
        rewritten("slide", "failed INTEGER DEFAULT 0", "failed INTEGER DEFAULT 1"),
        {"column failed of slide is not as allq makes it"},
    ),
    (
        rewritten("slide", "suspicion DOUBLE", "suspicion INTEGER"),
        {"column suspicion of slide is not as allq makes it"},
    ),
    (
        rewritten("model", "id INTEGER NOT NULL", "id BIGINT NOT NULL"),
        {"column id of model is not as allq makes it"},
    ),
    (
        ["ALTER TABLE slide ADD COLUMN ward TEXT NOT NULL DEFAULT 'A' CHECK (ward <> 'B')"],
        {"column ward of slide is none of allq's"},
    ),
    (["CREATE UNIQUE INDEX once ON Slide (name)"], {"index once on slide is none of allq's"}),
    (
        rewritten("slide", "suspicion DOUBLE", "suspicion TEXT CHECK (suspicion < 9), \u017fuspicion DOUBLE"),
        {"column suspicion of slide is not as allq makes it"},
    ),
    (
        rewritten("slide", "suspicion DOUBLE", "suspicion TEXT CHECK (suspicion < 9), suspicion\u00a0 DOUBLE"),
        {"column suspicion of slide is not as allq makes it"},
    ),
    (
        rewritten("slide", "suspicion DOUBLE", "suspicion DOUBLE, Suspicion DOUBLE"),
        {"column suspicion of slide stands there twice"},
    ),
    (
        rewritten("slide", "DEFAULT false", 'DEFAULT "false"'),
        {"column call_due of slide is not as allq makes it"},
    ),
    (
        [
            "ALTER TABLE slide ADD COLUMN suspicion\u00a0 DOUBLE",
            *rewritten("worklist", ".suspicion", ".suspicion\u00a0", "view"),
        ],
        {"view worklist is not as allq makes it"},
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
        ["CREATE OR REPLACE FUNCTION allq_with_event() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"],
        {"function allq_with_event is not as allq makes it: its triggers refuse something else"},
    ),
    (["DROP TRIGGER event_slide_with_event ON event_slide"], {"trigger event_slide_with_event is missing"}),
    (
        ["ALTER TABLE review ALTER COLUMN decided_at DROP DEFAULT"],
        {"column decided_at of review is not as allq makes it"},
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
    (
        ["ALTER VIEW sealer_event ALTER COLUMN at SET DEFAULT 'infinity'"],
        {"column at of sealer_event is not as allq makes it"},
    ),
    (
        ["ALTER TABLE event ALTER COLUMN at SET DEFAULT date_trunc('hour', clock_timestamp())"],
        {"column at of event is not as allq makes it"},
    ),
    (["ALTER TABLE event ALTER COLUMN at DROP DEFAULT"], {"column at of event is not as allq makes it"}),
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
    (
        ["CREATE TABLE beside () INHERITS (event)", "CREATE SCHEMA aside", "CREATE TABLE aside.x () INHERITS (slide)"],
        {
            "table beside is a child of event: its rows show as allq's",
            "table aside.x is a child of slide: its rows show as allq's",
        },
    ),
    (
        [
            "CREATE TABLE below (path text)",
            "ALTER TABLE skipped INHERIT below",
        ],
        {"table skipped is a child of below, which is none of allq's"},
    ),
    (["ALTER TABLE skipped SET UNLOGGED"], {"table skipped is unlogged: a crash of the server empties it"}),
    (
        changed("batch", "batch_queue", "CHECK (queue IN ('routine', 'stat', 'never'))"),
        {"constraint batch_queue of batch is not as allq makes it"},
    ),
    (
        changed("chunk", "chunk_sum", "CHECK (fields = waiting + screened + failed - cancelled)"),
        {"constraint chunk_sum of chunk is not as allq makes it"},
    ),
    (
        changed("chunk", "chunk_owner", "CHECK ((state = 'running') >= (owner IS NOT NULL))"),
        {"constraint chunk_owner of chunk is not as allq makes it"},
    ),
    (
        changed("slide", "slide_sum", "CHECK (true)"),
        {"constraint slide_sum of slide is not as allq makes it"},
    ),
    (
        changed(
            "review", "review_call", "CHECK (call IN ('all-suspected', 'no-suspects-seen', 'insufficient')) NOT VALID"
        ),
        {"constraint review_call of review is not as allq makes it"},
    ),
    (
        changed("leaf", "leaf_event_id_fkey", "FOREIGN KEY (event_id) REFERENCES event (id) ON DELETE CASCADE"),
        {"constraint leaf_event_id_fkey of leaf is not as allq makes it"},
    ),
    (
        changed("leaf", "leaf_event_id_fkey", "FOREIGN KEY (event_id) REFERENCES model (id)"),
        {"constraint leaf_event_id_fkey of leaf is not as allq makes it"},
    ),
    (
        [
            "CREATE SCHEMA aside",
            "CREATE TABLE aside.event (id bigint PRIMARY KEY)",
            *changed("leaf", "leaf_event_id_fkey", "FOREIGN KEY (event_id) REFERENCES aside.event (id) NOT VALID"),
            "UPDATE pg_constraint SET convalidated = true WHERE conname = 'leaf_event_id_fkey'",
        ],
        {"constraint leaf_event_id_fkey of leaf is not as allq makes it"},
    ),
    (
        changed("leaf", "leaf_event_id_key", "UNIQUE (event_id, seq)"),
        {"constraint leaf_event_id_key of leaf is not as allq makes it"},
    ),
    (
        changed("finding", "finding_sha256_model_id_key", "UNIQUE (sha256, model_id) DEFERRABLE"),
        {"constraint finding_sha256_model_id_key of finding is not as allq makes it"},
    ),
    (
        [
            'ALTER TABLE finding ADD COLUMN "SHA256" bytea',
            *changed("finding", "finding_sha256_model_id_key", 'UNIQUE ("SHA256", model_id)'),
        ],
        {"constraint finding_sha256_model_id_key of finding is not as allq makes it"},
    ),
    (
        [
            'ALTER TABLE review ADD COLUMN "SLIDE_ID" bigint',
            *changed("review", "review_slide_id_fkey", 'FOREIGN KEY ("SLIDE_ID") REFERENCES slide (id)'),
        ],
        {"constraint review_slide_id_fkey of review is not as allq makes it"},
    ),
    (
        [
            'ALTER TABLE slide ADD COLUMN "ID" bigint CONSTRAINT beside UNIQUE',
            *changed("review", "review_slide_id_fkey", 'FOREIGN KEY (slide_id) REFERENCES slide ("ID") NOT VALID'),
            "UPDATE pg_constraint SET convalidated = true WHERE conname = 'review_slide_id_fkey'",
        ],
        {
            "constraint beside of slide is none of allq's",
            "constraint review_slide_id_fkey of review is not as allq makes it",
        },
    ),
    (
        ["ALTER TABLE review ADD CONSTRAINT nobody CHECK (reviewer <> 'A')"],
        {"constraint nobody of review is none of allq's"},
    ),
    (["ALTER TABLE slide ADD CONSTRAINT once UNIQUE (id, name)"], {"constraint once of slide is none of allq's"}),
    (
        ["ALTER TABLE batch ADD CONSTRAINT other FOREIGN KEY (model_id) REFERENCES model (id)"],
        {"constraint other of batch is none of allq's"},
    ),
    (
        ["ALTER TABLE slide ADD CONSTRAINT apart EXCLUDE USING btree (id WITH =)"],
        {"constraint apart of slide is none of allq's"},
    ),
    (
        ["CREATE UNIQUE INDEX once ON slide (id, name)"],
        {"index once on slide is none of allq's, and refuses rows"},
    ),
    (
        [
            "CREATE FUNCTION loud(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'",
            "CREATE INDEX loudly ON slide (loud(name))",
        ],
        {"index loudly on slide is none of allq's, and runs a function"},
    ),
    (
        ["DROP INDEX chunk_pending", "CREATE INDEX chunk_pending ON chunk (id) WHERE state = 'done'"],
        {"index chunk_pending is not as allq makes it"},
    ),
    (["ALTER TABLE event ALTER body DROP NOT NULL"], {"column body of event is not as allq makes it"}),
    (["ALTER TABLE slide ALTER suspicion SET NOT NULL"], {"column suspicion of slide is not as allq makes it"}),
    (["ALTER TABLE skipped ALTER reason TYPE varchar(9)"], {"column reason of skipped is not as allq makes it"}),
    (['ALTER TABLE skipped ALTER reason TYPE text COLLATE "C"'], {"column reason of skipped is not as allq makes it"}),
    (["ALTER TABLE field ALTER state SET DEFAULT 'screened'"], {"column state of field is not as allq makes it"}),
    (["ALTER TABLE chunk ALTER attempt DROP DEFAULT"], {"column attempt of chunk is not as allq makes it"}),
    (["ALTER TABLE event ALTER at SET DEFAULT now()"], {"column at of event is not as allq makes it"}),
    (["ALTER TABLE event ALTER id DROP IDENTITY"], {"column id of event is not as allq makes it"}),
    (["ALTER TABLE event ALTER id SET GENERATED ALWAYS"], {"column id of event is not as allq makes it"}),
    (
        ["ALTER TABLE slide ADD COLUMN ward text NOT NULL DEFAULT 'A'"],
        {"column ward of slide is none of allq's"},
    ),
    (
        ["ALTER TABLE review ADD COLUMN sooner text GENERATED ALWAYS AS (upper(reviewer)) STORED"],
        {"column sooner of review is none of allq's"},
    ),
    (
        ["CREATE SCHEMA aside", "CREATE TABLE aside.chunk (id bigint)", "SET LOCAL search_path = x, aside, public"],
        {"table chunk is hidden from this login by another of its name, which stands earlier in search_path"},
    ),
    (
        [
            "ALTER TABLE finding DISABLE TRIGGER USER",
            "CREATE VIEW public.pg_trigger AS SELECT oid, tgrelid, tgname, 'O'::\"char\" AS tgenabled, tgisinternal, "
            "tgfoid FROM pg_catalog.pg_trigger",
            "SET LOCAL search_path = public, pg_catalog",
        ],
        {
            "trigger finding_append_only is switched off",
            "setting search_path names public before pg_catalog for this login, and with it others' things in place of "
            "PostgreSQL's",
        },
    ),
    (
        [
            "CREATE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'origin' $$",
            "SET LOCAL search_path = public, pg_catalog",
            "SET LOCAL session_replication_role = replica",
        ],
        {
            "setting session_replication_role is replica for this login: no trigger fires",
            "setting search_path names public before pg_catalog for this login, and with it others' things in place of "
            "PostgreSQL's",
        },
    ),
    (
        [
            "CREATE FUNCTION cut(bigint, numeric) RETURNS numeric IMMUTABLE LANGUAGE sql AS 'SELECT 42.0'",
            "CREATE OPERATOR / (LEFTARG = bigint, RIGHTARG = numeric, FUNCTION = cut)",
            f"CREATE OR REPLACE VIEW batch_progress AS {VIEWS['batch_progress']}",
        ],
        {"view batch_progress runs a function or an operator that is none of PostgreSQL's"},
    ),
    (
        [
            "CREATE FUNCTION beyond(bigint, integer) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'",
            "CREATE OPERATOR ==> (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = beyond)",
            *changed("slide", "slide_sum", "CHECK (id ==> fields)"),
        ],
        {
            "constraint slide_sum of slide is not as allq makes it",
            "constraint slide_sum of slide runs a function or an operator that is none of PostgreSQL's",
        },
    ),
    (
        [
            "CREATE FUNCTION noon() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
            "ALTER TABLE event ALTER at SET DEFAULT noon()",
        ],
        {
            "column at of event is not as allq makes it",
            "column at of event runs a function or an operator that is none of PostgreSQL's",
        },
    ),
    (
        ["CREATE UNIQUE INDEX once ON event (id, kind)", "CREATE UNIQUE INDEX once_ccnew ON event (id, kind)"],
        {
            "index once on event is none of allq's, and refuses rows",
            "index once_ccnew on event is none of allq's, and refuses rows",
        },
    ),
    (
        [*MANY_ACTIVATIONS, instead("model_activations", MAX_ACTIVATION, f"(SELECT {BEFORE_IT})")],
        {"view model_activations is not as allq makes it"},
    ),
    (
        [*MANY_ACTIVATIONS, instead("model_activations", MAX_ACTIVATION, BEFORE_IT)],
        {"view model_activations is not as allq makes it"},
    ),
    (
        [instead("model_activations", "OVER (ORDER BY a.id)", "OVER (PARTITION BY a.id ORDER BY a.id)")],
        {"view model_activations is not as allq makes it"},
    ),
    (
        [
            instead(
                "model_activations",
                "OVER (ORDER BY a.id)",
                "OVER (ORDER BY a.id ROWS BETWEEN 5 PRECEDING AND 4 PRECEDING)",
            )
        ],
        {"view model_activations is not as allq makes it"},
    ),
    (
        [
            *MANY_BATCHES,
            instead("batch_progress", "s.batch_id = b.id AND s.call_due", "s.batch_id = c.batch_id AND s.call_due"),
        ],
        {"view batch_progress is not as allq makes it"},
    ),
    (
        [
            instead(
                "batch_progress",
                "EXISTS (SELECT 1 FROM slide s WHERE s.batch_id = b.id AND s.call_due)",
                "b.model_id IN (SELECT s.batch_id FROM slide s WHERE s.call_due)",
            )
        ],
        {"view batch_progress is not as allq makes it"},
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
        "CREATE INDEX by_folder ON batch (lower(root)) WHERE root <> ''",
        "CREATE TABLE remarks (slide_id integer REFERENCES slide (id), remark text UNIQUE NOT NULL)",
        "ALTER TABLE slide ADD COLUMN ward text",
    ]
    assert harmed(database, beside) == set()


@pytest.mark.parametrize("dialect", KINDS)
@pytest.mark.parametrize("revision", REVISIONS)
def test_what_every_earlier_allq_has_made_is_in_order_when_it_is_upgraded(
    request: pytest.FixtureRequest, tmp_path: Path, dialect: str, revision: str
) -> None:
    if dialect == "sqlite":
        url = f"sqlite:///{tmp_path / 'allq.db'}"
    else:
        url = request.getfixturevalue("postgresql").create_bare()
    database = Database.at(url)
    with database.begin(any_schema=True) as conn:
        config = Config(attributes={"connection": conn})
        config.set_main_option("script_location", str(migrate.SCRIPTS))
        command.upgrade(config, revision)
    assert migrate.upgrade(database) == REVISIONS[REVISIONS.index(revision) + 1 :]
    with database.read() as conn:
        assert differing(conn) == set()
    database.close()


def test_it_is_in_order_as_well_where_search_path_names_another_schema_first(postgresql: PostgresqlServer) -> None:
    url = postgresql.create_bare()
    plain = Database.at(url)
    with plain.begin(any_schema=True) as conn:
        conn.exec_driver_sql("CREATE SCHEMA laboratory")
        conn.exec_driver_sql("CREATE TABLE laboratory.notes (id bigint)")
    migrate.upgrade(plain)
    apart = Database.at(f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Dlaboratory,public")
    with apart.read() as conn:
        assert conn.exec_driver_sql("SELECT 'notes'::regclass::text").scalar() == "notes"
        assert differing(conn) == set()
    with plain.begin() as conn:
        conn.exec_driver_sql("CREATE SCHEMA allq")
    inside = Database.at(f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Dallq,public")
    with plain.begin() as conn:
        for name in [*sorted(Base.metadata.tables), "alembic_version", *sorted(makings.on_postgresql().views)]:
            conn.exec_driver_sql(f"ALTER TABLE {name} SET SCHEMA allq")
    with inside.read() as conn:
        assert differing(conn) == set()
    for database in (plain, apart, inside):
        database.close()
    postgresql.drop(url)


def test_an_index_that_is_made_anew_meanwhile_is_in_order_and_so_is_what_that_leaves_behind(
    postgresql: PostgresqlServer,
) -> None:
    url = postgresql.create()
    database = Database.at(url)
    made_anew = Thread(target=_reindex, args=(url,))
    with database.begin() as writer:
        writer.exec_driver_sql("INSERT INTO event (kind, actor, body) VALUES ('x', 'x', '{}')")
        made_anew.start()  # and waits for the writer, with the copy in place
        with database.read() as conn:
            while made_anew.is_alive() and conn.exec_driver_sql(COPIES).scalar() == 0:
                conn.rollback()
                sleep(0.02)
            assert differing(conn) == set()
            conn.rollback()
            conn.exec_driver_sql(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'REINDEX%%' AND datname = current_database()"
            )
        made_anew.join()
    with database.read() as conn:
        assert conn.exec_driver_sql(COPIES).scalar()
        assert differing(conn) == set()
    _reindex(url)
    with database.read() as conn:
        assert differing(conn) == set()
    database.close()
    postgresql.drop(url)


COPIES = "SELECT count(*) FROM pg_index WHERE indexrelid::regclass::text LIKE 'event_pkey_ccnew%%' AND indisunique"


def _reindex(url: str) -> None:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as conn, suppress(psycopg.errors.QueryCanceled):
        conn.execute("REINDEX TABLE CONCURRENTLY event")


@pytest.mark.parametrize(("statements", "told"), ON_SQLITE)
def test_whatever_is_not_as_allq_makes_it_is_named_on_sqlite(
    sqlite: Database, statements: list[str], told: set[str]
) -> None:
    assert harmed(sqlite, statements) == told


def laid_out_anew(sql: str) -> str:
    """A statement with each word on a line of its own, in other letters, and a remark; what it says stays."""
    parts = re.split(r"('[^']*')", sql)
    parts[::2] = [re.sub(r"\s+", "\n\t", part).swapcase() for part in parts[::2]]
    return "".join(parts) + " -- as before"


@pytest.mark.parametrize(
    ("kind", "name"), sorted(key for key in makings.on_sqlite() if key[0] in {"trigger", "view"}), ids=str
)
def test_a_trigger_or_view_that_is_only_laid_out_otherwise_is_the_same_on_sqlite(
    sqlite: Database, kind: str, name: str
) -> None:
    sql = makings.on_sqlite()[kind, name][1]
    assert laid_out_anew(sql) != sql
    assert harmed(sqlite, rewritten(name, sql, laid_out_anew(sql), kind)) == set()
    told = {f"{kind} {name} is not as allq makes it"}
    assert harmed(sqlite, rewritten(name, "SELECT", "SELECT DISTINCT", kind)) == told


@pytest.mark.parametrize(("statements", "told"), ON_POSTGRESQL)
def test_whatever_is_not_as_allq_makes_it_is_named_on_postgresql(
    on_server: Database, statements: list[str], told: set[str]
) -> None:
    assert harmed(on_server, statements) == told


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (
            changed("chunk", "chunk_sum", "CHECK (fields = waiting + screened + failed + cancelled) NOT ENFORCED"),
            {"constraint chunk_sum of chunk is not as allq makes it"},
        ),
        (
            changed("leaf", "leaf_event_id_fkey", "FOREIGN KEY (event_id) REFERENCES event (id) NOT ENFORCED"),
            {"constraint leaf_event_id_fkey of leaf is not as allq makes it"},
        ),
        (
            [
                "ALTER TABLE event ALTER body DROP NOT NULL",
                "ALTER TABLE event ADD CONSTRAINT said NOT NULL body NOT VALID",
            ],
            {"constraint said of event does not hold for rows from before it"},
        ),
    ],
)
def test_constraints_that_only_seem_to_hold_are_named(
    on_server: Database, statements: list[str], told: set[str]
) -> None:
    with on_server.read() as conn:
        if int(conn.exec_driver_sql("SHOW server_version_num").scalar_one()) < 180000:
            pytest.skip("they came with version 18")
    assert harmed(on_server, statements) == told


@pytest.mark.parametrize("view", sorted(makings.on_postgresql().views))
def test_a_view_that_a_server_spells_otherwise_is_the_same_and_one_that_hides_or_swaps_anything_is_not(
    on_server: Database, view: str
) -> None:
    select = makings.on_postgresql().views[view]
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
    made = makings.on_postgresql()
    tables = Base.metadata.tables
    assert made.tables == set(tables)
    assert set(made.indexes) == {str(index.name) for table in tables.values() for index in table.indexes}
    constraints = {
        (table.name, str(one.name)) for table in tables.values() for one in table.constraints if one.name is not None
    }
    assert {name for _, name in made.constraints} >= {name for _, name in constraints if "None" not in name}
    assert {statement.replace("OR REPLACE ", "").split()[1] for statement in statements()} <= {
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


@pytest.mark.parametrize("columns", ["*", "id"])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_verify_says_that_a_table_was_not_looked_at_where_another_is_read_before_it(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 1)])
    store.work(database, chunk_ids)
    sealing.seal(database, settings)

    @contextmanager
    def read() -> Iterator[Connection]:
        with database.engine.connect() as conn:
            conn.exec_driver_sql("CREATE SCHEMA aside")
            conn.exec_driver_sql(f"CREATE TABLE aside.slide_call AS SELECT {columns} FROM slide_call")
            conn.exec_driver_sql("SET LOCAL search_path = aside, public")
            yield conn

    monkeypatch.setattr(database, "read", read)
    found = verifying.verify(database, Witness(settings.checkpoint_file))
    assert not found.finished
    assert "table slide_call: is hidden from this login" in {str(one).split(" by ")[0] for one in found.problems}
    assert "allq's own table slide_call was not" in found.remarks[0]


def test_verify_says_so_as_well_and_the_doctor_what_to_do(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 3)])
    store.work(database, chunk_ids)
    sealing.seal(database, settings)
    with database.begin() as conn:
        conn.exec_driver_sql("DROP VIEW turnaround")
        conn.exec_driver_sql("DROP INDEX batch_root")
        conn.exec_driver_sql("CREATE UNIQUE INDEX batch_root ON batch (root)")
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
        assert {str(one) for one in found.problems} == {
            f"trigger {trigger}",
            "view turnaround: is missing",
            "index batch_root: is not as allq makes it",
        }
    check = _schema(database)
    assert check.ok is False
    assert "view turnaround is missing" in check.detail
    assert "index chunk_pending is missing" in check.detail
    assert "index batch_root is not as allq makes it" in check.detail
    assert "allq audit verify" in (check.advice or "")
