"""A field that stops its worker costs itself and nothing else."""

import csv
import math
from pathlib import Path

import pytest

from db import reads
from imaging.synthetic import write_slides
from tests.crash.poisoned_worker import CONFUSES, DEVOURS, FAULTS, HANGS, KILLS
from tests.screening import WorkerProcess, copies, status, submit_synthetic, wait_for


@pytest.mark.parametrize(
    ("poison", "chunk_size", "code", "reason"),
    [
        pytest.param(KILLS, 64, "crashed-the-worker", "the worker died each time", id="kills"),
        pytest.param(FAULTS, 2, "crashed-the-worker", "the worker died each time", id="faults"),
        pytest.param(DEVOURS, 16, "out-of-memory", "more memory than this machine gives", id="devours"),
        pytest.param(HANGS, 2, "time-limit", "ALLQ_TASK_SECONDS=10", id="hangs"),
        pytest.param(CONFUSES, 16, "internal", "ZeroDivisionError", id="confuses"),
    ],
)
def test_a_field_that_stops_its_worker_is_isolated_and_its_neighbours_are_screened(
    database, settings, tmp_path, poison, chunk_size, code, reason
):
    truth = write_slides(tmp_path / "smears", slides=1, fields=8, seed=3)
    slide = next(folder for folder in sorted((tmp_path / "smears").iterdir()) if folder.is_dir())
    folder = copies(slide, tmp_path / "slides", chunk_size // 8 or 1)
    poisoned = sorted(folder.rglob("*.png"))[1]
    poisoned.write_bytes(poisoned.read_bytes() + poison)
    with truth.open(newline="") as file:
        (damaged,) = [row["field"] for row in csv.DictReader(file) if row["note"] == "corrupt"]
    settings = settings.model_copy(
        update={"chunk_size": chunk_size, "housekeeping_seconds": 0.3, "task_seconds": 10, "inference_batch": 4}
    )
    submission = submit_synthetic(database, settings, folder)
    worker = WorkerProcess(settings, script=[str(Path(__file__).with_name("poisoned_worker.py"))])
    try:
        wait_for(lambda: status(database, submission.batch).state == "done", what="the batch ends", seconds=60)
    finally:
        worker.stop()
        print(worker.log.read_text(errors="replace")[-8000:])
    with database.read() as connection:
        failures = {row.field: row for row in reads.failures(connection, submission.batch)}
        halvings = connection.exec_driver_sql("SELECT count(*) FROM event WHERE kind = 'chunk-halved'").scalar_one()
    spoilt = {str(path.relative_to(folder)) for path in folder.rglob(damaged)}
    assert len(spoilt) == (chunk_size // 8 or 1)
    assert failures.keys() == {str(poisoned.relative_to(folder)), *spoilt}, "and no neighbour"
    assert {failures[field].code for field in spoilt} == {"corrupt"}
    failure = failures[str(poisoned.relative_to(folder))]
    assert failure.code == code
    assert reason.lower() in failure.sentence.lower()
    found = status(database, submission.batch)
    assert found.screened == found.fields - len(failures)
    assert halvings <= math.log2(chunk_size)  # and two rounds alone
