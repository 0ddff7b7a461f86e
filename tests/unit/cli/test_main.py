"""The edge of the command line: every error becomes one sentence and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from allq.errors import AllqError, NotFound, UsageError
from allq.text import printable
from cli.edge import Commands
from cli.main import app
from tests.hand_made import make_batch

RUN = CliRunner()


def edge(error: BaseException) -> typer.Typer:
    failing = typer.Typer(cls=Commands, pretty_exceptions_enable=False, rich_markup_mode=None)

    @failing.callback()
    def main(debug: bool = False) -> None: ...

    @failing.command()
    def fail() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (NotFound("There is no batch 7."), 1, "There is no batch 7.\n"),
        (UsageError("'x' is no batch."), 2, "'x' is no batch.\n"),
        (AllqError("Bad name a\x1b[2Jb."), 1, "Bad name a\\x1b[2Jb.\n"),
        (FileNotFoundError(2, "No such file or directory", "out/x.csv"), 1, "No such file or directory: out/x.csv\n"),
        (KeyboardInterrupt(), 130, "Interrupted. The work done so far is kept.\n"),
    ],
)
def test_an_error_is_one_sentence_on_stderr_and_its_exit_code(error: BaseException, code: int, sentence: str) -> None:
    result = RUN.invoke(edge(error), ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (code, sentence, "")


def test_a_fault_of_ours_names_itself_without_a_traceback_and_with_one_under_debug() -> None:
    quiet = RUN.invoke(edge(ZeroDivisionError("division by zero")), ["fail"])
    assert quiet.exit_code == 1
    assert quiet.stderr.startswith("allq failed unexpectedly (ZeroDivisionError: division by zero)")
    assert "Traceback" not in quiet.stderr
    loud = RUN.invoke(edge(ZeroDivisionError("division by zero")), ["--debug", "fail"])
    assert loud.exit_code == 1
    assert "Traceback" in loud.stderr


def test_a_traceback_that_is_asked_for_moves_no_cursor_and_repeats_no_row() -> None:
    error = ValueError("a\x1b[2Jb\u202e\nDETAIL:  Key (name)=(H26-0102) already exists.\n")
    told = RUN.invoke(edge(error), ["--debug", "fail"]).stderr
    assert "ValueError: a\\x1b[2Jb\\u202e\nallq failed unexpectedly (ValueError: a" in told
    assert "H26-0102" not in told
    assert all(printable(line) == line for line in told.split("\n"))


def test_a_reader_that_goes_away_is_no_error() -> None:
    result = RUN.invoke(edge(BrokenPipeError()), ["fail"])
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["results"], ["status", "--limit", "0"], ["screen", "x", "--queue", "x"]]
)
def test_wrong_usage_ends_with_2_and_leaves_stdout_empty(arguments: list[str]) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


@pytest.mark.parametrize("arguments", [["--{}"], ["{}"], ["submit", "x", "--{}"], ["review", "sign", "A", "-d", "{}"]])
def test_what_wrong_usage_repeats_moves_no_cursor(arguments: list[str]) -> None:
    result = RUN.invoke(app, [argument.format("\x1b[31m\u202eRED\n") for argument in arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "RED" in result.stderr
    assert all(printable(line) == line for line in result.stderr.split("\n"))


def test_the_version_is_printed() -> None:
    from allq.version import __version__

    assert RUN.invoke(app, ["--version"]).stdout == f"allq {__version__}\n"


def test_a_misspelt_setting_is_named_in_one_line_by_every_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLQ_DATABSE_URL", "postgresql://x")
    monkeypatch.setenv("ALLQ_TEST_DATA", "x")
    sentence = "Ignored, as allq has no such setting: ALLQ_DATABSE_URL (ALLQ_DATABASE_URL?).\n"
    for arguments in (["status", "--json"], ["models", "list"], ["query"]):
        result = RUN.invoke(app, arguments)
        assert result.exit_code == 0
        assert result.stderr.startswith(sentence)
        assert "DATABSE" not in result.stdout


HEAVY = ("torch", "torchvision", "openvino", "cv2", "celery", "alembic", "pyarrow", "pandas", "PIL")
LIGHT_COMMANDS = [
    ["--help"],
    ["screen", "--help"],
    ["status"],
    ["status", "--json"],
    ["query"],
    ["query", "worklist"],
    ["failures", "last"],
    ["results", "last"],
    ["results", "last", "--level", "field", "--format", "csv"],
    ["results", "last", "--level", "leukocyte", "--json"],
    ["retry", "last"],
    ["cancel", "last"],
    ["failures", "last", "--skipped"],
    ["models", "list"],
    ["models", "show", "synthetic-smears"],
]


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_commands_that_do_not_classify_start_without_heavy_libraries(arguments: list[str], home: Path) -> None:
    make_batch({"A": ["f1.png", "bad.png"]})
    script = (
        "import sys\n"
        "from cli.main import app\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n"
        "    app()\n"
        "finally:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        env={**os.environ, "ALLQ_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
