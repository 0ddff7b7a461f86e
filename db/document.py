"""Writes docs/queries.md and docs/schema.md: `python -m db.document [FOLDER]`. A test sees that they are up to date."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table

from db import named
from db.example import example

_EXAMPLES: dict[str, dict[str, str]] = {
    "failures": {"batch": "1"},
    "flagged_fields": {"batch": "1"},
    "most_suspicious_fields": {"batch": "1", "limit": "5"},
    "review_queue": {"limit": "5"},
    "provenance": {"slide": "H26-0102"},
    "reviews": {"slide": "H26-0102"},
    "skipped": {"batch": "1"},
    "slide_calls": {"slide": "H26-0102"},
    "slide_findings": {"slide": "H26-0102"},
    "slide_history": {"slide": "H26-0102"},
    "twins": {"batch": "1"},
    "worklist": {"limit": "5"},
}
"""What the parameters without a useful default are in the examples."""

_QUERIES_TOP = """# Named queries

Questions that a reviewer asks, as SQL. `allq query NAME` runs one; each is a file in `db/queries/` that works unchanged
in PostgreSQL and SQLite, and by hand as well:

```console
$ allq query slide_findings slide=H26-0102
$ psql -v batch=1 -f db/queries/failures.sql "$DATABASE_URL"
$ sqlite3 allq.db -cmd '.parameter set :batch 1' < db/queries/failures.sql
```

By hand each of a query's parameters has to be given (`-v batch=0 -v limit=20`); `allq query` lists what it takes for
one left out.

(In psql a text parameter is quoted: `-v slide="'H26-0102'"`.) They stand on the views `batch_progress`, `worklist`,
`slide_findings`, `field_failures`, `model_use`, `model_activations`, `turnaround`, `slide_history`, `review_queue` and
`slide_reviews`, which are there for questions of your own; docs/schema.md draws the tables. Times are UTC. The first
columns matter most: a terminal that is too narrow for all of them leaves out the last ones, and says which.

The results below are real ones of a small example database that `python -m db.document` makes of made-up findings. It
screens nothing and its model does not exist. Research use: allq ranks and documents, a named person decides.
"""

_SCHEMA_TOP = """# The schema

Drawn from `db/tables.py` by `python -m db.document`; the migrations in `db/migrations` make it, and a test holds the
two against each other. The same on PostgreSQL and SQLite. Times are UTC: `timestamptz` on PostgreSQL, text
`YYYY-MM-DD HH:MM:SS.mmm` on SQLite. `flags` are names separated by commas, empty for none. A file or folder whose name
is no UTF-8 stands as text with `\\xff` escapes, its backslashes as `\\x5c`: no two names are one text, and `raw_…` has
the bytes.

Rows of `model`, `activation`, `finding`, `finding_leukocytes`, `slide_call`, `review`, `event`, `event_slide`, `leaf`
and `checkpoint` are never changed or removed: triggers refuse UPDATE, DELETE, INSERT OR REPLACE and TRUNCATE, and
docs/ledger.md tells how `allq audit verify` finds what was changed without them. Counters in `chunk` and `slide` are
kept in the transaction that changes a field, so that nothing counts rows; CHECK constraints hold their sums.
"""


def queries() -> str:
    """The text of docs/queries.md."""
    parts = [_QUERIES_TOP]
    with example() as conn:
        parts += [_query(conn, info.name) for info in named.names()]
    return "\n".join(parts)


def schema() -> str:
    """The text of docs/schema.md."""
    from db import tables  # noqa: PLC0415 - the ORM: nothing else at run time needs it

    told = {str(mapper.local_table): mapper.class_.__doc__ or "" for mapper in tables.Base.registry.mappers}
    ordered = tables.Base.metadata.sorted_tables
    parts = [_SCHEMA_TOP, "```mermaid", "erDiagram"]
    for table in ordered:
        parts += _relations(table)
    for table in ordered:
        parts += _entity(table)
    parts += ["```", "", "## Tables", ""]
    for table in ordered:
        parts += [f"**`{table.name}`** {inspect.cleandoc(told[table.name])}", ""]
    parts += ["## Views", ""]
    with example() as conn:
        for view in conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name").scalars():
            columns = [f"`{row[1]}`" for row in conn.exec_driver_sql(f"PRAGMA table_info({view})")]
            parts += [f"**`{view}`** {', '.join(columns)}", ""]
    return "\n".join(parts)


def _query(conn: Connection, name: str) -> str:
    (info,) = (info for info in named.names() if info.name == name)
    given = _EXAMPLES.get(name, {})
    columns, rows = named.run(conn, name, given)
    called = " ".join([f"allq query {name}", *(f"{key}={value}" for key, value in given.items())])
    parts = [f"## {name}", "", info.description, ""]
    for parameter in info.parameters:
        default = "required" if parameter.required else f"default {parameter.default}"
        parts.append(f"- `{parameter.name}` ({parameter.kind}, {default}): {parameter.description}")
    if info.parameters:
        parts.append("")
    parts += [
        "```sql",
        _without_comments(named.sql(name)),
        "```",
        "",
        f"`{called}`",
        "",
        _table(columns, list(rows)),
        "",
    ]
    return "\n".join(parts)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.strip().splitlines() if not line.startswith("--"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = "yes" if value is True else "no" if value is False else str(value)
    if len(text) > 64:
        text = text[:60].rstrip() + " …"
    return text.replace("|", "\\|")


def _relations(table: Table) -> list[str]:
    return [
        f"    {key.column.table.name} ||--o{{ {table.name} : {key.parent.name}"
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name)
    ]


def _entity(table: Table) -> list[str]:
    lines = [f"    {table.name} {{"]
    for column in table.columns:
        marks = [mark for mark, holds in (("PK", column.primary_key), ("FK", bool(column.foreign_keys))) if holds]
        kind = str(column.type).split("(")[0].replace(" ", "_").lower()
        null = ' "may be null"' if column.nullable else ""
        lines.append(f"        {kind} {column.name} {', '.join(marks)}".rstrip() + null)
    return [*lines, "    }"]


def main(arguments: Sequence[str]) -> None:
    """Write both pages into the folder given, or into docs/."""
    folder = Path(arguments[0]) if arguments else Path("docs")
    (folder / "queries.md").write_text(queries(), "utf-8")
    (folder / "schema.md").write_text(schema(), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
