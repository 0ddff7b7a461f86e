"""A home of its own for every test of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ALLQ_HOME, with no other setting in the way and no `.env` in the working directory."""
    import os

    for name in list(os.environ):
        if name.startswith("ALLQ_") and name != "ALLQ_TEST_DATA":
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("ALLQ_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder
