"""Submitting a folder again while its batch is unfinished."""

import pytest

from allq.errors import DatabaseUnreachable, StoreError, SubmissionError
from db import batches, reads
from models import artefact
from tests import store
from tests.screening import SYNTHETIC_MODEL
from worker import submission
from worker.submission import SubmitOptions, submit


@pytest.fixture
def folder(tmp_path):
    for name in ("A/1.png", "A/2.png", "B/1.png", "A/notes.txt"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"looked at later")
    return tmp_path / "slides"


@pytest.fixture
def asked(settings):
    model = artefact.find(settings, SYNTHETIC_MODEL)
    return lambda **more: SubmitOptions(model=model, operator=settings.operator, **more)


def skipped(database, batch):
    with database.read() as connection:
        return [row.path for row in reads.skipped(connection, batch)]


def test_files_that_came_in_meanwhile_are_added_to_the_batch_that_is_taken_up(database, settings, folder, asked):
    first = submit(database, settings, folder, asked())
    (folder / "A" / "3.png").write_bytes(b"new")
    (folder / "C").mkdir()
    (folder / "C" / "1.png").write_bytes(b"new")
    again = submit(database, settings, folder, asked(), resume=True)
    assert (again.batch, again.resumed, again.added) == (first.batch, True, 2)
    assert (again.slides, again.fields) == (3, 5)
    assert skipped(database, again.batch) == ["A/notes.txt"], "noted once"
    unchanged = submit(database, settings, folder, asked(), resume=True)
    assert (unchanged.batch, unchanged.resumed, unchanged.added, unchanged.fields) == (first.batch, True, 0, 5)
    kinds = [kind for (kind,) in store.rows(database, "SELECT kind FROM event WHERE batch_id IS NOT NULL ORDER BY id")]
    assert kinds == ["batch-created", "batch-submitted", "batch-reopened", "batch-submitted"]
    with database.read() as connection:
        assert reads.batch_status(connection, again.batch).state == "waiting"
    store.assert_sums_hold(database)


def test_another_queue_or_note_than_the_unfinished_batch_has_is_refused(database, settings, folder, asked):
    first = submit(database, settings, folder, asked(note="tray 12"))
    for other in ({"queue": "stat"}, {"note": "tray 13"}):
        with pytest.raises(SubmissionError, match=f"allq cancel {first.batch}"):
            submit(database, settings, folder, asked(**other), resume=True)
    for same in ({}, {"queue": "routine"}, {"note": "tray 12"}):
        assert submit(database, settings, folder, asked(**same), resume=True).batch == first.batch
    assert submit(database, settings, folder, asked(queue="stat")).batch != first.batch, "submit begins anew"


def test_a_submission_that_was_cut_short_is_completed_and_says_so(database, settings, folder, asked, monkeypatch):
    def power_cut(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(batches, "finish_registration", power_cut)
        with pytest.raises(InterruptedError):
            submit(database, settings, folder, asked())
    (folder / "B" / "2.png").write_bytes(b"new")
    done = submit(database, settings, folder, asked())
    assert (done.resumed, done.added, done.fields) == (True, 1, 4)
    assert skipped(database, done.batch) == ["A/notes.txt"]
    assert submission.submit(database, settings, folder, asked()).resumed is False


def test_a_database_that_goes_away_after_the_last_row_is_no_reason_to_submit_again(
    database, settings, folder, asked, monkeypatch
):
    def away(*_):
        raise DatabaseUnreachable("The database can't be reached.")

    monkeypatch.setattr(submission, "publish", away)
    with pytest.raises(StoreError, match="Batch 1 is submitted as a whole and will be screened: don't submit it again"):
        submit(database, settings, folder, asked())
    with database.read() as connection:
        assert reads.batch_status(connection, 1).state == "waiting"
