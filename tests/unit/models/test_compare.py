"""Two models side by side, from their records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allq.errors import ModelDamaged
from allq.settings import Settings
from models import artefact, compare
from models.artefact import Model
from models.report import FIGURES


@pytest.fixture
def shipped(tmp_path: Path) -> tuple[Model, Model]:
    settings = Settings(home=tmp_path)
    return artefact.find(settings, artefact.DEFAULT), artefact.find(settings, "synthetic-smears")


def with_metrics(model: Model, metrics: Mapping[str, Any]) -> Model:
    return replace(model, configuration=replace(model.configuration, metrics=metrics))


def test_every_figure_of_a_record_stands_beside_the_others_with_its_interval(shipped: tuple[Model, Model]) -> None:
    shown = {name: (one, other) for name, one, other in compare.lines(*shipped)}
    for name, label in FIGURES.items():
        for model, text in zip(shipped, shown[label], strict=True):
            figure = model.configuration.metrics["figures"][name]
            value, low, high = (part.strip("%) ") for part in text.replace("(", "–").split("–"))
            scale = 1 if "%" not in text else 100
            assert float(value) == pytest.approx(figure["value"] * scale, abs=0.006)
            assert float(low) == pytest.approx(figure["low"] * scale, abs=0.006)
            assert float(high) == pytest.approx(figure["high"] * scale, abs=0.006)
    assert shown["architecture"] == ("efficientnet-lite0", "tiny")
    assert shown["input"][0] == "leukocytes 192², field 128² pixels"
    assert "taleqani" in shown["origin"][0]
    assert shown["synthetic"] == ("no", "yes: knows rendered smears only")
    size = (shipped[0].path / artefact.WEIGHTS).stat().st_size
    assert shown["weights"][0].startswith(f"{size / 1e6:.1f} MB")


def test_figures_are_alike_only_where_the_same_fields_were_held_out_in_the_same_way(
    shipped: tuple[Model, Model],
) -> None:
    model, other = shipped
    metrics = model.configuration.metrics
    assert compare.measured_alike(model, model)
    assert not compare.measured_alike(model, other)
    assert not compare.measured_alike(model, with_metrics(model, {**metrics, "how": "another way"}))
    assert not compare.measured_alike(with_metrics(model, {}), with_metrics(model, {}))


def test_a_model_without_figures_is_compared_and_one_with_nonsense_is_named(shipped: tuple[Model, Model]) -> None:
    model, other = shipped
    lines = compare.lines(with_metrics(model, {}), other)
    assert {one for name, one, _ in lines if name in FIGURES.values()} == {"–"}
    for nonsense in ({"figures": 7}, {"figures": {"auroc": {"value": "high"}}}, {"how": "x"}):
        with pytest.raises(ModelDamaged, match=r"metrics in .*model\.json can't be read"):
            compare.lines(with_metrics(model, nonsense), other)


def test_a_record_is_json(shipped: tuple[Model, Model]) -> None:
    for model in shipped:
        assert json.loads(json.dumps(compare.record(model), allow_nan=False)) == compare.record(model)
