"""Whatever slides, files, folders and models are called: every command sends text, and shows commands that are safe."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from allq.settings import load
from allq.text import printable
from cli import screening
from cli.main import app
from db import reads
from db.database import Database
from models import artefact, evaluate, recalibrate, train
from tests.hand_made import make_batch
from tests.unit.cli.test_activation import own_model
from tests.unit.cli.test_help import COMMANDS
from worker import health
from worker.submission import Submission

HOSTILE = "A \x1b]0;owned\x07\x1b[2J\u202e'; touch ${HOME}pwned; echo `id`$(id) [bold]x[/]\x9b1A\nb"
FILE = HOSTILE.replace("/", "")
SLIDES = (HOSTILE, "A; touch ${HOME}pwned; echo", "x`id`", "--help", "it's", "[red]", "-rf", "…")


class Shown:
    """Runs commands in this process, and keeps what they said."""

    def __init__(self) -> None:
        self.commands: set[tuple[str, ...]] = set()

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, (arguments, result.output)
        self.commands |= {command for command in COMMANDS if command == arguments[: len(command)]}
        for text in (result.stdout, result.stderr):
            assert [line for line in text.split("\n") if printable(line) != line] == [], arguments
        assert "[bold]" in result.output or "bold" not in result.output
        return result.stderr


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("ALLQ_OPERATOR", "Dr R. Franklin")
    fields = [f"{FILE}.png", f"bad{FILE}.png"]
    skipped = [(HOSTILE, f"not an image: {HOSTILE}")]
    return make_batch(dict.fromkeys(SLIDES, fields), skipped=skipped, root=f"/slides/{HOSTILE}")


def words_of(lines: list[str], home: Path) -> list[list[str]]:
    """What a shell makes of command lines; nothing in them may run, or write a file."""
    script = "\n".join(["allq() { printf '%s\\0' \"$@\"; printf '\\n\\0'; }", *lines])
    clean = {"PATH": os.environ["PATH"], "HOME": f"{home}/"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd=home.parent, env=clean)
    assert done.stderr == b""
    assert not list(home.rglob("*pwned*"))
    return [line.split("\0")[:-1] for line in done.stdout.decode().split("\n\0")[:-1]]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_command_that_signs_a_slide_names_that_very_slide_to_a_shell_and_runs_nothing_else(
    batch: int, home: Path, shown: Shown
) -> None:
    lines = [shown("review", "show", "--", slide).removeprefix("Sign it:").strip() for slide in SLIDES]
    signing = words_of(lines, home)
    assert [words[-1] for words in signing] == list(SLIDES)
    for words in signing:
        shown(*words)
    assert shown("review", "list") == "No slide waits for a review.\n"


def test_no_command_sends_anything_but_text_whatever_names_it_shows(
    batch: int, home: Path, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = own_model(home, FILE)
    folder = tmp_path / FILE
    folder.mkdir()
    (folder / "1.png").touch()
    report = SimpleNamespace(as_markdown=lambda: f"# {HOSTILE}\n", as_json=lambda: {"model": HOSTILE})
    monkeypatch.setattr(recalibrate, "recalibrate", lambda *_, **__: model)
    monkeypatch.setattr(train, "train", lambda *_: model)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: report)
    failing = health.Check(name="home", ok=False, detail=HOSTILE, advice=HOSTILE)
    monkeypatch.setattr(health, "checks", lambda _: iter([failing]))
    screened = iter([ended(batch, model, interrupted=interrupted) for interrupted in (True, False)])
    monkeypatch.setattr(screening, "screen_folder", lambda *_, **__: next(screened))
    number = str(batch)

    shown("submit", str(folder), "--model", model.id, "--note", HOSTILE)
    shown("screen", str(folder), "--model", model.id, code=130)
    shown("screen", str(folder), "--model", model.id, code=3)
    for command in (("status",), ("status", "last"), ("cancel", "last"), ("retry", number), ("results", number)):
        shown(*command)
    shown("results", number, "--level", "field")
    shown("results", number, "--level", "leukocyte")
    shown("results", number, "--out", str(folder / "results.csv"))
    shown("failures", number)
    shown("failures", number, "--skipped")
    shown("query", "worklist")
    shown("query", "slide_findings", f"slide={HOSTILE}")
    shown("review", "list")
    shown("review", "show", HOSTILE)
    shown("review", "sign", HOSTILE, "-d", "agree", "-r", HOSTILE)
    shown("review", "show", f"{HOSTILE}x", code=1)
    shown("audit", "show", HOSTILE, "--fields")
    shown("audit", "seal")
    shown("audit", "export", str(folder / f"{FILE}.zip"), f"--slide={HOSTILE}")
    shown("audit", "verify")
    shown("audit", "rotate-key")
    shown("audit", "restored", "--reason", "a test")
    shown("audit", "verify", "--checkpoints", HOSTILE, code=2)
    shown("models", "activate", model.id, "--reason", HOSTILE)
    for arguments in (("list",), ("show", model.id), ("compare", model.id, "synthetic-smears")):
        shown("models", *arguments)
    shown("models", "calibrate", str(folder), "--name", HOSTILE)
    shown("models", "show", HOSTILE + "x", code=1)
    shown("train", str(folder), "--name", HOSTILE)
    shown("evaluate", str(folder), "--out", str(folder / "report"))
    shown("doctor", code=1)
    shown("db", "upgrade")
    # A worker prints nothing but its log: tests/unit/allq/test_logging.py.
    assert set(COMMANDS) - shown.commands == {("worker",)}


def ended(batch: int, model: artefact.Model, *, interrupted: bool) -> screening.Screened:
    database = Database.open(load())
    with database.read() as connection:
        status = reads.batch_status(connection, batch)
    database.close()
    submission = Submission(
        batch=batch,
        resumed=False,
        added=0,
        slides=8,
        fields=16,
        skipped=1,
        unread=0,
        bytes=1,
        published=True,
        broker_problem=None,
    )
    return screening.Screened(status=status, submission=submission, model=model, interrupted=interrupted)
