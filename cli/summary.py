"""What a screening ends with: each slide's call, what failed and why, what to do next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from allq.text import duration, plural
from cli import console
from cli.wording import (
    BOUND,
    SYNTHETIC,
    call_words,
    leukocyte_words,
    model_words,
    state_words,
    status_record,
    suspect_words,
)
from db import reads
from models.flags import OF_SLIDES

if TYPE_CHECKING:
    from cli.screening import Screened
    from db.database import Database
    from db.records import BatchStatus, FieldFailure, SkippedItem, SlideResult
    from models.artefact import Model

SENTENCE_ROOM: Final = 116
"""Columns from which on a table of slides has room for a sentence about the leukocytes of each."""

SLIDES_SHOWN: Final = 40
FAILURES_SHOWN: Final = 12
_FIRST: Final = {"all-suspected": 0, "insufficient": 1, "no-suspects-seen": 2}


def record(database: Database, done: Screened) -> dict[str, Any]:
    """The JSON object with which `allq screen --json` ends."""
    with database.read() as connection:
        slides = reads.slide_results(connection, done.status.batch)
    return status_record(done.status) | {
        "unread": done.submission.unread,
        "resumed": done.submission.resumed,
        "interrupted": done.interrupted,
        "calls": dict(Counter(slide.call for slide in slides if slide.call is not None)),
        "leukocytes": sum(slide.leukocytes for slide in slides),
        "suspects": sum(slide.suspects for slide in slides),
    }


def show(database: Database, done: Screened, *, advice: bool) -> None:
    """Print the summary of a batch, and, with `advice`, the commands that may come next."""
    status = done.status
    with database.read() as connection:
        slides = reads.slide_results(connection, status.batch)
        failures = list(reads.failures(connection, status.batch))
        skipped = list(reads.skipped(connection, status.batch))
    out = console.output()
    out.print()
    _show_head(status)
    out.print()
    slide_table(sorted(slides, key=lambda slide: _FIRST.get(slide.call or "", 3))[:SLIDES_SHOWN])
    if len(slides) > SLIDES_SHOWN:
        out.print(f"… and {len(slides) - SLIDES_SHOWN:,} more:  allq results {status.batch}")
    _show_flags(slides, done.model)
    if failures:
        _show_failures(failures)
    if skipped:
        _show_skipped(skipped)
    if advice:
        out.print()
        _show_next(status, failures=len(failures))


def slide_table(slides: list[SlideResult]) -> None:
    """Print the calls of slides, with the leukocytes in a whole sentence where there is room for one."""
    width = console.fitted_width()
    brief = width is not None and width < SENTENCE_ROOM
    columns = [
        console.words("slide"),
        console.fixed("call"),
        console.number("conf."),
        console.fixed("suspect leukocytes") if brief else console.words("leukocytes"),
        console.words("flags"),
    ]
    rows = [
        (
            slide.slide,
            call_words(slide),
            console.percent(slide.confidence),
            suspect_words(slide) if brief else leukocyte_words(slide),
            slide.flags,
        )
        for slide in slides
    ]
    flagged = any(slide.flags for slide in slides)
    console.table(columns if flagged else columns[:-1], (row if flagged else row[:-1] for row in rows))
    if brief and any(BOUND in row[3] for row in rows):
        console.output().print(f"{BOUND}: 95 % upper bound of the share that is suspect")


def _show_head(status: BatchStatus) -> None:
    out = console.output()
    took = ""
    if status.started_at and status.finished_at:
        seconds = (status.finished_at - status.started_at).total_seconds()
        took = f" in {duration(seconds)}"
    words = f": {plural(status.slides, 'slide')}, {plural(status.fields, 'field')}: {state_words(status)}{took}."
    out.print(Text.assemble((f"Batch {status.batch}", "bold"), words))
    out.print(f"Model {model_words(status.model_name, status.model_id, synthetic=False)}.")
    if status.synthetic:
        out.print(Text(f"This model was {SYNTHETIC}.", style="bold yellow"))


def _show_flags(slides: list[SlideResult], model: Model) -> None:
    raised = {flag for slide in slides for flag in slide.flags}
    its_own = model.configuration.flags
    told = {**its_own, **{name: flag for name, flag in OF_SLIDES.items() if name not in its_own}}
    known = [(name, flag.sentence) for name, flag in told.items() if name in raised]
    if raised:
        console.output().print()
        console.output().print(Text("What the flags say; each is a reason why a person must look:", style="bold"))
        console.pairs([*known, *((name, "-") for name in sorted(raised - dict(known).keys()))])


def _show_failures(failures: list[FieldFailure]) -> None:
    out = console.output()
    out.print()
    out.print(Text(f"{plural(len(failures), 'field')} could not be screened:", style="bold"))
    console.table(
        [console.name("field"), console.words("why")],
        [(failure.field, failure.sentence) for failure in failures[:FAILURES_SHOWN]],
    )
    if len(failures) > FAILURES_SHOWN:
        counts = Counter(failure.code for failure in failures)
        out.print(
            f"… {len(failures):,} in all: " + ", ".join(f"{count:,} {code}" for code, count in counts.most_common())
        )


def _show_skipped(skipped: list[SkippedItem]) -> None:
    out = console.output()
    counts = Counter(item.reason for item in skipped)
    out.print()
    out.print(Text(f"{plural(len(skipped), 'entry', 'entries')} skipped:", style="bold"))
    for reason, count in counts.most_common(8):
        example = next(item.path for item in skipped if item.reason == reason)
        out.print(f"  {count:,} × {console.cell(reason)} ({console.elide(console.cell(example), 32)})")


def _show_next(status: BatchStatus, *, failures: int) -> None:
    batch = status.batch
    lines = [
        (f"allq results {batch} --level field", "every field, with probabilities and flags"),
        (f"allq results {batch} --out results.csv", "for a spreadsheet; or .jsonl, .parquet"),
    ]
    if failures:
        lines.append((f"allq failures {batch}", "what could not be screened, and why"))
        lines.append((f"allq retry {batch}", "those again, once they are mended"))
    console.output().print("Next:")
    for command, what in lines:
        console.output().print(f"  {command:<32}  {what}")
