"""Workers of one's own, for `allq screen`: a worker process that lives as long as the command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import allq
from allq.settings import Settings

_PATIENCE: Final = 60.0
"""Seconds in which a worker told to stop finishes the chunks in hand; after that they are given back."""


class LocalWorker:
    """A running `allq worker`. Its log goes to a file, so that it does not write into a progress bar."""

    def __init__(self, settings: Settings, concurrency: int | None) -> None:
        self.log = settings.make_home() / "worker.log"
        # The worker ends when we do, even by `kill -9`: nobody else knows of it.
        command = [sys.executable, "-P", "-m", "allq", "worker", "--parent", str(os.getpid())]
        if concurrency is not None:
            command += ["--concurrency", str(concurrency)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **import_path(), **environment(settings)},
                start_new_session=True,  # Ctrl-C is for the command; it stops its worker in its own time
            )

    def problem(self) -> str | None:
        """Why the worker is no longer there; None while it is."""
        code = self._process.poll()
        if code is None:
            return None
        return f"The worker ended by itself (exit code {code}): {_last_line(self.log)} See {self.log}"

    def stop(self) -> None:
        """Tell the worker to finish what it has in hand and end; insist after a minute."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def local_worker(settings: Settings, *, concurrency: int | None = None) -> Iterator[LocalWorker]:
    """Run a worker while the block runs; at its end the worker finishes or gives back its chunks."""
    worker = LocalWorker(settings, concurrency)
    try:
        yield worker
    finally:
        # A second Ctrl-C while waiting must not leave the worker behind.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if _in_main_thread() else None
        try:
            worker.stop()
        finally:
            if previous is not None:
                signal.signal(signal.SIGINT, previous)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def import_path() -> dict[str, str]:
    """Variables with which Python finds this very code, in the worker and in whatever that starts, and nothing else.

    Above all nothing in the current directory: that is a folder of slides, and anyone may have put a `db.py` there.
    """
    usual = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    source = str(Path(allq.__file__).resolve().parents[1])
    # Of PYTHONPATH, an empty or relative entry means the current directory or a part of it.
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    if source not in usual and source not in entries:
        entries.append(source)
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}


def environment(settings: Settings) -> dict[str, str]:
    """The settings of this process as variables, so that the worker has the same ones whatever set them."""
    found: dict[str, str] = {}
    for name, value in settings:
        if value is None or name not in settings.model_fields_set:
            continue
        if isinstance(value, tuple):
            text = (" " if name == "ledger_hooks" else os.pathsep).join(str(part) for part in value)
        elif hasattr(value, "get_secret_value"):
            text = value.get_secret_value()
        else:
            text = str(value)
        found[f"ALLQ_{name.upper()}"] = text
    return found


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
