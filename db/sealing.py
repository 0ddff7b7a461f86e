"""The sealer: gives unsealed events their place in the tree, signs its root, and sees that it is known outside.

One at a time: SQLite has one writer anyway, on PostgreSQL an advisory lock says who it is. What it costs depends on the
new events alone: the tree goes on from the last checkpoint's frontier, and events are looked for from `settled` on.

On PostgreSQL an event with a smaller number may be committed after one with a larger. So `settled` moves only at a
moment when nobody is writing events: a writer holds a lock on the table from before it draws a number until after its
commit is seen, and `pg_locks` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from allq import faults
from allq.errors import LedgerError, UsageError
from allq.settings import Settings
from db import bulk, checkpoints, events, keys, turns, witness
from db.checkpoints import NO_PREVIOUS, Checkpoint
from db.damaged import despite_damage
from db.database import Database
from db.keys import NoKey, SigningKey
from db.lines import event_text, instant, is_time
from db.merkle import Frontier, leaf_hash
from db.statements import on_sqlite, plain_blocks, run

AT_ONCE: Final = 20_000
"""Events of one checkpoint at most; more are sealed by several."""

_SLIDES: Final = {
    True: "(SELECT json_group_array(CASE typeof(slide_id) WHEN 'blob' THEN hex(slide_id) ELSE slide_id END) FROM "
    "(SELECT es.slide_id FROM event_slide es WHERE es.event_id = e.id ORDER BY es.slide_id))",
    False: "(SELECT '[' || coalesce(string_agg(CAST(es.slide_id AS text), ',' ORDER BY es.slide_id), '') || ']' "
    "FROM event_slide es WHERE es.event_id = e.id)",
}
# That the leaf's event, too, is beyond :settled goes without saying, but not for PostgreSQL, which might go through all
# leaves from the first one on to find that out.
_UNSEALED: Final = (
    "e.id > :settled AND NOT EXISTS (SELECT 1 FROM leaf l WHERE l.event_id = e.id AND l.event_id > :settled)"
)
_WAITED: Final = {
    True: ("julianday(e.at) IS NOT NULL", "(julianday('now') - julianday(e.at)) * 86400"),
    False: ("isfinite(e.at)", "CAST(extract(epoch FROM clock_timestamp()) - extract(epoch FROM e.at) AS float8)"),
}
"""Whether an event's time is one, and how long ago in seconds: on SQLite and on PostgreSQL."""
_WRITERS: Final = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'relation' AND relation = to_regclass('event') AND mode = 'RowExclusiveLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()
"""


class LeftToOthers(LedgerError):
    """This login, or this machine, may not seal; another one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What a round has sealed. `checkpoint` is the newest one, None in a ledger without events.

    `damaged`: those of the events whose time is none. They are sealed as they stand, and `verify` names them.
    `held_by`: the session that was at it, where something was left to it.
    """

    events: int
    checkpoints: int
    checkpoint: Checkpoint | None
    damaged: tuple[int, ...] = ()
    held_by: str | None = None


class _Leaf(NamedTuple):
    """The leaf of an event: its number, whether its time is one, and the hash of what it says."""

    event: int
    dated: bool
    hash: bytes


def event_columns(conn: Connection) -> str:
    """The columns of `event e` in the order of `event_text`."""
    return f"e.id, e.at, e.kind, e.actor, e.batch_id, e.chunk_id, {_SLIDES[on_sqlite(conn)]} AS slides, e.body"


def unsealed(conn: Connection) -> bool:
    """True when there is something to seal."""
    found = checkpoints.last(conn)
    settled = found[0].settled if found else 0
    return run(conn, f"SELECT 1 FROM event e WHERE {_UNSEALED} LIMIT 1", {"settled": settled}).scalar() is not None


def waiting_seconds(conn: Connection) -> float | None:
    """For how long the oldest event that is not sealed has waited; None when all are.

    One whose time is none is passed over, and has waited 0 s where there is no other.
    """
    if not unsealed(conn):
        return None
    found = checkpoints.last(conn)
    is_time, seconds = _WAITED[on_sqlite(conn)]
    statement = f"SELECT {seconds} FROM event e WHERE {_UNSEALED} AND {is_time} ORDER BY e.id LIMIT 1"
    return float(run(conn, statement, {"settled": found[0].settled if found else 0}).scalar() or 0.0)


def require_sealer(database: Database, settings: Settings) -> None:
    """Raise LeftToOthers where this login may not seal, or this machine has not the key of a ledger that has one."""
    with database.read() as conn:
        _require_right(conn)
        if checkpoints.last(conn) is not None:
            _key(conn, settings)


def require_way_open(conn: Connection, settings: Settings) -> None:
    """Raise what keeps this machine from sealing, whether or not there is anything to seal; nothing is changed.

    LeftToOthers when this login may not seal or this machine has not the key; LedgerError when it has the key and may
    not use it, or when the database has lost checkpoints that the file has.
    """
    _require_right(conn)
    witness.agrees(conn, witness.Witness(settings.checkpoint_file))
    found = checkpoints.last(conn)
    if found is not None or keys.is_there(settings.ledger_key_file):
        _key(conn, settings, keys.held)


def seal(database: Database, settings: Settings, *, wait: bool = False) -> Sealed:
    """Seal what is unsealed, and write checkpoints to the file and the hooks.

    Does nothing when another process is at it, unless `wait`; StoreError when that one does not let go. LeftToOthers
    when this login may not seal or this machine has not the key: what others have sealed is written to this machine's
    file all the same. LedgerError when the database has lost checkpoints that the file has, or the file can't be
    written.
    """
    try:
        done = _seal_what_is_due(database, settings, wait=wait)
    except LeftToOthers:
        _exported(database, settings)
        raise
    return replace(done, checkpoint=_exported(database, settings))


def _seal_what_is_due(database: Database, settings: Settings, *, wait: bool) -> Sealed:
    events_sealed = made = 0
    damaged: list[int] = []
    held_by: str | None = None
    with database.ask() as conn:
        _require_right(conn)
        due = unsealed(conn)
    while due:
        faults.reach("seal.begin")
        with database.begin() as conn:
            if wait:
                turns.wait(conn, "sealing")
            elif not turns.taken(conn, "sealing"):
                held_by = turns.holder(conn, "sealing")
                break
            leaves = _seal_some(conn, settings)
            faults.reach("seal.written")
        faults.reach("seal.committed")
        events_sealed, made = events_sealed + len(leaves), made + (len(leaves) > 0)
        damaged += [one.event for one in leaves if not one.dated]
        due = len(leaves) == AT_ONCE
    return Sealed(events=events_sealed, checkpoints=made, checkpoint=None, damaged=tuple(damaged), held_by=held_by)


def rotate_key(database: Database, settings: Settings, *, actor: str) -> SigningKey:
    """Let a new key sign from the next checkpoint on; the old one signs that it does, and is kept, retired."""
    seal(database, settings, wait=True)
    with database.begin() as conn:
        turns.wait(conn, "sealing")
        key = _key(conn, settings)
        new = keys.next_key(settings.ledger_key_file)
        body = {"from": key.public.hex(), "to": new.public.hex()}
        events.append_of_sealer(conn, "ledger-key-rotated", body, actor=actor)
        _seal_some(conn, settings, next_key=new.public)
        faults.reach("rotate.written")
    faults.reach("rotate.committed")
    keys.promote(settings.ledger_key_file)
    _exported(database, settings)
    return new


def go_on_after_restore(database: Database, settings: Settings, *, reason: str, actor: str) -> Checkpoint | None:
    """Say in the ledger that the database is a restored backup, and why; give up the checkpoints it has lost.

    Returns the newest one given up; None, and does nothing, when the file has none that the database has lost.
    LedgerError when there is no file to tell by, or when the database was sealed since. UsageError without a
    reason.
    """
    reason = reason.strip()
    if not reason:
        raise UsageError(
            "Giving up what was sealed needs a reason: say with --reason which backup was restored, and why."
        )
    seen = witness.Witness(settings.checkpoint_file).last()
    with database.begin() as conn:
        _require_right(conn)
        turns.wait(conn, "sealing")
        if seen is None:
            raise LedgerError(
                f"No exported checkpoint is at hand, so nobody can tell what the backup has lost: "
                f"{settings.checkpoint_file} is missing or empty. Put the file back, or name it with ALLQ_LEDGER_FILE."
            )
        try:
            witness.agrees(conn, witness.Witness(settings.checkpoint_file))
        except LedgerError:
            pass
        else:
            return None
        found = checkpoints.last(conn)
        if found is not None and found[0].number >= seen.number:
            raise LedgerError(
                f"The database was sealed again, to checkpoint {found[0].number}, since the backup was restored: this "
                "can't be mended here. Restore the backup once more and run this before anything is sealed."
            )
        body = {
            "reason": reason,
            "exported": seen.number,
            "note": seen.digest.hex(),
            "checkpoint": found[0].number if found else None,
        }
        events.append_of_sealer(conn, "backup-restored", body, actor=actor)
        _seal_some(conn, settings, given_up=seen)
        faults.reach("restore.written")
    faults.reach("restore.committed")
    _exported(database, settings)
    return seen


def lost_change_of_key(database: Database, settings: Settings) -> bool:
    """Whether the newest checkpoint is signed by a key that was replaced: the change went with a restored backup."""
    with database.read() as conn:
        found = checkpoints.last(conn)
    return found is not None and keys.retired_signs(settings.ledger_key_file, found[0].key_after)


def _require_right(conn: Connection) -> None:
    if on_sqlite(conn):
        return  # whoever may write the file may write all of it
    may = "SELECT has_table_privilege('leaf', 'INSERT') AND has_table_privilege('checkpoint', 'INSERT')"
    if not run(conn, may).scalar():
        raise LeftToOthers(
            "This login may not seal the ledger. Do it with one in the group allq_sealer; in Docker Compose, with the "
            "service sealer."
        )


def _key(
    conn: Connection, settings: Settings, find: Callable[[Path, bytes | None], SigningKey] = keys.key_for
) -> SigningKey:
    found = checkpoints.last(conn)
    try:
        return find(settings.ledger_key_file, found[0].key_after if found else None)
    except NoKey as error:
        if on_sqlite(conn):
            raise  # there are no others: who works on the file is on this machine
        raise LeftToOthers(str(error)) from None


def _seal_some(
    conn: Connection, settings: Settings, *, next_key: bytes | None = None, given_up: Checkpoint | None = None
) -> list[_Leaf]:
    """Seal up to AT_ONCE events by one checkpoint; return their leaves."""
    if given_up is None:
        witness.agrees(conn, witness.Witness(settings.checkpoint_file))
    found = checkpoints.last(conn)
    before = found[0] if found else None
    tree = _tree(*found) if found else Frontier()
    settled, leaves = _unsealed_leaves(conn, before.settled if before else 0)
    if not leaves:
        return []
    key = _key(conn, settings)
    bulk.insert(
        conn,
        "leaf",
        ("seq", "event_id", "hash"),
        [(seq, one.event, one.hash) for seq, one in enumerate(leaves, start=tree.size)],
    )
    tree.extend([one.hash for one in leaves])
    now = run(conn, "SELECT {now}").scalar_one()
    checkpoint = checkpoints.signed(
        key,
        number=max(before.number if before else 0, given_up.number if given_up else 0) + 1,
        origin=before.origin if before else checkpoints.origin_of(key.public),
        size=tree.size,
        root=tree.root(),
        previous=before.digest if before else NO_PREVIOUS,
        sealed_at=instant(now),
        settled=settled,
        given_up=None if given_up is None else f"{given_up.number} {given_up.digest.hex()}",
        next_key=next_key,
    )
    _write(conn, checkpoint, bytes(tree), now)
    return leaves


def _tree(checkpoint: Checkpoint, frontier: bytes) -> Frontier:
    """The tree that the checkpoint has signed. LedgerError when its frontier is not that of so many leaves."""
    try:
        return Frontier.from_bytes(checkpoint.size, frontier)
    except ValueError:
        raise LedgerError(
            f"The tree can't go on from checkpoint {checkpoint.number}: its size or its frontier was changed. Run "
            "`allq audit verify`."
        ) from None


def _unsealed_leaves(conn: Connection, settled: int) -> tuple[int, list[_Leaf]]:
    """The leaves of the next events to seal, and up to which number none comes later."""
    if on_sqlite(conn):
        quiet, newest = True, None
    else:  # in this order: see the top
        newest = run(conn, "SELECT max(id) FROM event").scalar()
        quiet = run(conn, _WRITERS).scalar_one() == 0
    leaves = despite_damage(conn, partial(_leaves, conn, {"settled": settled, "most": AT_ONCE}))
    if leaves and quiet:
        last = leaves[-1].event
        settled = max(settled, last if newest is None else min(last, newest))
    return settled, leaves


def _leaves(conn: Connection, values: dict[str, int]) -> list[_Leaf]:
    """Some events are read at a time: the body of one that tells of a chunk has tens of thousands of characters."""
    statement = f"SELECT {event_columns(conn)} FROM event e WHERE {_UNSEALED} ORDER BY e.id LIMIT :most"
    with closing(plain_blocks(conn, statement, values)) as blocks:
        return [
            _Leaf(row[0], is_time(row[1]), leaf_hash(event_text(row).encode("utf-8", "surrogatepass")))
            for rows in blocks
            for row in rows
        ]


def _write(conn: Connection, checkpoint: Checkpoint, frontier: bytes, sealed_at: Any) -> None:
    values = {
        name: getattr(checkpoint, name) for name in checkpoints.COLUMNS if name not in {"frontier", "sealed_at"}
    } | {"frontier": frontier, "sealed_at": sealed_at}
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    run(conn, f"INSERT INTO checkpoint ({names}) VALUES ({marks})", values)


def _exported(database: Database, settings: Settings) -> Checkpoint | None:
    """Bring the file and the hooks up to date; return the newest checkpoint."""
    with database.read() as conn:
        witness.catch_up(conn, settings)
        found = checkpoints.last(conn)
    return found[0] if found else None
