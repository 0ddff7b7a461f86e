"""Writers of results: CSV, JSON lines and Parquet, row by row, so that a million of them need no more memory than one.

A row is a mapping with the JSON keys of its level (see `review.results`). CSV flattens what is nested:
`probabilities` becomes `p_benign` …, `box` becomes `box_x` …, lists of names are joined by `;`. Parquet keeps the
nesting as structs and lists.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from allq.classes import CLASSES
from allq.errors import AllqError
from allq.text import printable, printable_json
from review.results import Level

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]

SPREADSHEET_RUNS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters of a text that Excel and LibreOffice take for a formula (OWASP, "CSV injection")."""

_RUN: Final = frozenset(SPREADSHEET_RUNS)
_BEGINS_A_FORMULA: Final = re.compile(r"(?:^|(?<=[;\t|]))(?=[=+\-@\t\r\n＝＋－＠])")
"""Where such a text begins: at a cell's beginning, and after what another country's spreadsheet takes for its end."""

ROWS_CONVERTED: Final = 2_000
"""Rows held as Python objects at a time on their way into Parquet."""

ROW_GROUP: Final = {Level.SLIDE: 50_000, Level.FIELD: 20_000, Level.LEUKOCYTE: 10_000}
"""Rows per Parquet row group; fewer for leukocytes, whose outlines are long."""


class Format(StrEnum):
    """The formats that a file of results can have."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def write(rows: Iterable[Row], stream: BinaryIO, *, level: Level, form: Format, terminal: bool = False) -> int:
    """Write `rows` to `stream`, opened for bytes, and return how many there were.

    With `terminal`, control characters in CSV cells are escaped; a file keeps the names as they are.
    """
    if form is Format.JSONL:
        return write_jsonl(rows, stream)
    if form is Format.CSV:
        return write_csv(rows, stream, level=level, terminal=terminal)
    return write_parquet(rows, stream, level=level)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing such that it appears whole, or, after an error or an interruption, not at all.

    Raises AllqError when there can't be such a file.
    """
    if path.is_dir():
        raise AllqError(f"{printable(str(path))} is a folder: name a file in it.")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name[:80]}.", suffix=".part")
    except OSError as error:
        where = printable(str(path.absolute().parent))
        raise AllqError(
            f"{printable(path.name)} can't be written in {where} ({error.strerror}): name a folder that exists and may "
            "be written to."
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def write_jsonl(rows: Iterable[Row], stream: BinaryIO) -> int:
    """One JSON object a line, UTF-8."""
    count = 0
    for row in rows:
        stream.write(printable_json(json.dumps(row, ensure_ascii=False, allow_nan=False)).encode("utf-8") + b"\n")
        count += 1
    return count


def write_csv(rows: Iterable[Row], stream: BinaryIO, *, level: Level, terminal: bool = False) -> int:
    """Comma-separated, UTF-8, one header line; text that a spreadsheet would run gets an apostrophe."""
    first, rows = _peek(rows)
    keys = (*level.keys, "synthetic") if first and "synthetic" in first else level.keys
    measures = tuple(first["measures"]) if first and "measures" in first else ()
    with _text(stream) as text:
        text.write(_line([column for key in keys for column in _columns(key, measures)]))
        count = 0
        for row in rows:
            text.write(_line(_cells(row, keys, measures, terminal=terminal)))
            count += 1
    return count


def write_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], stream: BinaryIO, *, terminal: bool = False
) -> int:
    """Rows under `columns` as CSV: the answer of a named query."""
    with _text(stream) as text:
        writer = csv.writer(_LinesEndInNewline(text))
        writer.writerow(columns)
        count = 0
        for row in rows:
            writer.writerow([_csv_cell(value, terminal=terminal) for value in row])
            count += 1
    return count


@contextmanager
def _text(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """Write text to a stream of bytes, which stays open: it may be stdout."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        with suppress(OSError, ValueError):
            text.detach()


def _line(cells: Sequence[str]) -> str:
    """A line of several cells. Where none needs quotes they are put together in half of `csv`'s time."""
    line = ",".join(cells)
    if line.count(",") == len(cells) - 1 and not ('"' in line or "\n" in line or "\r" in line):
        return line + "\n"
    quoted = io.StringIO()
    csv.writer(_LinesEndInNewline(quoted)).writerow(cells)
    return quoted.getvalue()


class _LinesEndInNewline:
    """Lines from CRLF to LF: `csv` quotes a carriage return inside a cell only where it writes CRLF itself."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text

    def write(self, line: str) -> int:
        return self._text.write(line.removesuffix("\r\n") + "\n")


def safe_for_spreadsheets(text: str) -> str:
    """Return `text` with an apostrophe before whatever a spreadsheet would run as a formula.

    Inside it, too: where the list separator is a semicolon (in much of Europe), Excel cuts `a;=b` into two cells, and
    quotes don't keep it from doing so.
    """
    # Nearly every text of millions, so without a loop.
    if text[:1] not in _RUN and ";" not in text and "\t" not in text and "|" not in text:
        return text
    return _BEGINS_A_FORMULA.sub("'", text)


def _csv_cell(value: object, *, terminal: bool) -> str:
    if isinstance(value, str):
        return safe_for_spreadsheets(printable(value) if terminal else value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(value)


_FLAT: Final = {
    "probabilities": tuple(f"p_{name}" for name in CLASSES),
    "box": ("box_x", "box_y", "box_width", "box_height"),
    "centre": ("centre_x", "centre_y"),
}


def _columns(key: str, measures: Sequence[str]) -> Sequence[str]:
    """The columns of a key: one of its name, unless it is nested."""
    return measures if key == "measures" else _FLAT.get(key, (key,))


def _cells(row: Row, keys: Sequence[str], measures: Sequence[str], *, terminal: bool) -> list[str]:
    """The cells of a row in the order of its columns. There may be millions: what is common comes first."""
    cells: list[str] = []
    for key in keys:
        value = row[key]
        kind = type(value)
        if kind is float or kind is int:
            cells.append(repr(value))
        elif kind is str and not terminal:
            cells.append(safe_for_spreadsheets(value))
        elif value is None:
            cells += [""] * len(_columns(key, measures))
        elif key == "probabilities":
            cells += [repr(value[name]) for name in CLASSES]
        elif key in {"box", "centre"}:
            cells += map(repr, value)
        elif key == "measures":
            cells += [_csv_cell(value[name], terminal=terminal) for name in measures]
        elif key == "flags":
            cells.append(_csv_cell(";".join(value), terminal=terminal))
        elif key == "outline":
            cells.append(";".join(f"{x} {y}" for x, y in value))
        else:
            cells.append(_csv_cell(value, terminal=terminal))
    return cells


def write_parquet(rows: Iterable[Row], stream: BinaryIO, *, level: Level) -> int:
    """Apache Parquet, compressed with Zstandard, a row group at a time."""
    import pyarrow as pa  # noqa: PLC0415  (80 MB and a quarter of a second: only for those who ask for it)
    import pyarrow.parquet as pq  # noqa: PLC0415

    first, rows = _peek(rows)
    schema = _schema(pa, level, synthetic=bool(first and "synthetic" in first))
    count, batches, held = 0, [], 0
    # A pipe has no position; Parquet only needs to know how much it has written.
    sink = pa.PythonFile(_Counted(stream), mode="w")
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        rows = iter(rows)
        while page := list(itertools.islice(rows, ROWS_CONVERTED)):
            if level is Level.LEUKOCYTE:
                page = [{**row, "measures": list(row["measures"].items())} for row in page]
            batches.append(pa.RecordBatch.from_pylist(page, schema=schema))
            count += len(page)
            held += len(page)
            if held >= ROW_GROUP[level]:
                writer.write_table(pa.Table.from_batches(batches), row_group_size=held)
                batches, held = [], 0
        if batches:
            writer.write_table(pa.Table.from_batches(batches), row_group_size=held)
    return count


def _schema(pa: Any, level: Level, *, synthetic: bool) -> pa.Schema:
    types = {
        "batch": pa.int64(),
        "confidence": pa.float64(),
        "novelty": pa.float64(),
        "suspicion": pa.float64(),
        "area": pa.float64(),
        "upper_bound": pa.float64(),
        "probabilities": pa.struct([(name, pa.float64()) for name in CLASSES]),
        "flags": pa.list_(pa.string()),
        "index": pa.int32(),
        "box": pa.list_(pa.int32()),
        "centre": pa.list_(pa.float64()),
        "outline": pa.list_(pa.list_(pa.int32())),
        "measures": pa.map_(pa.string(), pa.float64()),
    } | dict.fromkeys(("fields", "screened", "failed", "cancelled", "leukocytes", "suspects"), pa.int32())
    fields = [(key, types.get(key, pa.string())) for key in level.keys]
    if synthetic:
        fields.append(("synthetic", pa.bool_()))
    return pa.schema(fields)


class _Counted:
    """A writable byte stream that knows its position though the one beneath, a pipe, doesn't. Does not close it."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


def _peek(rows: Iterable[Row]) -> tuple[Row | None, Iterator[Row]]:
    iterator = iter(rows)
    head: Sequence[Row] = list(itertools.islice(iterator, 1))
    return (head[0] if head else None), itertools.chain(head, iterator)
