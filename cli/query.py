"""`allq query`: the named queries of db/queries."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allq.errors import UsageError
from allq.text import is_utf8, storable
from cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from db.records import QueryInfo, QueryParameter


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

    Example: allq query worklist batch=7
    """
    from cli.session import open_database
    from db import named

    if json:
        form = FormatOption.JSONL
    if name is None:
        _list(named.names(), json=form is FormatOption.JSONL)
        return
    info = next((one for one in named.names() if one.name == name), None)
    given = _parameters(values or [], info.parameters if info else ())
    with open_database() as database, database.read() as connection:
        if "batch" in given and info is not None:
            given["batch"] = options.find_batch(connection, str(given["batch"]))
        columns, rows = named.run(connection, name, given)
        _print(columns, rows, form)


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
        kinds = {"slide": "name", "field": "name", "folder": "name", "root": "name", "path": "name"}
        shown = [console.Column(title=title, kind="name" if title in kinds else "words") for title in columns]
        if not console.table(shown, rows):
            console.say("The query has no rows.")
