"""Which model is active: who chose it, when and why."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.TIMESTAMP(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "activation",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("model_id", _ID, nullable=False),
        sa.Column("activated_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("activated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("activation_model_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("activation_pkey")),
    )
    op.execute(f"CREATE VIEW model_activations AS {_VIEW}")
    for statement in _sqlite_triggers() if op.get_bind().dialect.name == "sqlite" else _postgresql_triggers():
        op.execute(statement)


_VIEW = """
    SELECT a.id AS activation, m.name AS model, m.sha256 AS model_sha256, m.architecture, m.synthetic,
           a.activated_at, a.activated_by, a.reason,
           lead(a.activated_at) OVER (ORDER BY a.id) AS superseded_at,
           a.id = (SELECT max(x.id) FROM activation x) AS active
    FROM activation a
    JOIN model m ON m.id = a.model_id
"""


def _sqlite_triggers() -> Iterator[str]:
    """REPLACE deletes a row without firing its trigger, so the insertion that would replace one is refused as well."""
    refuse = "SELECT RAISE(ABORT, 'rows of activation are never changed or removed')"
    yield f"CREATE TRIGGER activation_no_update BEFORE UPDATE ON activation BEGIN {refuse}; END"
    yield f"CREATE TRIGGER activation_no_delete BEFORE DELETE ON activation BEGIN {refuse}; END"
    yield (
        "CREATE TRIGGER activation_no_replace BEFORE INSERT ON activation "
        f"WHEN EXISTS (SELECT 1 FROM activation WHERE id = NEW.id) BEGIN {refuse}; END"
    )


def _postgresql_triggers() -> Iterator[str]:
    yield (
        "CREATE TRIGGER activation_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON activation "
        "FOR EACH STATEMENT EXECUTE FUNCTION allq_append_only()"
    )
