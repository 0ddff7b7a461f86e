"""What the pages say is there is there, and the tracked files name no machine of ours."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
NOT_OURS = {".git", ".venv", "build", "dist", "demo", "runs"}
KNOWN_HOSTS = {
    "127.0.0.1",
    "creativecommons.org",
    "doi.org",
    "github.com",
    "json-schema.org",
    "keepachangelog.com",
    "localhost",
    "semver.org",
    "www.apache.org",
    "www.kaggle.com",
    "www.rfc-editor.org",
    "www.w3.org",
}
"""Hosts that a tracked file may name in a URL; those for examples end in `.example`. Registries and mirrors are not
among them: where packages come from is each machine's own affair."""

_URL = re.compile(r"\bhttps?://[^\s\"'<>)\]}`]+")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_TARGET = re.compile(r"^([a-z][a-z-]*):.*", re.MULTILINE)
_MENTIONED_TARGET = re.compile(r"(?:^|`|\$ )make ([a-z][a-z-]*)", re.MULTILINE)
# Put together here, so that this file does not hold what it looks for.
_MACHINE_PATHS = re.compile("|".join("/" + place for place in ("work/(?:main|shared)", "root/", "tmp/d[a-z]+/")))


@cache
def tracked() -> tuple[Path, ...]:
    """The files under version control; in a tree without it, all that would be."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not NOT_OURS & set(path.relative_to(ROOT).parts)]
    return tuple(path for path in paths if path.is_file())


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8000]:
            yield str(path.relative_to(ROOT)), data.decode("utf-8", errors="replace")


def pages() -> list[str]:
    return [str(path.relative_to(ROOT)) for path in tracked() if path.suffix == ".md"]


def targets() -> set[str]:
    return set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("page", "target"),
    [
        ("README.md", "demo"),
        ("README.md", "test"),
        *(("CONTRIBUTING.md", name) for name in ("develop", "test", "check")),
    ],
)
def test_the_commands_that_matter_are_named_where_they_are_looked_for(page: str, target: str) -> None:
    assert f"make {target}" in (ROOT / page).read_text(encoding="utf-8")


def test_the_readme_shows_the_distributed_way_and_what_allq_is_not() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docker compose up" in readme
    assert "--scale worker=4" in readme
    assert "decision support" in readme
    assert "10.34740/KAGGLE/DSV/2175623" in readme
    assert "10.1002/int.22753" in readme


@pytest.mark.parametrize("page", pages())
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    mentioned = set(_MENTIONED_TARGET.findall((ROOT / page).read_text(encoding="utf-8")))
    assert mentioned <= targets()


def test_every_make_target_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all("## " in line.group() for line in _TARGET.finditer(makefile))
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == targets()


@pytest.mark.parametrize("page", pages())
def test_every_link_to_a_file_resolves(page: str) -> None:
    path = ROOT / page
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        if urlsplit(link).scheme or link.startswith("#"):
            continue
        there = (path.parent / link.partition("#")[0]).resolve()
        assert there.exists(), f"{page} links to {link}"
        assert there.is_relative_to(ROOT), f"{page} links out of the repository: {link}"


def test_no_file_names_a_host_that_is_not_known() -> None:
    hosts = {
        (name, host)
        for name, text in texts()
        for url in _URL.findall(text)
        if (host := urlsplit(url).hostname or "") not in KNOWN_HOSTS and not host.endswith(".example")
    }
    assert not hosts


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert not [(name, found.group()) for name, text in texts() if (found := _MACHINE_PATHS.search(text))]


def decisions() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_no_two_decisions_have_the_same_number() -> None:
    numbers = [path.name[:4] for path in decisions()]
    assert sorted(numbers) == sorted(set(numbers))


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.name)
def test_a_decision_tells_context_choice_measurement_and_what_was_turned_down(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = ("Context", "Choice", "Measured", "Turned down")
    assert [name for name in wanted if not any(heading.startswith(name) for heading in headings)] == []
