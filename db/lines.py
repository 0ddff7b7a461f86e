"""Rows as lines of canonical JSON, whose SHA-256 the ledger's events carry: every column, by its name.

The columns stand here, because at run time nobody reads them from `db.tables`; a test holds the two against each other.
A value that has no place in a line (a time that is none, text with bytes that are no UTF-8) gives another line than any
row that was ever written: what was tampered with never fails to be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from operator import itemgetter
from types import NoneType
from typing import Any, Final

MODEL: Final = ("id", "sha256", "name", "architecture", "synthetic", "configuration", "code_version", "added_at")
SLIDE_CALL: Final = (
    "id",
    "slide_id",
    "call",
    "confidence",
    "p_benign",
    "p_early_pre_b",
    "p_pre_b",
    "p_pro_b",
    "suspicion",
    "upper_bound",
    "flags",
    "leukocytes",
    "suspects",
    "fields",
    "screened",
    "failed",
    "cancelled",
    "called_at",
)
REVIEW: Final = ("id", "slide_id", "slide_call_id", "reviewer", "call", "reason", "looked_at", "decided_at")
ACTIVATION: Final = ("id", "model_id", "activated_by", "reason", "activated_at")
COLUMNS: Final = {"model": MODEL, "slide_call": SLIDE_CALL, "review": REVIEW, "activation": ACTIVATION}

_TIMES: Final = frozenset({"added_at", "called_at", "looked_at", "decided_at", "activated_at"})
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", re.ASCII)
"""`datetime.fromisoformat` reads more than that: weeks, zones."""
_BOOLEANS: Final = frozenset({"synthetic"})
_NUMBERS: Final = frozenset(SLIDE_CALL) - {"call", "flags", "called_at", "upper_bound"} | {"slide_call_id", "model_id"}
"""Columns of numbers, never null. Python's repr of a number is JSON's text of it; of anything else it is no JSON."""
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, Unicode as it is, floats as their shortest repr.

    NaN and infinities, which JSON does not have, raise ValueError.
    """
    return _ENCODER.encode(value)


def instant(value: Any) -> str:
    """A time of the database as it stands in the ledger: `2026-01-05T08:30:00.250Z`.

    One that our statements never write (finer than milliseconds, in another form) comes out in another form as well.
    """
    if isinstance(value, str):
        ours = len(value) == 23 and value[10] == " "
        return f"{value[:10]}T{value[11:]}Z" if ours else f"not a time of ours: {value}"
    if not isinstance(value, datetime):
        return f"no time: {value!r}"
    fine = "microseconds" if value.microsecond % 1000 else "milliseconds"
    return value.astimezone(UTC).replace(tzinfo=None).isoformat("T", fine) + "Z"


def is_time(value: Any) -> bool:
    """Whether a value of the database is a time that can be read: on SQLite, text in the one form that we write."""
    if not isinstance(value, str):
        return isinstance(value, datetime)
    if _TIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def blob(value: Any) -> bytes:
    """Bytes of the database; TypeError for anything else that a column without a type may hold."""
    if not isinstance(value, bytes | memoryview):
        raise TypeError("not bytes")
    return bytes(value)


_WRITTEN: Final[dict[type, Callable[[Any], str]]] = {
    str: encode_basestring,
    float: float.__repr__,
    int: int.__repr__,
    bool: lambda value: "true" if value else "false",
    NoneType: lambda _: "null",
}
"""How the JSON encoder writes a value of each kind that a column holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A table's line: its text with places for the values; what puts these in order; which of them are not numbers."""

    text: str
    in_order: Callable[[Sequence[Any]], tuple[Any, ...]]
    times: tuple[int, ...]
    booleans: tuple[int, ...]
    others: tuple[int, ...]


def _layout(table: str) -> _Layout:
    columns = COLUMNS[table]
    ordered = sorted(range(len(columns)), key=lambda at: columns[at])
    named = [columns[at] for at in ordered]
    text = "{" + ",".join(f'"{name}":{"%r" if name in _NUMBERS else "%s"}' for name in named) + "}"
    return _Layout(
        text=text,
        in_order=itemgetter(*ordered),
        times=tuple(place for place, name in enumerate(named) if name in _TIMES),
        booleans=tuple(place for place, name in enumerate(named) if name in _BOOLEANS),
        others=tuple(place for place, name in enumerate(named) if name not in _NUMBERS),
    )


_LAYOUTS: Final = {table: _layout(table) for table in COLUMNS}


def line(table: str, row: Sequence[Any]) -> str:
    """A row's line: what `canonical` gives of its columns by their names, several times as fast.

    `row` holds the columns of `COLUMNS[table]` in their order, as the database gives them. Raises ValueError or
    TypeError for values that no row of ours ever has.
    """
    layout = _LAYOUTS[table]
    values = list(layout.in_order(row))
    for place in layout.times:
        values[place] = instant(values[place])
    for place in layout.booleans:
        if values[place] not in (0, 1):
            raise ValueError("a boolean is none")
        values[place] = bool(values[place])
    try:
        for place in layout.others:
            value = values[place]
            values[place] = _WRITTEN[value.__class__](value)
    except KeyError:
        raise TypeError("a column holds what allq never writes") from None
    return layout.text % tuple(values)


def row_digest(table: str, row: Sequence[Any]) -> str:
    """SHA-256 of a row's line, in hexadecimal. Raises as `line` does."""
    return hashlib.sha256(line(table, row).encode()).hexdigest()


def name_line(slide_id: int, name: str) -> str:
    """The line of a slide in the event that closes its batch: its number and its name."""
    return f'{{"name":{encode_basestring(name)},"slide":{slide_id}}}'


def digest(lines: Iterable[str]) -> str:
    """SHA-256 over the lines, each ended by a line feed, in hexadecimal."""
    total = hashlib.sha256()
    for text in lines:
        total.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()


MARK: Final = 8
"""Hexadecimal digits of a mark."""


def marks(lines: Iterable[str]) -> str:
    """The first digits of each line's SHA-256 in a row: where a digest is wrong, they tell which line is."""
    return "".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:MARK] for text in lines)


@lru_cache(maxsize=4096)
def _quoted(text: Any) -> str:
    return encode_basestring(text) if isinstance(text, str) else f"no text: {text!r}"


def number_text(value: Any) -> str:
    """A whole number, or null, as it stands in an event; of anything else a text that no event has."""
    # SQLite keeps a text 'null' in a column for numbers: it must not look like no number
    return str(value) if value.__class__ is int else "null" if value is None else f"no number: {value!r}"


def event_text(row: Sequence[Any]) -> str:
    """An event as the ledger seals it: canonical JSON, of which the leaf is made.

    `row`: id, at, kind, actor, batch_id, chunk_id, slides (`[7,9]`, ascending), body.
    """
    event_id, at, kind, actor, batch_id, chunk_id, slides, body = row
    return (
        f'{{"actor":{_quoted(actor)},"at":"{instant(at)}","batch":{number_text(batch_id)},"body":{body},'
        f'"chunk":{number_text(chunk_id)},"id":{event_id},"kind":{_quoted(kind)},"slides":{slides}}}'
    )
