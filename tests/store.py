"""Helpers for tests of the database: batches made of nothing but rows, and a stand-in for the work on a chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, text

from db import activations, artefacts, batches, chunks, reviews
from db.database import Database
from db.example import made_up_call, made_up_finding, made_up_model
from db.records import (
    Activation,
    Claim,
    ClaimedField,
    Failure,
    FieldOutcome,
    FieldRow,
    NewField,
    NewFinding,
    NewSlide,
    RecordResult,
    SlideCallRow,
)

MODEL_ID = "ab" * 32
LEASE = 60.0

Judge = Callable[[ClaimedField], "FieldOutcome"]


def remember(conn: Connection, model_id: str = MODEL_ID, *, name: str = "tester", synthetic: bool = True) -> None:
    artefacts.remember_model(conn, made_up_model(model_id, name, synthetic=synthetic))


def new_slide(name: str, fields: int, *, complete: bool = True, first: int = 0) -> NewSlide:
    """A slide whose fields are called `<name>/<n>.png`."""
    return NewSlide(
        name=name,
        fields=[NewField(f"{name}/{n:03}.png", None, 1000 + n, n) for n in range(first, first + fields)],
        complete=complete,
    )


def submit(
    conn: Connection,
    slides: Sequence[NewSlide],
    *,
    chunk_size: int = 4,
    model_id: str = MODEL_ID,
    finish: bool = True,
    root: str = "/slides",
) -> tuple[int, list[int]]:
    """A batch with these slides and its chunks."""
    remember(conn, model_id)
    batch = batches.create_batch(conn, root=root, model_id=model_id, operator="tester@here")
    chunk_ids = batches.register(conn, batch, slides, chunk_size=chunk_size)
    if finish:
        batches.finish_registration(conn, batch)
    return batch, chunk_ids


def content(of: str) -> bytes:
    return hashlib.sha256(of.encode()).digest()


def new_finding(sha256: bytes, *, suspicion: float = 0.25) -> NewFinding:
    flags = ("uncertain",) if 0.4 < suspicion < 0.6 else ()
    return made_up_finding(sha256, suspicion=suspicion, pre_b=suspicion, leukocytes=5, flags=flags)


def screened(field: ClaimedField, *, of: str | None = None, suspicion: float = 0.25) -> FieldOutcome:
    """The field screened; its bytes are made from its path, or from `of`."""
    sha256 = content(field.path if of is None else of)
    return FieldOutcome(field_id=field.id, sha256=sha256, finding=new_finding(sha256, suspicion=suspicion))


def failed(field: ClaimedField, code: str = "corrupt") -> FieldOutcome:
    return FieldOutcome(
        field_id=field.id, sha256=content(field.path), failure=Failure(code=code, sentence="it can't be read")
    )


def call(fields: Iterable[FieldRow]) -> SlideCallRow:
    """A slide's call by the simplest rule: the worst field's."""
    rows = list(fields)
    return made_up_call(rows, suspicion=max((row.suspicion for row in rows if row.state == "screened"), default=0.0))


def claimed(database: Database, chunk_id: int, owner: str = "worker-1", lease: float = LEASE) -> Claim:
    with database.begin() as conn:
        found = chunks.claim(conn, chunk_id, owner, lease)
    assert found is not None
    return found


def record(database: Database, claim: Claim, judge: Judge = screened) -> RecordResult | None:
    with database.begin() as conn:
        outcomes = [judge(field) for field in claim.fields]
        return chunks.record(conn, claim, outcomes, call_slide=call, worker=claim.owner)


def work(database: Database, chunk_ids: Sequence[int], judge: Judge = screened) -> None:
    """Claim and record each of the chunks."""
    for chunk_id in chunk_ids:
        assert record(database, claimed(database, chunk_id), judge) is not None


def review(database: Database, name: str, call: str, reason: str, reviewer: str = "Dr Tester") -> int:
    """Look at the slide, then sign."""
    with database.begin() as conn:
        slide = reviews.find(conn, name)
        reviews.look(conn, slide, reviewer=reviewer)
    with database.begin() as conn:
        return reviews.sign(conn, slide, call=call, reason=reason, reviewer=reviewer)


def activate(
    database: Database, reason: str, *, model_id: str = MODEL_ID, name: str = "tester", by: str = "Dr Tester"
) -> Activation:
    """Make a model of that name the active one."""
    with database.begin() as conn:
        return activations.activate(conn, made_up_model(model_id, name, synthetic=True), reason=reason, actor=by)


def let_lease_run_out(database: Database, chunk_id: int) -> None:
    past = "'2000-01-01 00:00:00.000'" if database.dialect == "sqlite" else "timestamptz '2000-01-01'"
    with database.begin() as conn:
        conn.execute(text(f"UPDATE chunk SET lease_until = {past} WHERE id = :id"), {"id": chunk_id})


def rows(database: Database, statement: str, **parameters: object) -> list[tuple[object, ...]]:
    with database.read() as conn:
        return [tuple(row) for row in conn.execute(text(statement), parameters)]


def assert_sums_hold(database: Database) -> None:
    """Submitted = sum of the states: of the rows themselves, the chunks' counters, the slides', the batches'."""
    by_rows: dict[tuple[str, int], dict[str, int]] = {}
    for level in ("batch", "slide", "chunk"):
        key = {"batch": "s.batch_id", "slide": "f.slide_id", "chunk": "f.chunk_id"}[level]
        found = rows(
            database,
            f"SELECT {key}, f.state, count(*) FROM field f JOIN slide s ON s.id = f.slide_id GROUP BY {key}, f.state",
        )
        for owner, state, count in found:
            by_rows.setdefault((level, owner), {})[state] = count  # type: ignore[index]
    for chunk, *counters in rows(database, "SELECT id, fields, waiting, screened, failed, cancelled FROM chunk"):
        states = by_rows.get(("chunk", chunk), {})
        kept = [states.get(state, 0) for state in ("waiting", "screened", "failed", "cancelled")]
        assert counters == [sum(kept), *kept], f"chunk {chunk}"
    slide_counters = "SELECT id, fields, screened, failed, cancelled, duplicates FROM slide"
    duplicates = dict(rows(database, "SELECT slide_id, count(*) FROM field WHERE duplicate GROUP BY slide_id"))
    for slide, fields, *counters, twins in rows(database, slide_counters):
        states = by_rows.get(("slide", slide), {})
        assert fields == sum(states.values()), f"slide {slide}"
        assert counters == [states.get(state, 0) for state in ("screened", "failed", "cancelled")], f"slide {slide}"
        assert twins == duplicates.get(slide, 0), f"slide {slide}"
    progress = "SELECT batch, fields, waiting, screened, failed, cancelled FROM batch_progress"
    for batch, fields, *counters in rows(database, progress):
        states = by_rows.get(("batch", batch), {})
        assert fields == sum(states.values()) == sum(counters), f"batch {batch}"
        assert counters == [states.get(name, 0) for name in ("waiting", "screened", "failed", "cancelled")]
