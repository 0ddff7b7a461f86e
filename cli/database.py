"""`allq db`: the database's schema."""

from __future__ import annotations

import typer

from cli import options

app = typer.Typer(no_args_is_help=True)


@app.callback()
def db() -> None:
    """The database's schema.

    Example: allq db upgrade
    """


@app.command("upgrade")
def upgrade(json: options.Json = False) -> None:
    """Bring the schema of the database up to this version of allq. The embedded database does so by itself.

    Example: ALLQ_DATABASE_URL=postgresql+psycopg://allq@db/allq allq db upgrade
    """
    from allq.errors import SchemaOutdated
    from cli import console
    from cli.session import settings
    from db import migrate
    from db.database import Database

    found = settings()
    upgraded = False
    try:
        database = Database.open(found, upgrade=False)
    except SchemaOutdated:
        database = Database.open(found, upgrade=True)
        upgraded = True
    try:
        revision, url = migrate.current(database), database.url
    finally:
        database.close()
    console.say(f"{'Upgraded' if upgraded else 'Nothing to do'}: {url} has schema {revision}.")
    if json:
        console.emit({"database": url, "revision": revision, "upgraded": upgraded})
