"""docs/reliability.md names tests; they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from allq.settings import Settings
from tests.crash.test_matrix import cases, points

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_every_test_that_the_page_names_exists():
    missing = []
    for path, name in NAMED:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{path}::{name}")
    assert missing == []


def test_every_promise_has_tests_beside_it():
    promises = re.split(r"^\*\*(\d)\. ", PAGE.partition("## How every step")[0], flags=re.MULTILINE)[1:]
    numbers, texts = promises[::2], promises[1::2]
    assert numbers == [str(number) for number in range(1, 8)]
    assert all("::test_" in text for text in texts)


def test_the_page_states_the_time_and_the_cases_that_there_are():
    settings = Settings(_env_file=None)
    assert f"{settings.longest_wait:.0f} s as delivered" in PAGE
    assert f"{len(list(cases()))} cases" in PAGE
    assert 45 < len(points()) < 65, "the page says: some fifty"
