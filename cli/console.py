"""What the commands print: data to stdout, everything said about it to stderr.

On a terminal a table is a Rich table that fits its width: names are elided in their middle, words wrap, the accession
is never unreadable. Into a pipe or a file it is plain columns, nothing elided, one line a row, for grep and awk.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TextIO

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allq.text import printable

SHORTEST_NAME: Final = 12
"""Columns that an elided name keeps at the least: five of its beginning, the ellipsis, six of its end."""

SHORTEST_FILE: Final = 9
"""Columns that a file's name keeps before its slide's name is elided, too: `fi…2.png` at the least."""

LONGEST_WORD: Final = 20
"""Columns up to which a wrapped column keeps its longest word on one line."""

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
    "no": "red",
}
"""Colours of words that stand alone in a cell. None is green: nothing here is an all-clear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table: `name` is elided in its middle when space is short, `words` wrap, `fixed` does neither."""

    title: str
    kind: Literal["name", "words", "fixed", "number"] = "fixed"


def name(title: str) -> Column:
    """A column of names of slides, files or folders."""
    return Column(title=title, kind="name")


def words(title: str) -> Column:
    """A column of sentences or lists, wrapped."""
    return Column(title=title, kind="words")


def fixed(title: str) -> Column:
    """A column of short words, printed whole."""
    return Column(title=title)


def number(title: str) -> Column:
    """A column of numbers, to the right."""
    return Column(title=title, kind="number")


def elide(text: str, width: int) -> str:
    """Return `text` in at most `width` terminal cells, its middle replaced by an ellipsis.

    Of a field's path, `slide/file`, the slide stays whole where it can. Of anything else the end keeps one cell more
    than the beginning: names differ at their end.
    """
    if cell_len(text) <= width:
        return text
    if width < 3:
        return set_cell_size(text, max(width, 0))
    slide, slash, rest = text.partition("/")
    if slide and slash:
        folders, _, file = rest.rpartition("/")
        before = f"{slide}/…/" if folders else f"{slide}/"
        if cell_len(before) + min(cell_len(file), SHORTEST_FILE) <= width:
            return before + elide(file, width - cell_len(before))
    left = (width - 1) // 2
    right = width - 1 - left
    head = set_cell_size(text, left).rstrip()
    tail = ""
    for character in reversed(text):
        if cell_len(character + tail) > right:
            break
        tail = character + tail
    return f"{head}…{tail}"


def output() -> Console:
    """The console of stdout: for data."""
    return _console(sys.stdout)


def messages() -> Console:
    """The console of stderr: for everything that isn't data."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=not stream.isatty())


def say(text: str, *, style: str | None = None) -> None:
    """Print a sentence to stderr."""
    messages().print(Text(text, style=style or ""))


def emit(record: Mapping[str, Any]) -> None:
    """Print one JSON document on one line of stdout, UTF-8 whatever the locale."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_json) + "\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(line.encode("utf-8"))
    sys.stdout.flush()


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, console: Console | None = None) -> int:
    """Print `rows` under `columns` and return how many there were. Rows are streamed: memory stays flat.

    A cell may be a `Text` with its own style; anything else is printed as `cell()` shows it.
    """
    console = console or output()
    texts = ([_text(value) for value in row] for row in rows)
    sample = list(itertools.islice(texts, SAMPLE_ROWS))
    if console.is_terminal:
        count = _framed(console, columns, sample, texts)
    else:
        count = _plain(console.file, columns, sample, texts)
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


def wrap(text: str, width: int) -> str:
    """Return `text` with line breaks between words such that lines fit `width` cells, where words do.

    A number and its per cent sign stay on one line, which Rich's own wrapping can't be told.
    """
    lines = []
    for line in text.split("\n"):
        current = ""
        for word in re.sub(r"(?<=\d) %", "\0%", line).split(" "):
            joined = f"{current} {word}" if current else word
            if current and cell_len(joined.replace("\0", " ")) > width:
                lines.append(current)
                current = word
            else:
                current = joined
        lines.append(current)
    return "\n".join(lines).replace("\0", " ")


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
    if sum(widths) + 2 * len(columns) > console.width:
        return _records(console, columns, itertools.chain(sample, rest))
    count = 0
    page, first = sample, True
    while page or first:
        shown = Table(
            box=box.SIMPLE_HEAD, show_header=first, padding=(0, 1, 0, 0), header_style="bold", show_edge=False
        )
        for column, width in zip(columns, widths, strict=True):
            shown.add_column(
                Text(column.title),
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


def column_widths(columns: Sequence[Column], sample: Sequence[Sequence[Text]], available: int) -> list[int]:
    """Return the width of each column so that the table fits `available` cells.

    Names and words give up space, the widest of them first; a name keeps `SHORTEST_NAME` cells, words keep their
    longest word, up to `LONGEST_WORD`. Where even that is too much the sum exceeds what is available.
    """
    natural, least = [], []
    for index, column in enumerate(columns):
        cells = [row[index].plain for row in sample]
        widest = max([cell_len(column.title), *(cell_len(line) for text in cells for line in text.split("\n"))])
        natural.append(widest)
        if column.kind == "name":
            least.append(min(widest, max(SHORTEST_NAME, cell_len(column.title))))
        elif column.kind == "words":
            longest = max([cell_len(column.title), *(cell_len(word) for text in cells for word in text.split())])
            least.append(min(widest, longest, LONGEST_WORD))
        else:
            least.append(widest)
    widths = list(natural)
    spare = available - 2 * len(columns)
    while sum(widths) > spare:
        shrinkable = [index for index in range(len(widths)) if widths[index] > least[index]]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda index: widths[index] - least[index])] -= 1
    return widths


def markdown(text: str) -> None:
    """Print Markdown: laid out on a terminal, as it is elsewhere."""
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
    if console.is_terminal:
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
