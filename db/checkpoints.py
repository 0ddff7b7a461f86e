"""Checkpoints: the signed root of the ledger's tree, as a signed note that any transparency-log tool reads.

The text that is signed (docs/ledger.md; the first three lines as in C2SP's tlog-checkpoint):

    allq-ledger-1f0c…              origin: the first 32 digits of the SHA-256 of the first public key
    5021                           leaves in the tree
    mF3k…=                         root, base64
    number 12
    previous 9c1d…                 SHA-256 of the whole note before, in hexadecimal; zeros for the first
    sealed 2026-01-05T08:30:00.250Z
    settled 5020                   no event up to this number comes later
    given-up 14 77ab…              only after a restored backup: the last checkpoint exported, and its note's SHA-256
    next-key 8uTf…=                only where the key changes: the key that signs from the next checkpoint on, base64
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection

from allq.errors import LedgerError
from db.damaged import despite_damage
from db.keys import SigningKey, verifies
from db.lines import blob, instant
from db.statements import plain_rows, run

NO_PREVIOUS: Final = bytes(32)

_TEXT: Final = re.compile(
    r"(?P<origin>\S+)\n(?P<size>\d+)\n(?P<root>[A-Za-z0-9+/=]+)\nnumber (?P<number>\d+)\n"
    r"previous (?P<previous>[0-9a-f]{64})\n"
    r"sealed (?P<sealed_at>\S+)\nsettled (?P<settled>\d+)\n(?:given-up (?P<given_up>\d+ [0-9a-f]{64})\n)?"
    r"(?:next-key (?P<next_key>[A-Za-z0-9+/=]+)\n)?"
)


_GIVEN_UP: Final = re.compile(r"\d+ [0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint: what is signed, by whom, and the signature. `sealed_at` as it stands in the text."""

    number: int
    origin: str
    size: int
    root: bytes
    previous: bytes
    sealed_at: str
    settled: int
    given_up: str | None
    next_key: bytes | None
    public_key: bytes
    signature: bytes
    _note: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What is signed."""
        lines = [
            self.origin,
            str(self.size),
            _base64(self.root),
            f"number {self.number}",
            f"previous {self.previous.hex()}",
            f"sealed {self.sealed_at}",
            f"settled {self.settled}",
        ]
        if self.given_up is not None:
            lines.append(f"given-up {self.given_up}")
        if self.next_key is not None:
            lines.append(f"next-key {_base64(self.next_key)}")
        return "\n".join(lines) + "\n"

    @property
    def note(self) -> str:
        """The signed note: the text, an empty line, and the line with the signature."""
        if not self._note:  # made once: verifying asks for it twice, for the exported line and for the chain
            key_hash = hashlib.sha256(f"{self.origin}\n\x01".encode() + self.public_key).digest()[:4]
            self._note.append(f"{self.text}\n\u2014 {self.origin} {_base64(key_hash + self.signature)}\n")
        return self._note[0]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the note, to which the next checkpoint is chained."""
        return hashlib.sha256(self.note.encode()).digest()

    @property
    def key_after(self) -> bytes:
        """The public key that signs the next checkpoint."""
        return self.next_key or self.public_key

    def is_signed(self) -> bool:
        """True when the signature is that of `public_key`."""
        return verifies(self.public_key, self.signature, self.text.encode())

    def as_json(self) -> dict[str, Any]:
        """What is exported: the note, its number, and the key that it can be verified with."""
        return {"checkpoint": self.number, "public_key": self.public_key.hex(), "note": self.note}

    @classmethod
    def from_json(cls, record: Any) -> Checkpoint:
        """The same way back. ValueError for anything that `as_json` never gives."""
        try:
            text, _, signed = record["note"].rpartition("\n\u2014 ")
            found = _TEXT.fullmatch(text)
            public_key = bytes.fromhex(record["public_key"])
            if found is None:
                raise ValueError("no checkpoint")
            checkpoint = cls(
                number=int(found["number"]),
                origin=found["origin"],
                size=int(found["size"]),
                root=base64.b64decode(found["root"], validate=True),
                previous=bytes.fromhex(found["previous"]),
                sealed_at=found["sealed_at"],
                settled=int(found["settled"]),
                given_up=found["given_up"],
                next_key=None if found["next_key"] is None else base64.b64decode(found["next_key"], validate=True),
                public_key=public_key,
                signature=base64.b64decode(signed.removesuffix("\n").split(" ")[1], validate=True)[4:],
            )
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            raise ValueError("no checkpoint") from None
        if checkpoint.as_json() != record:
            raise ValueError("no checkpoint")
        return checkpoint


def signed(key: SigningKey, **values: Any) -> Checkpoint:
    """A checkpoint with these values, signed with the key."""
    bare = Checkpoint(**values, public_key=key.public, signature=b"")
    given = {one.name: getattr(bare, one.name) for one in fields(bare) if one.init}
    return Checkpoint(**{**given, "signature": key.sign(bare.text.encode())})


def origin_of(first_key: bytes) -> str:
    """The name of the ledger that began with this public key."""
    return f"allq-ledger-{hashlib.sha256(first_key).hexdigest()[:32]}"


COLUMNS: Final = (
    "number",
    "origin",
    "size",
    "root",
    "previous",
    "sealed_at",
    "settled",
    "given_up",
    "next_key",
    "public_key",
    "signature",
    "frontier",
)
_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM checkpoint"


def last(conn: Connection) -> tuple[Checkpoint, bytes] | None:
    """The newest checkpoint with its frontier; None before the first. LedgerError as `_read` says."""
    return next(iter(_read(conn, "ORDER BY number DESC LIMIT 1")), None)


def by_number(conn: Connection, number: int) -> tuple[Checkpoint, bytes] | None:
    """A checkpoint with its frontier; None when there is none of that number. LedgerError as `_read` says."""
    return next(iter(_read(conn, "WHERE number = :number", number=number)), None)


def after(conn: Connection, number: int, *, page: int = 1_000) -> Iterator[tuple[Checkpoint, bytes]]:
    """The checkpoints after that number with their frontiers, in their order, a page in memory.

    LedgerError as `_read` says.
    """
    while True:
        found = _read(conn, "WHERE number > :number ORDER BY number LIMIT :page", number=number, page=page)
        yield from found
        if len(found) < page:
            return
        number = found[-1][0].number


_COVERING: Final = """
    WITH RECURSIVE within (seq, low, high) AS (
        SELECT l.seq, CAST(0 AS bigint), (SELECT max(number) FROM checkpoint) FROM leaf l WHERE l.seq IN :leaves
        UNION ALL
        SELECT w.seq, CASE WHEN m.size > w.seq THEN w.low ELSE w.low + (w.high - w.low) / 2 END,
               CASE WHEN m.size > w.seq THEN m.number ELSE w.high END
        FROM within w LEFT JOIN checkpoint m
          ON m.number = (SELECT max(c.number) FROM checkpoint c WHERE c.number <= w.low + (w.high - w.low) / 2)
        WHERE w.high - w.low > 1
    )
    SELECT w.seq, c.number, c.sealed_at FROM within w JOIN checkpoint c ON c.number = w.high
    WHERE w.high - w.low = 1 AND c.size > w.seq
"""
"""The first checkpoint over each leaf, in steps of half: there may be millions, and none has an index over its size."""


def covering(conn: Connection, leaves: Sequence[int]) -> dict[int, tuple[int, Any]]:
    """By leaf the number of the checkpoint that sealed it, and its time as the database gives it; without the rest."""
    found: dict[int, tuple[int, Any]] = {}
    for start in range(0, len(leaves), 1_000):
        part = {"leaves": leaves[start : start + 1_000]}
        rows = despite_damage(conn, partial(plain_rows, conn, _COVERING, part, lists=("leaves",)))
        found |= {seq: (number, sealed_at) for seq, number, sealed_at in rows}
    return found


def giving_up(conn: Connection, number: int) -> list[Checkpoint]:
    """Those after that number which give up others, lost with a restored backup. LedgerError as `_read` says."""
    found = _read(conn, "WHERE number > :number AND given_up IS NOT NULL ORDER BY number", number=number)
    return [checkpoint for checkpoint, _ in found]


def _read(conn: Connection, which: str, **values: Any) -> list[tuple[Checkpoint, bytes]]:
    """Checkpoints with their frontiers. LedgerError names the first that holds what allq never writes."""
    found = []
    for row in despite_damage(conn, lambda: run(conn, f"{_SELECT} {which}", values).all()):
        try:
            found.append(of_row(row))
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"Checkpoint {row[0]} holds what allq never writes ({error}). Run `allq audit verify`."
            ) from None
    return found


def of_row(row: Any) -> tuple[Checkpoint, bytes]:
    """A checkpoint and its frontier from the columns `COLUMNS`; TypeError when one holds what we never write."""
    number, origin, size, root, previous, sealed_at, settled, given_up, next_key, public_key, signature, frontier = row
    if not all(isinstance(value, int) for value in (number, size, settled)):
        raise TypeError("a number is none")
    sealed_at = instant(sealed_at)
    if not (isinstance(origin, str) and origin.isascii() and sealed_at.isascii()):
        raise TypeError("the origin or the time is none")
    if given_up is not None and not (isinstance(given_up, str) and _GIVEN_UP.fullmatch(given_up)):
        raise TypeError("given_up names no checkpoint")
    checkpoint = Checkpoint(
        number=number,
        origin=origin,
        size=size,
        root=blob(root),
        previous=blob(previous),
        sealed_at=sealed_at,
        settled=settled,
        given_up=given_up,
        next_key=None if next_key is None else blob(next_key),
        public_key=blob(public_key),
        signature=blob(signature),
    )
    return checkpoint, blob(frontier)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
