"""What a command works with: settings, a quiet log, an open database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allq.settings import Settings, load

if TYPE_CHECKING:
    from db.database import Database
    from db.records import Activation
    from models.artefact import Model


def settings() -> Settings:
    """Read the settings, for a command that talks to the database alone: nothing there writes a log."""
    return load()


def working_settings() -> Settings:
    """The same for a command that goes to work; its log shows warnings, unless ALLQ_LOG_LEVEL asks for more."""
    from allq import logging

    found = load()
    quiet = found if "log_level" in found.model_fields_set else found.model_copy(update={"log_level": "warning"})
    logging.configure(quiet)
    return found


@contextmanager
def open_database(found: Settings | None = None) -> Iterator[Database]:
    """Open the database for the length of a command."""
    from db.database import Database

    database = Database.open(found or settings())
    try:
        yield database
    finally:
        database.close()


def activation(found: Settings) -> Activation | None:
    """The activation that holds in the database, for a command that needs nothing else of it; makes no database."""
    from db import activations

    if found.embedded_database and not (found.home / "allq.db").exists():
        return None
    with open_database(found) as database, database.read() as connection:
        return activations.latest(connection)


def chosen_model(found: Settings, name_or_id: str | None = None) -> Model:
    """The model asked for, else the one that screens by default; the database is asked only where it decides."""
    from models.artefact import find
    from worker import active

    if name_or_id or found.model:
        return find(found, name_or_id)
    holds = activation(found)
    return find(found) if holds is None else active.activated(found, holds)
