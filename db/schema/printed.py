"""The migrations' statements on PostgreSQL, as `alembic upgrade --sql` would print them."""

from __future__ import annotations

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from db import migrate


class _Printed(list[str]):
    """A file that Alembic prints its statements to, each by one `write`."""

    def write(self, statement: str) -> None:
        self.append(statement.strip().removesuffix(";"))

    def flush(self) -> None:
        """Nothing waits."""


def statements() -> list[str]:
    """In their order, without those that carry data over."""
    printed = _Printed()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        opts={"as_sql": True, "output_buffer": printed},
    )
    revisions = reversed(list(ScriptDirectory(str(migrate.SCRIPTS)).walk_revisions()))
    with Operations.context(context):
        for revision in revisions:
            revision.module.upgrade()
    return printed
