"""Fields registered and findings recorded of no files: what `database_alone.py` and others time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from benchmarks import filling
from db import batches, chunks
from db.database import Database
from db.records import FieldOutcome, FieldRow, NewField, NewFinding, NewSlide, SlideCallRow

MODEL = filling.MODEL
FIELDS_PER_SLIDE = filling.FIELDS_PER_SLIDE
CHUNK = filling.CHUNK
SLICE = 5_000


def registering(database: Database, fields: int) -> tuple[int, list[int], float]:
    """Register in slices of 5,000 fields, a transaction each, as `submit` does."""
    started = time.perf_counter()
    with database.begin() as conn:
        batch = batches.create_batch(conn, root="/data/slides", model_id=MODEL, operator="benchmark@here")
    chunk_ids: list[int] = []
    slides = [
        NewSlide(
            name=f"H26-{number:06}",
            fields=[
                NewField(f"H26-{number:06}/field {n:03}.jpg", None, 150_000 + n, 1_700_000_000_000_000_000 + n)
                for n in range(min(FIELDS_PER_SLIDE, fields - number * FIELDS_PER_SLIDE))
            ],
        )
        for number in range(-(-fields // FIELDS_PER_SLIDE))
    ]
    step = SLICE // FIELDS_PER_SLIDE
    for start in range(0, len(slides), step):
        with database.begin() as conn:
            chunk_ids += batches.register(conn, batch, slides[start : start + step], chunk_size=CHUNK)
    with database.begin() as conn:
        batches.finish_registration(conn, batch)
    return batch, chunk_ids, time.perf_counter() - started


def recording(database: Database, chunk_ids: list[int], what: str) -> tuple[int, float]:
    """Claim and record chunks: with new findings, or linking to those that are there. Preparing them is not timed."""
    count, seconds = 0, 0.0
    for chunk_id in chunk_ids:
        started = time.perf_counter()
        with database.begin() as conn:
            claim = chunks.claim(conn, chunk_id, "benchmark", 60)
        seconds += time.perf_counter() - started
        assert claim is not None
        outcomes = [outcome(field.id, field.path, new=what == "recording new") for field in claim.fields]
        started = time.perf_counter()
        with database.begin() as conn:
            chunks.record(conn, claim, outcomes, call_slide=call_slide, worker="benchmark")
        seconds += time.perf_counter() - started
        count += len(outcomes)
    return count, seconds


def outcome(field_id: int, path: str, *, new: bool) -> FieldOutcome:
    """A finding made up from the path, or a link to it."""
    sha256 = hashlib.sha256(path.encode()).digest()
    if not new:
        return FieldOutcome(field_id=field_id, sha256=sha256)
    suspicion = sha256[0] / 256
    finding = NewFinding(
        sha256=sha256,
        call="benign" if suspicion < 0.5 else "pre-b",
        confidence=max(suspicion, 1 - suspicion),
        probabilities=(1 - suspicion, 0.0, suspicion, 0.0),
        suspicion=suspicion,
        novelty=0.1,
        flags=(),
        leukocytes=12,
        suspects=3,
        width=1024,
        height=768,
        quality={"sharpness": 40.25, "exposure": 0.5},
        leukocyte_data=sha256 * 30,
        engine="openvino",
        code_version="0.1.0",
    )
    return FieldOutcome(field_id=field_id, sha256=sha256, finding=finding)


def call_slide(fields: Iterable[FieldRow]) -> SlideCallRow:
    """A call by the mean suspicion."""
    rows = list(fields)
    mean = sum(row.suspicion for row in rows) / len(rows)
    return SlideCallRow(
        call="all-suspected",
        confidence=mean,
        probabilities=(1 - mean, 0.0, mean, 0.0),
        flags=(),
        leukocytes=sum(row.leukocytes for row in rows),
        suspects=sum(row.suspects for row in rows),
        upper_bound=None,
    )
