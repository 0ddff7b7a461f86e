"""PostgreSQL sets most times; who seals appends events of keys and backups alone; an event's slides come with it."""

from collections.abc import Iterator

from alembic import op

revision = "0005"
down_revision = "0004"

_TIMES = (
    ("event", "at"),
    ("activation", "activated_at"),
    ("review", "decided_at"),
    ("slide_call", "called_at"),
    ("model", "added_at"),
    ("batch", "created_at"),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # whoever may write the file may write all of it, times as well
        op.execute(_ON_SQLITE)
        return
    for statement in _on_postgresql():
        op.execute(statement)


_ON_SQLITE = """
    CREATE TRIGGER event_slide_with_event BEFORE INSERT ON event_slide
    WHEN EXISTS (SELECT 1 FROM leaf WHERE event_id = NEW.event_id)
    BEGIN
        SELECT RAISE(ABORT, 'rows of event_slide are never changed or removed, nor added once their event is sealed');
    END
"""


def _on_postgresql() -> Iterator[str]:
    for table, column in _TIMES:
        default = "date_trunc('milliseconds', clock_timestamp())"
        yield f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {default}"
    yield f"CREATE VIEW sealer_event WITH (check_option = local) AS {_VIEW}"
    yield _FUNCTION
    yield (
        "CREATE TRIGGER event_slide_with_event BEFORE INSERT ON event_slide "
        "FOR EACH ROW EXECUTE FUNCTION allq_with_event()"
    )


_VIEW = """
    SELECT e.id, e.at, e.kind, e.actor, e.body
    FROM event e
    WHERE e.kind IN ('ledger-key-rotated', 'backup-restored')
"""

# That no leaf is there yet would not do: it may be committed between this look and our own commit.
_FUNCTION = """
    CREATE FUNCTION allq_with_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT FROM event e WHERE e.id = NEW.event_id AND e.xmin = CAST(pg_current_xact_id() AS xid)
        ) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'rows of event_slide are written in the transaction of their event, never later'
            USING ERRCODE = 'restrict_violation';
    END $$
"""
