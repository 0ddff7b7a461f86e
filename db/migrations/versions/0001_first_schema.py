"""The schema of allq 0.1: tables, views for review, and triggers that keep findings and ledger as they were written."""

import re
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.TIMESTAMP(timezone=True).with_variant(sa.Text(), "sqlite")

APPEND_ONLY = {
    "model": "sha256 = NEW.sha256",
    "finding": "sha256 = NEW.sha256 AND model_id = NEW.model_id",
    "finding_leukocytes": "finding_id = NEW.finding_id",
    "slide_call": "id = NEW.id",
    "event": "id = NEW.id",
    "event_slide": "slide_id = NEW.slide_id AND event_id = NEW.event_id",
}
"""Tables whose rows never change, and what makes a row the same as another, which INSERT OR REPLACE would replace."""

_WITH_ID = ("model", "finding", "slide_call", "event")


def upgrade() -> None:
    _create_tables()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {_in_dialect(select, sqlite)}")
    for statement in _sqlite_triggers() if sqlite else _postgresql_triggers():
        op.execute(statement)


_SPELLINGS = {
    "SECONDS": (
        "round((julianday({1}) - julianday({0})) * 86400.0, 3)",
        "round(CAST(extract(epoch FROM {1} - {0}) AS numeric), 3)",
    ),
    "HEX": ("lower(hex({0}))", "encode({0}, 'hex')"),
}
"""What the two databases spell differently in the views: (SQLite, PostgreSQL)."""


def _in_dialect(select: str, sqlite: bool) -> str:
    for name, (in_sqlite, in_postgresql) in _SPELLINGS.items():
        for call, arguments in re.findall(rf"({name}\(([^()]*)\))", select):
            spelled = (in_sqlite if sqlite else in_postgresql).format(*[part.strip() for part in arguments.split(",")])
            select = select.replace(call, spelled)
    return select


def _sqlite_triggers() -> Iterator[str]:
    """REPLACE deletes a row without firing its trigger, so the insertion that would replace one is refused as well."""
    for table, same in APPEND_ONLY.items():
        refuse = f"SELECT RAISE(ABORT, 'rows of {table} are never changed or removed')"
        yield f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN {refuse}; END"
        yield f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} BEGIN {refuse}; END"
        tests = [f"EXISTS (SELECT 1 FROM {table} WHERE {same})"]
        if table in _WITH_ID and same != "id = NEW.id":
            tests.append(f"EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)")
        yield (
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {' OR '.join(tests)} BEGIN {refuse}; END"
        )


def _postgresql_triggers() -> Iterator[str]:
    yield """
        CREATE FUNCTION allq_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation';
        END $$
    """
    for table in APPEND_ONLY:
        yield (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION allq_append_only()"
        )


def _flags(flags: str, duplicate: str) -> str:
    """A field's or slide's own flags, and `duplicate` where the database has found twins since."""
    return (
        f"CASE WHEN NOT {duplicate} OR ',' || {flags} || ',' LIKE '%,duplicate,%' THEN {flags} "
        f"WHEN {flags} = '' THEN 'duplicate' ELSE {flags} || ',duplicate' END"
    )


VIEWS = {
    "batch_progress": """
        SELECT b.id AS batch,
               CASE WHEN b.registered_at IS NULL AND b.cancelled_at IS NULL THEN 'registering'
                    WHEN coalesce(c.waiting, 0) > 0 AND c.started_at IS NULL THEN 'waiting'
                    WHEN coalesce(c.waiting, 0) > 0 THEN 'running'
                    WHEN b.cancelled_at IS NOT NULL THEN 'cancelled'
                    WHEN EXISTS (SELECT 1 FROM slide s WHERE s.batch_id = b.id AND s.call_due) THEN 'running'
                    ELSE 'done' END AS state,
               b.queue, b.slides, b.fields,
               coalesce(c.waiting, 0) AS waiting, coalesce(c.screened, 0) AS screened,
               coalesce(c.failed, 0) AS failed, coalesce(c.cancelled, 0) AS cancelled,
               coalesce(c.linked, 0) AS findings_linked, b.skipped,
               b.created_at, b.registered_at, c.started_at,
               CASE WHEN coalesce(c.waiting, 0) = 0 THEN c.ended_at END AS finished_at,
               SECONDS(c.started_at, c.ended_at) AS seconds,
               CASE WHEN c.ended_at > c.started_at
                    THEN round((c.screened + c.failed) / SECONDS(c.started_at, c.ended_at), 1) END AS fields_per_second,
               m.name AS model, m.sha256 AS model_sha256, m.synthetic, b.root, b.note, b.operator
        FROM batch b
        JOIN model m ON m.id = b.model_id
        LEFT JOIN (SELECT batch_id, sum(waiting) AS waiting, sum(screened) AS screened, sum(failed) AS failed,
                          sum(cancelled) AS cancelled, sum(linked) AS linked,
                          min(started_at) AS started_at, max(ended_at) AS ended_at
                   FROM chunk GROUP BY batch_id) c ON c.batch_id = b.id
    """,
    "worklist": f"""
        SELECT s.id AS slide_id, s.batch_id AS batch, s.name AS slide, c.call, s.suspicion, c.confidence,
               c.p_benign, c.p_early_pre_b, c.p_pre_b, c.p_pro_b,
               {_flags("c.flags", "(s.duplicates > 0)")} AS flags,
               c.leukocytes, c.suspects, c.upper_bound, s.fields, s.screened, s.failed, s.cancelled,
               c.called_at, b.queue, m.name AS model, m.synthetic
        FROM slide s
        JOIN slide_call c ON c.id = s.slide_call_id
        JOIN batch b ON b.id = s.batch_id
        JOIN model m ON m.id = b.model_id
        WHERE s.suspicion IS NOT NULL
    """,
    "slide_findings": f"""
        SELECT s.batch_id AS batch, s.id AS slide_id, s.name AS slide, f.id AS field_id, f.path AS field, f.state,
               i.call, i.confidence, i.p_benign, i.p_early_pre_b, i.p_pre_b, i.p_pro_b, i.suspicion, i.novelty,
               {_flags("coalesce(i.flags, '')", "f.duplicate")} AS flags,
               i.leukocytes, i.suspects, i.width, i.height, f.linked, f.duplicate,
               f.failure, f.failure_sentence, HEX(f.sha256) AS failed_sha256, HEX(i.sha256) AS sha256,
               f.size, i.recorded_at, i.engine, i.code_version, m.name AS model, m.sha256 AS model_sha256, m.synthetic
        FROM slide s
        JOIN batch b ON b.id = s.batch_id
        JOIN model m ON m.id = b.model_id
        JOIN field f ON f.slide_id = s.id
        LEFT JOIN finding i ON i.id = f.finding_id
    """,
    "field_failures": """
        SELECT c.batch_id AS batch, s.id AS slide_id, s.name AS slide, f.id AS field_id, f.path AS field,
               f.failure, f.failure_sentence, c.attempt, c.ended_at AS failed_at, HEX(f.sha256) AS sha256, f.size
        FROM chunk c
        JOIN field f ON f.chunk_id = c.id
        JOIN slide s ON s.id = f.slide_id
        WHERE c.failed > 0 AND f.state = 'failed'
    """,
    "model_use": """
        SELECT m.name AS model, m.sha256 AS model_sha256, m.architecture, m.synthetic, m.code_version,
               count(DISTINCT b.id) AS batches, coalesce(sum(c.screened), 0) AS screened,
               coalesce(sum(c.screened - c.linked), 0) AS inferred, coalesce(sum(c.linked), 0) AS findings_linked,
               coalesce(sum(c.failed), 0) AS failed,
               min(b.created_at) AS first_used_at, max(b.created_at) AS last_used_at
        FROM model m
        LEFT JOIN batch b ON b.model_id = m.id
        LEFT JOIN chunk c ON c.batch_id = b.id
        GROUP BY m.id, m.name, m.sha256, m.architecture, m.synthetic, m.code_version
    """,
    "turnaround": """
        SELECT s.batch_id AS batch, s.id AS slide_id, s.name AS slide, b.queue,
               b.created_at AS submitted_at, c.called_at, SECONDS(b.created_at, c.called_at) AS seconds
        FROM slide s
        JOIN batch b ON b.id = s.batch_id
        JOIN slide_call c ON c.id = s.slide_call_id
    """,
    "slide_history": """
        SELECT s.id AS slide_id, s.batch_id AS batch, s.name AS slide, e.id AS event_id, e.at, e.kind, e.actor, e.body
        FROM slide s
        JOIN event_slide es ON es.slide_id = s.id
        JOIN event e ON e.id = es.event_id
        UNION ALL
        SELECT s.id, s.batch_id, s.name, e.id, e.at, e.kind, e.actor, e.body
        FROM slide s
        JOIN event e ON e.batch_id = s.batch_id AND e.chunk_id IS NULL AND e.kind LIKE 'batch-%'
    """,
}
"""What people read. Portable but for SECONDS(from, to) and HEX(bytes)."""


def _create_tables() -> None:
    op.create_table(
        "event",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("batch_id", _ID, nullable=True),
        sa.Column("chunk_id", _ID, nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("event_pkey")),
    )
    op.create_index(
        "event_batch_id",
        "event",
        ["batch_id"],
        unique=False,
        sqlite_where=sa.text("chunk_id IS NULL"),
        postgresql_where=sa.text("chunk_id IS NULL"),
    )
    op.create_index(
        "event_chunk_id",
        "event",
        ["chunk_id"],
        unique=False,
        sqlite_where=sa.text("chunk_id IS NOT NULL"),
        postgresql_where=sa.text("chunk_id IS NOT NULL"),
    )
    op.create_table(
        "model",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("synthetic", sa.Boolean(), nullable=False),
        sa.Column("configuration", sa.Text(), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("added_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("model_pkey")),
        sa.UniqueConstraint("sha256", name=op.f("model_sha256_key")),
    )
    op.create_table(
        "batch",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("raw_root", sa.LargeBinary(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("model_id", _ID, nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("slides", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("fields", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("registered_at", _TIME, nullable=True),
        sa.Column("cancelled_at", _TIME, nullable=True),
        sa.CheckConstraint("queue IN ('routine', 'stat')", name=op.f("batch_queue")),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("batch_model_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("batch_pkey")),
    )
    op.create_table(
        "event_slide",
        sa.Column("slide_id", _ID, autoincrement=False, nullable=False),
        sa.Column("event_id", _ID, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name=op.f("event_slide_event_id_fkey")),
        sa.PrimaryKeyConstraint("slide_id", "event_id", name=op.f("event_slide_pkey")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "finding",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("model_id", _ID, nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("p_benign", sa.Double(), nullable=False),
        sa.Column("p_early_pre_b", sa.Double(), nullable=False),
        sa.Column("p_pre_b", sa.Double(), nullable=False),
        sa.Column("p_pro_b", sa.Double(), nullable=False),
        sa.Column("suspicion", sa.Double(), nullable=False),
        sa.Column("novelty", sa.Double(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("leukocytes", sa.Integer(), nullable=False),
        sa.Column("suspects", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("call", sa.Text(), nullable=True),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("quality", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("finding_model_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("finding_pkey")),
        sa.UniqueConstraint("sha256", "model_id", name=op.f("finding_sha256_model_id_key")),
    )
    op.create_table(
        "chunk",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", _ID, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fields", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("screened", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("linked", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("published_at", _TIME, nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.CheckConstraint("(state = 'running') = (owner IS NOT NULL)", name=op.f("chunk_owner")),
        sa.CheckConstraint("(state IN ('pending', 'running')) = (waiting > 0)", name=op.f("chunk_waiting")),
        sa.CheckConstraint("state IN ('pending', 'running', 'done', 'cancelled')", name=op.f("chunk_state")),
        sa.CheckConstraint("fields = waiting + screened + failed + cancelled", name=op.f("chunk_sum")),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("chunk_batch_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("chunk_pkey")),
    )
    op.create_index("chunk_batch_id", "chunk", ["batch_id"], unique=False)
    op.create_index(
        "chunk_pending",
        "chunk",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "chunk_running",
        "chunk",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "finding_leukocytes",
        sa.Column("finding_id", _ID, autoincrement=False, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["finding.id"], name=op.f("finding_leukocytes_finding_id_fkey")),
        sa.PrimaryKeyConstraint("finding_id", name=op.f("finding_leukocytes_pkey")),
    )
    op.create_table(
        "skipped",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", _ID, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("skipped_batch_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("skipped_pkey")),
    )
    op.create_index("skipped_batch_id", "skipped", ["batch_id"], unique=False)
    op.create_table(
        "slide",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("raw_name", sa.LargeBinary(), nullable=True),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("fields", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("screened", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("duplicates", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("call_due", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("slide_call_id", _ID, nullable=True),
        sa.Column("suspicion", sa.Double(), nullable=True),
        sa.CheckConstraint("screened + failed + cancelled <= fields", name=op.f("slide_sum")),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("slide_batch_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("slide_pkey")),
    )
    op.create_index("slide_batch_id", "slide", ["batch_id"], unique=False)
    op.create_index(
        "slide_call_due",
        "slide",
        ["batch_id"],
        unique=False,
        sqlite_where=sa.text("call_due"),
        postgresql_where=sa.text("call_due"),
    )
    op.create_index("slide_name", "slide", ["name"], unique=False)
    op.create_index(
        "slide_suspicion",
        "slide",
        ["suspicion", "id"],
        unique=False,
        sqlite_where=sa.text("suspicion IS NOT NULL"),
        postgresql_where=sa.text("suspicion IS NOT NULL"),
    )
    op.create_table(
        "field",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("slide_id", _ID, nullable=False),
        sa.Column("chunk_id", _ID, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("modified_ns", sa.BigInteger(), nullable=False),
        sa.Column("finding_id", _ID, nullable=True),
        sa.Column("linked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("duplicate", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("raw_path", sa.LargeBinary(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("failure_sentence", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name=op.f("field_failure")),
        sa.CheckConstraint("(state = 'screened') = (finding_id IS NOT NULL)", name=op.f("field_finding")),
        sa.CheckConstraint("state IN ('waiting', 'screened', 'failed', 'cancelled')", name=op.f("field_state")),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunk.id"], name=op.f("field_chunk_id_fkey")),
        sa.ForeignKeyConstraint(["finding_id"], ["finding.id"], name=op.f("field_finding_id_fkey")),
        sa.ForeignKeyConstraint(["slide_id"], ["slide.id"], name=op.f("field_slide_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("field_pkey")),
    )
    op.create_index("field_chunk_id", "field", ["chunk_id"], unique=False)
    op.create_index(
        "field_failed",
        "field",
        ["chunk_id"],
        unique=False,
        sqlite_where=sa.text("state = 'failed'"),
        postgresql_where=sa.text("state = 'failed'"),
    )
    op.create_index(
        "field_finding_id",
        "field",
        ["finding_id"],
        unique=False,
        sqlite_where=sa.text("finding_id IS NOT NULL"),
        postgresql_where=sa.text("finding_id IS NOT NULL"),
    )
    op.create_index("field_slide_id", "field", ["slide_id", "id"], unique=False)
    op.create_table(
        "slide_call",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("slide_id", _ID, nullable=False),
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("p_benign", sa.Double(), nullable=False),
        sa.Column("p_early_pre_b", sa.Double(), nullable=False),
        sa.Column("p_pre_b", sa.Double(), nullable=False),
        sa.Column("p_pro_b", sa.Double(), nullable=False),
        sa.Column("suspicion", sa.Double(), nullable=False),
        sa.Column("upper_bound", sa.Double(), nullable=True),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("leukocytes", sa.Integer(), nullable=False),
        sa.Column("suspects", sa.Integer(), nullable=False),
        sa.Column("fields", sa.Integer(), nullable=False),
        sa.Column("screened", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.Column("called_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["slide_id"], ["slide.id"], name=op.f("slide_call_slide_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("slide_call_pkey")),
    )
    op.create_index("slide_call_slide_id", "slide_call", ["slide_id"], unique=False)
