"""Whoever changes something stands in the ledger with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from allq.settings import load
from cli.main import app
from db.database import Database
from imaging.synthetic import write_slides
from tests import store
from tests.hand_made import make_batch


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def events() -> list[tuple[object, ...]]:
    database = Database.open(load())
    try:
        return store.rows(database, "SELECT kind, actor FROM event WHERE actor LIKE 'c.curie%' ORDER BY id")
    finally:
        database.close()


def test_every_command_that_changes_a_batch_records_who_ran_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = make_batch({"A-1": ["f1.png", "bad.png"]})
    monkeypatch.setenv("ALLQ_OPERATOR", "c.curie@lab")
    write_slides(tmp_path / "slides", slides=1, fields=1, seed=1)
    batch = json.loads(run("submit", str(tmp_path / "slides"), "--model", "synthetic-smears", "--json"))["batch"]
    run("retry", str(failed))
    run("cancel", str(batch))
    told = [kind for kind, _ in events()]
    assert [kind for kind in told if kind != "model-remembered"] == [
        "batch-created",
        "batch-submitted",
        "fields-retried",
        "batch-cancelled",
    ]


def test_without_a_setting_the_operator_is_the_account_and_the_machine(home: Path) -> None:
    login, at, machine = load().operator.partition("@")
    assert login
    assert at
    assert machine


def test_a_home_that_allq_makes_is_for_its_account_alone(home: Path) -> None:
    make_batch({"A-1": ["f1.png"]})
    assert home.stat().st_mode & 0o777 == 0o700
