"""What is told of a schema that is not as allq makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something of the schema that is not as allq makes it. `kind`: trigger, function, view, table, index, …

    `only_slower`: no row is kept, refused or shown otherwise by it.
    """

    kind: str
    name: str
    what: str
    only_slower: bool = False

    @property
    def of_shape(self) -> bool:
        """Whether a table or column is gone or another, so that rows may not be readable."""
        return self.kind in {"table", "column"} and self.what.endswith((MISSING, OTHER, NO_TABLE))

    @property
    def is_lost_table(self) -> bool:
        """Whether it is a table of allq's that is not there."""
        return self.kind == "table" and self.what == MISSING

    @property
    def is_hidden_table(self) -> bool:
        """Whether it is a table of allq's that is there, and another is read in its place."""
        return self.kind == "table" and self.what == HIDDEN

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.what}"


@dataclass(slots=True, kw_only=True)
class Compared:
    """`unread`: tables and views that this login may not read: whether they and their views, checks and partial
    indexes are allq's can't be told.
    """

    differences: list[Difference] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


MISSING: Final = "is missing"
OTHER: Final = "is not as allq makes it"
NO_TABLE: Final = "is no table of its own"
HIDDEN: Final = "is hidden from this login by another of its name, which stands earlier in search_path"
FOREIGN: Final = "is none of allq's"
KINDS: Final = frozenset({"trigger", "function", "view", "table", "column", "index", "constraint", "rule", "setting"})
