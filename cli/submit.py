"""`allq submit`, `allq retry`, `allq cancel`: what goes into the queue, again, and out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import options

if TYPE_CHECKING:
    from pathlib import Path


def submit(
    path: options.Folder,
    queue: options.QueueOption = None,
    note: options.Note = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Queue a folder of slides for the workers; print its number.

    Each subfolder is a slide; images directly in PATH form one slide named after it. Where no worker is running the
    batch waits for one: `allq worker`, or `allq screen` with the same PATH.

    Exit code 3: some folders or files could not be read, and what lies in them is not in the batch.

    Example: allq submit ./slides --queue stat --note "ward 3, urgent"
    """
    from allq.text import plural
    from cli import console
    from cli.progress import meter
    from cli.session import open_database, working_settings
    from cli.wording import SYNTHETIC, unread_words
    from worker import active, submission

    found = working_settings()
    with open_database(found) as database, meter() as shown:
        with database.read() as connection:
            chosen = active.choose(connection, found, model)
        asked = submission.SubmitOptions(
            model=chosen, operator=found.operator, queue=queue.value if queue else None, note=note
        )
        done = submission.submit(database, found, path, asked, progress=shown.registered)
    skipped = f", {done.skipped:,} skipped" if done.skipped else ""
    words = f"{plural(done.slides, 'slide')}, {plural(done.fields, 'field')}{skipped}"
    verb = "Completed batch" if done.resumed else "Batch"
    cut_short = f" Its submission had been cut short; {plural(done.added, 'field')} added." if done.resumed else ""
    console.say(f"{verb} {done.batch}: {words}, model {chosen.name}.{cut_short}")
    if chosen.configuration.synthetic:
        console.say(f"Model {chosen.name}: {SYNTHETIC}.", style="yellow")
    if done.unread:
        console.say(unread_words(done.unread, done.batch), style="yellow")
    _say_what_it_waits_for(published=done.published, problem=done.broker_problem, path=path)
    console.say(f"See how it goes:  allq status {done.batch} --watch")
    if json:
        console.emit(
            {
                "batch": done.batch,
                "resumed": done.resumed,
                "slides": done.slides,
                "fields": done.fields,
                "skipped": done.skipped,
                "unread": done.unread,
                "bytes": done.bytes,
                "published": done.published,
                "broker_problem": done.broker_problem,
                "model": chosen.id,
                "model_name": chosen.name,
                "synthetic": chosen.configuration.synthetic,
            }
        )
    else:
        console.output().print(str(done.batch))
    if done.unread:
        raise typer.Exit(3)


def retry(batch: options.Batch, json: options.Json = False) -> None:
    """Screen the failed fields of a batch again, and only those.

    Where none has failed there is nothing to do, which is no error: exit code 0, and 0 `fields` in JSON. Cancelled
    fields stay cancelled: `allq screen` or `allq submit` with their folder begins a new batch.

    Example: allq retry last
    """
    from allq.text import plural
    from cli import console
    from cli.session import open_database, working_settings
    from cli.wording import but_cancelled
    from db import reads
    from worker import submission

    found = working_settings()
    with open_database(found) as database:
        with database.read() as connection:
            number = options.find_batch(connection, batch)
            cancelled = reads.batch_status(connection, number).cancelled
        done = submission.retry(database, found, number)
    if done.fields:
        console.say(f"{plural(done.fields, 'field')} of batch {number} {'wait' if done.fields > 1 else 'waits'} again.")
        _say_what_it_waits_for(published=done.published, problem=done.broker_problem)
    else:
        console.say(f"Batch {number} has no failed field{but_cancelled(cancelled)}: nothing to retry.")
    if json:
        console.emit({"batch": number, "fields": done.fields, "broker_problem": done.broker_problem})


def cancel(batch: options.Batch, json: options.Json = False) -> None:
    """Stop a batch; what is screened already stays.

    A slide that this cuts short is called by what was seen of it, with the flag `cancelled-fields`. A failed field that
    waits to be tried again is cancelled as the others are; why it had failed, `allq failures` no longer tells.

    Of a batch that has ended there is nothing to cancel, which is no error: exit code 0, and 0 `fields` in JSON.

    Example: allq cancel 7
    """
    from allq.text import plural
    from cli import console
    from cli.session import open_database, settings
    from db import batches, reads

    found = settings()
    with open_database(found) as database, database.begin() as connection:
        number = options.find_batch(connection, batch)
        before = reads.batch_status(connection, number)
        fields = batches.cancel(connection, number, found.operator)
    if fields:
        console.say(f"{plural(fields, 'field')} of batch {number} cancelled.")
    elif before.state == "registering":
        console.say(f"Batch {number} cancelled; no field of it was waiting.")
    else:
        console.say(f"No field of batch {number} is waiting (it is {before.state}): nothing to cancel.")
    if json:
        console.emit({"batch": number, "fields": fields})


def _say_what_it_waits_for(*, published: bool, problem: str | None, path: Path | None = None) -> None:
    from allq.text import command, operand
    from cli import console

    if problem is not None:
        advice = "Workers publish the work once it answers: start it, or correct ALLQ_BROKER_URL."
        console.say(f"{problem} {advice}", style="yellow")
    elif not published:
        here = f", or `{command('allq', 'screen', *operand(str(path)))}`," if path is not None else ""
        console.say(f"The work waits for a worker: `allq worker`{here} does it.")
