"""`.env.example` names every setting, with its real default, and nothing that does not exist."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from allq.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
LINES = re.findall(r"^(# )?([A-Z][A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
SHOWN = {name: value for _, name, value in LINES}
WITH_DEFAULT = [
    name for name, info in Settings.model_fields.items() if info.default not in (None, PydanticUndefined, ())
]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_setting_is_explained(field: str) -> None:
    assert f"ALLQ_{field.upper()}" in SHOWN


def test_every_name_is_a_setting_or_used_by_compose() -> None:
    settings = {f"ALLQ_{field.upper()}" for field in Settings.model_fields}
    compose = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert SHOWN.keys() <= settings | compose


def test_compose_uses_no_setting_that_is_not_explained() -> None:
    compose = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert compose - {"USER"} <= SHOWN.keys()


def test_what_is_not_commented_out_is_only_for_compose() -> None:
    passwords = {f"{of}_PASSWORD" for of in ("POSTGRES", "WORKER", "SEALER", "CLI", "VALKEY")}
    assert {name for comment, name, _ in LINES if not comment} == passwords | {"SLIDES"}


def test_each_name_stands_once_and_is_explained_above() -> None:
    names = [name for _, name, _ in LINES]
    assert len(names) == len(set(names))
    for paragraph in EXAMPLE.split("\n\n"):
        if re.search(r"^(# )?[A-Z][A-Z_]+=", paragraph, re.MULTILINE):
            assert re.match(r"# [A-Za-z]", paragraph), paragraph


@pytest.mark.parametrize("field", WITH_DEFAULT)
def test_the_default_shown_is_the_default(field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ALLQ_"):
            monkeypatch.delenv(name)
    default: Any = getattr(Settings(), field)
    monkeypatch.setenv(f"ALLQ_{field.upper()}", SHOWN[f"ALLQ_{field.upper()}"])
    assert getattr(Settings(), field) == default
