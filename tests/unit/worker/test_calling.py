import dataclasses

from allq.settings import Settings
from db.records import FieldRow
from models import artefact
from worker.calling import slide_call_of

FIELD = FieldRow(
    id=1,
    state="screened",
    finding_id=1,
    call="benign",
    probabilities=(0.97, 0.01, 0.01, 0.01),
    suspicion=0.03,
    flags=(),
    leukocytes=20,
    suspects=0,
)


def rows(count, **changes):
    return [dataclasses.replace(FIELD, id=number, **changes) for number in range(count)]


def test_copies_of_one_file_are_weighed_once(settings: Settings):
    configuration = artefact.find(settings, "synthetic-smears").configuration
    copied = slide_call_of(rows(20), configuration)
    assert (copied.call, copied.leukocytes) == ("insufficient", 20)
    distinct = [dataclasses.replace(row, finding_id=row.id) for row in rows(20)]
    assert (slide_call_of(distinct, configuration).call, slide_call_of(distinct, configuration).leukocytes) == (
        "no-suspects-seen",
        400,
    )


def test_failed_and_cancelled_fields_are_each_told(settings: Settings):
    configuration = artefact.find(settings, "synthetic-smears").configuration
    for state in ("failed", "cancelled"):
        unseen = rows(3, state=state, finding_id=None, call=None, probabilities=None, leukocytes=0)
        assert slide_call_of(iter([*rows(1), *unseen]), configuration).flags == (f"{state}-fields",)
