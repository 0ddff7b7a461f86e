"""Every command tells how it is used, in its help and in the README."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from allq.settings import load
from cli.main import app
from cli.options import complete_batch, complete_model
from models.artefact import CONFIGURATION, SHIPPED, available
from tests.hand_made import make_batch

README = Path(__file__).parents[3] / "README.md"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


def test_the_commands_of_the_contract_are_there() -> None:
    contract = (
        "screen submit worker status results failures retry cancel query models-list models-show train evaluate doctor"
        " models-compare models-activate db-upgrade review-list review-show review-sign"
        " audit-verify audit-seal audit-export audit-show"
    )
    assert set(contract.split()) <= {"-".join(command) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_has_an_example_that_starts_with_it(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    example = result.stdout.split("Example:", 1)
    assert len(example) == 2
    assert f"allq {' '.join(command)}" in " ".join(example[1].split())


@pytest.mark.parametrize("command", sorted({command[:-1] for command in COMMANDS}), ids=" ".join)
def test_the_help_of_a_group_has_an_example_too(command: tuple[str, ...]) -> None:
    text = " ".join(CliRunner().invoke(app, [*command, "--help"]).stdout.split())
    assert f"Example: allq {' '.join(command)}".rstrip() in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_has_no_boxes_in_a_pipe(command: tuple[str, ...]) -> None:
    text = CliRunner().invoke(app, [*command, "--help"]).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert not set("│─╭╮") & set(text)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_readme_has_a_row_for_the_command(command: tuple[str, ...]) -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `allq ")]
    assert any(row.removeprefix("| `allq ").startswith(command[0]) and command[-1] in row for row in rows)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_that_prints_data_has_json(command: tuple[str, ...]) -> None:
    text = CliRunner().invoke(app, [*command, "--help"]).stdout
    assert ("--json" in text) == (command[0] != "worker")


def complete(line: str, home: Path) -> list[str]:
    """What bash would offer for `line`."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import app; app(prog_name='allq')"],
        env={
            **os.environ,
            "ALLQ_HOME": str(home),
            "_ALLQ_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_shell_completes_commands_queries_models_and_batches(home: Path) -> None:
    assert complete("allq sta", home) == ["status"]
    assert complete("allq query work", home) == ["worklist"]
    assert complete("allq results la", home) == ["last"]
    assert complete("allq results last --format par", home) == ["parquet"]
    names = sorted({model.name for model in available(load())})
    assert complete("allq screen x --model ", home) == names


def test_what_a_shell_is_offered_has_nothing_in_it_that_a_shell_would_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [text for text, _ in complete_batch("")] == ["last"]
    make_batch({"A": ["f1.png"]}, root="/slides/x\\\"); touch pwned; ($(id)`id`'\x1b\u202e")
    assert complete_batch("1") == [("1", "/slides/x???? touch pwned? ???id??id????")]
    folder = home / "models" / "own"
    shutil.copytree(SHIPPED / "synthetic-smears", folder)
    told = json.loads((folder / CONFIGURATION).read_text("utf-8"))
    (folder / CONFIGURATION).write_text(json.dumps(told | {"name": 'a"); touch pwned; ('}), "utf-8")
    assert len(available(load())) == len(complete_model("")) + 1


def test_the_list_of_commands_cuts_no_sentence_short() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "..." not in text.replace("[ARGS]...", "")
    assert "Example: allq screen ./slides" in text
