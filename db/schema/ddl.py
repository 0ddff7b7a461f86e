"""CREATE TABLE statements, taken apart into columns and constraints, so that two spellings of one table are equal.

It reads what SQLAlchemy writes for either database, and what SQLite keeps of it, by whatever hand: letters' case, line
ends, comments and quotes that change nothing are left out. What a blank, a digit or a capital letter is, both databases
know of ASCII alone: to them every other character is part of a name, and none is another's small letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final

Tokens = tuple[str, ...]

_TOKEN: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/"
    r"""|'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]"""
    r"""|[xX]'[^']*'|[A-Za-z_\x80-\U0010FFFF][\w$\x80-\U0010FFFF]*|\d[\w.\x80-\U0010FFFF]*"""
    r"|<=|>=|<>|!=|==|\|\||::|\S",
    re.DOTALL | re.ASCII,
)
_QUOTES: Final = {'"': '"', "`": "`", "[": "]"}
_WORD: Final = re.compile(r"[A-Za-z_\x80-\U0010FFFF][\w$\x80-\U0010FFFF]*", re.ASCII)
_BEGIN_CLAUSES: Final = frozenset(
    {"constraint", "primary", "not", "null", "unique", "check", "default", "collate", "references", "generated", "as"}
)
_GO_ON: Final = frozenset({"not", "by", "default", "set", "always"})
"""After these, a word that would begin a clause goes on with one: NOT NULL, BY DEFAULT, DEFAULT NULL, SET NULL."""

_TABLE_CONSTRAINTS: Final = frozenset({"constraint", "primary", "unique", "check", "foreign", "exclude"})
_VALUES: Final = frozenset({"true", "false", "current_date", "current_time", "current_timestamp"})
"""Words that in quotes are names, or on SQLite the text itself."""

_KEEP_QUOTES: Final = _BEGIN_CLAUSES | _TABLE_CONSTRAINTS | _VALUES
_SMALL: Final = {ord(capital): capital.lower() for capital in ascii_uppercase}


def small(name: str) -> str:
    """A name in the letters by which both databases compare those without quotes."""
    return name.translate(_SMALL)


def tokens(sql: str) -> Tokens:
    """The words and signs of a statement: without comments, names in small letters and without quotes."""
    return tuple(_plain(one) for one in _words(sql))


def quoted_tokens(sql: str) -> Tokens:
    """The same, with names in quotes as they are: within a query a word in quotes may be no more what it is without.

    `a "left" JOIN b` leaves nothing out on the left, `SELECT "distinct" x` is a text that is called x.
    """
    return tuple(one if one[0] in _QUOTES or one[0] == "'" else small(one) for one in _words(sql))


def _words(sql: str) -> Iterator[str]:
    return (one for one in _TOKEN.findall(sql) if not one.startswith(("--", "/*")))


def _plain(token: str) -> str:
    end = _QUOTES.get(token[0])
    if end is None or len(token) < 2 or not token.endswith(end):
        return token if token.startswith("'") else small(token)
    name = small(token[1:-1])
    is_plain = _WORD.fullmatch(name) and name not in _KEEP_QUOTES
    return name if is_plain else f'"{name}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`type`: its words; `clauses`: what else is said of it, in no order."""

    type: str
    clauses: frozenset[Tokens]

    @property
    def identity(self) -> bool:
        """Whether the database draws its numbers."""
        return any(clause[0] == "generated" and "identity" in clause for clause in self.clauses)

    @property
    def not_null(self) -> bool:
        """Whether it says that it is never empty."""
        return self.identity or ("not", "null") in self.clauses

    @property
    def default(self) -> str | None:
        """The value that it gives where none is given, as SQL."""
        return next((" ".join(clause[1:]) for clause in self.clauses if clause[0] == "default"), None)

    def with_default(self, clause: Tokens) -> Column:
        """The column with another default, or one: DEFAULT …"""
        others = frozenset(one for one in self.clauses if one[0] != "default")
        return Column(type=self.type, clauses=others | {clause})


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`name` is empty where it has none. `kind`: check, primary, unique, foreign, exclude; `text` from there on."""

    name: str
    kind: str
    text: Tokens

    @property
    def condition(self) -> str:
        """What a CHECK demands, as SQL."""
        return " ".join(self.text[1:])

    @property
    def refers_to(self) -> str | None:
        """The table that a foreign key refers to."""
        return self.text[self.text.index("references") + 1] if self.kind == "foreign" else None

    @property
    def columns(self) -> Tokens:
        """The columns that a key is of."""
        start, end = self.text.index("("), self.text.index(")")
        return tuple(one for one in self.text[start + 1 : end] if one != ",")

    @property
    def names(self) -> Tokens:
        """Those, and the columns that a foreign key refers to."""
        depth, found = 0, list[str]()
        for word in self.text:
            depth += (word == "(") - (word == ")")
            if depth and word not in {"(", ","}:
                found.append(word)
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`options`: what stands after the last bracket, as WITHOUT ROWID. `twice`: names that two columns bear."""

    columns: dict[str, Column]
    constraints: tuple[Constraint, ...]
    options: Tokens
    twice: frozenset[str] = frozenset()


def table(sql: str) -> Table:
    """A CREATE TABLE statement. ValueError for what is none."""
    words = tokens(sql)
    if "(" not in words:
        raise ValueError(f"No columns are named in: {sql}")
    start = words.index("(")
    end = _closing(words, start)
    columns: dict[str, Column] = {}
    constraints: list[Constraint] = []
    twice: set[str] = set()
    for item in _parts(words[start + 1 : end]):
        if item[0] in _TABLE_CONSTRAINTS:
            constraints.append(constraint(item))
        elif item[0] in columns:
            twice.add(item[0])
        else:
            columns[item[0]] = column(item[1:])
    return Table(columns=columns, constraints=tuple(constraints), options=words[end + 1 :], twice=frozenset(twice))


def constraint(words: Sequence[str]) -> Constraint:
    """A constraint of a table: [CONSTRAINT name] CHECK (…), PRIMARY KEY (…), …"""
    name = ""
    if words[0] == "constraint":
        name, words = words[1], words[2:]
    return Constraint(name=name, kind=words[0], text=tuple(words))


def column(words: Sequence[str]) -> Column:
    """What stands after a column's name."""
    clauses = list(_clauses(words))
    return Column(type=" ".join(clauses[0]), clauses=frozenset(clauses[1:]))


def _clauses(words: Sequence[str]) -> Iterator[Tokens]:
    """The type, which may be empty, then clause after clause."""
    clause: list[str] = []
    depth, before = 0, ""
    for word in words:
        if depth == 0 and word in _BEGIN_CLAUSES and before not in _GO_ON:
            yield tuple(clause)
            clause = []
        clause.append(word)
        depth += (word == "(") - (word == ")")
        before = word
    yield tuple(clause)


def _parts(words: Sequence[str]) -> Iterator[Tokens]:
    """What commas separate outside of brackets."""
    part: list[str] = []
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "," and depth == 0:
            if part:
                yield tuple(part)
            part = []
        else:
            part.append(word)
    if part:
        yield tuple(part)


def _closing(words: Sequence[str], start: int) -> int:
    depth = 0
    for place in range(start, len(words)):
        depth += (words[place] == "(") - (words[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"A bracket is not closed in: {' '.join(words)}")
