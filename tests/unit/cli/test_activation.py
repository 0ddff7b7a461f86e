"""`allq models activate`, what screens because of it, and `allq models compare`."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from allq.settings import load
from cli.main import app
from imaging.synthetic import write_slides
from models import artefact
from worker.health import checks

SYNTHETIC = "synthetic-smears"


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def lines(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json", code=code).stdout.splitlines()]


def own_model(home: Path, name: str, *, rim: float = 1.0) -> artefact.Model:
    """A model of the laboratory's own: the weights of the synthetic one, under another name and so another id."""
    folder = home / "models" / name
    shutil.copytree(artefact.SHIPPED / SYNTHETIC, folder, dirs_exist_ok=True)
    path = folder / artefact.CONFIGURATION
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"name": name, "rim": rim}), "utf-8")
    return artefact.read(folder)


@pytest.fixture
def slides(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ALLQ_OPERATOR", "m.meier@lab")
    write_slides(tmp_path / "slides", slides=1, fields=1, seed=1)
    return str(tmp_path / "slides")


def test_what_is_submitted_is_screened_with_the_model_asked_for_the_settings_the_active_one_or_the_default(
    home: Path, slides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submitted(*arguments: str) -> str:
        (done,) = lines("submit", slides, *arguments)
        run("cancel", str(done["batch"]))
        return str(done["model_name"])

    own_model(home, "ours")
    own_model(home, "theirs")
    assert submitted() == artefact.DEFAULT
    run("models", "activate", "ours", "--reason", "fits our smears")
    assert submitted() == "ours"
    monkeypatch.setenv("ALLQ_MODEL", "theirs")
    assert submitted() == "theirs"
    assert submitted("--model", SYNTHETIC) == SYNTHETIC


def test_an_activation_is_listed_shown_and_told_with_who_when_and_why(home: Path, slides: str) -> None:
    before = {one["name"]: one for one in lines("models", "list")}
    assert not (home / "allq.db").exists(), "listing models makes no database"
    assert [name for name, one in before.items() if one["active"]] == [artefact.DEFAULT]
    model = own_model(home, "ours")
    (done,) = lines("models", "activate", model.id[:8], "-r", "fits our smears")
    assert (done["model"], done["activated_by"], done["reason"]) == (model.id, "m.meier@lab", "fits our smears")
    assert done["before"] is None
    after = {one["name"]: one for one in lines("models", "list")}
    assert [name for name, one in after.items() if one["active"]] == ["ours"]
    assert {name: after["ours"][name] for name in ("activated_at", "activated_by", "reason")} == {
        name: done[name] for name in ("activated_at", "activated_by", "reason")
    }
    assert after[SYNTHETIC]["activated_at"] is None
    assert "by m.meier@lab" in run("models", "list").stdout
    assert lines("models", "show")[0]["model"] == model.id
    found = next(check for check in checks(load()) if check.name == "model")
    assert (found.ok, found.detail.startswith(f"ours ({model.id[:12]}), activated by m.meier@lab on ")) == (True, True)
    assert "instead of ours" in run("models", "activate", SYNTHETIC, "-r", "for a demonstration").stderr
    run("audit", "seal")
    assert lines("audit", "verify", "--complete")[0]["sound"]


def test_where_a_setting_names_another_model_the_list_and_the_doctor_say_so(
    home: Path, slides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("models", "activate", own_model(home, "ours").name, "-r", "fits our smears")
    monkeypatch.setenv("ALLQ_MODEL", SYNTHETIC)
    result = run("models", "list")
    assert f"ALLQ_MODEL is set: {SYNTHETIC} screens here instead of the active ours." in result.stderr
    found = next(check for check in checks(load()) if check.name == "model")
    assert "named by ALLQ_MODEL instead of the active ours" in found.detail
    assert "ALLQ_MODEL is set here and names another" in run("models", "activate", "ours", "-r", "again").stderr


@pytest.mark.parametrize("what", ["gone", "another", "damaged"])
def test_an_active_model_that_is_not_here_or_not_the_same_is_refused_and_nothing_takes_its_place(
    home: Path, slides: str, what: str
) -> None:
    model = own_model(home, "ours")
    run("models", "activate", "ours", "-r", "fits our smears")
    if what == "gone":
        shutil.rmtree(model.path)
        said = f"is not on this machine: put its folder into {home / 'models'}, or activate another"
    elif what == "another":
        other = own_model(home, "ours", rim=1.5)
        said = f"The model ours on this machine has the id {other.id[:12]}, and m.meier@lab activated {model.id[:12]}"
    else:
        (model.path / artefact.WEIGHTS).write_bytes(b"")
        said = f"The active model ours ({model.id[:12]}) can't be used: "
    for command in (("submit", slides), ("screen", slides), ("models", "show")):
        result = run(*command, code=1)
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert said in result.stderr
    assert run("status").stdout == "", "nothing was submitted"
    listed = run("models", "list", "--json")
    assert said in listed.stderr
    assert not any(json.loads(line)["active"] for line in listed.stdout.splitlines())
    found = next(check for check in checks(load()) if check.name == "model")
    assert (found.ok, said in found.detail) == (False, True)
    assert lines("submit", slides, "--model", SYNTHETIC)[0]["model_name"] == SYNTHETIC


def test_an_unknown_model_or_a_missing_reason_is_one_sentence_and_activates_nothing(home: Path, slides: str) -> None:
    for arguments, code, said in (
        (("nonsense", "-r", "x"), 1, "There is no model 'nonsense'"),
        (("", "-r", "x"), 2, "Which model?"),
        ((SYNTHETIC,), 2, "needs a reason"),
        ((SYNTHETIC, "-r", "  "), 2, "needs a reason"),
    ):
        result = run("models", "activate", *arguments, code=code)
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert lines("query", "model_activations") == []


def test_a_reason_that_is_no_text_of_a_database_is_kept_with_escapes(home: Path, slides: str) -> None:
    (done,) = lines("models", "activate", SYNTHETIC, "-r", os.fsdecode(b"for Fran\xe7ois"))
    assert done["reason"] == r"for Fran\xe7ois"


def test_a_models_name_moves_no_cursor(home: Path, slides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = own_model(home, "ours\x1b[2J")
    printed = [run("models", *arguments) for arguments in (("activate", model.id, "-r", "a\x1b[2Jb"), ("list",))]
    printed.append(run("models", "compare", SYNTHETIC, model.id))
    monkeypatch.setenv("ALLQ_MODEL", SYNTHETIC)
    printed.append(run("models", "list"))
    monkeypatch.delenv("ALLQ_MODEL")
    shutil.rmtree(model.path)
    printed += [run("models", "list"), run("submit", slides, code=1), run("query", "model_activations")]
    for result in printed:
        assert "ours" in (result.stdout + result.stderr).lower()
        assert "\x1b" not in result.stdout + result.stderr


def test_in_a_terminal_the_reason_is_asked_for(home: Path, slides: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "allq", "models", "activate", SYNTHETIC, "--json"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        os.write(ours, b"for a demonstration\n")
        out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, err
    assert b"Why is synthetic-smears to be the active model?" in err
    assert json.loads(out)["reason"] == "for a demonstration"


def test_without_its_database_the_doctor_does_not_guess_which_model_is_active(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLQ_DATABASE_URL", "postgresql://someone@127.0.0.1:1/allq")
    found = next(check for check in checks(load()) if check.name == "model")
    assert (found.ok, found.detail) == (None, "which one is active stands in the database")
    listed = run("models", "list", "--json")
    assert "can't be reached" in listed.stderr
    assert not any(json.loads(line)["active"] for line in listed.stdout.splitlines())


def test_two_models_are_compared_and_figures_of_different_fields_are_called_so(home: Path) -> None:
    ours = own_model(home, "ours", rim=0.5)
    result = run("models", "compare", SYNTHETIC, ours.id)
    assert "ours" in result.stdout.splitlines()[0].lower()
    assert "AUROC" in result.stdout
    assert result.stderr == ""
    assert "were not measured on the same fields" in run("models", "compare", artefact.DEFAULT, "ours").stderr
    (told,) = lines("models", "compare", SYNTHETIC, "ours")
    assert (told["first"]["name"], told["second"]["model"], told["measured_alike"]) == (SYNTHETIC, ours.id, True)
    assert "There is no model 'x'" in run("models", "compare", "x", "ours", code=1).stderr
    assert not (home / "allq.db").exists()
