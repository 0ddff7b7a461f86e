"""`allq db`: the database's schema."""

from __future__ import annotations

import typer

from cli import options

app = typer.Typer(no_args_is_help=True, help="The database's schema.")


@app.callback()
def db() -> None:
    """The database's schema."""


@app.command("upgrade")
def upgrade(json: options.Json = False) -> None:
    """Bring the schema of the database up to this version of allq. The embedded database does so by itself.

    Example: ALLQ_DATABASE_URL=postgresql+psycopg://allq@db/allq allq db upgrade
    """
    from allq.text import plural
    from cli import console
    from cli.session import settings
    from db import migrate
    from db.database import Database

    database = Database.open(settings(), upgrade=False)
    try:
        applied = migrate.upgrade(database, progress=console.say)
        revision = migrate.current(database)
    finally:
        database.close()
    if json:
        console.emit({"applied": applied, "revision": revision})
    elif applied:
        console.say(f"Applied {plural(len(applied), 'migration')}; the schema is at {revision}.")
    else:
        console.say(f"Nothing to do: the schema is at {revision}.")
