"""What `verify` can still look at where whole tables are gone: each check goes by some tables, and does without others.

Without its events a ledger still has its leaves' hashes, which the checkpoints' roots are of, and the checkpoints
beside the exported ones: nobody forged those, whatever else is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_FINDINGS: Final = frozenset({"finding", "finding_leukocytes", "field", "chunk", "slide", "model"})
_CALLS: Final = frozenset({"slide_call", "slide"})
_SHOWN: Final = frozenset({"slide", "slide_call", "batch", "model", "review"})


@dataclass(frozen=True, slots=True)
class Lost:
    """`tables`: those of allq's that are not there."""

    tables: frozenset[str] = frozenset()

    @property
    def events(self) -> bool:
        """Whether no event can be hashed as it was sealed: the list of its slides is a part of it."""
        return not self.tables.isdisjoint({"event", "event_slide"})

    @property
    def leaves(self) -> bool:
        """Whether no root can be computed."""
        return "leaf" in self.tables

    @property
    def findings(self) -> bool:
        """Whether findings can't be compared with their events."""
        return not self.tables.isdisjoint(_FINDINGS)

    @property
    def shown(self) -> bool:
        """Whether what slides, batches and reviews show can't be compared."""
        return not self.tables.isdisjoint(_SHOWN)

    def rows_of(self, table: str) -> bool:
        """Whether the rows of a table can't be compared with their events."""
        if table == "finding":
            return self.findings
        return not self.tables.isdisjoint(_CALLS if table == "slide_call" else {table})

    def remark(self) -> str:
        """What follows, in a sentence or two."""
        names = ", ".join(sorted(self.tables))
        gone = f"Table {names} is gone" if len(self.tables) == 1 else f"Tables {names} are gone"
        if self.leaves:
            left = "the checkpoints by themselves and beside the exported ones"
        elif self.events:
            left = "the leaves as they are stored against the checkpoints, and those beside the exported ones"
        else:
            left = "all but what goes by it" if len(self.tables) == 1 else "all but what goes by them"
        back = "it" if len(self.tables) == 1 else "them"
        mend = f"Put {back} back, as docs/backup.md says, and verify again."
        return f"{gone}: not all rows were looked at, but {left}. {mend}"
