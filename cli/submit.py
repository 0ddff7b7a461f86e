"""`allq submit`, `allq retry`, `allq cancel`: what goes into the queue, again, and out of it."""

from __future__ import annotations

from cli import options
from cli.options import Queue


def submit(
    path: options.Folder,
    queue: options.QueueOption = Queue.ROUTINE,
    note: options.Note = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Queue a folder of slides for the workers; print its number.

    Each subfolder is a slide; images directly in PATH form one slide named after it.

    Example: allq submit ./slides --queue stat --note "ward 3, urgent"
    """
    from allq.text import plural
    from cli import console
    from cli.progress import meter
    from cli.session import open_database, working_settings
    from cli.wording import SYNTHETIC
    from models.artefact import find
    from worker import submission

    found = working_settings()
    with open_database(found) as database, meter() as shown:
        chosen = find(found, model)
        asked = submission.SubmitOptions(model=chosen, operator=found.operator, queue=queue.value, note=note)
        done = submission.submit(database, found, path, asked, progress=shown.registered)
    skipped = f", {done.skipped:,} skipped" if done.skipped else ""
    words = f"{plural(done.slides, 'slide')}, {plural(done.fields, 'field')}{skipped}"
    console.say(f"Batch {done.batch}: {words}, model {chosen.name}.")
    if chosen.configuration.synthetic:
        console.say(f"Model {chosen.name}: {SYNTHETIC}.", style="yellow")
    if done.broker_problem:
        console.say(f"The work waits in the database: {done.broker_problem}", style="yellow")
    console.say(f"See how it goes:  allq status {done.batch} --watch")
    if json:
        console.emit(
            {
                "batch": done.batch,
                "resumed": done.resumed,
                "slides": done.slides,
                "fields": done.fields,
                "skipped": done.skipped,
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


def retry(batch: options.Batch, json: options.Json = False) -> None:
    """Screen the failed fields of a batch again, and only those.

    Example: allq retry last
    """
    from allq.text import plural
    from cli import console
    from cli.session import open_database, working_settings
    from worker import submission

    found = working_settings()
    with open_database(found) as database:
        with database.read() as connection:
            number = options.find_batch(connection, batch)
        done = submission.retry(database, found, number)
    if done.fields:
        console.say(f"{plural(done.fields, 'field')} of batch {number} wait again.")
        if done.broker_problem:
            console.say(f"The work waits in the database: {done.broker_problem}", style="yellow")
    else:
        console.say(f"Batch {number} has no failed field.")
    if json:
        console.emit({"batch": number, "fields": done.fields, "broker_problem": done.broker_problem})


def cancel(batch: options.Batch, json: options.Json = False) -> None:
    """Stop a batch; what is screened already stays.

    Example: allq cancel 7
    """
    from allq.text import plural
    from cli import console
    from cli.session import open_database, working_settings
    from worker import submission

    found = working_settings()
    with open_database(found) as database:
        with database.read() as connection:
            number = options.find_batch(connection, batch)
        fields = submission.cancel(database, found, number)
    if fields:
        console.say(f"{plural(fields, 'field')} of batch {number} cancelled.")
    else:
        console.say(f"Batch {number} had ended already: nothing to cancel.")
    if json:
        console.emit({"batch": number, "fields": fields})
