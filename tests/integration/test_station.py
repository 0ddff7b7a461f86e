"""One process's means to screen, without Celery: what it does with a chunk that it can't finish."""

import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from allq.errors import DatabaseUnreachable, ModelNotFound
from db.database import Database
from tests import store
from worker import broker, station
from worker.station import Station


@pytest.fixture
def lone_field(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 1)])
    return chunk


@pytest.fixture
def here(settings, database):
    found = Station(settings.model_copy(update={"housekeeping_seconds": 0.01}))
    yield found
    found.close()


def chunk_row(database):
    return store.rows(database, "SELECT state, attempt, crashes, published_at FROM chunk")


def test_a_chunk_of_a_missing_model_is_left_to_others_unclaimed_and_the_model_is_named(
    database, here, lone_field, monkeypatch
):
    told = []
    monkeypatch.setattr(broker, "announce_unusable", lambda _settings, model, problem: told.append((model, problem)))
    with database.begin() as conn:
        station.chunks.mark_published(conn, [lone_field])
    assert here.screen_chunk(lone_field) is None
    assert chunk_row(database) == [("pending", 0, 0, None)], "to be published again, and nothing counted"
    assert told[0][0] == store.MODEL_ID
    assert "There is no model" in told[0][1]


def test_an_engine_that_does_not_load_is_no_fault_of_the_fields(database, here, lone_field, monkeypatch):
    def broken(_model):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(broker, "announce_unusable", lambda *_: None)
    monkeypatch.setattr(here, "classifier", broken)
    assert here.screen_chunk(lone_field) is None
    assert chunk_row(database)[0][:3] == ("pending", 0, 0)


def test_a_card_that_answers_no_more_while_a_model_loads_is_not_taken_for_a_model_that_can_not_be_used(
    database, here, lone_field, monkeypatch
):
    def broken(_model):
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(here, "classifier", broken)
    with pytest.raises(RuntimeError, match="ECC"):
        here.screen_chunk(lone_field)
    assert chunk_row(database)[0][:3] == ("pending", 0, 0)


def test_an_unforeseen_error_is_counted(database, here, lone_field, monkeypatch):
    def confused(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(here, "classifier", lambda _model: None)
    monkeypatch.setattr(here, "_compute", confused)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            here.screen_chunk(lone_field)
    ((code, sentence),) = store.rows(database, "SELECT failure, failure_sentence FROM field")
    assert code == "internal"
    assert "ZeroDivisionError" in sentence


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_card_that_answers_no_more_leaves_its_chunk_as_that_of_a_process_that_crashed(
    database, here, lone_field, monkeypatch, error
):
    def failed(*_):
        raise error

    monkeypatch.setattr(here, "classifier", lambda _model: None)
    monkeypatch.setattr(here, "_compute", failed)
    with pytest.raises(RuntimeError):
        here.screen_chunk(lone_field)
    assert chunk_row(database)[0][:3] == ("running", 1, 0), "counted when it is found"


_TASK = """
from worker import tasks

class Station:
    def screen_chunk(self, chunk_id):
        raise RuntimeError({error!r})

tasks.current_station = Station
tasks.screen(1)
"""


@pytest.mark.parametrize(("error", "code"), [("CUDA error: unspecified launch failure", 70), ("another one", 0)])
def test_a_process_whose_card_answers_no_more_ends(error, code):
    done = subprocess.run(
        [sys.executable, "-c", _TASK.format(error=error)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    said = done.stdout + done.stderr
    assert error in said
    assert ("its card answers no more" in said) is (code == 70)


@pytest.mark.parametrize("error", [DatabaseUnreachable("away"), ModelNotFound("gone"), SystemExit()])
def test_what_is_no_fault_of_the_fields_is_not_counted(database, here, lone_field, monkeypatch, error):
    def stopped(*_):
        raise error

    monkeypatch.setattr(here, "classifier", lambda _model: None)
    monkeypatch.setattr(here, "_compute", stopped)
    for _ in range(3):
        with pytest.raises(type(error)):
            here.screen_chunk(lone_field)
    assert chunk_row(database)[0][:3] == ("pending", 3, 0)


def test_a_chunk_is_given_back_when_the_database_answers_again(database, here, lone_field, monkeypatch):
    begin, away = Database.begin, []

    @contextmanager
    def unreliable(self):
        if away and away.pop():
            raise DatabaseUnreachable("away")
        with begin(self) as conn:
            yield conn

    def interrupted(*_):
        away.extend([True] * 3)
        raise DatabaseUnreachable("away")

    monkeypatch.setattr(Database, "begin", unreliable)
    monkeypatch.setattr(station, "sleep", lambda _seconds: None)
    monkeypatch.setattr(here, "classifier", lambda _model: None)
    monkeypatch.setattr(here, "_compute", interrupted)
    with pytest.raises(DatabaseUnreachable):
        here.screen_chunk(lone_field)
    assert chunk_row(database)[0][:3] == ("pending", 1, 0)
