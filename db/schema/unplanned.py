"""What of a query its plan does not tell: how many rows a LIMIT leaves, what a window is of, what a DISTINCT or COLLATE
is for; until version 16, with what a hashed subquery is compared.

It is compared by words, of which one side is allq's and the other the server's. That spells a query in its own way:
it adds brackets and casts, takes words out that say nothing, turns IN into a comparison with an array, and since
version 16 names no table before the columns where there is only one.
"""

from __future__ import annotations

import re
from typing import Final

from db.schema import ddl
from db.schema.ddl import Tokens

_TOKEN: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/"
    r"""|[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\""""
    r"|[A-Za-z_\x80-\U0010FFFF][\w$\x80-\U0010FFFF]*|\d[\w.]*"
    r"|::|[-+*/<>=~!@#%^&|?]+|\S",
    re.DOTALL | re.ASCII,
)
"""As PostgreSQL reads it: square brackets are an array's here, and quote no name."""

_COUNTED: Final = frozenset({"limit", "offset", "fetch", "tablesample", "collate", "window", "distinct", "ties"})
_WITH_CONTENT: Final = frozenset({"over", "exists"})
_SAY_NOTHING: Final = frozenset({"(", ")", "as", "asc", "inner", "outer"})
_SPELLED: Final = {"!=": "<>", "like": "~~", "ilike": "~~*"}

_QUOTED: Final = re.compile(r'"([a-z_][a-z_0-9$]*)"')

_SECOND_WORD: Final = {"double": "precision", "character": "varying", "char": "varying", "bit": "varying"}
_OF_INTERVALS: Final = frozenset({"year", "month", "day", "hour", "minute", "second", "to"})


def same(one: str, other: str) -> bool:
    """Whether two spellings of a query agree in what a plan would not tell, in the order in which it stands."""
    ours, theirs = _parts(one), _parts(other)
    return len(ours) == len(theirs) and all(map(_same_words, ours, theirs))


def _same_words(ours: Tokens, theirs: Tokens) -> bool:
    return len(ours) == len(theirs) and all(
        one == other or one.endswith(f".{other}") or other.endswith(f".{one}")
        for one, other in zip(ours, theirs, strict=True)
    )


def _parts(select: str) -> list[Tokens]:
    words = _with_whole_names(_tokens(select))
    found: list[Tokens] = []
    for place, word in enumerate(words):
        if word in _WITH_CONTENT:
            found.append((word, *_spelled_alike(_bracketed(words[place + 1 :]))))
        elif word in _COUNTED:
            found.append((word,))
    return found


def _tokens(select: str) -> Tokens:
    """Words and signs without comments. A name in quotes keeps them: AS "distinct" must not stand in for a DISTINCT."""
    found = (one for one in _TOKEN.findall(select) if not one.startswith(("--", "/*")))
    return tuple(one if one[-1] in "'\"" else ddl.small(one) for one in found)


def _with_whole_names(words: Tokens) -> Tokens:
    """`x`, `.`, `y` as the one word `x.y`."""
    found: list[str] = []
    before = ""
    for word in words:
        if found and "." in {before, word}:
            found[-1] += word
        else:
            found.append(word)
        before = word
    return tuple(found)


def _bracketed(words: Tokens) -> Tokens:
    """What stands in the first bracket; the first word where there is none, as of a window that has a name."""
    return words[: _end(words, 0)]


def _end(words: Tokens, start: int) -> int:
    """The place after the bracket that opens at `start`, or after the one word that stands there."""
    depth = 0
    for place in range(start, len(words)):
        depth += (words[place] in {"(", "["}) - (words[place] in {")", "]"})
        if depth <= 0:
            return place + 1
    return len(words)


def _spelled_alike(words: Tokens) -> Tokens:
    """Without what the server adds or leaves out."""
    found: list[str] = []
    place = 0
    while place < len(words):
        word, following = words[place], words[place + 1 : place + 3]
        if word == "::":
            place = _after_type(words, place + 1)
            continue
        if word == "cast" and following[:1] == ("(",):
            end = _end(words, place + 1)
            found += _spelled_alike(_without_type(words[place + 2 : end - 1]))
            place = end
            continue
        negated = word == "not" and following[:1] == ("in",)
        start = place + 1 + negated
        if (word == "in" or negated) and words[start : start + 1] == ("(",) and words[start + 1] != "select":
            place = _end(words, start)
            found += _as_array(words[start + 1 : place - 1], negated=negated)
            continue
        if word not in _SAY_NOTHING:
            found.append(_SPELLED.get(word) or _name(word))
        place += 1
    return tuple(found)


def _as_array(values: Tokens, *, negated: bool) -> list[str]:
    """What the server makes of IN (…): a comparison with the one value, or with any of an array's."""
    sign, which = ("<>", "all") if negated else ("=", "any")
    spelled = _spelled_alike(values)
    return [sign, which, "array", "[", *spelled, "]"] if "," in spelled else [sign, *spelled]


def _without_type(words: Tokens) -> Tokens:
    """Of `value AS type` the value."""
    depth, end = 0, len(words)
    for place, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word == "as":
            end = place
    return words[:end]


def _after_type(words: Tokens, place: int) -> int:
    """The place after a type: double precision, numeric(10,2), timestamp(3) with time zone, text[]."""
    first = words[place] if place < len(words) else ""
    place += 1
    if words[place : place + 1] == (_SECOND_WORD.get(first),):
        place += 1
    while first == "interval" and place < len(words) and words[place] in _OF_INTERVALS:
        place += 1
    if words[place : place + 1] == ("(",):
        place = _end(words, place)
    if first in {"time", "timestamp"} and words[place + 1 : place + 3] == ("time", "zone"):
        place += 3
    while words[place : place + 1] == ("[",):
        place = _end(words, place)
    return place


def _name(word: str) -> str:
    """A word, without quotes where they say nothing."""
    return word if word.endswith("'") else _QUOTED.sub(r"\1", word)
