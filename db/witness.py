"""Checkpoints outside the database: an append-only file, from which hooks take them further (`db.hooks`).

A line of the file is one checkpoint in JSON. Whoever owns the database but not this file can't take anything back that
is covered by a line of it. Each machine that seals or works keeps a file of its own; what it missed it catches up with.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from sqlalchemy import Connection

from allq import faults
from allq.errors import LedgerError
from allq.logging import logger
from allq.settings import Settings
from db import checkpoints, hooks
from db.checkpoints import Checkpoint
from db.keys import sync_folder
from db.lines import canonical
from db.statements import run

log = logger(__name__)

LONG_SEALED: Final = 600.0
"""Seconds after which a checkpoint should lie outside the database."""

_TAIL: Final = 65_536
"""The last line is looked for in so many bytes at the end of the file."""


class DamagedLine(LedgerError):
    """A line of the file is no checkpoint."""


def as_line(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as it stands in the file."""
    return canonical(checkpoint.as_json()).encode() + b"\n"


def read_line(line: bytes) -> Checkpoint:
    """The same way back. DamagedLine when it is none."""
    try:
        return Checkpoint.from_json(json.loads(line))
    except ValueError:
        raise DamagedLine(f"A line of the exported checkpoints is none: {line[:40]!r}….") from None


class Witness:
    """The file of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self) -> int:
        """Bytes of the file just now; 0 without one."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def lines(self, size: int | None = None) -> Iterator[bytes]:
        """Every line as it stands, but for what a power cut has torn: the whole line follows that.

        With `size`, of so many bytes: what was there at an earlier look.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise LedgerError(f"The exported checkpoints {self.path} can't be read ({error.strerror}).") from None
        with file:
            before: bytes | None = None
            for line in _lines(file, size):
                if before is not None and not line.startswith(before.rstrip(b"\n")):
                    yield before
                before = line
            if before is not None and before.endswith(b"\n"):
                yield before

    def __iter__(self) -> Iterator[Checkpoint]:
        """Every checkpoint, in the order of writing. DamagedLine for a line that is none."""
        return map(read_line, self.lines())

    def last(self) -> Checkpoint | None:
        """The newest checkpoint of the file."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"The exported checkpoints {self.path} can't be read ({error.strerror}).") from None
        for line in reversed(lines):
            try:
                return Checkpoint.from_json(json.loads(line))
            except ValueError:
                continue
        return None

    def append(self, new: Sequence[Checkpoint]) -> None:
        """Add checkpoints, and return when they are on the disk. Those that another process has added are left out."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists()
            with self.path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                known = self.last()
                missing = [one for one in new if known is None or one.number > known.number]
                if not missing:
                    return
                file.seek(0, os.SEEK_END)
                end = file.tell()
                if end:
                    file.seek(end - 1)
                    torn = file.read(1) != b"\n"
                else:
                    torn = False
                file.write((b"\n" if torn else b"") + b"".join(map(as_line, missing)))
                file.flush()
                faults.reach("export.written")
                os.fsync(file.fileno())
            if fresh:
                sync_folder(self.path.parent)
        except OSError as error:
            raise LedgerError(
                f"Checkpoints can't be written to {self.path} ({error.strerror}). Make room, or set ALLQ_LEDGER_FILE."
            ) from None


def _lines(file: IO[bytes], size: int | None) -> Iterator[bytes]:
    """The lines of the first `size` bytes; the last may be cut off."""
    if size is None:
        yield from file
        return
    while size > 0 and (line := file.readline(size)):
        size -= len(line)
        yield line


def agrees(conn: Connection, witness: Witness) -> None:
    """Raise LedgerError when the database has lost what the file has seen: an older state was put in its place."""
    seen = witness.last()
    if seen is None:
        return
    found = checkpoints.by_number(conn, seen.number)
    if found is not None and found[0] == seen:
        return
    newest = checkpoints.last(conn)
    if found is None and _given_up(conn, seen):
        return
    stands = f"stands at checkpoint {newest[0].number}" if newest else "has no checkpoint"
    if newest is not None and newest[0].number >= seen.number:
        stands = f"has another checkpoint {seen.number}"
    raise LedgerError(
        f"Checkpoint {seen.number} was exported to {witness.path}, but the database {stands}. Run `allq audit verify`; "
        "if a backup was restored, `allq audit restored --reason …` says so in the ledger and goes on."
    )


def _given_up(conn: Connection, seen: Checkpoint) -> bool:
    """True when a later checkpoint says, signed, that this one was lost with a restored backup."""
    later = [one.given_up or "0" for one in checkpoints.giving_up(conn, seen.number)]
    return any(int(given_up.split(" ")[0]) >= seen.number for given_up in later)


def catch_up(conn: Connection, settings: Settings) -> int:
    """Write what the file has not yet, and hand it to the hooks; return how many checkpoints were new in the file."""
    witness = Witness(settings.checkpoint_file)
    agrees(conn, witness)
    known = witness.last()
    count = 0
    page: list[Checkpoint] = []
    for checkpoint, _ in checkpoints.after(conn, known.number if known else 0):
        page.append(checkpoint)
        if len(page) == 1_000:
            witness.append(page)
            count, page = count + len(page), []
    if page:
        witness.append(page)
        count += len(page)
    if known is None:
        _warn_of_beginning(conn, witness)
    faults.reach("export.kept")
    for hook in settings.ledger_hooks:
        hooks.deliver(conn, witness.path, hook)
    return count


def _warn_of_beginning(conn: Connection, witness: Witness) -> None:
    """Say that a file has begun with checkpoints that may be older than it: it proves nothing of their time."""
    statement = "SELECT count(*) FROM checkpoint WHERE sealed_at < {ago}"
    if old := run(conn, statement, {"seconds": LONG_SEALED}).scalar_one():
        log.warning(
            "the file of exported checkpoints was missing or empty, and begins with what the database has now: whether "
            "that is what was sealed before can't be told by it; on a machine that has had one, put it back from where "
            "it is kept, and run `allq audit verify`",
            file=str(witness.path),
            checkpoints=old,
        )
