"""Bring a database's schema up to date. Alembic is imported only when there is something to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from db import chunks, turns

if TYPE_CHECKING:
    from db.database import Database

HEAD: Final = "0006"
"""The revision that this code is written for; a test compares it with the newest migration."""

TABLES: Final = (
    "model",
    "activation",
    "batch",
    "slide",
    "chunk",
    "field",
    "finding",
    "finding_leukocytes",
    "slide_call",
    "review",
    "skipped",
    "event",
    "event_slide",
    "leaf",
    "checkpoint",
)
"""What an upgrade takes for itself; a test compares it with `db.tables`, which nothing reads at run time."""

_VERSION: Final = "alembic_version"
"""The table of the revision. Each write transaction reads it before anything else (`db.database`): an upgrade, which
takes it as well, is before or after it."""

SCRIPTS: Final = Path(__file__).parent / "migrations"


def current(database: Database) -> str | None:
    """The database's revision; None when it has no schema of ours."""
    with database.ask() as conn:
        return revision_of(conn)


def revision_of(conn: Connection) -> str | None:
    """The same on an open connection."""
    there = (
        "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
        if conn.dialect.name == "sqlite"
        else "SELECT to_regclass('alembic_version')"
    )
    if conn.exec_driver_sql(there).scalar() is None:
        return None
    found: str | None = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found


def upgrade(database: Database, progress: Callable[[str], None] | None = None) -> list[str]:
    """Apply what is missing, in one transaction; return the revisions applied. `progress` hears of each.

    Several processes may do so at once: one migrates, the others wait for it and find nothing left to do. Chunks that
    are being worked on are given back: their workers are of the schema of before, and may record nothing any more.
    """
    # imported here: `allq status` on a schema that is up to date must not pay for Alembic
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    applied: list[str] = []

    def on_version_apply(*, step: Any, **_: Any) -> None:
        applied.append(step.up_revision_id)
        if progress is not None:
            progress(f"{step.up_revision_id}: {step.up_revision.doc}")

    with database.begin(any_schema=True) as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql(turns.SCHEMA)
            if revision_of(conn) not in {None, HEAD}:
                turns.of_tables(conn, (*TABLES, _VERSION))
        config = Config(attributes={"connection": conn, "on_version_apply": on_version_apply})
        config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
        command.upgrade(config, "head")
        if applied:
            chunks.release_all(conn)
    return applied
