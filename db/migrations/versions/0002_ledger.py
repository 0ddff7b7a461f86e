"""Reviews; the ledger's leaves and checkpoints. What events written so far don't cover is covered by one more."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from db import lines
from db.statements import run

revision = "0002"
down_revision = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.TIMESTAMP(timezone=True).with_variant(sa.Text(), "sqlite")

APPEND_ONLY = {
    "review": "id = NEW.id",
    "leaf": "seq = NEW.seq OR event_id = NEW.event_id",
    "checkpoint": "number = NEW.number",
}
"""Tables whose rows never change, and what makes a row the same as another, which INSERT OR REPLACE would replace."""


def upgrade() -> None:
    _create_tables()
    conn = op.get_bind()
    sqlite = conn.dialect.name == "sqlite"
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select}")
    for statement in _sqlite_triggers() if sqlite else _postgresql_triggers():
        op.execute(statement)
    if not op.get_context().as_sql:  # where only the statements are wanted, there are no rows
        _cover(conn)


def _cover(conn: sa.Connection) -> None:
    """Append an event with digests of the models and slide calls so far: earlier events did not cover every column."""
    body: dict[str, Any] = {}
    for table in ("model", "slide_call"):
        last = conn.exec_driver_sql(f"SELECT max(id) FROM {table}").scalar()
        if last is not None:
            rows = conn.exec_driver_sql(f"SELECT {', '.join(lines.COLUMNS[table])} FROM {table} ORDER BY id")
            body[table] = {"through": last, "digest": lines.digest(lines.line(table, tuple(row)) for row in rows)}
    if body:
        # as the tables are here: `events.append` is written for the newest
        statement = "INSERT INTO event (at, kind, actor, body) VALUES ({now}, 'ledger-began', 'allq', :body)"
        run(conn, statement, {"body": lines.canonical(body)})


def _sqlite_triggers() -> Iterator[str]:
    """REPLACE deletes a row without firing its trigger, so the insertion that would replace one is refused as well."""
    for table, same in APPEND_ONLY.items():
        refuse = f"SELECT RAISE(ABORT, 'rows of {table} are never changed or removed')"
        yield f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN {refuse}; END"
        yield f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} BEGIN {refuse}; END"
        yield (
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) BEGIN {refuse}; END"
        )


def _postgresql_triggers() -> Iterator[str]:
    for table in APPEND_ONLY:
        yield (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION allq_append_only()"
        )


VIEWS = {
    "slide_reviews": """
        SELECT r.id AS review, s.batch_id AS batch, s.id AS slide_id, s.name AS slide, r.reviewer, r.call,
               c.call AS machine_call, r.call <> c.call AS overruled, r.reason, r.looked_at, r.decided_at,
               r.id = (SELECT max(x.id) FROM review x WHERE x.slide_id = s.id) AND c.id = s.slide_call_id AS latest,
               c.id AS slide_call_id, c.called_at,
               m.name AS model, m.sha256 AS model_sha256, m.synthetic
        FROM review r
        JOIN slide s ON s.id = r.slide_id
        JOIN slide_call c ON c.id = r.slide_call_id
        JOIN batch b ON b.id = s.batch_id
        JOIN model m ON m.id = b.model_id
    """,
    "review_queue": """
        SELECT w.slide_id, w.batch, w.slide, w.call, w.suspicion, w.confidence, w.flags, w.leukocytes, w.suspects,
               w.upper_bound, w.fields, w.screened, w.failed, w.called_at, w.queue, w.model, w.synthetic
        FROM worklist w
        JOIN slide s ON s.id = w.slide_id
        WHERE NOT EXISTS (SELECT 1 FROM review r WHERE r.slide_call_id = s.slide_call_id)
    """,
}
"""What people read. `latest`: the slide's latest review, of its latest call."""


def _create_tables() -> None:
    op.create_table(
        "review",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("slide_id", _ID, nullable=False),
        sa.Column("slide_call_id", _ID, nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("looked_at", _TIME, nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
        sa.CheckConstraint("call IN ('all-suspected', 'no-suspects-seen', 'insufficient')", name=op.f("review_call")),
        sa.ForeignKeyConstraint(["slide_call_id"], ["slide_call.id"], name=op.f("review_slide_call_id_fkey")),
        sa.ForeignKeyConstraint(["slide_id"], ["slide.id"], name=op.f("review_slide_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("review_pkey")),
    )
    op.create_index("review_slide_call_id", "review", ["slide_call_id"], unique=False)
    op.create_index("review_slide_id", "review", ["slide_id"], unique=False)
    op.create_table(
        "leaf",
        sa.Column("seq", _ID, autoincrement=False, nullable=False),
        sa.Column("event_id", _ID, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name=op.f("leaf_event_id_fkey")),
        sa.PrimaryKeyConstraint("seq", name=op.f("leaf_pkey")),
        sa.UniqueConstraint("event_id", name=op.f("leaf_event_id_key")),
    )
    op.create_table(
        "checkpoint",
        sa.Column("number", _ID, autoincrement=False, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_at", _TIME, nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("given_up", sa.Text(), nullable=True),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("next_key", sa.LargeBinary(), nullable=True),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("checkpoint_pkey")),
    )
    op.create_index("event_slide_event_id", "event_slide", ["event_id", "slide_id"], unique=False)
