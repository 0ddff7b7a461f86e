"""A field that kills its process costs itself and nothing else."""

import math
from pathlib import Path

from db import reads
from imaging.synthetic import write_slides
from tests.crash.poisoned_worker import POISON
from tests.screening import WorkerProcess, copies, status, submit_synthetic, wait_for


def test_a_field_that_kills_its_worker_is_isolated_and_its_neighbours_are_screened(database, settings, tmp_path):
    write_slides(tmp_path / "smears", slides=1, fields=8, seed=3)
    slide = next(folder for folder in sorted((tmp_path / "smears").iterdir()) if folder.is_dir())
    folder = copies(slide, tmp_path / "slides", 8)
    poisoned = sorted(folder.rglob("*.png"))[7]
    poisoned.write_bytes(poisoned.read_bytes() + POISON)
    settings = settings.model_copy(update={"chunk_size": 64, "housekeeping_seconds": 0.3})
    submission = submit_synthetic(database, settings, folder)
    worker = WorkerProcess(settings, script=[str(Path(__file__).with_name("poisoned_worker.py"))])
    try:
        wait_for(lambda: status(database, submission.batch).state == "done", what="the batch ends")
    finally:
        worker.stop()
    with database.read() as connection:
        failures = {row.field: row.code for row in reads.failures(connection, submission.batch)}
        halvings = connection.exec_driver_sql("SELECT count(*) FROM event WHERE kind = 'chunk-halved'").scalar_one()
    assert failures[str(poisoned.relative_to(folder))] == "crashed-the-worker"
    assert list(failures.values()).count("crashed-the-worker") == 1
    found = status(database, submission.batch)
    assert found.screened == found.fields - len(failures)
    assert halvings <= math.log2(64)  # and two rounds alone
