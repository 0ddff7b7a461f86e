"""Slide calls: from the database's rows to the models' rule and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from allq import faults
from allq.errors import ModelError
from allq.logging import logger
from allq.settings import Settings
from db import slidecalls
from db.database import Database
from db.records import FieldRow, SlideCallRow
from models import artefact
from models.aggregate import FieldSummary, call_slide
from models.artefact import ModelConfiguration

log = logger(__name__)


def slide_call_of(rows: Iterable[FieldRow], configuration: ModelConfiguration) -> SlideCallRow:
    """The call of a slide by the rule of the model that screened its fields.

    Fields of the same bytes show the same leukocytes: they are weighed once, or copying a file would make evidence.
    """
    found = call_slide(map(_summary, _once_each(rows)), configuration)
    return SlideCallRow(
        call=found.call,
        confidence=found.confidence,
        probabilities=(found.probabilities[0], found.probabilities[1], found.probabilities[2], found.probabilities[3]),
        flags=found.flags,
        leukocytes=found.leukocytes,
        suspects=found.suspects,
        upper_bound=found.upper_bound,
    )


def call_due_slides(database: Database, settings: Settings, *, worker: str) -> int:
    """Call the slides that ended without one. Those of a model that isn't installed here are left to others."""

    def call(model_id: str, rows: Iterable[FieldRow]) -> SlideCallRow | None:
        try:
            model = artefact.find(settings, model_id)
        except ModelError as error:
            log.warning("slide not called here", problem=str(error))
            return None
        return slide_call_of(rows, model.configuration)

    with database.ask() as connection:
        if not slidecalls.any_due(connection):
            return 0
    with database.begin() as connection:
        made = slidecalls.call_due(connection, call, worker=worker)
        if made:
            faults.reach("call.written")
    if made:
        faults.reach("call.committed")
    return made


def _once_each(rows: Iterable[FieldRow]) -> Iterator[FieldRow]:
    seen: set[int] = set()
    for row in rows:
        if row.finding_id is None or row.finding_id not in seen:
            yield row
        if row.finding_id is not None:
            seen.add(row.finding_id)


def _summary(row: FieldRow) -> FieldSummary:
    return FieldSummary(
        call=row.call,
        probabilities=row.probabilities or (),
        suspicion=row.suspicion,
        flags=row.flags,
        leukocytes=row.leukocytes,
        suspects=row.suspects,
        failed=row.failed,
        cancelled=row.cancelled,
    )
