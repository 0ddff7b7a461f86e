"""Who a worker's process is: said to the ledger once, so that its name in later events can be traced to somebody."""

from __future__ import annotations

from allq.settings import Settings
from allq.version import __version__
from db import events
from db.database import Database
from worker.identity import owner


def introduce(database: Database, settings: Settings) -> str:
    """Append who started this process, with which code and settings; return the name by which it claims chunks."""
    name = owner()
    body = {"operator": settings.operator, "version": __version__, "settings": settings.recorded}
    with database.begin() as connection:
        events.append(connection, "worker-started", body, actor=name)
    return name
