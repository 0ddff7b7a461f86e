"""What the shipped model's pages say is what the stored outputs of its folds say."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.artefact import CARD, DEFAULT, SHIPPED, read
from models.heldout import HeldOut, cross_calibrate
from models.metrics import figures
from models.predictions import from_held_out

ROOT = Path(__file__).resolve().parents[3]
REPORTS = ROOT / "docs" / "model"


@pytest.mark.parametrize("name", ["group", "random"])
def test_the_stored_figures_are_those_of_the_stored_outputs(name: str) -> None:
    report = json.loads((REPORTS / f"by-{name}.json").read_text())
    held_out = HeldOut.load(REPORTS / f"by-{name}-held-out.npz")
    found = figures(from_held_out(held_out, cross_calibrate(held_out)), np.arange(len(held_out.labels)))
    assert held_out.fingerprint == report["about"]["fingerprint"]
    for figure, value in found.items():
        assert value == pytest.approx(report["figures"][figure]["value"], abs=1e-9)


def test_the_shipped_model_is_the_one_that_was_measured() -> None:
    configuration = read(SHIPPED / DEFAULT).configuration
    report = json.loads((REPORTS / "by-group.json").read_text())
    assert configuration.provenance.fingerprint == report["about"]["fingerprint"]
    assert configuration.metrics["figures"] == report["figures"]
    assert f"{DEFAULT} {read(SHIPPED / DEFAULT).id[:12]}" in (REPORTS / "README.md").read_text()


def test_the_card_has_every_bar_of_the_report() -> None:
    lines = [line for line in (REPORTS / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) > 20
    assert set(lines) <= set((SHIPPED / DEFAULT / CARD).read_text().splitlines())
