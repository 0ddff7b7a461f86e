"""The soak, in a minute's worth: benchmarks/soak.py says what happens in it."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.soak import Programme, Soak
from tests import standin, store
from tests.databases import KillablePostgresql, PostgresqlMissing
from worker import submission
from worker.submission import SubmitOptions

ROOT = Path(__file__).parents[2]
_LONGEST = 240
"""Seconds: more than the soak gives itself, less than a test has."""
_LONGEST_END = 30


@pytest.fixture(scope="module")
def _a_postgresql_that_may_be_killed():
    try:
        KillablePostgresql().stop()
    except PostgresqlMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.usefixtures("_a_postgresql_that_may_be_killed")
def test_a_night_in_which_everything_breaks_loses_doubles_and_leaves_nothing():
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
    print(said)
    found = json.loads(output)
    assert found["wrong"] == []
    assert (found["lost"], found["doubled"], found["stuck"], found["failed"]) == (0, 0, 0, 0)
    assert found["screened"] == found["files"] == 2_400
    assert found["happened"]["a worker killed"] == 4
    assert found["happened"]["the database killed"] == 1
    assert found["happened"]["the sealer killed"] == 3
    assert soak.returncode == 0


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
