"""Submitting a folder again while its batch is unfinished."""

from itertools import count

import pytest

from allq import faults
from allq.errors import DatabaseUnreachable, StoreError, SubmissionError
from db import batches, reads, slidecalls
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


def waiting(database):
    return [chunk for (chunk,) in store.rows(database, "SELECT id FROM chunk WHERE state = 'pending' ORDER BY id")]


def raising_at(point, times):
    """What interrupts a submission when it comes to `point` for the so-many-th time."""
    reached = count(1)

    def reach(here):
        if here == point and next(reached) == times:
            raise KeyboardInterrupt

    return reach


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


@pytest.fixture
def flat(tmp_path, monkeypatch):
    """A folder of more files than are registered in one transaction: five images, and three files that are none."""
    monkeypatch.setattr(submission, "_SLICE_FIELDS", 2)
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(8, 13):
        (folder / f"field-{number}.png").write_bytes(b"looked at later")
    for number in range(3):
        (folder / f"notes-{number}.txt").write_text("no image")
    return folder


def test_a_folder_with_very_many_files_is_registered_in_several_transactions(
    database, settings, flat, asked, monkeypatch
):
    seen, told = [], []
    register = batches.register

    def watched(connection, batch, slides, **how):
        seen.append([(slide.name, len(slide.fields), slide.complete) for slide in slides])
        return register(connection, batch, slides, **how)

    monkeypatch.setattr(batches, "register", watched)
    done = submit(database, settings, flat, asked(), progress=lambda *found: told.append(found))
    assert seen == [[("flat", 2, False)], [("flat", 2, False)], [("flat", 1, True)]]
    assert told == [(1, 2, 0), (1, 4, 0), (1, 4, 2), (1, 5, 3)], "one slide"
    assert (done.slides, done.fields, done.skipped, done.added) == (1, 5, 3, 5)
    assert skipped(database, done.batch) == ["notes-0.txt", "notes-1.txt", "notes-2.txt"]
    paths = [path for (path,) in store.rows(database, "SELECT path FROM field ORDER BY id")]
    assert paths == [f"field-{number}.png" for number in range(8, 13)], "in natural order"
    assert store.rows(database, "SELECT complete FROM slide") == [(True,)]
    kinds = [kind for (kind,) in store.rows(database, "SELECT kind FROM event WHERE batch_id IS NOT NULL ORDER BY id")]
    assert kinds == ["batch-created", "batch-submitted"]
    store.assert_sums_hold(database)


@pytest.mark.parametrize(
    ("point", "times", "kept"),
    [("submit.written", 2, 2), ("submit.written", 4, 4), ("submit.committed", 2, 4), ("submit.finishing", 1, 5)],
)
def test_a_slide_whose_submission_is_cut_short_is_screened_so_far_and_called_once_it_is_whole(
    database, settings, flat, asked, monkeypatch, point, times, kept
):
    def call_what_is_due():
        with database.begin() as connection:
            return slidecalls.call_due(connection, lambda model, rows: store.call(rows), worker="tester")

    with monkeypatch.context() as patch:
        patch.setattr(faults, "handler", raising_at(point, times))
        with pytest.raises(KeyboardInterrupt):
            submit(database, settings, flat, asked())
    assert store.rows(database, "SELECT fields, complete FROM slide") == [(kept, kept == 5)]
    store.work(database, waiting(database))
    if kept < 5:
        assert call_what_is_due() == 0
        assert store.rows(database, "SELECT count(*) FROM slide_call") == [(0,)], "more of the slide will come"
    done = submit(database, settings, flat, asked())
    assert (done.batch, done.resumed, done.added) == (1, True, 5 - kept)
    assert (done.slides, done.fields, done.skipped) == (1, 5, 3)
    store.work(database, waiting(database))
    call_what_is_due()
    assert store.rows(database, "SELECT count(*) FROM slide_call") == [(1,)]
    assert store.rows(database, "SELECT fields, screened, complete FROM slide") == [(5, 5, True)]
    with database.read() as connection:
        assert reads.batch_status(connection, 1).state == "done"
    store.assert_sums_hold(database)


def test_a_called_slide_that_very_many_files_are_added_to_is_called_again_once_it_is_whole(
    database, settings, folder, asked, monkeypatch
):
    monkeypatch.setattr(submission, "_SLICE_FIELDS", 2)
    submit(database, settings, folder, asked())
    store.work(database, waiting(database)[:1])
    for number in range(3, 8):
        (folder / "A" / f"{number}.png").write_bytes(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(faults, "handler", raising_at("submit.committed", 1))
        with pytest.raises(KeyboardInterrupt):
            submit(database, settings, folder, asked(), resume=True)
    slide_a = "SELECT fields, complete FROM slide WHERE name = 'A'"
    assert store.rows(database, slide_a) == [(4, False)]
    store.work(database, waiting(database))
    assert store.rows(database, "SELECT count(*) FROM slide_call") == [(2,)], "of A as it was, and of B"
    assert submit(database, settings, folder, asked()).added == 3
    assert store.rows(database, slide_a) == [(7, True)]
    store.work(database, waiting(database))
    assert store.rows(database, "SELECT count(*) FROM slide_call") == [(3,)]
    store.assert_sums_hold(database)
