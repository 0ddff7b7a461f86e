"""A worker for each card; the workers here are small scripts."""

import os
import signal
import subprocess
import sys
import threading
import time

from worker.cards import named, together

NOTE_CARD = "import os, pathlib; pathlib.Path(os.environ['NOTE']).write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
UNTIL_TOLD = (
    "import os, pathlib, signal, sys, time; note = pathlib.Path(os.environ['NOTE']);"
    "signal.signal(signal.SIGTERM, lambda *_: (note.write_text(note.read_text() + 'told '), sys.exit(0)));"
    "note.write_text('ready ');"
    "time.sleep(60)"
)


def worker(script, note, card="0"):
    variables = {**os.environ, "NOTE": str(note), "CUDA_VISIBLE_DEVICES": card}
    return [sys.executable, "-S", "-c", script], variables


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
