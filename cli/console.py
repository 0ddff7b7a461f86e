"""What the commands print: data to stdout, everything said about it to stderr.

On a terminal a table is a Rich table that fits its width: names are elided in their middle, words wrap, the accession
is never unreadable. Into a pipe or a file it is plain columns, nothing elided, one line a row, for grep and awk; unless
COLUMNS is set in the environment, which asks for a table of that width.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allq.text import printable, printable_json
from cli.layout import (
    Column,
    broken,
    column_widths,
    columns_that_fit,
    elide,
    fixed,
    name,
    number,
    table_width,
    words,
    wrap,
)

__all__ = ["Column", "elide", "fixed", "name", "number", "words"]

SAMPLE_ROWS: Final = 200
"""Rows looked at before a long table is laid out; the rest is printed as it comes, in the same columns."""

STYLES: Final = {
    "all-suspected": "bold red",
    "early-pre-b": "red",
    "pre-b": "red",
    "pro-b": "red",
    "insufficient": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "cyan",
    "registering": "cyan",
    "cancelled": "yellow",
}
"""Colours of words that stand alone in a cell. None is green: nothing here is an all-clear."""


def output() -> Console:
    """The console of stdout: for data."""
    return _console(sys.stdout, fitted=sys.stdout.isatty() or _width_is_asked_for())


def messages() -> Console:
    """The console of stderr: for everything that isn't data."""
    return _console(sys.stderr, fitted=sys.stderr.isatty())


def _console(stream: TextIO, *, fitted: bool) -> Console:
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=not fitted)


def _width_is_asked_for() -> bool:
    # Shells keep COLUMNS to themselves: in the environment it is there because somebody wants it to be heeded.
    asked = os.environ.get("COLUMNS", "")
    return asked.isdigit() and int(asked) > 0


def fitted_width(console: Console | None = None) -> int | None:
    """The width that a table has to fit; None in a pipe, where it is as wide as its text."""
    console = console or output()
    return console.width if console.is_terminal or _width_is_asked_for() else None


def say(text: str, *, style: str | None = None) -> None:
    """Print a sentence to stderr, on a line of its own: whatever is named in it moves no cursor and begins no line."""
    messages().print(Text(printable(text), style=style or ""))


def offer(what: str, line: str) -> None:
    """Print a command line to be copied, on stderr. Only the terminal breaks it: what is copied has no line's end."""
    messages().print(Text(printable(f"{what}:  {line}")), soft_wrap=True)


def emit(record: Mapping[str, Any]) -> None:
    """Print one JSON document on one line of stdout, UTF-8 whatever the locale."""
    line = printable_json(json.dumps(record, ensure_ascii=False, allow_nan=False, default=_json)) + "\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(line.encode("utf-8"))
    sys.stdout.flush()


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[object]],
    *,
    needed: int | None = None,
    console: Console | None = None,
) -> int:
    """Print `rows` under `columns` and return how many there were. Rows are streamed: memory stays flat.

    A cell may be a `Text` with its own style; anything else is printed as `cell()` shows it. Where the width does not
    suffice, columns after the first `needed` (all, unless given) are left out from the last on, and named beneath.
    """
    console = console or output()
    texts = ([_text(value) for value in row] for row in rows)
    sample = list(itertools.islice(texts, SAMPLE_ROWS))
    width = fitted_width(console)
    if width is None:
        return _plain(console.file, columns, sample, texts)
    kept = columns_that_fit(columns, sample, width, needed or len(columns))
    count = _framed(console, columns[:kept], [row[:kept] for row in sample], (row[:kept] for row in texts))
    if kept < len(columns) and count:
        left_out = ", ".join(column.title for column in columns[kept:])
        say(f"Not shown for want of width: {left_out}. --json has them.")
    return count


def cell(value: object) -> str:
    """How a value looks in a table: a dash for None, digits grouped, lists joined, control characters escaped."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value) or "-"
    return printable(str(value))


def _text(value: object) -> Text:
    if isinstance(value, Text):
        return value
    shown = cell(value)
    return Text(shown, style=STYLES.get(shown, ""))


def _plain(file: Any, columns: Sequence[Column], sample: list[list[Text]], rest: Iterator[list[Text]]) -> int:
    widths = [
        max([cell_len(column.title), *(cell_len(row[index].plain) for row in sample)])
        for index, column in enumerate(columns)
    ]
    file.write(_line(columns, [column.title.upper() for column in columns], widths))
    count = 0
    for row in itertools.chain(sample, rest):
        file.write(_line(columns, [text.plain.replace("\n", " ") for text in row], widths))
        count += 1
    return count


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, text, width in zip(columns, cells, widths, strict=True):
        space = " " * max(width - cell_len(text), 0)
        parts.append(space + text if column.kind == "number" else text + space)
    return "  ".join(parts).rstrip() + "\n"


def _framed(console: Console, columns: Sequence[Column], sample: list[list[Text]], rest: Iterator[list[Text]]) -> int:
    widths = column_widths(columns, sample, console.width)
    if table_width(widths) > console.width:
        return _records(console, columns, itertools.chain(sample, rest))
    count = 0
    page, first = sample, True
    while page or first:
        shown = Table(
            box=box.SIMPLE_HEAD,
            show_header=first,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            header_style="bold",
            show_edge=False,
        )
        for column, width in zip(columns, widths, strict=True):
            shown.add_column(
                Text(broken(column.title, width)),
                width=width,
                justify="right" if column.kind == "number" else "left",
                overflow="fold",
                no_wrap=column.kind == "name",
            )
        for row in page:
            shown.add_row(
                *(
                    Text((elide if column.kind == "name" else wrap)(text.plain, width), style=text.style)
                    for column, text, width in zip(columns, row, widths, strict=True)
                )
            )
        console.print(shown)
        count += len(page)
        page, first = list(itertools.islice(rest, SAMPLE_ROWS)), False
    return count


def _records(console: Console, columns: Sequence[Column], rows: Iterable[list[Text]]) -> int:
    """Rows too wide for the terminal, one value a line, as `psql` shows them with `\\x auto`."""
    count = 0
    for count, row in enumerate(rows, start=1):
        shown = _pairs([(column.title, text) for column, text in zip(columns, row, strict=True)])
        console.rule(Text(f"{count}"), style="dim", align="left", characters="─")
        console.print(shown)
    return count


def markdown(text: str) -> None:
    """Print Markdown: laid out on a terminal, as it is elsewhere. Control characters in it are shown, not sent."""
    text = "\n".join(printable(line) for line in text.splitlines()) + "\n"
    console = output()
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        console.file.write(text)


def percent(share: float | None) -> str:
    """`97 %`; a dash for None. Rounded down, so that 99.6 % isn't shown as certainty."""
    return "-" if share is None else f"{math.floor(share * 100 + 1e-9)} %"


def upper_percent(share: float) -> str:
    """`0.8 %`, rounded up: an upper bound that is rounded down is none."""
    return f"{min(math.ceil(share * 1000 - 1e-9) / 10, 100):.1f} %"


def pairs(lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one a line."""
    console = output()
    if fitted_width(console) is not None:
        console.print(pairs_table(lines))
    else:
        width = max(len(key) for key, _ in lines)
        for key, value in lines:
            console.file.write(f"{key:<{width}}  {cell(value)}\n")


def pairs_table(lines: Sequence[tuple[str, str]]) -> Table:
    """Names and values side by side, the values wrapped."""
    return _pairs([(key, _text(value)) for key, value in lines])


def _pairs(lines: Iterable[tuple[str, Text]]) -> Table:
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for key, value in lines:
        shown.add_row(key, value)
    return shown
