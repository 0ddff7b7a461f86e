"""docs/security.md claims nothing without a test: every threat that it answers names one, and each exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

CLAIMS_NOTHING = {
    "Mounts and hard links.",
    "Packages and images.",
    "Encryption at rest, backups, retention, screens that others see, and the hospital's network.",
    "A browser.",
}
"""What is left to the laboratory, and says nothing of what allq does."""

_TEST = re.compile(r"`(test_\w+)`")


def defined() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)}


def answers() -> list[str]:
    """The rows of the tables whose last column says what shows it."""
    rows, inside = [], False
    for line in PAGE.splitlines():
        if line.startswith("|"):
            inside = inside or line.endswith("| shown by |")
            if inside and not line.startswith("|---") and not line.endswith("| shown by |"):
                rows.append(line)
        else:
            inside = False
    return rows


def test_every_test_that_the_page_names_exists() -> None:
    named = set(_TEST.findall(PAGE))
    assert len(named) > 40
    assert named <= defined(), f"not there: {sorted(named - defined())}"


def test_every_threat_that_the_page_answers_names_its_test() -> None:
    assert len(answers()) > 40
    assert [row for row in answers() if not _TEST.search(row.rsplit("|", 2)[-2])] == []


def test_what_is_left_says_of_allq_nothing_without_a_test() -> None:
    _, _, left = PAGE.partition("## What is left to the laboratory\n")
    items = re.findall(r"^- \*\*(.+?)\*\*(.*(?:\n  .*)*)", left, re.MULTILINE)
    assert len(items) > 10
    assert {title for title, _ in items} >= CLAIMS_NOTHING
    assert {title for title, text in items if not _TEST.search(text)} == CLAIMS_NOTHING
