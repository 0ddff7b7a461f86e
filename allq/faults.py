"""Named places at which a test lets the process that comes by die, or breaks what that process leans on.

    faults.reach("record.written")    # everything is written, nothing is committed

The part before the dot is the step (claim, compute, record, …), the part after it how far the step has come: `begin`,
`written` (in a transaction that is not committed yet), `committed`, and so on. The crash matrix (tests/crash) finds the
points by reading the sources, and kills each process and server at each of them: a new line is a new row of it.

Reaching a point does nothing, in some tens of nanoseconds, unless this very process has assigned `handler`. No setting,
no variable of the environment and no file does that, and nothing that is installed contains such an assignment, as a
test makes sure: an installation can't be made to stumble here, by accident or otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

handler: Callable[[str], None] | None = None
"""What to do at each point that is reached; None in every process but those that a test started for it."""


def reach(point: str) -> None:
    """Say that this process has come to `point`."""
    if handler is not None:
        handler(point)
