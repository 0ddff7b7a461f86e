"""`allq status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from db.database import Database
    from db.records import BatchStatus

_REFRESH_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 5.0
"""Between two lines where there is no terminal to refresh."""


def status(
    batch: options.OptionalBatch = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh until the batch has ended; exit 3 as `screen`.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many batches to list.")] = 20,
    json: options.Json = False,
) -> None:
    """Show batches, or one of them: state, counts, rate, time left.

    A batch that no worker has in hand, because it was interrupted or none is running, has no rate and no time left.

    Example: allq status last --watch
    """
    from cli.session import open_database
    from db import reads

    with open_database() as database:
        if batch is None and not watch:
            with database.read() as connection:
                found = reads.batches(connection, limit=limit)
            _show_list(found, json=json)
            return
        with database.read() as connection:
            number = options.find_batch(connection, batch or "last")
            current = reads.batch_status(connection, number)
            unread = reads.unread(connection, number) if current.skipped and not watch else 0
        if not watch:
            _show(current, unread, json=json)
            return
        ended = _watch(database, current, json=json)
        unread = _say_what_was_not_read(database, ended) if ended.skipped else 0
    if ended.failed or unread:
        raise typer.Exit(3)


def _show_list(found: list[BatchStatus], *, json: bool) -> None:
    from cli import console
    from cli.wording import status_record

    if json:
        for status in found:
            console.emit(status_record(status))
        return
    if not found:
        console.say("There is no batch yet. Start one with: allq screen PATH")
        return
    console.table(
        [
            console.number("batch"),
            console.fixed("state"),
            console.name("folder"),
            console.number("fields"),
            console.number("screened"),
            console.number("failed"),
            console.fixed("submitted"),
        ],
        ((str(one.batch), one.state, one.root, one.fields, one.screened, one.failed, one.created_at) for one in found),
    )


def _show(status: BatchStatus, unread: int, *, json: bool) -> None:
    from allq.text import plural
    from cli import console
    from cli.wording import status_record

    if json:
        console.emit(status_record(status) | {"unread": unread})
        return
    lines = _details(status)
    if unread:
        could_not = f"{plural(unread, 'folder or file', 'folders or files')} could not be read: slides may be missing"
        lines.append(("unread", could_not))
    console.pairs(lines)


def _say_what_was_not_read(database: Database, status: BatchStatus) -> int:
    from cli import console
    from cli.wording import unread_words
    from db import reads

    with database.read() as connection:
        unread = reads.unread(connection, status.batch)
    if unread:
        console.say(unread_words(unread, status.batch), style="yellow")
    return unread


def _details(status: BatchStatus) -> list[tuple[str, str]]:
    from allq.text import duration, plural
    from cli.console import cell
    from cli.wording import model_words, pace_words, state_words

    lines = [
        ("batch", str(status.batch)),
        ("state", status.state),
        ("folder", status.root),
        ("model", model_words(status.model_name, status.model_id, synthetic=status.synthetic)),
        ("queue", status.queue),
        ("submitted", f"{cell(status.created_at)} by {status.operator}"),
        ("slides", f"{status.slides:,}"),
        ("fields", f"{status.fields:,}: {state_words(status)}"),
    ]
    if status.note:
        lines.insert(5, ("note", status.note))
    if status.skipped:
        lines.append(
            ("skipped", f"{plural(status.skipped, 'entry', 'entries')} (allq failures {status.batch} --skipped)")
        )
    pace = pace_words(status)
    if status.started_at and status.finished_at:
        took = duration((status.finished_at - status.started_at).total_seconds())
        lines.append(("took", f"{took}, {pace}" if pace else took))
    elif pace:
        lines.append(("pace", pace))
    elif status.waiting and not status.in_hand:
        lines.append(("pace", "no worker has any of it in hand"))
    return lines


def _watch(database: Database, current: BatchStatus, *, json: bool) -> BatchStatus:
    from cli import console

    if json or not console.output().is_terminal:
        return _watch_in_lines(database, current, json=json)
    from rich.live import Live

    with Live(_panel(current), console=console.output(), auto_refresh=False) as live:
        while not current.ended:
            time.sleep(_REFRESH_SECONDS)
            current = _read(database, current.batch)
            live.update(_panel(current), refresh=True)
    return current


def _watch_in_lines(database: Database, current: BatchStatus, *, json: bool) -> BatchStatus:
    from cli import console
    from cli.wording import status_record

    shown, last = None, 0.0
    while True:
        counts = (current.state, current.screened, current.failed, current.cancelled, current.fields)
        if current.ended or (counts != shown and time.monotonic() - last >= _LINE_SECONDS):
            shown, last = counts, time.monotonic()
            if json:
                console.emit(status_record(current))
            else:
                console.output().print(_line(current))
        if current.ended:
            return current
        time.sleep(_REFRESH_SECONDS)
        current = _read(database, current.batch)


def _line(status: BatchStatus) -> str:
    from allq.text import plural
    from cli.wording import pace_words, state_words

    words = f"batch {status.batch} {status.state}: {state_words(status)} of {plural(status.fields, 'field')}"
    pace = pace_words(status)
    return f"{words}; {pace}" if pace else words


def _panel(status: BatchStatus) -> Table:
    from cli import console

    return console.pairs_table(_details(status))


def _read(database: Database, batch: int) -> BatchStatus:
    from db import reads

    with database.read() as connection:
        return reads.batch_status(connection, batch)
