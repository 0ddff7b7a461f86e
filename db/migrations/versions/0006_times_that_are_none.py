"""PostgreSQL sets when a finding is recorded; the views that subtract times show none where a time is infinite."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # there a time that is none gives no seconds by itself
        return
    default = "date_trunc('milliseconds', clock_timestamp())"
    op.execute(f"ALTER TABLE finding ALTER COLUMN recorded_at SET DEFAULT {default}")
    for name, select in _VIEWS.items():
        op.execute(f"CREATE OR REPLACE VIEW {name} AS {select}")


def _seconds(begin: str, end: str) -> str:
    """From one time to the other. Subtracted as numbers: the span of two far times is no interval."""
    return (
        f"CASE WHEN isfinite({begin}) AND isfinite({end}) "
        f"THEN round(extract(epoch FROM {end}) - extract(epoch FROM {begin}), 3) END"
    )


_WORKED = _seconds("c.started_at", "c.ended_at")

_VIEWS = {
    "batch_progress": f"""
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
               {_WORKED} AS seconds,
               CASE WHEN c.ended_at > c.started_at
                    THEN round((c.screened + c.failed) / nullif({_WORKED}, 0), 1) END AS fields_per_second,
               m.name AS model, m.sha256 AS model_sha256, m.synthetic, b.root, b.note, b.operator
        FROM batch b
        JOIN model m ON m.id = b.model_id
        LEFT JOIN (SELECT batch_id, sum(waiting) AS waiting, sum(screened) AS screened, sum(failed) AS failed,
                          sum(cancelled) AS cancelled, sum(linked) AS linked,
                          min(started_at) AS started_at, max(ended_at) AS ended_at
                   FROM chunk GROUP BY batch_id) c ON c.batch_id = b.id
    """,
    "turnaround": f"""
        SELECT s.batch_id AS batch, s.id AS slide_id, s.name AS slide, b.queue,
               b.created_at AS submitted_at, c.called_at, {_seconds("b.created_at", "c.called_at")} AS seconds
        FROM slide s
        JOIN batch b ON b.id = s.batch_id
        JOIN slide_call c ON c.id = s.slide_call_id
    """,
}
"""As in 0001, but for the seconds."""
