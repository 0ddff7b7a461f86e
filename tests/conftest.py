"""Fixtures for everyone: settings that know nothing of this machine, and databases of both kinds.

`settings`  an allq Settings with its home in a temporary folder; where the test also takes `database`, with its URL.
`database`  an open, empty Database; the test runs once on SQLite and once on PostgreSQL.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from allq.settings import Settings
from db.database import Database
from tests import databases


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ALLQ_") and not name.startswith("ALLQ_TEST_"):
            monkeypatch.delenv(name)
    for name in ("COLUMNS", "LINES"):  # pytest-xdist's processes have both: a terminal's, into a pipe
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _loggers_keep_nothing() -> Iterator[None]:
    """A logger that keeps what was set up when it was first used would write into that test's files ever after."""
    configure = structlog.configure

    def without_keeping(**settings: Any) -> None:
        configure(**{**settings, "cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(structlog, "configure", without_keeping)
        yield


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging as it was, after a test that has set allq's up, also by a command that it ran."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[databases.PostgresqlServer]:
    """A PostgreSQL server for the session; skips where there is none."""
    try:
        with databases.postgresql_server() as server:
            yield server
    except databases.PostgresqlMissing as missing:
        pytest.skip(f"no PostgreSQL: {missing}")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema in place."""
    return databases.sqlite_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(params=databases.KINDS)
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """None for the embedded SQLite, or the URL of a fresh PostgreSQL database with the schema."""
    if request.param == "sqlite":
        yield None
        return
    server: databases.PostgresqlServer = request.getfixturevalue("postgresql")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with a home of their own; on the test's database where it has one."""
    url = request.getfixturevalue("database_url") if "database_url" in request.fixturenames else None
    return databases.settings_for(tmp_path / "home", url)


@pytest.fixture
def database(database_url: str | None, settings: Settings, sqlite_template: Path) -> Iterator[Database]:
    """An open database with the schema and nothing in it."""
    settings.home.mkdir(parents=True, exist_ok=True)
    if database_url is None:
        shutil.copyfile(sqlite_template, settings.home / "allq.db")
    opened = Database.open(settings)
    yield opened
    opened.close()
