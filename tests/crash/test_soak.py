"""The soak, in a minute's worth: benchmarks/soak.py says what happens in it."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soaking.night import Soak
from benchmarks.soaking.programme import SHORT, Programme
from tests import standin, store
from tests.databases import KillablePostgresql, PostgresqlMissing
from worker import submission
from worker.submission import SubmitOptions

ROOT = Path(__file__).parents[2]
_LONGEST = 240
"""Seconds: more than the soak gives itself, less than a test has."""
_LONGEST_END = 30
_WITH_RIGHTS = {"the disk full", "the network cut"}
"""What not every account may bring about."""


@pytest.fixture(scope="module")
def night() -> dict[str, Any]:
    """What the soak has found, `said` and `exit code` among it."""
    try:
        KillablePostgresql().stop()
    except PostgresqlMissing as missing:
        pytest.skip(str(missing))
    soak = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak", "--short", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, said = soak.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        soak.terminate()  # so that it takes away what it started
        pytest.fail(f"the soak has not ended within {_LONGEST} s:\n{soak.communicate(timeout=_LONGEST_END)[1]}")
    finally:
        soak.kill()
        soak.wait()
    return json.loads(output) | {"said": said, "exit code": soak.returncode}


def test_a_night_in_which_everything_breaks_loses_doubles_and_leaves_nothing(night: dict[str, Any]):
    print(night["said"])
    assert night["wrong"] == []
    assert (night["lost"], night["doubled"], night["stuck"], night["failed"]) == (0, 0, 0, 0)
    assert night["screened"] == night["files"] == SHORT.fields
    assert night["left out"].keys() <= _WITH_RIGHTS
    assert night["happened"] == {
        name: times for name, times in SHORT.happenings.items() if name not in night["left out"]
    }
    assert night["exit code"] == 0


def test_in_it_late_results_are_refused_by_the_fence_and_the_ledger_is_sealed(night: dict[str, Any]):
    assert night["late results refused by the fence"] > 0
    assert night["checkpoints sealed meanwhile"] > 1
    assert night["events sealed"] > night["chunks"]


@pytest.mark.parametrize("what", sorted(_WITH_RIGHTS))
def test_in_it_there_was_also(night: dict[str, Any], what: str):
    if what in night["left out"]:
        pytest.skip(f"{what}: not tried, for {night['left out'][what]}")
    assert night["happened"][what] == SHORT.happenings[what]


def test_a_soak_that_does_not_end_says_what_is_stuck(tmp_path: Path):
    nothing = {"a submission killed": 0}
    programme = Programme(fields=80, workers=1, happenings=nothing, seconds_per_chunk=0.0, patience=0.0)
    said: list[str] = []
    with ExitStack() as stack:
        soak = Soak(programme, seed=1, database="sqlite", folder=tmp_path, stack=stack)
        slides = standin.write_fields(tmp_path / "stuck", slides=1, fields=40)
        submission.submit(
            soak.database, soak.settings, slides, SubmitOptions(model=standin.model(soak.settings), operator="tester")
        )
        store.claimed(soak.database, 2, owner="somebody")
        assert not soak.run(said.append)
    told = "\n".join(said)
    assert "nothing has moved for 0 s" in told
    assert "not submitted: batch-001" in told
    assert "batch 1: 40 fields wait, from S00000/000.png to S00000/039.png" in told
    assert re.search(r"chunk 1 of batch 1, 16 fields: pending; attempts 0, crashes 0, published now -\d", told)
    assert re.search(r"chunk 2 of batch 1, 16 fields: running by somebody, lease until now \+\d", told)
    assert "queue routine: 3 messages" in told
    assert "worker-0: processes " in told
