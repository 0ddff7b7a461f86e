"""What a long command says of how far it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli import progress


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_that_stands_says_for_how_long(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    with progress.meter(Console(file=file, force_terminal=terminal, width=100)) as shown:
        for seconds in (0, 2, 4, 2, 60, 1):
            clock[0] += seconds
            shown.stage("Comparing", 3, 15)
        if isinstance(shown, progress.Bar):
            shown._progress.refresh()
        clock[0] += 10
        shown.stage("Comparing", 4, 15)
        shown.stage("Comparing", 5, 15)
        shown.stage("Comparing", 15, 15)
        shown.stage("Comparing", 15, 15)
    lines = ["Comparing: 3/15", "Comparing: 3/15, for 6 s", "Comparing: 3/15, for 68 s", "Comparing: 4/15"]
    lines += ["Comparing: 15/15"]
    if terminal:
        assert "3/15, for 69 s" in file.getvalue()
    else:
        assert file.getvalue().splitlines() == lines
