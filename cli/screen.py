"""`allq screen`: everything in one go on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import options

if TYPE_CHECKING:
    from cli.screening import Screened
    from db.database import Database


def screen(
    path: options.Folder,
    *,
    model: options.Model = None,
    concurrency: options.Concurrency = None,
    queue: options.QueueOption = None,
    note: options.Note = None,
    json: options.Json = False,
) -> None:
    """Screen a folder of slides on this machine: submit, work, sum up. Takes up what was interrupted before.

    Each subfolder is a slide; images directly in PATH form one slide named after it. Exit code 3: some fields failed,
    or folders or files could not be read; 130: interrupted, and the work done so far is kept.

    A folder that is done is a new batch when it is screened again, and each of its slides waits for a review once more;
    what is known of its files is not computed anew.

    Example: allq screen ./slides --note "tray 12"
    """
    from cli.screening import screen_folder
    from cli.session import open_database, working_settings
    from worker import active

    found = working_settings()
    with open_database(found) as database:
        with database.read() as connection:
            chosen = active.choose(connection, found, model)
        done = screen_folder(
            database,
            found,
            path,
            model=chosen,
            queue=queue.value if queue else None,
            note=note,
            concurrency=concurrency,
        )
        code = report(database, done, path=str(path), json=json)
    raise typer.Exit(code)


def report(database: Database, done: Screened, *, path: str, json: bool, advice: bool = True) -> int:
    """Print how a screening ended, with `advice` on what to do next, and return the command's exit code."""
    from allq.text import command, operand
    from cli import console, summary
    from cli.wording import state_words, unread_words

    status = done.status
    if json:
        console.emit(summary.record(database, done))
    if done.interrupted:
        console.say(f"Interrupted. Batch {status.batch} is kept: {state_words(status)}.")
        console.offer("To go on", command("allq", "screen", *operand(path)))
        return 130
    if not json:
        summary.show(database, done, advice=advice)
    if status.state == "cancelled":
        console.say(f"Batch {status.batch} was cancelled.", style="yellow")
        return 1
    if done.submission.unread:
        console.say(unread_words(done.submission.unread, status.batch), style="yellow")
    return 3 if status.failed or done.submission.unread else 0
