"""The built wheel, installed alone: everything that allq needs travels in it, and it screens a folder from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("allq", "imaging", "models", "db", "worker", "review", "cli")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, so that building leaves nothing behind in the tree."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has this wheel and nothing else of allq.

    Its dependencies are those of the running environment, to spare a download of gigabytes. They come by a path file,
    whose folder's own path files are not followed: an editable install of allq stays out.
    """
    home = tmp_path_factory.mktemp("environment") / "venv"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(home)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel)], check=True)
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    return home / "bin"


def run(program: Path, *arguments: object, home: Path, codes: tuple[int, ...] = (0,)) -> str:
    """Run a program in an unrelated folder, with no setting but ALLQ_HOME. Returns its standard output."""
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [program, *map(str, arguments)],
        cwd=home.parent,
        env={"PATH": os.defpath, "HOME": str(home), "ALLQ_HOME": str(home), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in codes, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_file_of_the_rooms_travels_in_the_wheel(source: Path, wheel: Path) -> None:
    here = {str(path.relative_to(source)) for room in ROOMS for path in (source / room).rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert there == here


def test_weights_migrations_and_queries_are_among_them(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
    for pattern in (
        "models/weights/*/model.safetensors",
        "models/weights/*/model.json",
        "models/weights/*/CARD.md",
        "db/migrations/env.py",
        "db/migrations/versions/*.py",
        "db/queries/*.sql",
        "*.dist-info/licenses/LICENSE",
    ):
        assert any(name.match(pattern) for name in names), pattern


def test_every_room_is_imported_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    program = f"import {', '.join(ROOMS)}\nprint(*(room.__file__ for room in ({', '.join(ROOMS)})), sep='\\n')"
    found = run(programs / "python", "-c", program, home=tmp_path / "home").splitlines()
    assert len(found) == len(ROOMS)
    assert all(Path(path).is_relative_to(programs.parent) for path in found)


def test_installed_alone_it_screens_a_folder_from_anywhere(programs: Path, tmp_path: Path) -> None:
    from imaging.synthetic import write_slides

    slides = tmp_path / "slides"
    write_slides(slides, slides=2, fields=5, seed=3)
    home = tmp_path / "home"

    screened = run(
        programs / "allq", "screen", slides, "--model", "synthetic-smears", "--json", home=home, codes=(0, 3)
    )
    batch = json.loads(screened.splitlines()[-1])["batch"]

    status = json.loads(run(programs / "allq", "status", batch, "--json", home=home))
    assert status["state"] == "done"
    assert status["fields"] == status["screened"] + status["failed"]
    assert status["screened"] >= 8
    results = run(programs / "allq", "results", batch, "--level", "field", "--format", "jsonl", home=home)
    assert len(results.splitlines()) == status["fields"]
    assert json.loads(run(programs / "allq", "models", "list", "--json", home=home).splitlines()[0])
