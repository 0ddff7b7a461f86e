"""One look at a whole database: is everything accounted for, once, and under the bytes it is about?"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select, text

from db.database import Database
from db.tables import Chunk
from db.verifying import verify
from db.witness import Witness
from tests import standin, store

_EMPTY_SETS = {
    "a screened field without its finding": """
        SELECT f.id FROM field f LEFT JOIN finding i ON i.id = f.finding_id
        WHERE f.state = 'screened' AND i.id IS NULL
    """,
    "two findings of one content by one model": """
        SELECT sha256 FROM finding GROUP BY sha256, model_id HAVING count(*) > 1
    """,
    "a finding without its leukocytes": """
        SELECT i.id FROM finding i LEFT JOIN finding_leukocytes l ON l.finding_id = i.id WHERE l.finding_id IS NULL
    """,
    "a finding that no field links to": """
        SELECT i.id FROM finding i LEFT JOIN field f ON f.finding_id = i.id WHERE f.id IS NULL
    """,
    "a finding that not exactly one field was inferred for": """
        SELECT finding_id FROM field WHERE finding_id IS NOT NULL
        GROUP BY finding_id HAVING sum(CASE WHEN linked THEN 0 ELSE 1 END) <> 1
    """,
    "a chunk whose count of linked fields is wrong": """
        SELECT c.id FROM chunk c LEFT JOIN field f ON f.chunk_id = c.id AND f.linked
        GROUP BY c.id, c.linked HAVING count(f.id) <> c.linked
    """,
    "a batch whose slides or fields are counted wrong": """
        SELECT b.id FROM batch b
        WHERE b.fields <> (SELECT count(*) FROM slide s JOIN field f ON f.slide_id = s.id WHERE s.batch_id = b.id)
           OR b.slides <> (SELECT count(*) FROM slide s WHERE s.batch_id = b.id)
    """,
    "a file that a batch has twice": """
        SELECT s.batch_id, f.path FROM field f JOIN slide s ON s.id = f.slide_id
        GROUP BY s.batch_id, f.path HAVING count(*) > 1
    """,
    "an ended slide without a call about all its fields": """
        SELECT s.id FROM slide s LEFT JOIN slide_call k ON k.id = s.slide_call_id
        WHERE s.complete AND (s.screened > 0 OR s.failed = s.fields)
          AND s.fields = s.screened + s.failed + s.cancelled
          AND (k.id IS NULL OR k.fields <> s.fields OR k.screened <> s.screened OR k.failed <> s.failed)
    """,
    "a slide called twice about the same": """
        SELECT slide_id FROM slide_call GROUP BY slide_id, fields, screened, failed, cancelled HAVING count(*) > 1
    """,
}
_UNENDED = {
    "a field that still waits": "SELECT id FROM field WHERE state = 'waiting'",
    "a chunk that is not done": "SELECT id FROM chunk WHERE state IN ('pending', 'running')",
    "a batch that is not done": "SELECT batch FROM batch_progress WHERE state NOT IN ('done', 'cancelled')",
    "a call that is due": "SELECT id FROM slide WHERE call_due",
}


def violations(
    database: Database, *, ended: bool = True, exported: Path = Path("not-exported"), sealed: bool = False
) -> list[str]:
    """What is wrong, a sentence each; empty when every field is accounted for once. With `ended`, nothing may wait.

    `exported`: the file of checkpoints that the ledger is held against. With `sealed`, every event must be sealed, and
    the newest checkpoint be in that file.
    """
    found = []
    try:
        store.assert_sums_hold(database)
    except AssertionError as error:
        found.append(f"a counter that is not the number of its rows: {error}")
    with database.read() as conn:
        for what, statement in (_EMPTY_SETS | _UNENDED if ended else _EMPTY_SETS).items():
            rows = conn.execute(text(statement)).all()
            if rows:
                found.append(f"{len(rows)} times {what}, e.g. {tuple(rows[0])}")
    return found + _ledger(database, exported, sealed=sealed)


def _ledger(database: Database, exported: Path, *, sealed: bool) -> list[str]:
    """Chunks are recorded once each, and what the events say adds up to what the rows say."""
    told: Counter[tuple[int, str]] = Counter()
    chunks: Counter[int] = Counter()
    for batch, chunk, body in store.rows(
        database, "SELECT batch_id, chunk_id, body FROM event WHERE kind = 'chunk-recorded'"
    ):
        counts = json.loads(str(body))
        told[int(batch), "screened"] += counts["screened"]  # type: ignore[call-overload]
        told[int(batch), "linked"] += counts["linked"]  # type: ignore[call-overload]
        chunks[int(chunk)] += 1  # type: ignore[call-overload]
    found = [f"chunk {chunk} was recorded {times} times" for chunk, times in chunks.items() if times > 1]
    counted = store.rows(
        database,
        """
        SELECT s.batch_id, count(*), sum(CASE WHEN f.linked THEN 1 ELSE 0 END)
        FROM field f JOIN slide s ON s.id = f.slide_id WHERE f.state = 'screened' GROUP BY s.batch_id
        """,
    )
    rows = {(batch, "screened"): count for batch, count, _ in counted}
    rows |= {(batch, "linked"): linked for batch, _, linked in counted}
    for (batch, what), number in told.items():
        if rows.get((batch, what), 0) != number:
            found.append(f"the ledger tells of {number} fields {what} of batch {batch}, not {rows.get((batch, what))}")
    verified = verify(database, Witness(exported), complete=sealed)
    if sealed and (verified.newest is None or verified.newest != Witness(exported).last()):
        found.append("the newest checkpoint is not in the file of exported ones, or there is none at all")
    return found + [str(problem) for problem in verified.problems]


def mistaken(database: Database) -> list[str]:
    """Fields, made by `standin.write_fields`, whose finding is not about the bytes of their file."""
    found = []
    statement = """
        SELECT b.root, f.path, i.sha256, i.suspicion FROM field f JOIN finding i ON i.id = f.finding_id
        JOIN slide s ON s.id = f.slide_id JOIN batch b ON b.id = s.batch_id
    """
    for root, path, sha, suspicion in store.rows(database, statement):
        data = (Path(str(root)) / str(path)).read_bytes()
        if hashlib.sha256(data).digest() != bytes(sha) or suspicion != standin.suspicion_of(data):  # type: ignore[arg-type]
            found.append(f"the finding of {path} is about other bytes")
    return found


_CHUNKS_TOLD = 20


def waiting(database: Database) -> list[str]:
    """What has not ended, a line each: fields by batch, chunks and who has them, sessions that hold others up.

    Of the chunks the oldest. Raises StoreError.
    """
    fields = """
        SELECT s.batch_id, count(*), min(f.path), max(f.path) FROM field f JOIN slide s ON s.id = f.slide_id
        WHERE f.state = 'waiting' GROUP BY s.batch_id ORDER BY s.batch_id
    """
    lines = [
        f"batch {batch}: {count} fields wait, from {first} to {last}"
        for batch, count, first, last in store.rows(database, fields)
    ]
    unended = select(Chunk.__table__).where(Chunk.state.in_(["pending", "running"])).order_by(Chunk.id)
    with database.read() as connection:
        found = connection.execute(unended).all()
    for chunk in found[:_CHUNKS_TOLD]:
        held = f" by {chunk.owner}, lease until {_from_now(chunk.lease_until)}" if chunk.owner else ""
        lines.append(
            f"chunk {chunk.id} of batch {chunk.batch_id}, {chunk.waiting} fields: {chunk.state}{held}; "
            f"attempts {chunk.attempt}, crashes {chunk.crashes}, published {_from_now(chunk.published_at)}"
        )
    if len(found) > _CHUNKS_TOLD:
        lines.append(f"and {len(found) - _CHUNKS_TOLD} chunks more")
    return lines + (_sessions(database) if database.dialect == "postgresql" else [])


def _from_now(when: datetime | None) -> str:
    return "never" if when is None else f"now {(when - datetime.now(UTC)).total_seconds():+.1f} s"


def _sessions(database: Database) -> list[str]:
    statement = """
        SELECT pid, state, extract(epoch FROM clock_timestamp() - state_change), pg_blocking_pids(pid), query
        FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND (state LIKE 'idle in transaction%' OR cardinality(pg_blocking_pids(pid)) > 0) ORDER BY pid
    """
    return [
        f"session {pid} of the database: {state} for {seconds:.1f} s, held up by {blocking or 'nobody'}: "
        f"{' '.join(str(query).split())[:200]}"
        for pid, state, seconds, blocking, query in store.rows(database, statement)
    ]
