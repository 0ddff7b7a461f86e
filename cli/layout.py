"""How wide the columns of a table are, and what becomes of a text that is too long for its own. Prints nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

SHORTEST_NAME: Final = 12
"""Columns that an elided name keeps at the least: five of its beginning, the ellipsis, six of its end."""

SHORTEST_FILE: Final = 10
"""Columns that a file's name keeps before its slide's name is elided, too: `f…-012.png` at the least."""

FILE_END: Final = 8
"""Columns that the end of a file's name keeps, if it can: its number and suffix."""

LONGEST_SLIDE: Final = 16
"""Columns up to which the slide's name in a field's path is kept whole, at the cost of other columns."""

LONGEST_WORD: Final = 20
"""Columns up to which a wrapped column keeps its longest word on one line."""

_SOFT: Final = "\u00ad"

_SYLLABLES: Final = {
    word.replace("-", ""): word.replace("-", _SOFT)
    for word in ("can-celled", "confi-dence", "leuko-cytes", "screen-ed", "sus-pects", "suspi-cion", "syn-thetic")
}
"""Where the title of a narrow column may be broken; besides, any title may after an underscore or a space."""


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

    Of a field's path, `slide/file`, the slide stays whole where it can, and of the file `FILE_END` cells of its end. Of
    anything else the end keeps one cell more than the beginning: names differ at their end.
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
            return before + _without_middle(file, width - cell_len(before), least_right=FILE_END)
    return _without_middle(text, width)


def _without_middle(text: str, width: int, *, least_right: int = 0) -> str:
    if cell_len(text) <= width:
        return text
    left = max(min((width - 1) // 2, width - 1 - least_right), 1)
    right = width - 1 - left
    head = set_cell_size(text, left).rstrip()
    tail = ""
    for character in reversed(text):
        if cell_len(character + tail) > right:
            break
        tail = character + tail
    return f"{head}…{tail}"


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


def column_widths(columns: Sequence[Column], sample: Sequence[Sequence[Text]], available: int) -> list[int]:
    """Return the width of each column so that the table fits `available` cells.

    Columns give up space, the widest of them first, down to what their titles' parts need. Of a field's path slide and
    end are kept, then, where that is too much, `SHORTEST_NAME` cells as of any name; words keep their longest word, up
    to `LONGEST_WORD`. Where even that is too much the table's width exceeds what is available.
    """
    widths: list[int] = []
    for least in (_least(columns, sample, whole_slides=True), _least(columns, sample, whole_slides=False)):
        widths = _natural(columns, sample)
        while table_width(widths) > available:
            shrinkable = [index for index in range(len(widths)) if widths[index] > least[index]]
            if not shrinkable:
                break
            widths[max(shrinkable, key=lambda index: widths[index] - least[index])] -= 1
        else:
            break
    return widths


def columns_that_fit(columns: Sequence[Column], sample: Sequence[Sequence[Text]], available: int, needed: int) -> int:
    """How many of the first columns, `needed` or more, make a table of at most `available` cells."""
    least = _least(columns, sample, whole_slides=True)
    return next((count for count in range(len(columns), needed, -1) if table_width(least[:count]) <= available), needed)


def table_width(widths: Sequence[int]) -> int:
    """The cells that columns of these widths take, two between each."""
    return sum(widths) + 2 * (len(widths) - 1)


def _natural(columns: Sequence[Column], sample: Sequence[Sequence[Text]]) -> list[int]:
    return [
        max([cell_len(column.title), *(cell_len(line) for row in sample for line in row[index].plain.split("\n"))])
        for index, column in enumerate(columns)
    ]


def _least(columns: Sequence[Column], sample: Sequence[Sequence[Text]], *, whole_slides: bool) -> list[int]:
    found = []
    for index, (column, natural) in enumerate(zip(columns, _natural(columns, sample), strict=True)):
        cells = [row[index].plain for row in sample]
        title = max(cell_len(_shown(part)) for part in _parts(column.title))
        if column.kind == "name":
            needs = (_whole_slide(text) if whole_slides else SHORTEST_NAME for text in cells)
            least = min(natural, max([SHORTEST_NAME, *needs]))
        elif column.kind == "words":
            least = min(max([0, *(cell_len(word) for text in cells for word in text.split())]), LONGEST_WORD)
        else:
            least = max([0, *(cell_len(line) for text in cells for line in text.split("\n"))])
        found.append(max(least, title))
    return found


def _whole_slide(path: str) -> int:
    slide, slash, rest = path.partition("/")
    if not slide or not slash or cell_len(slide) > LONGEST_SLIDE:
        return SHORTEST_NAME
    folders, _, file = rest.rpartition("/")
    return cell_len(f"{slide}/…/" if folders else f"{slide}/") + min(cell_len(file), SHORTEST_FILE)


def _parts(title: str) -> list[str]:
    return [part for word in re.split("(?<=[_ ])", title) for part in re.split(f"(?<={_SOFT})", _soft(word))]


def _soft(word: str) -> str:
    return _SYLLABLES.get(word, word)


def _shown(parts: str) -> str:
    return re.sub(f"{_SOFT}$", "-", parts).replace(_SOFT, "").rstrip()


def broken(title: str, width: int) -> str:
    """Return a column's title in lines of at most `width` cells, as far as it has places to be broken at."""
    if cell_len(title) <= width:
        return title
    lines = [""]
    for part in _parts(title):
        if lines[-1] and cell_len(_shown(lines[-1] + part)) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(_shown(line) for line in lines)
