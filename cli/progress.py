"""How far a long command has come: a bar on a terminal, a line every few seconds elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from allq.text import plural, printable
from cli.console import messages
from cli.wording import pace_words

if TYPE_CHECKING:
    from db.records import BatchStatus

LINE_SECONDS: Final = 5.0


class Meter(Protocol):
    """What is told how far the work has come."""

    def say(self, text: str, *, style: str = "") -> None:
        """Print a sentence that stays; nothing else may print while a bar is drawn."""

    def registered(self, slides: int, fields: int, skipped: int) -> None:
        """Tell how much of the folder has been found and written down."""

    def screened(self, status: BatchStatus) -> None:
        """Tell how the batch stands."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Tell how far a stage of training, evaluation or verifying is; told again, it says for how long it stands."""


@contextmanager
def meter(console: Console | None = None) -> Iterator[Meter]:
    """A bar where stderr is a terminal, lines where it isn't."""
    console = console or messages()
    if not console.is_terminal:
        yield Lines(console)
        return
    # Room for the ^C that a terminal echoes: on a line of its own it would leave a bar behind.
    console.width -= 3
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        yield Bar(progress)


class Bar:
    """One bar at a time, redrawn in place."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._name = ""
        self._standing = _Standing()

    def say(self, text: str, *, style: str = "") -> None:
        """See `Meter`."""
        self._progress.console.print(Text(printable(text), style=style))

    def registered(self, slides: int, fields: int, skipped: int) -> None:
        """See `Meter`."""
        self._show("Registering", None, None, _registered_words(slides, fields, skipped))

    def screened(self, status: BatchStatus) -> None:
        """See `Meter`."""
        ended = status.fields - status.waiting
        name = "Ending" if status.ended else "Screening" if ended else "Starting"
        self._show(name, ended, status.fields, _screened_words(status))

    def stage(self, name: str, done: int, total: int) -> None:
        """See `Meter`."""
        self._show(name, done, total, f"{done:,}/{total:,}{self._standing.words(name, done)}")

    def _show(self, name: str, done: int | None, total: int | None, words: str) -> None:
        if self._task is None or name != self._name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(name, total=total, words=words)
            self._name = name
        self._progress.update(self._task, completed=done or 0, total=total, words=words)


class Lines:
    """A line when something has changed, but not more often than every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()
        self._stage = ""
        self._stage_ended = False
        self._standing = _Standing()

    def say(self, text: str, *, style: str = "") -> None:
        """See `Meter`."""
        self._console.print(Text(printable(text), style=style))

    def registered(self, slides: int, fields: int, skipped: int) -> None:
        """See `Meter`."""
        if self._due():
            self._print(f"Registering: {_registered_words(slides, fields, skipped)}")

    def screened(self, status: BatchStatus) -> None:
        """See `Meter`."""
        if self._due():
            self._print(f"Screening: {_screened_words(status)}")

    def stage(self, name: str, done: int, total: int) -> None:
        """See `Meter`."""
        standing = self._standing.words(name, done)
        ended = done == total > 0 and name == self._stage and not self._stage_ended
        if self._due() or name != self._stage or ended:
            self._stage, self._stage_ended = name, done == total
            self._print(f"{name}: {done:,}/{total:,}{standing}")

    def _due(self) -> bool:
        return time.monotonic() - self._last >= LINE_SECONDS

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        self._console.print(text)


class _Standing:
    """For how long a stage has not moved, in words; none until that is worth a line."""

    def __init__(self) -> None:
        self._at: tuple[str, int] | None = None
        self._since = 0.0

    def words(self, name: str, done: int) -> str:
        now = time.monotonic()
        if (name, done) != self._at:
            self._at, self._since = (name, done), now
        stands = now - self._since
        return f", for {stands:.0f} s" if stands >= LINE_SECONDS else ""


def _registered_words(slides: int, fields: int, skipped: int) -> str:
    words = f"{plural(slides, 'slide')}, {plural(fields, 'field')}"
    return f"{words}, {skipped:,} skipped" if skipped else words


def _screened_words(status: BatchStatus) -> str:
    words = [f"{status.fields - status.waiting:,}/{status.fields:,} fields"]
    if pace := pace_words(status):
        words.append(pace)
    if status.failed:
        words.append(f"{status.failed:,} failed")
    return ", ".join(words)
