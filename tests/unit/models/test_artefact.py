from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from allq.errors import ModelDamaged, ModelNotFound
from allq.settings import Settings
from models import artefact
from models.artefact import Model, available, find, read

Make = Callable[..., Model]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", models_dir=tmp_path / "more")


def test_a_model_read_again_is_the_same(untrained: Model) -> None:
    again = read(untrained.path)
    assert again == untrained
    assert len(again.id) == 64


def test_the_id_changes_with_the_weights_and_with_the_configuration(tmp_path: Path, make_model: Make) -> None:
    first = make_model(tmp_path / "a")
    assert make_model(tmp_path / "b").id == first.id
    assert make_model(tmp_path / "c", seed=1).id != first.id
    assert make_model(tmp_path / "d", temperature=1.51).id != first.id


def test_the_layout_of_model_json_does_not_change_the_id(tmp_path: Path, make_model: Make) -> None:
    model = make_model(tmp_path / "a")
    path = model.path / "model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert read(model.path).id == model.id


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"other"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.json").write_text("{"),
        lambda folder: (folder / "model.json").write_text("{}"),
        lambda folder: (folder / "model.json").write_text("[1]"),
        lambda folder: (folder / "model.json").write_text("[" * 200_000),
        lambda folder: (folder / "model.json").write_text('{"format": ' + "9" * 5_000 + "}"),
        lambda folder: os.truncate(folder / "model.json", 1 << 40),
        lambda folder: os.truncate(folder / "model.safetensors", 0),
    ],
)
def test_a_damaged_model_says_so(tmp_path: Path, make_model: Make, harm: Callable[[Path], object]) -> None:
    folder = make_model(tmp_path / "a").path
    harm(folder)
    with pytest.raises(ModelDamaged, match="install it again"):
        read(folder)


@pytest.mark.parametrize("value", ["", "x", 7, -(10**400), [], [[]], {}, {"a": {}}, None, True, float("nan")], ids=repr)
def test_whatever_stands_in_model_json_is_read_or_refused_in_a_sentence(
    tmp_path: Path, make_model: Make, value: object
) -> None:
    path = make_model(tmp_path / "a").path / "model.json"
    content = json.loads(path.read_text())
    for key in content:
        path.write_text(json.dumps(content | {key: value}))
        try:
            read(path.parent)
        except ModelDamaged as error:
            assert len(str(error)) < 1_000


def test_weights_that_are_changed_after_the_model_was_found_are_refused(tmp_path: Path, make_model: Make) -> None:
    model = make_model(tmp_path / "a")
    other = make_model(tmp_path / "b", seed=1)
    assert model.arrays()
    (model.path / "model.safetensors").write_bytes((other.path / "model.safetensors").read_bytes())
    with pytest.raises(ModelDamaged, match="has changed since the model was found; install the model again"):
        model.arrays()


def test_a_model_changed_together_with_its_configuration_is_another_model(
    settings: Settings, tmp_path: Path, make_model: Make
) -> None:
    genuine = make_model(tmp_path / "more" / "ours", name="ours")
    forged = make_model(tmp_path / "more" / "ours", name="ours", seed=1)
    assert find(settings, "ours").id == forged.id != genuine.id
    with pytest.raises(ModelNotFound, match="There is no model"):
        find(settings, genuine.id)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path, make_model: Make) -> None:
    for header in (b"\xff" * 8, (1 << 40).to_bytes(8, "little"), (1 << 62).to_bytes(8, "little") + b"{}"):
        model = make_model(tmp_path / "a")
        (model.path / "model.safetensors").write_bytes(header)
        path = model.path / "model.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"weights_sha256": hashlib.sha256(header).hexdigest()}))
        with pytest.raises(ModelDamaged, match="can't be read"):
            read(model.path).arrays()


def test_a_configuration_of_another_format_or_with_unknown_keys_is_refused(tmp_path: Path, make_model: Make) -> None:
    path = make_model(tmp_path / "a").path / "model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ModelDamaged, match="format 99"):
        read(path.parent)
    # A model of an earlier format has other keys: what is wrong with it is its format all the same.
    path.write_text(json.dumps({"format": 2, "name": "older", "input_size": 192}))
    with pytest.raises(ModelDamaged, match="format 2; this allq reads 3: install, train or calibrate it again"):
        read(path.parent)
    path.write_text(json.dumps(content | {"surprise": 1}))
    with pytest.raises(ModelDamaged, match="surprise"):
        read(path.parent)


def test_models_are_found_by_name_and_by_the_beginning_of_their_id(
    settings: Settings, make_model: Make, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "more" / "ours", name="ours")
    assert find(settings, "ours") == model
    assert find(settings, model.id) == model
    assert find(settings, model.id[:8]) == model
    with pytest.raises(ModelNotFound, match="ours"):
        find(settings, model.id[:7])


def test_an_operators_model_comes_before_the_shipped_one_of_the_same_name(
    settings: Settings, make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact, "SHIPPED", tmp_path / "shipped")
    shipped = make_model(tmp_path / "shipped" / "same", name="same")
    own = make_model(tmp_path / "home" / "models" / "same", name="same", seed=1)
    assert find(settings, "same") == own
    assert available(settings) == [shipped, own]


def test_a_damaged_model_asked_for_by_name_is_named_as_damaged_and_left_out_of_the_list(
    settings: Settings, make_model: Make, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "more" / "broken", name="broken").path
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelDamaged):
        find(settings, "broken")
    assert "broken" not in [model.name for model in available(settings)]


def test_the_model_setting_is_the_one_that_is_found(settings: Settings, make_model: Make, tmp_path: Path) -> None:
    make_model(tmp_path / "more" / "ours", name="ours")
    chosen = Settings(home=settings.home, models_dir=settings.models_dir, model="ours")
    assert find(chosen, None).name == "ours"


def test_listing_models_and_calling_slides_import_neither_torch_nor_openvino() -> None:
    code = (
        "import sys, models.artefact, models.aggregate, models.options, models.flags\n"
        "print([name for name in ('torch', 'openvino', 'safetensors') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
