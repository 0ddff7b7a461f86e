"""`allq screen` as a person runs it: a process of its own, on the embedded database and broker."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from imaging.synthetic import write_slides
from tests.screening import SYNTHETIC_MODEL, wait_for

PATIENCE = 180


class Shell:
    """Runs `allq` with a home of its own and no other setting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ALLQ_")}
        self.environment = kept | {"ALLQ_HOME": str(self.home), "ALLQ_HOUSEKEEPING_SECONDS": "1"}

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "allq", *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.log()}"
        return done

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "allq", *arguments],
            env=self.environment | variables,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments).stdout.splitlines()]

    def status(self) -> dict[str, Any] | None:
        found = self.rows("status", "--json", "--limit", "1")
        return found[0] if found else None

    def log(self) -> str:
        log = self.home / "worker.log"
        return log.read_text(errors="replace")[-6000:] if log.exists() else "(no worker.log)"

    def processes(self) -> list[psutil.Process]:
        """What still runs with this home, and isn't this test."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("ALLQ_HOME") == str(self.home):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of slides with one file broken, and the table of what was rendered."""
    folder = tmp_path_factory.mktemp("smears")
    truth = write_slides(folder / "slides", slides=3, fields=14, seed=11)
    return folder / "slides", truth


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_folder_with_a_broken_file_ends_with_3_and_every_field_accounted_for(
    shell: Shell, smears: tuple[Path, Path]
) -> None:
    slides, truth = smears
    done = shell.run("screen", str(slides), "--model", SYNTHETIC_MODEL, "--json", code=3)
    (record,) = [json.loads(line) for line in done.stdout.splitlines()]
    with truth.open(newline="", encoding="utf-8") as file:
        rendered = list(csv.DictReader(file))
    assert record["fields"] == len(rendered)
    assert record["state"] == "done"
    assert record["fields"] == record["screened"] + record["failed"] + record["cancelled"]
    assert record["failed"] >= 1
    assert record["synthetic"] is True
    assert "Traceback" not in done.stderr

    fields = shell.rows("results", "last", "--level", "field", "--json")
    assert Counter(row["state"] for row in fields) == {"screened": record["screened"], "failed": record["failed"]}
    assert {row["field"] for row in fields} == {f"{row['slide']}/{row['field']}" for row in rendered}
    failures = shell.rows("failures", "last", "--json")
    assert len(failures) == record["failed"]
    assert all(row["reason"] for row in failures)

    leukocytes = shell.rows("results", "last", "--level", "leukocyte", "--json")
    assert len(leukocytes) == sum(row["leukocytes"] or 0 for row in fields) > 0
    # A slide counts those of the fields that can be judged.
    assert record["leukocytes"] <= len(leukocytes)

    text = shell.run("screen", str(slides), "--model", SYNTHETIC_MODEL, code=3).stdout
    assert "trained on synthetic smears only, not for patients" in text
    assert "linked to a finding of the same bytes" in text
    assert "leukocytes" in text
    assert "negative" not in text.lower()
    assert failures[0]["field"] in text
    assert not shell.processes()


def many(slides: Path, folder: Path, *, copies: int) -> Path:
    """Enough work to be interrupted in: copies of each slide, their files made different by a few bytes at the end."""
    for number in range(copies):
        for slide in sorted(path for path in slides.iterdir() if path.is_dir()):
            target = folder / f"{slide.name}-{number:02}"
            shutil.copytree(slide, target)
            for file in target.iterdir():
                with file.open("ab") as stream:
                    stream.write(number.to_bytes(4, "little"))
    return folder


def begun(shell: Shell, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()
    status = shell.status()
    return status is not None and status["screened"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_screening_that_is_stopped_is_taken_up_and_nothing_is_done_twice(
    shell: Shell, smears: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    folder = many(smears[0], tmp_path / "many", copies=8)
    process = shell.start("screen", str(folder), "--model", SYNTHETIC_MODEL, "-c", "1", ALLQ_CHUNK_SIZE="4")
    wait_for(lambda: begun(shell, process), what="the first chunk is recorded", seconds=PATIENCE)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE)
    if number is signal.SIGKILL:
        # The worker ends by itself after what it has in hand, or is killed as well: here it is.
        for left in shell.processes():
            left.kill()
    else:
        assert process.returncode == 130, stderr
        assert "is kept" in stderr
        assert "allq screen" in stderr
        assert not shell.processes()
    before = shell.status()
    assert before is not None
    assert before["waiting"] > 0
    assert before["fields"] == before["waiting"] + before["screened"] + before["failed"] + before["cancelled"]

    started = time.monotonic()
    done = shell.run("screen", str(folder), "--model", SYNTHETIC_MODEL, "--json", code=3)
    after = json.loads(done.stdout)
    assert time.monotonic() - started < PATIENCE
    assert after["batch"] == before["batch"]
    assert after["resumed"] is True
    assert (after["state"], after["waiting"]) == ("done", 0)
    fields = shell.rows("results", "last", "--level", "field", "--json")
    assert len({row["field"] for row in fields}) == len(fields) == after["fields"]
    contents = {row["sha256"] for row in fields if row["state"] == "screened"}
    assert len(contents) + after["findings_linked"] == after["screened"]


def test_a_folder_without_images_is_one_sentence(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = shell.run("screen", str(tmp_path / "empty"), "--model", SYNTHETIC_MODEL, code=1)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert shell.run("screen", str(tmp_path / "nowhere"), "--model", SYNTHETIC_MODEL, code=1).stderr.count("\n") == 1
    assert "nonsense" in shell.run("screen", str(tmp_path), "--model", "nonsense", code=1).stderr


def test_submit_prints_the_batch_and_says_that_the_work_waits(shell: Shell, smears: tuple[Path, Path]) -> None:
    done = shell.run("submit", str(smears[0]), "--model", SYNTHETIC_MODEL)
    assert done.stdout == "1\n"
    assert "allq worker" in done.stderr
    assert shell.rows("status", "1", "--json")[0]["state"] == "waiting"
    assert json.loads(shell.run("cancel", "1", "--json").stdout)["fields"] > 0
    assert shell.rows("status", "1", "--json")[0]["state"] == "cancelled"
    assert json.loads(shell.run("cancel", "1", "--json").stdout)["fields"] == 0


def test_the_doctor_finds_an_installation_in_order_and_says_what_to_do_where_it_is_not(shell: Shell) -> None:
    shell.environment["ALLQ_MODEL"] = SYNTHETIC_MODEL
    checks = shell.rows("doctor", "--json")
    assert not [check for check in checks if check["ok"] is False]
    assert {
        "settings",
        "home",
        "disk",
        "database",
        "schema",
        "ledger",
        "broker",
        "workers",
        "model",
        "engine",
        "clock",
    } <= {check["check"] for check in checks}
    assert "ok" in shell.run("doctor").stdout
    shell.environment |= {"ALLQ_MODEL": "nonsense", "ALLQ_BROKR_URL": "redis://broker"}
    done = shell.run("doctor", code=1)
    assert "nonsense" in done.stdout
    assert "no such setting: ALLQ_BROKR_URL" in done.stdout
    assert "Did you mean ALLQ_BROKER_URL?" in done.stdout
    assert "failed" in done.stderr


def test_nothing_that_lies_among_the_slides_is_run(tmp_path):
    write_slides(tmp_path / "slides", slides=1, fields=2, seed=11)
    share = tmp_path / "share"
    share.mkdir()
    ran = tmp_path / "ran"
    for name in (
        "allq",
        "cli",
        "worker",
        "db",
        "models",
        "redis",
        "celery",
        "celeryconfig",
        "cv2",
        "openvino",
        "numpy",
    ):
        (share / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write('{name} ')\nraise SystemExit(1)\n")
    shell = Shell(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "allq", "screen", str(tmp_path / "slides"), "--model", SYNTHETIC_MODEL],
        env=shell.environment,
        cwd=share,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert not ran.exists(), f"imported from the folder of slides: {ran.read_text()}"
    assert done.returncode in {0, 3}, f"{done.stderr}\n{shell.log()}"  # 3: one of the smears is made so


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end on Linux only")
def test_a_killed_command_leaves_neither_worker_nor_broker_behind(tmp_path):
    write_slides(tmp_path / "slides", slides=2, fields=8, seed=11)
    shell = Shell(tmp_path)
    command = shell.start("screen", str(tmp_path / "slides"), "--model", SYNTHETIC_MODEL)
    try:
        socket = shell.home / "valkey" / "valkey.sock"
        wait_for(socket.exists, what="the worker starts its broker")
        command.kill()
        command.communicate()
        wait_for(lambda: not shell.processes() and not socket.exists(), what="what it started ends", seconds=60)
    finally:
        for left in shell.processes():
            left.kill()
