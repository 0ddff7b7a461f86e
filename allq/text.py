"""Text that people read: file names made safe to print, counts and durations made short."""

from __future__ import annotations

import os
import unicodedata


def printable(text: str) -> str:
    """Return `text` with everything that could move a cursor or break a line written as an escape.

    Control characters (Cc), format characters such as bidirectional overrides (Cf), line separators and
    lone surrogates come out as `\\n`, `\\x1b`, `\\u202e`; all else, emoji included, is kept.
    """
    return "".join(
        character
        if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} or character == "\u200d"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def storable(name: str) -> tuple[str, bytes | None]:
    """Return a file name as text any database takes, and its bytes where the text alone can't give them back.

    Linux names are bytes: Python shows those that aren't UTF-8 as lone surrogates, which SQL refuses. Such a name is
    stored as text with `\\xff` escapes beside its exact bytes; every other name has None there.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = os.fsencode(name)
        return raw.decode("utf-8", "backslashreplace"), raw
    return name, None


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 field`, `1,204 fields`."""
    return f"{count:,} {noun if count == 1 else (nouns or noun + 's')}"


def duration(seconds: float | None) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`; a dash for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
