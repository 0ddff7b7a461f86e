"""The soak, in a minute's worth: benchmarks/soak.py says what happens in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import KillablePostgresql, PostgresqlMissing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def _a_postgresql_that_may_be_killed():
    try:
        KillablePostgresql().stop()
    except PostgresqlMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.usefixtures("_a_postgresql_that_may_be_killed")
def test_a_night_in_which_everything_breaks_loses_doubles_and_leaves_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--short", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr)
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert (found["lost"], found["doubled"], found["stuck"], found["failed"]) == (0, 0, 0, 0)
    assert found["screened"] == found["files"] == 2_400
    assert found["happened"]["a worker killed"] == 4
    assert found["happened"]["the database killed"] == 1
    assert found["happened"]["the sealer killed"] == 3
    assert done.returncode == 0
