"""A small database in which everything occurs, for the documentation: made by the public functions, the same each time.

Its clock is not the database's: it starts on a fixed morning and goes on by a quarter of a second whenever it is asked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Connection, event

from allq.settings import load
from db import activations, artefacts, batches, chunks, events, reviews
from db.database import Database
from db.records import (
    Claim,
    ClaimedField,
    Failure,
    FieldOutcome,
    FieldRow,
    ModelRecord,
    NewField,
    NewFinding,
    NewSlide,
    SlideCallRow,
)

_MODEL = hashlib.sha256(b"the example's model").hexdigest()
_OPERATOR = "m.curie@lab"
_START = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)
_TICK = timedelta(milliseconds=250)
_SUSPICION = {"H26-0101": 0.03, "H26-0102": 0.97, "H26-0103": 0.46, "H26-0104": 0.06, "H26-0105": 0.91}


@contextmanager
def example() -> Iterator[Connection]:
    """An open connection to the example."""
    with TemporaryDirectory(prefix="allq-example-") as folder:
        database = Database.open(load(_env_file=None, home=Path(folder)))
        _with_its_own_clock(database)
        try:
            _fill(database)
            with database.read() as conn:
                yield conn
        finally:
            database.close()


def _with_its_own_clock(database: Database) -> None:
    database.close()  # connections made from here on have the clock
    asked = 0

    def clock(_: str, *modifiers: str) -> str:
        nonlocal asked
        asked += 1
        shift = sum(float(found) for part in modifiers for found in re.findall(r"^([-+]?[\d.]+) seconds$", part))
        now = _START + asked * _TICK + timedelta(seconds=shift)
        return now.replace(tzinfo=None).isoformat(" ", "milliseconds")  # as SQLite writes it

    @event.listens_for(database.engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.create_function("strftime", -1, clock)


def _fill(database: Database) -> None:
    with database.begin() as conn:
        artefacts.remember_model(conn, made_up_model(_MODEL, "example-model"))
    first, first_chunks = _submit(database, {"H26-0101": 4, "H26-0102": 4, "H26-0103": 3}, note="night run")
    with database.begin() as conn:
        batches.retry(conn, first, _OPERATOR, chunk_size=4)  # nothing has failed yet: nothing happens
    for chunk_id in first_chunks:
        _screen(database, chunk_id)
    _review(database, "H26-0101", "no-suspects-seen", "no blasts on the smear either")
    _review(database, "H26-0102", "insufficient", "one field is cut off; smear to be photographed again")
    _, stat_chunks = _submit(database, {"H26-0104": 2}, stat=True)
    for chunk_id in stat_chunks:
        _screen(database, chunk_id)
    _, waiting = _submit(database, {"H26-0105": 5}, note="from the second microscope")
    _screen(database, waiting[0])
    with database.begin() as conn:
        chunks.claim(conn, waiting[1], "worker@gpu-1:4711", 60)
        started = {"operator": "allq@gpu-1", "settings": {"engine": "auto"}, "version": "0.1.0"}
        events.append(conn, "worker-started", started, actor="worker@gpu-1:4711")
        model = made_up_model(_MODEL, "example-model")
        activations.activate(conn, model, reason="verified on 400 fields of our own", actor=_OPERATOR)
        activations.activate(conn, model, reason="verified again after the new stain", actor="Dr R. Franklin")


def _submit(
    database: Database, slides: dict[str, int], *, note: str | None = None, stat: bool = False
) -> tuple[int, list[int]]:
    with database.begin() as conn:
        batch = batches.create_batch(
            conn,
            root="/data/slides",
            queue="stat" if stat else "routine",
            note=note,
            model_id=_MODEL,
            operator=_OPERATOR,
        )
        new = [
            NewSlide(name=name, fields=[NewField(f"{name}/{n:02}.png", None, 81_920 + n, n) for n in range(count)])
            for name, count in slides.items()
        ]
        chunk_ids = batches.register(conn, batch, new, chunk_size=4)
        batches.skip(conn, batch, [(f"{next(iter(slides))}/Thumbs.db", "not an image: Windows' own thumbnails")])
        batches.finish_registration(conn, batch)
        chunks.mark_published(conn, chunk_ids)
    return batch, chunk_ids


def _screen(database: Database, chunk_id: int) -> None:
    with database.begin() as conn:
        claim = chunks.claim(conn, chunk_id, "worker@gpu-1:4711", 60)
    if not isinstance(claim, Claim):
        raise TypeError(f"chunk {chunk_id} can't be claimed")
    with database.begin() as conn:
        outcomes = [_outcome(field) for field in claim.fields]
        chunks.record(conn, claim, outcomes, call_slide=_call, worker=claim.owner)


def _review(database: Database, name: str, call: str, reason: str) -> None:
    with database.begin() as conn:
        slide = reviews.find(conn, name)
        reviews.look(conn, slide, reviewer="Dr R. Franklin")
    with database.begin() as conn:
        reviews.sign(conn, slide, call=call, reason=reason, reviewer="Dr R. Franklin")


def _outcome(field: ClaimedField) -> FieldOutcome:
    slide, number = field.path.removesuffix(".png").split("/")
    # one picture of the first slide was saved into the third one's folder as well
    sha256 = hashlib.sha256(
        b"misfiled" if field.path in {"H26-0101/02.png", "H26-0103/00.png"} else field.path.encode()
    )
    if field.path == "H26-0102/03.png":
        return FieldOutcome(
            field_id=field.id,
            sha256=sha256.digest(),
            failure=Failure(code="corrupt", sentence="the file ends in the middle of the image"),
        )
    suspicion = round(min(0.99, _SUSPICION[slide] + 0.01 * int(number)), 4)
    finding = made_up_finding(
        sha256.digest(),
        suspicion=suspicion,
        pre_b=round(suspicion * 0.9, 4),
        leukocytes=9 + int(number),
        flags=("uncertain",) if 0.3 < suspicion < 0.7 else (),
    )
    return FieldOutcome(field_id=field.id, sha256=sha256.digest(), finding=finding)


def _call(fields: Iterable[FieldRow]) -> SlideCallRow:
    rows = list(fields)
    seen = [row for row in rows if row.state == "screened"]
    mean = round(sum(row.suspicion for row in seen) / len(seen), 4)
    return made_up_call(rows, suspicion=mean)


def made_up_model(identity: str, name: str, *, synthetic: bool = True) -> ModelRecord:
    """A model that does not exist."""
    return ModelRecord(
        id=identity,
        name=name,
        architecture="efficientnet-lite0",
        synthetic=synthetic,
        configuration={"classes": ["benign", "early-pre-b", "pre-b", "pro-b"]},
        code_version="0.1.0",
    )


def made_up_finding(
    sha256: bytes, *, suspicion: float, pre_b: float, leukocytes: int, flags: tuple[str, ...] = ()
) -> NewFinding:
    """What such a model says of a field: benign or Pre-B, whichever is more probable."""
    return NewFinding(
        sha256=sha256,
        call="benign" if suspicion < 0.5 else "pre-b",
        confidence=round(1 - suspicion if suspicion < 0.5 else pre_b, 4),
        probabilities=(round(1 - suspicion, 4), round(suspicion - pre_b, 4), pre_b, 0.0),
        suspicion=suspicion,
        novelty=0.12,
        flags=flags,
        leukocytes=leukocytes,
        suspects=round(leukocytes * suspicion),
        width=1024,
        height=768,
        quality={"sharpness": 41.5},
        leukocyte_data=b"\x01" + sha256,
        engine="openvino",
        code_version="0.1.0",
    )


def made_up_call(rows: Sequence[FieldRow], *, suspicion: float) -> SlideCallRow:
    """A slide's call with this suspicion, by no rule but whether it is above a half."""
    seen = [row for row in rows if row.state == "screened"]
    suspected = suspicion > 0.5
    return SlideCallRow(
        call="insufficient" if not seen else "all-suspected" if suspected else "no-suspects-seen",
        confidence=max(suspicion, round(1 - suspicion, 4)),
        probabilities=(round(1 - suspicion, 4), 0.0, suspicion, 0.0),
        flags=tuple(sorted({flag for row in rows for flag in row.flags})),
        leukocytes=sum(row.leukocytes for row in seen),
        suspects=sum(row.suspects for row in seen),
        upper_bound=None if suspected else 0.0845,
    )
