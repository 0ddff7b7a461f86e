"""PostgreSQL sets the time of an event and of an activation; who seals can append events of keys and backups alone."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return  # whoever may write the file may write all of it
    for table, column in (("event", "at"), ("activation", "activated_at")):
        default = "date_trunc('milliseconds', clock_timestamp())"
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {default}")
    op.execute(f"CREATE VIEW sealer_event WITH (check_option = local) AS {_VIEW}")


_VIEW = """
    SELECT e.id, e.at, e.kind, e.actor, e.body
    FROM event e
    WHERE e.kind IN ('ledger-key-rotated', 'backup-restored')
"""
