"""`allq query`: the named queries of db/queries."""

from __future__ import annotations

import itertools
import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from allq.errors import UsageError
from allq.text import is_utf8, storable
from cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cli.console import Column
    from db.records import QueryInfo, QueryParameter

_NAMES: Final = frozenset({"slide", "field", "other_slide", "other_field", "path", "actor", "owner"})
_NUMBERED: Final = frozenset({"batch", "other_batch", "chunk"})
"""What these columns hold is a name though it is a number: its digits are not grouped."""

_NEEDED: Final = 3
"""So many columns of a query are never left out for want of width; nor is `synthetic`, where it is a yes."""


class FormatOption(Enum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


def query(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Which query; without it they are listed.", autocompletion=options.complete_query
        ),
    ] = None,
    values: Annotated[list[str] | None, typer.Argument(metavar="PARAMETER=VALUE", help="What the query takes.")] = None,
    form: Annotated[FormatOption, typer.Option("--format", "-f", help="How rows are printed.")] = FormatOption.TABLE,
    json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Run a named query, or list them.

    Worklist, failures, throughput, turnaround and more: SQL that stands in the package, to be read and copied.

    A terminal shows the columns that fit it. In a pipe a row is one line, as wide as its text, unless COLUMNS is set.

    Example: allq query worklist batch=7
    """
    from cli import console
    from cli.session import open_database
    from db import named

    if json:
        form = FormatOption.JSONL
    if name is None:
        _list(named.names(), json=form is FormatOption.JSONL)
        return
    given = _parameters(values or [], named.find(name).parameters)
    with open_database() as database, database.read() as connection:
        if "batch" in given:
            given["batch"] = options.find_batch(connection, str(given["batch"]))
        most = _limit(given, named.find(name).parameters)
        if most is not None:
            given["limit"] = most + 1  # one more tells whether there are more
        columns, rows = named.run(connection, name, given)
        _print(columns, itertools.islice(rows, most), form)
        if most is not None and next(rows, None) is not None:
            console.say(f"There are more rows than the {most:,} shown: limit={most * 10} shows more.")


def _list(found: Sequence[QueryInfo], *, json: bool) -> None:
    from cli import console

    if json:
        for info in found:
            console.emit(
                {
                    "name": info.name,
                    "description": info.description,
                    "parameters": [
                        {"name": one.name, "kind": one.kind, "required": one.required, "default": one.default}
                        for one in info.parameters
                    ],
                }
            )
        return
    console.table(
        [console.fixed("query"), console.words("answers"), console.words("takes")],
        [(info.name, info.description, [_parameter_words(one) for one in info.parameters]) for info in found],
    )


def _parameter_words(parameter: QueryParameter) -> str:
    return f"{parameter.name}=…" if parameter.required else f"[{parameter.name}={parameter.default or ''}]"


def _parameters(values: Sequence[str], known: Sequence[QueryParameter]) -> dict[str, str | int | None]:
    """Parse `name=value`; a value without a name goes to the query's first parameter that has none yet."""
    given: dict[str, str | int | None] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            free = [one.name for one in known if one.name not in given]
            if not free:
                raise UsageError(f"{text!r} is no parameter: give name=value, as `allq query` lists them.")
            key, value = free[0], text
        # A name copied from a results table is the text that is stored; one completed by the shell may be bytes.
        given[key] = value if is_utf8(value) else storable(value)[0]
    return given


def _limit(given: Mapping[str, str | int | None], known: Sequence[QueryParameter]) -> int | None:
    """At most how many rows are asked for; None where the query takes no limit, or was given what is none."""
    default = next((one.default for one in known if one.name == "limit"), None)
    text = str(given.get("limit", default))
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _print(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: FormatOption) -> None:
    from cli import console

    if form is FormatOption.JSONL:
        for row in rows:
            console.emit(dict(zip(columns, row, strict=True)))
    elif form is FormatOption.CSV:
        from review.export import write_table

        sys.stdout.flush()
        write_table(columns, rows, sys.stdout.buffer, terminal=sys.stdout.isatty())
        sys.stdout.buffer.flush()
    else:
        _table(columns, iter(rows))


def _table(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    from cli import console
    from cli.wording import SYNTHETIC

    sample = list(itertools.islice(rows, console.SAMPLE_ROWS))
    fitted = console.fitted_width() is not None
    needed = _NEEDED
    order = list(columns)
    synthetic = "synthetic" in columns and any(row[columns.index("synthetic")] for row in sample)
    if synthetic and fitted:
        order.remove("synthetic")
        order.insert(needed, "synthetic")
        needed += 1
    layout = [_column(title, [row[columns.index(title)] for row in sample]) for title in order]
    records = (dict(zip(columns, row, strict=True)) for row in itertools.chain(sample, rows))
    shown = ([_cell(record, title, fitted=fitted) for title in order] for record in records)
    if not console.table(layout, shown, needed=min(len(order), needed)):
        console.say("The query has no rows.")
    if synthetic:
        console.say(f"Where synthetic is yes, the model was {SYNTHETIC}.", style="yellow")


def _column(title: str, values: Sequence[object]) -> Column:
    from cli import console

    if title in _NAMES:
        return console.name(title)
    known = [value for value in values if value is not None]
    numbers = known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    return console.number(title) if numbers else console.words(title)


def _cell(record: Mapping[str, Any], column: str, *, fitted: bool) -> object:
    """A value as people read it; where space is short, a field beside its slide is shown without the slide's name."""
    value = record[column]
    if value is None:
        return None
    if column in _NUMBERED:
        return str(value)
    if column == "flags":
        return value.split(",") if value else None
    if fitted and column == "body":
        return value.replace(',"', ', "')  # the ledger's JSON has no space at which a line could be broken
    slide = record.get(column.replace("field", "slide"))
    if fitted and column in {"field", "other_field"} and slide and value.startswith(f"{slide}/"):
        return f"…/{value.removeprefix(f'{slide}/')}"
    return value
