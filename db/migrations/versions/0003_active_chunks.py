"""Indexes by which a worker's rounds and a submission cost what is new, not what waits or what was."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name, table, column, where in (
        ("chunk_unpublished", "chunk", "id", "state = 'pending' AND published_at IS NULL"),
        ("chunk_active", "chunk", "batch_id", "state IN ('pending', 'running')"),
        ("batch_root", "batch", "root", None),
    ):
        condition = None if where is None else sa.text(where)
        op.create_index(name, table, [column], unique=False, sqlite_where=condition, postgresql_where=condition)
