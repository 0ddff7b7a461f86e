"""`audit export`: a bundle that a third party verifies offline, without allq and without the database.

A zip file: the checkpoints, the chosen events with their proofs of inclusion in the newest checkpoint's tree, the rows
that they tell of as the lines that were digested, and the script that verifies it all (db/verify_bundle.py).
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Connection

from allq.errors import LedgerError, NotFound
from allq.text import command, is_utf8, printable
from allq.version import __version__
from db import checkpoints, findings, lines, places
from db.checkpoints import Checkpoint
from db.damaged import despite_damage
from db.lines import canonical, event_text
from db.merkle import SIZE, Levels
from db.places import EventsOfPlaces
from db.rows_told import KEYS
from db.sealing import event_columns
from db.statements import plain_blocks, run

SCRIPT: Final = Path(__file__).with_name("verify_bundle.py")

_README: Final = """\
A bundle of allq's ledger, written by allq {version}: {events} events, {what}.

    python verify.py {name} --origin {origin}

verifies it offline; it needs Python 3.9 or later and the package `cryptography`. What lies in a bundle, its maker may
have replaced, this text too. So take from elsewhere

- verify.py: it is db/verify_bundle.py of allq {version}, in allq's repository. As it was put in here its SHA-256 is
  {script}
- the ledger's name (its origin): ask whoever keeps the ledger by a way that the bundle did not take.

One digest covers all the fields that were screened as one chunk. So a slide's bundle may hold results of other slides'
fields, and in places.jsonl the names of their files.

checkpoints.jsonl   every checkpoint: the signed note and the public key, a line each
events.jsonl        the events: the text that was sealed, its leaf, the proof that it is in the newest checkpoint's tree
rows.jsonl          the rows that the events have digests of, as the text that was digested
places.jsonl        which slide (by its number, `slides` in the events of its calls) and file each field is, and why it
                    failed; not there where it was left out
verify.py           the script; what it does is described in docs/ledger.md of allq

Research use, decision support: allq ranks and documents, a named person decides.
"""

_ALWAYS: Final = ("backup-restored", "ledger-began", "ledger-key-rotated", "model-activated", "model-remembered")
"""Events that are in every bundle: what they tell of concerns all slides."""

_WORKER: Final = "worker-started"
"""In a bundle of a slide or batch, of those who appear in its events: with which code and settings they computed."""

_OR_ALWAYS: Final = f"""
    OR e.kind IN ({", ".join(repr(kind) for kind in _ALWAYS)}) OR (e.kind = '{_WORKER}' AND e.actor IN :actors)
"""
_ACTORS_OF_SLIDE: Final = "SELECT DISTINCT h.actor FROM slide_history h WHERE h.slide = :slide"
_ACTORS_OF_BATCH: Final = "SELECT DISTINCT e.actor FROM event e WHERE e.batch_id = :batch"
_OF_SLIDE: Final = f"e.id IN (SELECT h.event_id FROM slide_history h WHERE h.slide = :slide) {_OR_ALWAYS}"
_OF_BATCH: Final = f"e.batch_id = :batch {_OR_ALWAYS}"
_PAGE: Final = 2_000

_Chosen = tuple[str, dict[str, Any], tuple[str, ...]]
"""The condition of the events that belong in a bundle, its values, and which of these are lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    `waiting`: events that would belong in it and are not sealed yet; `others`: fields of other slides in a slide's
    bundle, screened in the same chunks; `script`: its SHA-256.
    """

    path: Path
    events: int
    waiting: int
    rows: int
    others: int
    checkpoint: Checkpoint
    script: str


@dataclass(slots=True)
class _Told:
    """Of which rows the exported events tell, and of which chunks; of the events themselves no more is kept.

    `rows`: event, table, number; `chunks`: chunk, event. `of_choice`: whether one is not in every bundle.
    """

    events: int = 0
    of_choice: bool = False
    rows: list[tuple[int, str, int]] = field(default_factory=list)
    chunks: list[tuple[int, int]] = field(default_factory=list)
    places: EventsOfPlaces = field(default_factory=EventsOfPlaces)

    def add(self, event_id: int, kind: str, batch: Any, chunk: Any, body: str) -> None:
        """Note what an event tells of. Events from before rows had digests are left out."""
        self.events += 1
        self.of_choice |= kind not in _ALWAYS and kind != _WORKER
        self.places.add(event_id, kind, batch, body)
        if kind in KEYS and '"row":"' in body:
            table, pattern = KEYS[kind]
            key = pattern.search(body)
            self.rows.append((event_id, table, int(key[1]) if key else 0))
        elif kind == "chunk-recorded" and isinstance(chunk, int):
            self.chunks.append((chunk, event_id))


def export(
    conn: Connection,
    path: Path,
    *,
    slide: str | None = None,
    batch: int | None = None,
    with_places: bool = True,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Exported:
    """Write a bundle of the events of a slide (by its name), of a batch, or of all. The file appears when it is whole.

    `with_places`: with which slide and file each field is, names of other slides' files in the same chunks included.
    Events that are not sealed yet are left out, and counted. LedgerError when nothing is sealed, or the leaves do not
    give the newest checkpoint's root, or an event or a row holds what can't be read; NotFound when there are no such
    events.
    """
    found = checkpoints.last(conn)
    if found is None:
        raise LedgerError("Nothing is sealed yet. Run `allq audit seal`, then export.")
    newest, _ = found
    hashes = despite_damage(conn, partial(_hashes, conn, newest.size))
    tree = Levels(hashes)
    if len(hashes) != newest.size or tree.root != newest.root:
        raise LedgerError(f"The leaves do not give the root of checkpoint {newest.number}. Run `allq audit verify`.")
    chosen = _chosen(conn, slide, batch)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as bundle:
            with bundle.open("checkpoints.jsonl", "w", force_zip64=True) as file:
                for checkpoint, _ in checkpoints.after(conn, 0):
                    _write(file, checkpoint.as_json())
            told = _Told()
            with bundle.open("events.jsonl", "w", force_zip64=True) as file:
                for leaf, row in _events(conn, newest.size, chosen):
                    proof = [node.hex() for node in tree.proof(leaf)]
                    if not (isinstance(row[7], str) and is_utf8(text := event_text(row))):
                        raise LedgerError(f"Event {row[0]} holds what is no text. Run `allq audit verify`.")
                    _write(file, {"leaf": leaf, "event": text, "proof": proof})
                    told.add(row[0], row[2], row[4], row[5], row[7])
                    progress("Exporting events", told.events, told.events)
            if not told.of_choice and (slide, batch) != (None, None):
                raise NotFound("There are no sealed events of that slide or batch. `allq audit seal` seals new ones.")
            with bundle.open("rows.jsonl", "w", force_zip64=True) as file:
                rows = sum(_write(file, record) for record in _rows(conn, told))
            if with_places:
                with bundle.open("places.jsonl", "w", force_zip64=True) as file:
                    for record in places.records(conn, told.places, slide):
                        _write(file, record)
            what = (
                f"of slide {printable(slide)}"
                if slide is not None
                else f"of batch {batch}"
                if batch is not None
                else "all"
            )
            script = SCRIPT.read_bytes()
            digest = hashlib.sha256(script).hexdigest()
            named = {"name": command(path.name), "origin": newest.origin, "version": __version__, "script": digest}
            bundle.writestr("README.txt", _README.format(events=told.events, what=what, **named))
            bundle.writestr("verify.py", script)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Exported(
        path=path,
        events=told.events,
        waiting=_waiting(conn, newest, chosen),
        rows=rows,
        others=0 if slide is None else places.of_others(conn, sorted({chunk for chunk, _ in told.chunks}), slide),
        checkpoint=newest,
        script=digest,
    )


def _hashes(conn: Connection, size: int) -> list[bytes]:
    """The leaves' hashes. LedgerError names the first that is none."""
    statement = "SELECT seq, hash FROM leaf WHERE seq >= 0 AND seq < :size ORDER BY seq"
    found = []
    for seq, value in run(conn, statement, {"size": size}):
        if not isinstance(value, bytes | memoryview) or len(value) != SIZE:
            raise LedgerError(f"Leaf {seq} holds what is no hash. Run `allq audit verify`.")
        found.append(bytes(value))
    return found


def _chosen(conn: Connection, slide: str | None, batch: int | None) -> _Chosen:
    """The condition of the events that belong in a bundle, and its values."""
    if slide is None and batch is None:
        return "", {}, ()
    where, statement = (_OF_BATCH, _ACTORS_OF_BATCH) if slide is None else (_OF_SLIDE, _ACTORS_OF_SLIDE)
    given = {"batch": batch} if slide is None else {"slide": slide}
    actors = despite_damage(conn, lambda: run(conn, statement, given).scalars().all())
    named = [one for one in actors if isinstance(one, str)] or [""]  # PostgreSQL takes an empty list for one of numbers
    return f"AND ({where})", {**given, "actors": named}, ("actors",)


def _waiting(conn: Connection, newest: Checkpoint, chosen: _Chosen) -> int:
    """How many events belong in a bundle and are not sealed by its newest checkpoint."""
    where, given, named = chosen
    statement = f"""
        SELECT count(*) FROM event e WHERE e.id > :settled {where} AND NOT EXISTS (
            SELECT 1 FROM leaf l WHERE l.event_id = e.id AND l.event_id > :settled AND l.seq < :size)
    """
    values = {"settled": newest.settled, "size": newest.size, **given}
    return int(despite_damage(conn, lambda: run(conn, statement, values, lists=named).scalar_one()))


def _events(conn: Connection, size: int, chosen: _Chosen) -> Iterator[tuple[int, Any]]:
    where, given, named = chosen
    statement = f"""
        SELECT l.seq, {event_columns(conn)} FROM leaf l JOIN event e ON e.id = l.event_id
        WHERE l.seq > :after AND l.seq < :size {where} ORDER BY l.seq LIMIT :page
    """
    after = -1

    def page(after: int) -> Sequence[Any]:
        values = {"after": after, "size": size, "page": _PAGE, **given}
        with closing(
            plain_blocks(conn, statement, values, lists=named)
        ) as pages:  # fewer at once where bodies are long
            return next(pages, [])

    while rows := despite_damage(conn, partial(page, after)):
        for seq, *row in rows:
            yield seq, row
        after = rows[-1][0]


def _rows(conn: Connection, told: _Told) -> Iterator[dict[str, Any]]:
    """The digested lines, by the event that has their digest."""
    for event_id, table, number in told.rows:
        row = despite_damage(conn, partial(_row, conn, table, number))
        if row is not None:
            yield {"table": table, "event": event_id, "lines": [_line(table, row)]}
    ordered = sorted(told.chunks)
    for start in range(0, len(ordered), 16):
        events: dict[int, list[int]] = {}  # of a false one beside a chunk's own the script says that it does not fit
        for chunk, event_id in ordered[start : start + 16]:
            events.setdefault(chunk, []).append(event_id)
        rows = despite_damage(conn, partial(_covered, conn, list(events)))
        for chunk, group in groupby(rows, lambda one: one.chunk_id):
            texts = [one.line for one in group]
            if not all(map(is_utf8, texts)):
                raise LedgerError(
                    f"A finding of chunk {chunk} holds what is no text. Run `allq audit verify`; other slides can be "
                    "exported."
                )
            for event_id in events[chunk]:
                yield {"table": "finding", "event": event_id, "lines": texts}


def _row(conn: Connection, table: str, number: int) -> Any:
    columns = ", ".join(lines.COLUMNS[table])
    return run(conn, f"SELECT {columns} FROM {table} WHERE id = :id", {"id": number}).first()


def _line(table: str, row: Any) -> str:
    """What it says now, whatever that is: `verify.py` tells whether it is what the event has the digest of."""
    try:
        text = lines.line(table, row)
    except (TypeError, ValueError):
        text = None
    if text is None or not is_utf8(text):
        raise LedgerError(
            f"Row {row[0]} of {table} holds a value that can't be read. Run `allq audit verify`; other slides can be "
            "exported."
        )
    return text


def _covered(conn: Connection, chunks: Sequence[int]) -> list[findings.Covered]:
    return list(findings.covered(conn, chunks))


def _write(file: IO[bytes], record: dict[str, Any]) -> int:
    file.write(canonical(record).encode() + b"\n")
    return len(record.get("lines", ()))
