"""Batches made by hand, without a worker: what the printing commands are tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from allq.settings import load
from db import artefacts, batches, chunks
from db.database import Database
from db.records import (
    Failure,
    FieldOutcome,
    FieldRow,
    ModelRecord,
    NewField,
    NewFinding,
    NewSlide,
    SlideCallRow,
)

MODEL = ModelRecord(
    id="ab" * 32,
    name="lite0-three-views",
    architecture="efficientnet-lite0",
    synthetic=False,
    configuration={"slide": {"unassessable": ["no-leukocytes", "novel"]}},
    code_version="0.1.0",
)
SYNTHETIC = ModelRecord(
    id="cd" * 32,
    name="synthetic-smears",
    architecture="efficientnet-lite0",
    synthetic=True,
    configuration={},
    code_version="0.1.0",
)


def make_batch(
    slides: dict[str, Sequence[str]],
    *,
    model: ModelRecord = MODEL,
    screened: int | None = None,
    chunk_size: int = 256,
    finish: bool = True,
    skipped: Sequence[tuple[str, str]] = (),
    root: str = "/slides",
) -> int:
    """Register `slides` (name: file names) and screen them: files named `bad…` fail, `blank…` hold no leukocyte,
    `odd…` are novel and hold four suspects.

    `screened` is how many chunks, all by default, are screened; without `finish` more slides may come. A slide whose
    name starts with `A` is all-suspected; the others hold no suspect.
    """
    database = Database.open(load())
    try:
        with database.begin() as connection:
            artefacts.remember_model(connection, model)
            batch = batches.create_batch(connection, root=root, model_id=model.id, operator="m.meier@lab")
            new = [
                NewSlide(name=name, fields=[NewField(f"{name}/{file}", None, 1000, 0) for file in files])
                for name, files in slides.items()
            ]
            chunk_ids = batches.register(connection, batch, new, chunk_size=chunk_size)
            if skipped:
                batches.skip(connection, batch, list(skipped))
            if finish:
                batches.finish_registration(connection, batch)
        for chunk in chunk_ids[:screened]:
            with database.begin() as connection:
                claim = chunks.claim(connection, chunk, "tester", 60)
                assert claim is not None
            outcomes = [_outcome(field.id, field.path) for field in claim.fields]
            with database.begin() as connection:
                assert chunks.record(connection, claim, outcomes, call_slide=call, worker="tester") is not None
    finally:
        database.close()
    return batch


def _outcome(field_id: int, path: str) -> FieldOutcome:
    file = path.rpartition("/")[2]
    sha256 = hashlib.sha256(path.encode()).digest()
    if file.startswith("bad"):
        failure = Failure(code="corrupt", sentence="The image is cut short: 3 of 9 kB are there. Copy it again.")
        return FieldOutcome(field_id=field_id, sha256=sha256, failure=failure)
    suspect = path.startswith("A")
    blank, odd = file.startswith("blank"), file.startswith("odd")
    from imaging.outlines import pack

    finding = NewFinding(
        sha256=sha256,
        call=None if blank else "pre-b" if suspect else "benign",
        confidence=0.0 if blank else 0.98,
        probabilities=(0.01, 0.005, 0.98, 0.005) if suspect else (0.98, 0.01, 0.005, 0.005),
        suspicion=0.99 if suspect else 0.02,
        novelty=0.2,
        flags=("no-leukocytes",) if blank else ("novel",) if odd else (),
        leukocytes=0 if blank else 20,
        suspects=19 if suspect else 4 if odd else 0,
        width=224,
        height=224,
        quality={"sharpness": 1.0},
        leukocyte_data=pack((), ()),
        engine="openvino",
        code_version="0.1.0",
    )
    return FieldOutcome(field_id=field_id, sha256=sha256, finding=finding)


def call(fields: Iterable[FieldRow]) -> SlideCallRow:
    """A slide's call: suspected where a leukocyte is."""
    seen = [field for field in fields if field.state == "screened" and "novel" not in field.flags]
    suspects = sum(field.suspects for field in seen)
    leukocytes = sum(field.leukocytes for field in seen)
    return SlideCallRow(
        call="all-suspected" if suspects else "no-suspects-seen" if leukocytes else "insufficient",
        confidence=0.97,
        probabilities=(0.01, 0.005, 0.98, 0.005) if suspects else (0.98, 0.01, 0.005, 0.005),
        flags=("no-leukocytes",) if not leukocytes else (),
        leukocytes=leukocytes,
        suspects=suspects,
        upper_bound=0.0712 if not suspects else 0.99,
    )
