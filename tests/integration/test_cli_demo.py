"""`make demo` without make."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def demo(folder: Path) -> str:
    environment = os.environ | {"ALLQ_DATABASE_URL": "postgresql://nobody@nowhere/nothing", "ALLQ_MODEL": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-m", "cli.demo"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_shows_the_main_job_against_a_known_truth_whatever_is_set_and_twice(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ALLQ_BROKER_URL=redis://nowhere:1/0\n")
    started = time.monotonic()
    first = demo(tmp_path)
    assert time.monotonic() - started < 120
    assert "trained on synthetic smears only, not for patients" in first
    assert "1 of 1 broken on purpose found" in first
    assert "1 of 1 flagged as without leukocytes" in first
    assert "6 of 6 right" in first
    assert "field-060.jpg" in first
    assert "make demo SLIDES=" in first
    assert "359 linked to a finding of the same bytes" in demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name not in {".env", "demo"}] == []
