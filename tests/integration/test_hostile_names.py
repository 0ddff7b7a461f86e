"""Names of slides and files that are SQL, format strings, terminal commands or formulas: they stay names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from allq.settings import Settings
from allq.text import printable
from cli.main import app
from db.database import Database
from tests import store
from tests.screening import submit_synthetic
from worker.local import environment

NAMES = (
    "'); DROP TABLE field; --",
    '" OR 1=1 --',
    "' UNION SELECT body FROM event --",
    "\\",
    "%s %(batch)s %%",
    ":batch :slide {now} {lock} $1 ?",
    "a\x00"[:1] + "\x1b]0;owned\x07\x1b[2J",
    "\u202egnp.1\u202c",
    "=cmd|' C calc'!A1",
    "@SUM(1+1)*cmd",
    "<script>alert(1)</script>",
    "[bold red]x[/] :skull:",
    "a\nb\r2026-01-01 [info] chunk recorded",
)


@pytest.fixture
def submitted(database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    for number, name in enumerate(NAMES):
        folder = tmp_path / "slides" / name.replace("/", "")
        folder.mkdir(parents=True)
        (folder / f"{number} {name.replace('/', '')}.png").touch()
    for variable, value in environment(settings.model_copy(update={"operator": "tester"})).items():
        monkeypatch.setenv(variable, value)
    return submit_synthetic(database, settings, tmp_path / "slides").batch


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_hostile_name_is_stored_and_found_as_it_is_and_harms_nothing(database: Database, submitted: int) -> None:
    found = store.rows(database, "SELECT name FROM slide WHERE batch_id = :b", b=submitted)
    assert sorted(str(name) for (name,) in found) == sorted(name.replace("/", "") for name in NAMES)
    (chunk,) = (int(str(row[0])) for row in store.rows(database, "SELECT id FROM chunk"))
    store.work(database, [chunk])
    for (name,) in found:
        answer = json.loads(run("query", "slide_findings", f"slide={name}", "--json"))
        assert answer["batch"] == submitted
        assert answer["field"].startswith(f"{name}/")
    assert store.rows(database, "SELECT count(*) FROM field") == [(len(NAMES),)]
    store.assert_sums_hold(database)


def test_nothing_that_is_printed_moves_a_cursor_or_adds_a_line(database: Database, submitted: int) -> None:
    (chunk,) = (int(str(row[0])) for row in store.rows(database, "SELECT id FROM chunk"))
    store.work(database, [chunk], store.failed)
    for command in (
        ("results", str(submitted)),
        ("results", str(submitted), "--level", "field"),
        ("results", str(submitted), "--level", "field", "--json"),
        ("failures", str(submitted)),
        ("failures", str(submitted), "--json"),
        ("query", "failures", f"batch={submitted}"),
        ("query", "worklist", "--json"),
    ):
        shown = run(*command)
        assert all(printable(line) == line for line in shown.split("\n")), command
        assert len(shown.splitlines()) <= len(NAMES) + 3, command
