"""A worker for each card; the workers here are small scripts."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import structlog

from worker import cards
from worker.cards import CardWorker, named, together

NOTE_CARD = "import os, pathlib; pathlib.Path(os.environ['NOTE']).write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
UNTIL_TOLD = (
    "import os, pathlib, signal, sys, time; note = pathlib.Path(os.environ['NOTE']);"
    "signal.signal(signal.SIGTERM, lambda *_: (note.write_text(note.read_text() + 'told '), sys.exit(0)));"
    "note.write_text('ready ');"
    "time.sleep(60)"
)


FAILS = (
    "import os, pathlib, sys; note = pathlib.Path(os.environ['NOTE']);"
    "note.write_text((note.read_text() if note.exists() else '') + 'started ');"
    "sys.exit(70)"
)
FAILS_TWICE = FAILS.replace("sys.exit(70)", "sys.exit(70 if note.read_text().count('started') < 3 else 0)")


@pytest.fixture
def quick(monkeypatch):
    """Pauses of hundredths of a second."""
    monkeypatch.setattr(cards, "_LOOK", 0.01)
    monkeypatch.setattr(cards, "_PAUSE", 0.01)


def worker(script, note, card="0"):
    variables = {**os.environ, "NOTE": str(note), "CUDA_VISIBLE_DEVICES": card}
    return CardWorker(card=card, command=[sys.executable, "-S", "-c", script], variables=variables)


def test_cards_have_the_names_that_the_operator_gave_or_their_numbers():
    assert named(2, {}) == ["0", "1"]
    assert named(2, {"CUDA_VISIBLE_DEVICES": "3, 5"}) == ["3", "5"]
    assert named(2, {"CUDA_VISIBLE_DEVICES": "GPU-1f,GPU-2e,GPU-3d"}) == ["GPU-1f", "GPU-2e"]


def test_each_worker_sees_its_own_card(tmp_path):
    notes = [tmp_path / name for name in ("one", "two")]
    code = together([worker(NOTE_CARD, note, card) for note, card in zip(notes, ("3", "5"), strict=True)])
    assert code in {0, -signal.SIGTERM}  # the end of one is the end of both
    assert {note.read_text() for note in notes if note.exists()} <= {"3", "5"}
    assert any(note.exists() for note in notes)


def test_when_one_worker_fails_the_others_are_told_and_its_exit_code_is_passed_on(tmp_path):
    note = tmp_path / "note"
    fails = f"import pathlib, sys, time\nwhile not pathlib.Path({str(note)!r}).exists(): time.sleep(0.01)\nsys.exit(7)"
    assert together([worker(UNTIL_TOLD, note), worker(fails, tmp_path / "other")]) == 7
    assert note.read_text() == "ready told "


def test_a_worker_that_is_just_being_started_when_this_process_is_told_is_told_as_well(tmp_path, monkeypatch):
    note = tmp_path / "note"
    start = subprocess.Popen

    def told_meanwhile(*how, **more):
        process = start(*how, **more)
        deadline = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)  # handled before our caller has the process in its hands
        return process

    monkeypatch.setattr(subprocess, "Popen", told_meanwhile)
    assert together([worker(UNTIL_TOLD, note)]) == 0
    assert note.read_text() == "ready told "


def test_what_this_process_is_told_each_worker_is_told_once(tmp_path):
    notes = [tmp_path / name for name in ("one", "two")]
    late = []  # what comes after the workers' end must not end the tests
    before = signal.signal(signal.SIGTERM, lambda number, _: late.append(number))

    def tell():
        deadline = time.monotonic() + 60
        while not all(note.exists() and note.read_text() for note in notes) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        assert together([worker(UNTIL_TOLD, note) for note in notes]) == 0
        assert [note.read_text() for note in notes] == ["ready told ", "ready told "]
        os.kill(os.getpid(), signal.SIGTERM)
        assert late == [signal.SIGTERM], "the handler from before is back"
    finally:
        teller.join()
        signal.signal(signal.SIGTERM, before)


def test_a_worker_whose_card_fails_is_started_again_alone_and_the_others_go_on(tmp_path, quick):
    note, other = tmp_path / "note", tmp_path / "other"
    workers = [worker(FAILS_TWICE, note, "3"), worker(UNTIL_TOLD, other, "5")]
    with structlog.testing.capture_logs() as logged:
        assert together(workers) == 0
    assert note.read_text() == "started started started "
    assert other.read_text() == "ready told ", "once started, and told at the end"
    told = [(entry["event"], entry["card"], entry["seconds"]) for entry in logged]
    event = "a card's process failed and is started again"
    assert told == [(event, "3", 0.01), (event, "3", 0.02)]


def test_a_card_that_fails_again_and_again_is_left_out_and_the_others_go_on(tmp_path, quick):
    note, other = tmp_path / "note", tmp_path / "other"
    workers = [worker(FAILS, note, "3"), worker(UNTIL_TOLD, other, "5")]
    out = threading.Event()

    def tell():
        deadline = time.monotonic() + 60
        while not (workers[0].due is None and other.exists() and other.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        out.set()
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    with structlog.testing.capture_logs() as logged:
        assert together(workers) == 0
    teller.join()
    assert out.is_set()
    assert note.read_text() == "started " * 5
    assert other.read_text() == "ready told "
    (left_out,) = [entry for entry in logged if entry["log_level"] == "error"]
    assert left_out["event"].startswith("a card is left out")
    assert (left_out["card"], left_out["failures"]) == ("3", 5)


def test_when_no_card_is_left_the_whole_ends_as_its_workers_did(tmp_path, quick):
    assert together([worker(FAILS, tmp_path / name, name) for name in ("3", "5")]) == 70
    assert [(tmp_path / name).read_text() for name in ("3", "5")] == ["started " * 5] * 2


def test_failures_of_long_ago_do_not_count_and_pauses_double_up_to_the_longest(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(cards.time, "monotonic", lambda: now)
    one = worker(FAILS, "note")
    pauses = []
    for _ in range(cards._FAILURES - 1):
        one.failed()
        pauses.append(one.due - now)
        now += 30
    assert pauses == [1, 2, 4, 8]
    now += cards._WINDOW
    one.failed()
    assert one.due == now + 1
    monkeypatch.setattr(cards, "_FAILURES", 100)
    for _ in range(10):
        one.failed()
    assert one.due == now + 60


def test_a_worker_that_waits_to_be_started_again_is_not_when_this_process_is_told_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "_PAUSE", 60.0)
    note = tmp_path / "note"
    failing = worker(FAILS, note)

    def tell():
        deadline = time.monotonic() + 60
        while not failing.failures and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    assert together([failing]) == 0
    teller.join()
    assert note.read_text() == "started "


def test_workers_on_cards_are_told_which_and_never_take_the_processor_instead(monkeypatch, settings):
    started = []
    monkeypatch.setattr(cards, "together", lambda workers: started.extend(workers) or 0)
    assert cards.run_on_each(settings, ["3", "5"], ["stat"]) == 0
    assert [one.command[-2:] for one in started] == [["--card", "3"], ["--card", "5"]]
    assert [one.variables["CUDA_VISIBLE_DEVICES"] for one in started] == ["3", "5"]
    assert {one.variables["ALLQ_DEVICE"] for one in started} == {"cuda"}
