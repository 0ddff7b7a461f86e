"""The tables of the networks' arithmetics: what is compared is what it is called, and each has its row."""

from __future__ import annotations

import numpy as np
import pytest

from allq.settings import Settings
from benchmarks import engines
from benchmarks.engines import BF16, INTEGERS, LEVELS, SINGLE, Asked
from models.artefact import Model, find

GIVEN = Asked(batch=4, threads=1, repeat=1, torch=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find(Settings(home=tmp_path_factory.mktemp("home")), "synthetic-smears")


@pytest.fixture(scope="module")
def screening(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find(Settings(home=tmp_path_factory.mktemp("home")), "lite0-three-views")


@pytest.fixture(scope="module")
def pictures(screening: Model) -> engines.Pictures:
    random, sizes = np.random.default_rng(3), screening.configuration.input_sizes
    cells, fields = (random.integers(0, 256, (4, side, side, 3), np.uint8) for side in (sizes.cells, sizes.field))
    return cells, fields


def logits(model: Model, pictures: engines.Pictures, name: str) -> np.ndarray:
    result = engines.request(model, engines.ARITHMETICS[name], batch=4, threads=1).infer(list(pictures))
    return np.concatenate([np.ravel(result[f"{view}.logits"]) for view in ("cells", "field", "look")])


def test_without_levels_nothing_is_rounded_to_them_and_only_bf16_rounds_more(screening, pictures) -> None:
    """As far as the network without levels in torch says: `benchmarks.plain` makes it of the same weights."""
    import torch

    from benchmarks.plain import without_levels
    from models.engines.torch import restore

    network = without_levels(restore(screening.configuration, screening.arrays()))
    with torch.inference_mode():
        output = network(*(network.scale(torch.from_numpy(view)) for view in pictures))
    expected = np.concatenate([output.views[:, view].numpy().ravel() for view in range(3)])
    assert logits(screening, pictures, SINGLE) == pytest.approx(expected, abs=1e-3)
    assert np.abs(logits(screening, pictures, LEVELS) - expected).max() > 1e-3
    if BF16 in engines.here([BF16]):
        assert 1e-3 < np.abs(logits(screening, pictures, BF16) - expected).max() < 1


def test_each_arithmetic_has_its_row_in_every_table(model, tmp_path) -> None:
    from models.classifier import Classifier
    from models.engines.openvino import OpenVinoEngine

    classifier = Classifier(model, OpenVinoEngine(model, batch=4, threads=1))
    fields = engines.prepared_fields(classifier, None, 4)
    shown = engines.pictures_of(fields)
    names = engines.here(engines.ARITHMETICS)

    def first_cells(lines: list[str]) -> list[str]:
        return [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]

    assert first_cells(engines.rates(model, shown, GIVEN)) == names
    by_batch = engines.batches(model, shown, GIVEN)
    assert by_batch[0] == "| ms a field, in batches of | 1 | 4 |"
    assert first_cells(by_batch) == engines.here(engines.TRIED)
    compared = engines.apart(model, fields, shown, GIVEN)
    assert f"{INTEGERS}, against {LEVELS}" in first_cells(compared)
    assert all("4 of 4" in line for line in compared[2:] if line.startswith(f"| {INTEGERS}, against {LEVELS}"))
    divided = engines.cores(model, shown, GIVEN, tmp_path, [(2, 1)])
    assert divided[2].startswith("| 2 processes of 1 thread |")
    assert all(float(rate) > 0 for line in divided[2:] for rate in line.split(" | ")[1:-1])


def test_fewer_fields_than_are_timed_are_taken_more_than_once(pictures) -> None:
    cells, fields = engines.evenly(pictures, 8)
    assert np.array_equal(cells, np.repeat(pictures[0], 2, axis=0))
    assert len(fields) == 8


@pytest.mark.parametrize("table", engines.TABLES)
def test_each_table_has_its_place_in_a_page(table: str) -> None:
    begin, end = engines.marks(table)
    page = engines.PAGES[table].read_text(encoding="utf-8")
    assert page.count(begin) == page.count(end) == 1 and page.index(begin) < page.index(end)
