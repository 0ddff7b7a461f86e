"""What a command works with: settings, a quiet log, an open database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allq.settings import Settings, load

if TYPE_CHECKING:
    from db.database import Database


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
