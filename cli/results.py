"""`allq results` and `allq failures`: what a batch has found, and what it could not look at."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from allq.errors import UsageError
from allq.text import plural
from cli import options

if TYPE_CHECKING:
    from sqlalchemy import Connection


class LevelOption(Enum):
    """What a row is about."""

    SLIDE = "slide"
    FIELD = "field"
    LEUKOCYTE = "leukocyte"


class FormatOption(Enum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


_SUFFIXES: Final = {
    ".csv": FormatOption.CSV,
    ".jsonl": FormatOption.JSONL,
    ".ndjson": FormatOption.JSONL,
    ".parquet": FormatOption.PARQUET,
}


def results(
    batch: options.Batch,
    level: Annotated[LevelOption, typer.Option("--level", "-l", help="What a row is about.")] = LevelOption.SLIDE,
    form: Annotated[
        FormatOption | None,
        typer.Option("--format", "-f", help="Default: what the name of FILE says; without FILE a table."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write there rather than to stdout.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Print or export findings, per slide, per field or per leukocyte.

    A table fits the terminal. In a pipe a row is one line, as wide as its text, unless COLUMNS is set.

    Example: allq results last --level field --out fields.csv
    """
    from cli import console
    from cli.session import open_database
    from db import reads
    from review.results import Level, rows

    chosen = _format(form, out, json=json)
    with open_database() as database, database.read() as connection:
        number = options.find_batch(connection, batch)
        status = reads.batch_status(connection, number)
        if not status.ended:
            waiting = plural(status.waiting, "field waits", "fields wait")
            console.say(f"Batch {number} has not ended ({waiting}): these are the results so far.")
        if chosen is FormatOption.TABLE:
            _table(connection, number, Level(level.value), synthetic=status.synthetic)
        else:
            _export(rows(connection, number, Level(level.value)), Level(level.value), chosen, out)


def failures(
    batch: options.Batch,
    skipped: Annotated[
        bool,
        typer.Option(
            "--skipped", help="List instead what was left out at submission: no image by name or content, hidden, …"
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """List what could not be screened, each with its reason.

    Example: allq failures last
    """
    from cli import console
    from cli.session import open_database
    from cli.wording import but_cancelled
    from db import reads

    with open_database() as database, database.read() as connection:
        number = options.find_batch(connection, batch)
        cancelled = reads.batch_status(connection, number).cancelled
        if skipped:
            found: Iterable[dict[str, Any]] = (
                {"batch": number, "path": item.path, "reason": item.reason}
                for item in reads.skipped(connection, number)
            )
            columns, none = [console.name("path"), console.words("reason")], "left nothing out"
        else:
            found = (
                {
                    "batch": number,
                    "slide": item.slide,
                    "field": item.field,
                    "failure": item.code,
                    "reason": item.sentence,
                }
                for item in reads.failures(connection, number)
            )
            columns, none = (
                [console.name("field"), console.words("reason")],
                f"has no failed field{but_cancelled(cancelled)}",
            )
        if json:
            for record in found:
                console.emit(record)
            return
        records = list(found)
    if records:
        console.table(columns, ([record[column.title] for column in columns] for record in records))
    else:
        console.say(f"Batch {number} {none}.")


def _format(form: FormatOption | None, out: Path | None, *, json: bool) -> FormatOption:
    named = _SUFFIXES.get(out.suffix.lower()) if out is not None else None
    if json:
        if form not in {None, FormatOption.JSONL}:
            raise UsageError("--json and --format contradict each other: give one of them.")
        form = FormatOption.JSONL
    if out is not None and form is not None and named not in {None, form}:
        raise UsageError(f"The name {out.name} says {named.value if named else ''}, --format {form.value}: change one.")
    if form is None and out is not None:
        form = named
        if form is None:
            raise UsageError(f"The name {out.name} doesn't say which format is wanted: add --format csv|jsonl|parquet.")
    if form is FormatOption.TABLE and out is not None:
        raise UsageError("A table is for the terminal: give --format csv, jsonl or parquet with --out.")
    return form or FormatOption.TABLE


def _export(rows: Iterable[Mapping[str, Any]], level: Any, form: FormatOption, out: Path | None) -> None:
    from cli import console
    from review import export

    wanted = export.Format(form.value)
    if out is not None:
        with export.new_file(out) as stream:
            count = export.write(rows, stream, level=level, form=wanted)
        console.say(f"{plural(count, 'row')} written to {console.cell(out)}.")
        return
    terminal = sys.stdout.isatty()
    if terminal and wanted is export.Format.PARQUET:
        raise UsageError("Parquet is not for a terminal: add --out FILE.")
    sys.stdout.flush()
    export.write(rows, sys.stdout.buffer, level=level, form=wanted, terminal=terminal)
    sys.stdout.buffer.flush()


def _table(connection: Connection, batch: int, level: Any, *, synthetic: bool) -> None:
    from cli import console, summary
    from cli.wording import SYNTHETIC
    from db import reads
    from review.results import Level, rows

    if synthetic:
        console.say(f"The model of this batch was {SYNTHETIC}.", style="bold yellow")
    if level is Level.SLIDE:
        summary.slide_table(reads.slide_results(connection, batch))
        return
    found = rows(connection, batch, level)
    if level is Level.FIELD:
        columns = [
            console.name("field"),
            console.fixed("call"),
            console.number("conf."),
            console.number("suspect leukocytes"),
            console.words("flags"),
        ]
        console.table(columns, (_field_cells(row) for row in found))
    else:
        columns = [
            console.name("field"),
            console.number("index"),
            console.number("x"),
            console.number("y"),
            console.number("width"),
            console.number("height"),
            console.number("area"),
            console.number("suspicion"),
        ]
        console.table(columns, (_leukocyte_cells(row) for row in found))


def _field_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    from cli.console import percent

    if row["state"] != "screened":
        return row["field"], row["state"], None, None, row["failure"]
    call = row["call"] or "not assessable"
    return row["field"], call, percent(row["confidence"]), f"{row['suspects']:,} of {row['leukocytes']:,}", row["flags"]


def _leukocyte_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row["field"], str(row["index"]), *(str(side) for side in row["box"]), row["area"], f"{row['suspicion']:.3f}"
