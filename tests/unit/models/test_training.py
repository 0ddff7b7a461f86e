"""Training and evaluating from end to end, on the smallest network and a handful of renderings."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from allq.classes import CLASSES
from allq.errors import ModelError, UsageError
from allq.settings import Settings
from imaging.synthetic import STYLES, render_field
from models import fit
from models.architectures.blueprint import InputSizes
from models.architectures.network import Network
from models.architectures.registry import TWO_CHANNELS, blueprint
from models.artefact import DEFAULT, Model
from models.card import card
from models.data import read_labelled
from models.engines.torch import restore
from models.evaluate import evaluate
from models.heldout import HeldOut
from models.novelty import Novelty
from models.options import EvaluateOptions, TrainOptions
from models.outside import left_out_streams
from models.recalibrate import recalibrate
from models.scenes import Shares
from models.train import train
from models.views import view_all

OPTIONS = TrainOptions(
    name="small",
    architecture="tiny",
    input_sizes=InputSizes(cells=64, field=64),
    epochs=2,
    batch=8,
    threads=1,
    synthetic=True,
    holdout=0.34,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows = ["file,group,stream"]
    for name in CLASSES:
        (folder / name).mkdir()
        for index in range(12):
            style = ("violet", "slate")[index % 2]
            field = render_field(random, klass=name, style=STYLES[style], size=(160, 120), leukocytes=(2, 4))
            cv2.imwrite(str(folder / name / f"{name}-{index}.png"), field.pixels)
            rows.append(f"{name}-{index}.png,{name}-{index // 3},{style}")
    (folder / "groups.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return train(data, tmp_path_factory.mktemp("out") / "small", OPTIONS)


class Stopped(Exception):
    """Stands for a person who interrupts."""


def test_a_run_stopped_and_resumed_gives_the_model_of_a_run_that_was_not(
    data: Path, trained: Model, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "training" and done == 1:
            raise Stopped

    with pytest.raises(Stopped):
        train(data, tmp_path / "small", OPTIONS, stop)
    assert not (tmp_path / "small").exists()
    epochs: list[int] = []
    again = train(
        data, tmp_path / "small", OPTIONS, lambda stage, done, _: epochs.append(done) if stage == "training" else None
    )
    assert epochs[0] == 1
    assert again.id == trained.id


def test_another_seed_gives_another_model_and_does_not_go_on_from_a_strangers_checkpoint(
    data: Path, trained: Model, tmp_path: Path
) -> None:
    other = train(data, tmp_path / "small", replace(OPTIONS, seed=1, epochs=1, work=trained.path.parent / "small.work"))
    assert other.id != trained.id


def test_checkpoints_of_other_scenes_or_sizes_are_not_gone_on_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = replace(OPTIONS, epochs=1, work=tmp_path / "work")
    train(data, tmp_path / "first", same)

    def first_epoch(options: TrainOptions) -> int:
        epochs: list[int] = []

        def stop(stage: str, done: int, total: int) -> None:
            if stage == "training":
                epochs.append(done)
                raise Stopped

        with pytest.raises(Stopped):
            train(data, tmp_path / "out", options, stop)
        return epochs[0]

    assert first_epoch(same) == 1
    assert first_epoch(replace(same, input_sizes=InputSizes(cells=96, field=64))) == 0
    monkeypatch.setattr(fit, "Shares", lambda: Shares(relit=0.9))
    assert first_epoch(same) == 0


def test_what_looks_at_the_look_leaves_the_blocks_that_it_borrows_as_they_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = replace(blueprint("tiny"), views=("cells", "field", "look"))
    monkeypatch.setattr(fit, "make_network", lambda _, classes: Network(described, classes))
    fields = read_labelled(data)
    kept: dict[str, Tensor] = {}

    def keep(stage: str, done: int, total: int) -> None:
        if stage == "training, look" and done == 0:
            kept.update(torch.load(tmp_path / "network-field.pt", weights_only=True)["averaged"])

    network = fit.fit_network(
        view_all(fields),
        fields,
        replace(OPTIONS, epochs=1),
        checkpoint=tmp_path / "network.pt",
        progress=keep,
        stage="training",
    )
    assert isinstance(network, Network)
    assert network.field is not None
    assert kept
    for name, value in network.field.state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert network.look is not None
    assert [*network.look.blocks] == [block.name for block in described.later_blocks]


def test_an_architecture_whose_views_have_one_size_is_not_given_two() -> None:
    two = TrainOptions(architecture=TWO_CHANNELS, input_sizes=InputSizes(cells=96, field=64))
    with pytest.raises(ModelError, match="two pictures of one size, not 96 and 64"):
        _ = two.sizes


def test_a_model_tells_what_it_was_made_of(trained: Model) -> None:
    configuration = trained.configuration
    assert configuration.synthetic
    assert configuration.provenance.fields == 48
    assert configuration.provenance.groups == 16
    assert configuration.provenance.training["seed"] == 0
    assert configuration.provenance.training["scenes"]["moved"] == Shares().moved
    assert configuration.metrics["fields"] < 48
    text = (trained.path / "CARD.md").read_text()
    assert "Research use only" in text
    assert "rendered pictures" in text
    assert not any(str(value).startswith("/") for value in configuration.provenance.training.values())


def test_weights_can_be_read_by_another_user(trained: Model) -> None:
    assert (trained.path / "model.safetensors").stat().st_mode == (trained.path / "model.json").stat().st_mode


def test_an_evaluation_by_group_reports_every_field_once_and_calibrates_a_model_trained_on_all(
    data: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(protocol="group", folds=2, work=tmp_path, training=OPTIONS, bootstrap=20)
    report = evaluate(data, options)
    found = report.as_json()
    assert found["fields"] == 48
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 48
    assert [part["fields"] for part in found["parts"]] == [24, 24]
    for figure in found["figures"].values():
        assert figure["low"] is None or figure["low"] <= figure["value"] + 1e-9
    assert "four-class accuracy" in report.as_markdown()
    changed = found["interventions"]
    assert changed["cells painted out"]["fields"] == 48
    assert changed["cells painted out"]["flagged"] > 0.9
    assert "call unchanged" in report.as_markdown()
    held_out = HeldOut.load(tmp_path / "group-seed0" / "held-out.npz")
    assert sorted(held_out.files.tolist()) == sorted({*held_out.files.tolist()})
    assert held_out.margins.shape == (held_out.leukocytes.sum(),)

    model = train(data, tmp_path / "model", replace(OPTIONS, calibration=tmp_path / "group-seed0"))
    assert model.configuration.metrics["fields"] == 48
    with pytest.raises(UsageError, match="other images or another architecture"):
        train(
            data,
            tmp_path / "x",
            replace(OPTIONS, architecture="efficientnet-lite0", calibration=tmp_path / "group-seed0"),
        )


def test_streams_left_out_are_reported_by_name(data: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(protocol="stream", work=tmp_path, training=replace(OPTIONS, epochs=1), bootstrap=5)
    assert [part["name"] for part in evaluate(data, options).as_json()["parts"]] == ["without slate", "without violet"]


def test_one_stream_alone_may_be_left_out(data: Path, tmp_path: Path) -> None:
    asked = EvaluateOptions(
        protocol="stream", work=tmp_path, only=("slate",), training=replace(OPTIONS, epochs=1), bootstrap=5
    )
    found = evaluate(data, asked).as_json()
    assert [part["name"] for part in found["parts"]] == ["without slate"]
    assert found["fields"] == 24
    with pytest.raises(UsageError, match="no stream of that name: grey"):
        evaluate(data, replace(asked, only=("grey",)))


def test_a_finished_model_is_evaluated_on_a_labelled_folder(data: Path, trained: Model, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, models_dir=trained.path.parent)
    options = EvaluateOptions(protocol="folder", model="small", bootstrap=5)
    found = evaluate(data, options, settings=settings).as_json()
    assert found["about"]["exactly the data it was trained on"]
    assert found["about"]["synthetic"]
    assert found["fields"] == 48


def test_a_model_is_calibrated_to_other_images_and_keeps_its_weights(
    data: Path, trained: Model, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, models_dir=trained.path.parent)
    with pytest.raises(UsageError, match="48 images in 16 groups: 50"):
        recalibrate(data, tmp_path / "out", name="ours", settings=settings, model="small")
    elsewhere = tmp_path / "elsewhere"
    random = np.random.default_rng(7)
    for name in CLASSES:
        (elsewhere / name).mkdir(parents=True)
        for index in range(15):
            field = render_field(random, klass=name, style=STYLES["pink"], size=(160, 120), leukocytes=(2, 4))
            cv2.imwrite(str(elsewhere / name / f"{name}-{index}.png"), field.pixels)
    ours = recalibrate(elsewhere, tmp_path / "out", name="ours", settings=settings, model="small")
    before, after = trained.arrays(), ours.arrays()
    assert all((after[name] == before[name]).all() for name in before if not name.startswith("novelty."))
    assert len(after["novelty.references"]) == len(before["novelty.references"]) + 60
    assert ours.configuration.metrics["fields"] == 60
    known = Novelty.from_arrays(after, neighbours=1).left_out()
    new = np.arange(len(known)) >= len(before["novelty.references"])
    for laboratory in (new, ~new):
        assert (known[laboratory] > 1).mean() <= 0.02


def test_a_class_without_images_cannot_be_trained(data: Path, tmp_path: Path) -> None:
    (tmp_path / "benign").mkdir()
    (tmp_path / "benign" / "a.png").write_bytes(next((data / "benign").iterdir()).read_bytes())
    with pytest.raises(UsageError, match="no images of early-pre-b, pre-b, pro-b"):
        train(tmp_path, tmp_path / "out", OPTIONS)


def test_each_stream_that_is_left_out_has_a_line_of_shares(data: Path, trained: Model) -> None:
    network = restore(trained.configuration, trained.arrays())
    lines = left_out_streams(network, data, OPTIONS).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| slate", "| violet"]
    for line in lines[2:]:
        count, *shares = line.strip("| ").split(" | ")[1:]
        assert int(count) == 24
        numbers = [float(share) for share in " ".join(shares).replace("%", "").replace(";", "").split()]
        assert len(numbers) == 4
        assert all(0 <= share <= 100 for share in numbers)


def test_without_streams_none_is_left_out(data: Path, trained: Model) -> None:
    network = restore(trained.configuration, trained.arrays())
    (data / "groups.csv").rename(data / "kept.csv")
    try:
        assert left_out_streams(network, data, OPTIONS) == ""
    finally:
        (data / "kept.csv").rename(data / "groups.csv")


def test_an_image_that_is_damaged_is_named_whoever_reads_it(
    data: Path, trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.recalibrate.LEAST_FIELDS", 10)
    copy = tmp_path / "labelled"
    shutil.copytree(data, copy)
    damaged = sorted(copy.rglob("*.png"))[5]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    settings = Settings(home=tmp_path / "home", models_dir=trained.path.parent)
    asked = EvaluateOptions(protocol="folder", model=trained.name, interventions=False)
    with pytest.raises(UsageError, match=re.escape(str(damaged))):
        evaluate(copy, asked, settings=settings)
    with pytest.raises(UsageError, match=re.escape(str(damaged))):
        recalibrate(copy, tmp_path / "out", name="ours", settings=settings, model=trained.name)


def test_a_stream_evaluated_alone_is_not_calibrated_on_itself(data: Path, tmp_path: Path) -> None:
    asked = EvaluateOptions(
        protocol="stream", only=("slate",), work=tmp_path, training=OPTIONS, interventions=False, bootstrap=20
    )
    report = evaluate(data, asked)
    assert report.about["calibrated"] == "not at all: there is no other stream"


def test_a_card_says_of_whose_images_only_what_is_known(trained: Model) -> None:
    own = card(replace(trained.configuration, synthetic=False))
    assert "Taleqani" not in own
    assert "whoever gathered them must" in own
    of_ours = replace(
        trained.configuration.provenance, training={"calibrated from": f"{DEFAULT} 0123", "holdout": 0.15}
    )
    calibrated = card(replace(trained.configuration, synthetic=False, provenance=of_ours))
    assert "Taleqani" in calibrated
    assert "Calibrated, without training, on" in calibrated
    assert "were not trained" not in calibrated
