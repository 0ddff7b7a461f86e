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

_BEGINS_A_FORMULA: Final = re.compile(r"(?:^|(?<=[;\t|]))(?=[=+\-@\t\r\n＝＋－＠])")
"""Where such a text begins: at a cell's beginning, and after what another country's spreadsheet takes for its end."""

ROWS_CONVERTED: Final = 2_000
"""Rows held as Python objects at a time on their way into Parquet."""

ROW_GROUP: Final = {Level.SLIDE: 50_000, Level.FIELD: 50_000, Level.LEUKOCYTE: 10_000}
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
    with _text(stream) as text:
        writer = csv.DictWriter(_LinesEndInNewline(text), _flat_columns(level, first), restval="")
        writer.writeheader()
        count = 0
        for row in rows:
            writer.writerow({key: _csv_cell(value, terminal=terminal) for key, value in _flatten(row).items()})
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


class _LinesEndInNewline:
    """Lines from CRLF to LF: `csv` quotes a carriage return inside a cell only where it writes CRLF itself."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, line: str) -> int:
        return self._text.write(line.removesuffix("\r\n") + "\n")


def safe_for_spreadsheets(text: str) -> str:
    """Return `text` with an apostrophe before whatever a spreadsheet would run as a formula.

    Inside it, too: where the list separator is a semicolon (in much of Europe), Excel cuts `a;=b` into two cells, and
    quotes don't keep it from doing so.
    """
    return _BEGINS_A_FORMULA.sub("'", text)


def _csv_cell(value: object, *, terminal: bool) -> object:
    if isinstance(value, str):
        return safe_for_spreadsheets(printable(value) if terminal else value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else value


def _flat_columns(level: Level, first: Row | None) -> list[str]:
    names: list[str] = []
    for key in level.keys:
        if key == "probabilities":
            names += [f"p_{name}" for name in CLASSES]
        elif key == "box":
            names += ["box_x", "box_y", "box_width", "box_height"]
        elif key == "centre":
            names += ["centre_x", "centre_y"]
        elif key == "measures":
            names += list(first["measures"]) if first else []
        else:
            names.append(key)
    if first and "synthetic" in first:
        names.append("synthetic")
    return names


def _flatten(row: Row) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in row.items():
        if key == "probabilities":
            flat |= {f"p_{name}": value[name] if value else None for name in CLASSES}
        elif key == "box":
            flat |= dict(zip(("box_x", "box_y", "box_width", "box_height"), value, strict=True))
        elif key == "centre":
            flat |= dict(zip(("centre_x", "centre_y"), value, strict=True))
        elif key == "measures":
            flat |= value
        elif key == "flags":
            flat[key] = ";".join(value)
        elif key == "outline":
            flat[key] = ";".join(f"{x} {y}" for x, y in value)
        else:
            flat[key] = value
    return flat


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
