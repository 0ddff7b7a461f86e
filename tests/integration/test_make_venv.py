"""`deploy/make-venv` where something is missing: one sentence that says what to install, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "make-venv"


def make_venv(folder: Path, **pythons: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only the interpreters of `pythons` (name: shell script) are found."""
    programs = folder / "bin"
    programs.mkdir()
    for name, script in pythons.items():
        path = programs / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return subprocess.run(
        ["/bin/sh", SCRIPT, folder / "venv", "run"],
        env={"PATH": str(programs)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


REAL = f'exec {sys.executable} "$@"'
SHIM_OF_NOTHING = "exit 127"
TOO_OLD = 'case "$2" in *version_info\\ \\<*) exit 1;; esac; ' + REAL
WITHOUT_VENV = 'case "$2" in *ensurepip*) exit 1;; esac; ' + REAL


@pytest.mark.parametrize(
    ("pythons", "sentence"),
    [
        ({}, "no Python 3.11 or later was found: install one (Debian 12 or later: apt install python3 python3-venv)"),
        ({"python3": TOO_OLD, "python3_12": SHIM_OF_NOTHING}, "no Python 3.11 or later was found"),
        ({"python3": WITHOUT_VENV}, "python3 can't make virtual environments: install its venv module"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(pythons: dict[str, str], sentence: str, tmp_path: Path) -> None:
    done = make_venv(tmp_path, **pythons)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"allq: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_the_sentence_about_venv_names_the_package_of_that_python(tmp_path: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt install {version}-venv" in make_venv(tmp_path, python3=WITHOUT_VENV).stderr


def test_a_python_that_lacks_venv_is_passed_over_for_one_that_has_it(tmp_path: Path) -> None:
    done = make_venv(tmp_path, python3_13=WITHOUT_VENV, python3=REAL)
    assert "making" in done.stderr
    assert os.access(tmp_path / "venv" / "bin" / "python", os.X_OK)
