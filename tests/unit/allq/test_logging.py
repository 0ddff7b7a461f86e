"""An entry of the log is one line, whatever stands in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from allq import logging as allq_logging
from allq.settings import Settings

HOSTILE = "x\n2026-01-01T00:00:00Z [info     ] chunk recorded\r\x1b[2J\x9b2J\u202e\u2028y"

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture(params=["text", "json"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path, log_format=request.param)  # type: ignore[call-arg]


def test_what_is_logged_begins_no_line_of_its_own_and_moves_no_cursor(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    allq_logging.configure(settings)
    allq_logging.logger("test").warning(HOSTILE, problem=HOSTILE)
    logging.getLogger("celery.worker").error("Received unregistered task %s", HOSTILE)  # another library's own
    logged = capsys.readouterr().err
    assert len(logged.splitlines()) == 2
    assert not set("\x1b\x9b\u202e\u2028\r") & set(logged)
    if settings.log_format == "json":
        assert all("[info     ]" in json.loads(line)["event"] for line in logged.splitlines())


def test_of_an_error_of_the_database_the_rows_it_repeats_are_left_out(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    allq_logging.configure(settings)
    name = " ".join(("Anna", "Meier"))
    lines = "\n".join(("Bert", "Claas"))  # a name may have a line feed in it
    try:
        raise ValueError(f'null value in column "queue"\nDETAIL:  Failing row contains (7, {name}, {lines}).')
    except ValueError:
        allq_logging.logger("test").exception("a statement failed")
    logged = capsys.readouterr().err
    assert "null value in column" in logged
    assert "Traceback" in logged
    assert name not in logged
    assert "Claas" not in logged
