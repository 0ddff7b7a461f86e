"""`allq review`: what waits for a person, and their decisions, in the terminal."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options

if TYPE_CHECKING:
    from db.records import ReviewedSlide

app = typer.Typer(no_args_is_help=True)


class Decision(Enum):
    """What a person can decide."""

    AGREE = "agree"
    ALL_SUSPECTED = "all-suspected"
    NO_SUSPECTS_SEEN = "no-suspects-seen"
    INSUFFICIENT = "insufficient"


Slide = Annotated[str, typer.Argument(metavar="SLIDE", help="A slide's name: its accession.", show_default=False)]
InBatch = Annotated[
    str | None, typer.Option("--batch", help="The batch, where several have a slide of that name. Default: the newest.")
]


@app.callback()
def review() -> None:
    """A named person decides: what waits, and signing it.

    Example: allq review list
    """


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many slides to list.")] = 20,
    json: options.Json = False,
) -> None:
    """List the slides whose latest call nobody has reviewed, most suspicious first.

    A slide that could not be judged (`insufficient`) ranks as one of suspicion 0.5 at least.

    Example: allq review list --limit 5
    """
    from cli import console
    from cli.session import open_database
    from db import named, reviews

    with open_database() as database, database.read() as connection:
        columns, rows = named.run(connection, "review_queue", {"limit": limit})
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        waiting = reviews.waiting(connection) if len(records) == limit else len(records)
    if waiting > limit:
        console.say(f"{limit:,} of {waiting:,} slides shown; --limit {waiting} shows all.")
    if json:
        for record in records:
            record["flags"] = record["flags"].split(",") if record["flags"] else []
            console.emit(record)
        return
    if not records:
        console.say("No slide waits for a review.")
        return
    console.table(
        [
            console.name("slide"),
            console.fixed("call"),
            console.number("suspicion"),
            console.number("batch"),
            console.words("flags"),
            console.number("suspects"),
            console.number("leukocytes"),
            console.fixed("called"),
        ],
        (
            (
                one["slide"],
                one["call"],
                one["suspicion"],
                str(one["batch"]),
                one["flags"].split(",") if one["flags"] else None,
                one["suspects"],
                one["leukocytes"],
                one["called_at"],
            )
            for one in records
        ),
        needed=4,
    )
    several = len(records) > len({one["slide"] for one in records})
    console.say(f"Look at one:  allq review show SLIDE{' --batch N' if several else ''}")
    if several:
        console.say("A slide that was screened in several batches waits in each. Without --batch it is the newest.")


@app.command("show")
def show(slide: Slide, batch: InBatch = None, json: options.Json = False) -> None:
    """Show a slide: its call, its most suspicious fields, what was decided. The ledger notes that you looked.

    Example: allq review show H26-0102
    """
    from allq.text import command, operand
    from cli import console
    from cli.session import open_database, settings
    from db import reviews

    found = settings()
    with open_database(found) as database, database.begin() as connection:
        shown = _find(connection, slide, batch)
        reviews.look(connection, shown, reviewer=found.operator)
    if json:
        console.emit(_record(shown))
        return
    _show(shown)
    sign = ("allq", "review", "sign", "--decision", "agree", "--reason", "…")
    in_it = () if batch is None else ("--batch", str(shown.batch))  # another batch's slide of that name may be newer
    console.offer("Sign it", command(*sign, *in_it, *operand(shown.slide)))


@app.command("sign")
def sign(
    slide: Slide,
    *,
    decision: Annotated[
        Decision, typer.Option("--decision", "-d", help="`agree` with the model's call, or your own call.")
    ],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, in a sentence. It stays on record.")],
    batch: InBatch = None,
    json: options.Json = False,
) -> None:
    """Sign your decision on a slide that you have looked at (`allq review show`), with your reason.

    You are ALLQ_OPERATOR, by default login@host. Nothing is overwritten: a later decision stands beside this one.

    Example: allq review sign H26-0102 -d agree -r "blasts in fields 3 and 7"
    """
    from cli import console
    from cli.session import open_database, settings
    from db import reviews

    found = settings()
    with open_database(found) as database, database.begin() as connection:
        shown = _find(connection, slide, batch)
        call = shown.call if decision is Decision.AGREE else decision.value
        number = reviews.sign(connection, shown, call=call, reason=reason, reviewer=found.operator)
    overruled = call != shown.call
    words = f"{call}, which overrules the model's {shown.call}" if overruled else call
    console.say(f"Review {number}: {found.operator} decided {words} for slide {console.cell(shown.slide)}.")
    if json:
        console.emit(
            {
                "review": number,
                "slide": shown.slide,
                "batch": shown.batch,
                "reviewer": found.operator,
                "call": call,
                "machine_call": shown.call,
                "overruled": overruled,
                "reason": reason.strip(),
            }
        )


def _find(connection: Any, slide: str, batch: str | None) -> ReviewedSlide:
    from allq.text import is_utf8, storable
    from db import reviews

    number = None if batch is None else options.find_batch(connection, batch)
    return reviews.find(connection, slide if is_utf8(slide) else storable(slide)[0], batch=number)


def _show(slide: ReviewedSlide) -> None:
    from cli import console
    from cli.wording import SYNTHETIC, leukocyte_words, uncounted_words

    ended = f"{slide.screened:,} screened, {slide.failed:,} failed"
    if slide.cancelled:
        ended += f", {slide.cancelled:,} cancelled"
    lines = [
        ("slide", slide.slide),
        ("batch", f"{slide.batch}, called {console.cell(slide.called_at)}"),
        ("call", slide.call + (f", confidence {console.percent(slide.confidence)}" if slide.confidence else "")),
        ("leukocytes", leukocyte_words(slide)),
        ("fields", f"{slide.fields:,}: {ended}"),
        ("flags", ", ".join(slide.flags) or "none"),
        ("model", slide.model + (f", {SYNTHETIC}" if slide.synthetic else "")),
        ("folder", slide.root),
    ]
    if slide.not_counted.fields:
        lines.insert(4, ("not counted", uncounted_words(slide.not_counted)))
    console.pairs(lines)
    console.table(
        [
            console.name("field"),
            console.fixed("call"),
            console.number("suspicion"),
            console.number("suspects"),
            console.words("flags"),
        ],
        ((one.field, one.call, one.suspicion, one.suspects, one.flags) for one in slide.most_suspicious),
        needed=3,
    )
    if slide.reviews:
        console.table(
            [console.fixed("signed"), console.name("reviewer"), console.fixed("call"), console.words("reason")],
            ((one.decided_at, one.reviewer, one.call, one.reason) for one in slide.reviews),
        )


def _record(slide: ReviewedSlide) -> dict[str, Any]:
    from dataclasses import asdict

    record = asdict(slide)
    record.pop("slide_id")
    return record
