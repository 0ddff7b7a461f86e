"""A Valkey of one's own over TCP that may be killed, emptied and started again."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.databases import free_port
from worker.embedded import _binary

_LONGEST_START: Final = 60.0
"""seconds"""


class KillableValkey:
    """Its queue is on disk as it would be in a laboratory: appended to a file, written out each second."""

    def __init__(self, addresses: Sequence[str] = ("127.0.0.1",), password: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="allq-valkey-")
        self._addresses = addresses
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.start()

    def url(self, address: str = "127.0.0.1", *, password: str = "") -> str:
        return f"redis://{f':{password}@' if password else ''}{address}:{self.port}/0"

    @property
    def pid_file(self) -> Path:
        return Path(self._folder.name) / "pid"

    def start(self) -> None:
        """Start it unless it runs; returns when it answers. TimeoutError, with what it says, when it does not."""
        if self._process is None or self._process.poll() is not None:
            command = [_binary(), "--port", str(self.port), "--bind", *self._addresses, "--dir", self._folder.name]
            command += [
                "--protected-mode",
                "no",
                "--appendonly",
                "yes",
                "--save",
                "",
                "--requirepass",
                self._password,
                "--pidfile",
                str(self.pid_file),
            ]
            with (Path(self._folder.name) / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        deadline = time.monotonic() + _LONGEST_START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_says = (Path(self._folder.name) / "log").read_text(errors="replace")[-500:]
                raise TimeoutError(f"the broker does not start: {log_says}")
            time.sleep(0.02)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def shut_down(self) -> None:
        """SIGTERM: what is queued is written out."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def empty(self) -> None:
        """FLUSHALL."""
        self._client().flushall()

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def _answers(self) -> bool:
        try:
            return bool(self._client().ping())
        except (redis.RedisError, OSError):
            return False

    def _client(self) -> redis.Redis:
        return redis.Redis(
            port=self.port, password=self._password or None, retry=Retry(NoBackoff(), 0), socket_timeout=5
        )
