"""Text that people read: file names made safe to print, counts and durations made short."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from typing import Final

_NOT_ASCII: Final = re.compile(r"[^ -~\r\n\t]")
_ESCAPE: Final = re.compile(r"\\x[0-9a-f]{2}")


def printable(text: str) -> str:
    """Return `text` with everything that could move a cursor or break a line written as an escape.

    Control characters (Cc), format characters such as bidirectional overrides (Cf), line separators and
    lone surrogates come out as `\\n`, `\\x1b`, `\\u202e`; all else, emoji included, is kept.
    """
    return "".join(
        character if _is_plain(character) else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def printable_json(text: str) -> str:
    """Return a JSON text with everything that could move a cursor written as `\\u…`, which is the same JSON.

    `json` itself leaves DEL, C1 controls (of which one begins a terminal's commands) and bidirectional overrides as
    they are, unless it escapes every umlaut, too.
    """
    return _NOT_ASCII.sub(lambda found: found.group() if _is_plain(found.group()) else _in_json(found.group()), text)


def _in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _is_plain(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} or character == "\u200d"


def command(*words: str) -> str:
    """A command line to copy into a shell: each word is one word there, whatever slides or folders are called.

    A word with characters that can't be printed is written `$'…'` with octal escapes, which bash, zsh, ksh and POSIX
    read. For a shell that doesn't it is one word, too, if not the same: there is no quote in it that would end it.
    """
    return " ".join(_quoted(word) for word in words)


def operand(name: str) -> tuple[str, ...]:
    """The words of a command line that name something, as its last ones: after `--` where it looks like an option."""
    return ("--", name) if name.startswith("-") else (name,)


def _quoted(word: str) -> str:
    if printable(word) == word:
        quoted = shlex.quote(word)
        return f"'{word}'" if quoted == word and word.startswith("=") else quoted  # zsh takes =ls for a path
    return f"$'{''.join(_in_quotes(character) for character in word)}'"


def _in_quotes(character: str) -> str:
    if character == "\\":
        return r"\\"
    if _is_plain(character) and character != "'":
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", _surrogates(character)))


def _surrogates(character: str) -> str:
    """How Python names a byte that is no UTF-8, and how a surrogate that is none."""
    return "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"


def storable(name: str) -> tuple[str, bytes | None]:
    """Return a file name or path as text any database takes, and its bytes where the text alone can't give them back.

    Linux names are bytes: Python shows those that aren't UTF-8 as lone surrogates, which SQL refuses. Such a name is
    stored as text with `\\xff` escapes, its own backslashes as `\\x5c`, beside its exact bytes; so is a name that only
    looks as if it had such escapes. Every other name is its own text and has None there. No two names are one text.
    """
    if _is_its_own_text(name):
        return name, None
    # Part by part, so that the path of a field begins with the text of its slide.
    text = "/".join(part if _is_its_own_text(part) else _escaped(part) for part in name.split("/"))
    return text, os.fsencode(name)


def is_utf8(name: str) -> bool:
    """False for a name with bytes that are no UTF-8, which Python has as lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_its_own_text(name: str) -> bool:
    return is_utf8(name) and _ESCAPE.search(name) is None


def _escaped(name: str) -> str:
    return os.fsencode(name).replace(b"\\", rb"\x5c").decode("utf-8", "backslashreplace")


_REPEATS_ROWS: Final = ("DETAIL:", "CONTEXT:")
"""How PostgreSQL begins what it says of a row, to the end of its message: names of slides may stand in it."""
_GOES_ON: Final = ("Traceback (", "The above exception was", "During handling of the above")


def without_rows(text: str) -> str:
    """A PostgreSQL error, alone or in a traceback, without that in which it repeats rows; they may have many lines."""
    kept: list[str] = []
    repeats = False
    for line in text.split("\n"):
        if line.lstrip().startswith(_REPEATS_ROWS):
            repeats = True
        elif line.startswith(_GOES_ON):
            repeats = False
        if not repeats:
            kept.append(line)
    return "\n".join(kept)


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
