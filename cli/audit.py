"""`allq audit`: the ledger, sealed, verified, shown and exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from db.checkpoints import Checkpoint
    from db.history import HistoryEvent, SlideHistory
    from db.verifying import Verified

app = typer.Typer(no_args_is_help=True)


@app.callback()
def audit() -> None:
    """The ledger: who did what, and that nobody has rewritten it.

    Example: allq audit verify
    """


@app.command("verify")
def verify(
    *,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="CHECKPOINT", min=1, help="Only what was sealed after this checkpoint."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Nothing may wait to be sealed: for a database nobody writes to.")
    ] = False,
    checkpoints: Annotated[
        Path | None,
        typer.Option("--checkpoints", metavar="FILE", help="The exported checkpoints. Default: ALLQ_LEDGER_FILE."),
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="NAME", help="The ledger's name, as you have written it down.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Recompute the ledger and compare every row that it tells of. Exit code 1 names what was changed.

    So it does with triggers and views that are not allq's own. Reads only. Without the exported checkpoints it can't be
    known whether the end was cut off, or all of it rewritten and sealed with another key: keep them, and the ledger's
    origin, where the database's owner can't write.

    Example: allq audit verify --complete
    """
    from allq.errors import UsageError
    from cli import console
    from cli.edge import INTERRUPTED
    from cli.progress import meter
    from cli.session import open_database, settings
    from db import verifying
    from db.witness import Witness

    found = settings()
    if checkpoints is not None and not checkpoints.is_file():
        raise UsageError(f"There is no file {checkpoints} with exported checkpoints.")
    verified = verifying.Verified()
    try:
        with open_database(found) as database, meter() as shown:
            verifying.verify(
                database,
                Witness(checkpoints or found.checkpoint_file),
                since=since,
                complete=complete,
                origin=origin,
                key_file=found.ledger_key_file,
                progress=shown.stage,
                found=verified,
            )
    except KeyboardInterrupt:
        _tell(verified, since, json=json)
        console.say("Interrupted: verify has not finished, and not all was looked at.", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    except Exception:  # what was wrong until then is told as well
        if verified.problems:
            _tell(verified, since, json=json)
        raise
    _tell(verified, since, json=json)
    if not verified.sound:
        raise typer.Exit(1)


@app.command("seal")
def seal(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, every ALLQ_SEAL_SECONDS, until stopped: where workers may not seal.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Seal what is unsealed now, and write the checkpoints to their file. Workers that may do so every few seconds.

    Example: allq audit seal
    """
    if watch:
        _seal_on()
        return
    from allq.text import plural
    from cli import console
    from cli.session import open_database, working_settings
    from db import sealing

    found = working_settings()
    with open_database(found) as database:
        sealed = sealing.seal(database, found, wait=True)
    if sealed.damaged:
        named = ", ".join(str(number) for number in sealed.damaged[:10])
        count = plural(len(sealed.damaged), "event")
        console.say(f"Sealed as they stand: {count} with a time that is none ({named}).", style="red")
    if json:
        console.emit(
            {"events": sealed.events, "checkpoints": sealed.checkpoints} | _checkpoint_record(sealed.checkpoint)
        )
        return
    stands = f"checkpoint {sealed.checkpoint.number}" if sealed.checkpoint else "no checkpoint yet"
    console.say(f"Sealed {plural(sealed.events, 'event')}; the ledger stands at {stands}.")
    console.say(f"Checkpoints are in {console.cell(str(found.checkpoint_file))}.")


def _seal_on() -> None:
    from allq import logging
    from allq.settings import load
    from worker.sealer import seal_until_told_to_stop

    found = load()
    logging.configure(found)
    seal_until_told_to_stop(found)


@app.command("show")
def show(
    slide: Annotated[
        str | None, typer.Argument(metavar="[SLIDE]", help="A slide's name: its accession.", show_default=False)
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Instead of a slide's: keys changed, what was given up, by whom and why.")
    ] = False,
    fields: Annotated[bool, typer.Option("--fields", help="Each field as well: bytes, finding, worker, when.")] = False,
    json: options.Json = False,
) -> None:
    """Show a slide's history: submitted, computed, looked at, decided; by whom, when, with what, and why.

    As the database has it now, with the time of the checkpoint that sealed each event: it verifies nothing.

    Example: allq audit show H26-0102
    """
    from allq.errors import UsageError
    from allq.text import is_utf8, storable
    from cli import console
    from cli.session import open_database
    from db import history

    if (slide is not None) == ledger:
        raise UsageError("Name a slide, or give --ledger for the history of the ledger itself: one of the two.")
    if slide is None:
        with open_database() as database, database.read() as connection:
            of_ledger = history.of_ledger(connection)
        for event in of_ledger if json else ():
            console.emit(_event_record(event))
        if not json:
            _show_events(of_ledger)
            _say_what_it_is_worth(of_ledger)
        return
    name = slide if is_utf8(slide) else storable(slide)[0]
    with open_database() as database, database.read() as connection:
        found = history.of_slide(connection, name)
    for one in found:
        if json:
            console.emit(_history_record(one))
        else:
            _show_history(one, fields=fields)
    if not json:
        _say_what_it_is_worth(event for one in found for event in one.events)


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The zip file to write.", show_default=False)],
    slide: Annotated[
        str | None, typer.Option("--slide", help="Only slides of this name, and what shares their chunks.")
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Only what concerns this batch, or `last`.")] = None,
    places: Annotated[
        bool,
        typer.Option("--places/--no-places", help="Which slide and file each field is, other slides' in chunks too."),
    ] = True,
    json: options.Json = False,
) -> None:
    """Write a bundle that anyone verifies offline: events with proofs, rows, checkpoints, and the script that does it.

    Example: allq audit export evidence.zip --slide H26-0102
    """
    from allq.errors import UsageError
    from allq.text import command, plural
    from allq.version import __version__
    from cli import console
    from cli.progress import meter
    from cli.session import open_database
    from db import bundle

    if slide is not None and batch is not None:
        raise UsageError("--slide and --batch contradict each other: give one of them.")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent} to write {out.name} into. Make it, or name another.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder. Name the zip file to write.")
    with open_database() as database, database.read() as connection, meter() as shown:
        number = None if batch is None else options.find_batch(connection, batch)
        done = bundle.export(connection, out, slide=slide, batch=number, with_places=places, progress=shown.stage)
    if json:
        record = {"file": str(done.path), "events": done.events, "waiting": done.waiting, "rows": done.rows}
        record |= {"others": done.others, "verify_sha256": done.script}
        console.emit(record | _checkpoint_record(done.checkpoint))
        return
    console.say(f"{plural(done.events, 'event')} and {plural(done.rows, 'row')} are in {console.cell(str(done.path))}.")
    if done.others:
        said = (
            f"With it come {plural(done.others, 'field')} of other slides, screened in the same chunks: their results"
        )
        files = ", and the names of their files, which --no-places leaves out" if places else ""
        console.say(f"{said}{files}.", style="yellow")
    if done.waiting:
        are = "is" if done.waiting == 1 else "are"
        said = f"{plural(done.waiting, 'event')} that would belong in it {are} not sealed yet, and not in it"
        console.say(f"{said}: run `allq audit seal` first.", style="yellow")
    path = f"./{done.path}" if str(done.path).startswith("-") else str(done.path)
    words = ("python", "verify.py", path, "--origin", done.checkpoint.origin)
    console.offer("Verify it anywhere", command(*words))
    console.say(
        f"verify.py is db/verify_bundle.py of allq {__version__}, in its repository; SHA-256 {done.script}. Whoever "
        "gets the bundle takes it from there, not from the bundle, and the origin from you by another way."
    )


@app.command("rotate-key")
def rotate_key(json: options.Json = False) -> None:
    """Let a new key sign from now on. The old key signs that it does, so that verifiers follow.

    Example: allq audit rotate-key
    """
    from cli import console
    from cli.session import open_database, working_settings
    from db import sealing
    from db.keys import short

    found = working_settings()
    with open_database(found) as database:
        key = sealing.rotate_key(database, found, actor=found.operator)
    console.say(f"The ledger's key is now {short(key.public)}, in {console.cell(str(found.ledger_key_file))}.")
    console.say("The one before lies beside it; remove it when no backup is older than this.")
    if json:
        console.emit({"public_key": key.public.hex(), "file": str(found.ledger_key_file)})


@app.command("restored")
def restored(
    reason: Annotated[str, typer.Option("--reason", help="Which backup, and why it was restored.")],
    json: options.Json = False,
) -> None:
    """Say in the ledger that a backup was restored, before anything is sealed after it; then sealing goes on.

    The checkpoints that were lost stay in the exported file, and `verify` names them from then on.

    Example: allq audit restored --reason "disk of db-1 failed, backup of 3 May"
    """
    from cli import console
    from cli.session import open_database, working_settings
    from db import sealing

    found = working_settings()
    with open_database(found) as database:
        lost = sealing.go_on_after_restore(database, found, reason=reason, actor=found.operator)
        old_key = lost is not None and sealing.lost_change_of_key(database, found)
    if lost is None:
        console.say("The database has every checkpoint that was exported: there is nothing to say.")
    else:
        console.say(f"The ledger says so, and goes on after checkpoint {lost.number}, the last that was exported.")
    if old_key:
        console.say(
            "A change of the key was lost as well, and the old key signs again: run `allq audit rotate-key` once more.",
            style="yellow",
        )
    if json:
        console.emit({"given_up": None if lost is None else lost.number, "old_key": old_key})


def _checkpoint_record(checkpoint: Checkpoint | None) -> dict[str, Any]:
    if checkpoint is None:
        return {"checkpoint": None}
    return {
        "checkpoint": checkpoint.number,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "origin": checkpoint.origin,
        "sealed_at": checkpoint.sealed_at,
    }


def _verified_record(verified: Verified) -> dict[str, Any]:
    return {
        "sound": verified.sound,
        "finished": verified.finished,
        "problems": [{"table": one.table, "row": one.row, "what": one.what} for one in verified.problems],
        "events": verified.events,
        "rows": verified.rows,
        "checkpoints": verified.checkpoints,
        "exported": verified.exported,
        "waiting": verified.waiting,
        "remarks": verified.remarks,
    } | _checkpoint_record(verified.newest)


def _tell(verified: Verified, since: int | None, *, json: bool) -> None:
    from cli import console

    if json:
        console.emit(_verified_record(verified))
    else:
        _show_verified(verified, since)


def _show_verified(verified: Verified, since: int | None) -> None:
    from allq.text import plural
    from cli import console

    for remark in verified.remarks:
        console.say(remark, style="yellow")
    if verified.problems:
        console.table(
            [console.fixed("table"), console.words("row"), console.words("what is wrong")],
            ((one.table, one.row, one.what) for one in verified.problems),
        )
        count = plural(len(verified.problems), "problem")
        console.say(f"{_verdict(verified, since)}: {count}.", style="bold red")
        return
    if not verified.finished:
        console.say(f"Nothing wrong was found so far, with {plural(verified.events, 'event')} looked at.")
        return
    newest = verified.newest
    console.pairs(
        [
            ("ledger", newest.origin if newest else "nothing sealed yet"),
            ("events", f"{verified.events:,} sealed, as they were sealed; {verified.waiting:,} waiting"),
            ("rows", f"{verified.rows:,}, as the events tell of them"),
            ("checkpoints", f"{verified.checkpoints:,}, {verified.exported:,} of the exported ones beside them"),
            ("newest", f"checkpoint {newest.number}, {newest.sealed_at}" if newest else "none"),
        ]
    )


def _verdict(verified: Verified, since: int | None) -> str:
    """Of what is not sound."""
    from db.schema import KINDS

    if any(one.table not in KINDS for one in verified.problems):
        return "The ledger is not as it was sealed"
    if not verified.finished:
        return "The schema is not allq's; not all rows were looked at"
    if since is not None:
        return f"The schema is not allq's; the rows of what was sealed after checkpoint {since} are as sealed"
    return "The schema is not allq's; the rows are as sealed"


def _history_record(one: SlideHistory) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one)


def _event_record(event: HistoryEvent) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(event)


def _show_history(one: SlideHistory, *, fields: bool) -> None:
    from cli import console
    from cli.wording import SHORT_ID

    console.pairs(
        [
            ("slide", one.slide),
            ("batch", f"{one.batch}, submitted {_instant(one.submitted_at)} UTC by {one.submitted_by}"),
            ("folder", one.root),
            ("model", f"{one.model} ({one.model_sha256[:SHORT_ID]}), code {one.model_code_version}"),
            ("settings", one.settings),
        ]
    )
    if fields:
        console.table(
            [
                console.name("field"),
                console.words("call"),
                console.fixed("sha256"),
                console.fixed("finding"),
                console.fixed("computed (UTC)"),
                console.name("by"),
                console.words("with"),
            ],
            (
                (
                    field.field,
                    field.call or field.failure or field.state,
                    None if field.sha256 is None else field.sha256[:SHORT_ID],
                    None if field.finding is None else str(field.finding),
                    _instant(field.computed_at),
                    field.computed_by,
                    None if field.engine is None else f"{field.engine}, {field.code_version}",
                )
                for field in one.fields
            ),
            needed=2,
        )
    _show_events(one.events)


def _show_events(events: Iterable[HistoryEvent]) -> None:
    from cli import console
    from cli.wording import event_words

    console.table(
        [console.fixed("when (UTC)"), console.words("what"), console.name("who"), console.fixed("sealed (UTC)")],
        (
            (
                _instant(event.at),
                event_words(event),
                event.actor,
                "waits" if event.leaf is None else _instant(event.sealed_at),
            )
            for event in events
        ),
    )


def _say_what_it_is_worth(events: Iterable[HistoryEvent]) -> None:
    from allq.text import plural
    from cli import console
    from db.history import NAMED, out_of_time

    odd = list(out_of_time(events))
    for event in odd[:NAMED]:
        console.say(
            f"Event {event.event} is dated {_instant(event.at)} UTC, well before one that was recorded earlier: a "
            "clock was wrong, or it was dated back.",
            style="yellow",
        )
    if len(odd) > NAMED:
        console.say(f"{plural(len(odd) - NAMED, 'more event is', 'more events are')} dated so.", style="yellow")
    console.say(
        "This is what the database says now, in the order in which it was recorded. Whether that is what was sealed, "
        "`allq audit verify` says."
    )


def _instant(at: datetime | None) -> str:
    """To the second, in UTC as all of them are here."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
