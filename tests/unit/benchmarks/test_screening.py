"""What the whole path is compared with: in which order, by which of two plain scripts, with what network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allq.settings import load
from benchmarks import measuring, plain, screening
from benchmarks.measuring import QUICK, Bench
from models.artefact import find
from models.engines.torch import restore

BENCH = Bench(folder=Path(), model=None, scale=QUICK, place=Path(), servers={"SQLite": None, "PostgreSQL": "url"})


def test_what_is_compared_is_measured_in_turn_and_every_other_pass_the_other_way_round(monkeypatch):
    done: list[screening.Way] = []

    def whole_path(bench, server, processes, *, again):
        done.append(screening.Way("SQLite" if server is None else "PostgreSQL", processes))
        return 100.0 * processes, 2000.0 if again else 0.0

    def rate_of_program(bench, way):
        done.append(way)
        return 10.0

    monkeypatch.setattr(screening, "_whole_path", whole_path)
    monkeypatch.setattr(screening, "_rate_of_program", rate_of_program)
    figures = list(screening.measure(BENCH, screening.BARS))
    assert sorted({(figure.bar, figure.database) for figure in figures}) == sorted(
        (bar, database) for bar in screening.BARS for database in BENCH.servers
    )
    assert all(len(figure.values) == QUICK.repeat for figure in figures)
    once = len(done) // QUICK.repeat
    first, second, third = (done[number * once : (number + 1) * once] for number in range(3))
    assert first == second[::-1] == third
    assert len(set(first)) == once


def test_the_bar_goes_by_the_faster_of_the_plain_scripts_and_the_note_has_both():
    rates = {"without levels": [50.0, 20.0, 50.0], "with levels": [20.0, 30.0, 20.0]}
    figure = screening._against_plain("SQLite", [200.0, 100.0, 150.0], rates)
    assert figure.values == (4.0, 5.0, 3.0)
    assert figure.value == 4.0
    assert "without levels 4.00×" in figure.note and "with levels 7.50×" in figure.note


@pytest.mark.parametrize("name", ["lite0-three-views", "synthetic-smears"])
def test_the_network_without_levels_says_nearly_the_same_of_a_field(name, tmp_path):
    model = find(load(home=tmp_path), name)
    leveled = restore(model.configuration, model.arrays())
    ordinary = plain.without_levels(leveled)
    paths = []
    for number, data in enumerate(measuring.rendered(4)):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(data)
    fields = plain.Fields(paths, model.configuration)
    pairs = [fields[number] for number in range(len(fields))]
    views = [torch.stack([torch.from_numpy(view) for view in part]) for part in zip(*pairs, strict=True)]
    with torch.inference_mode():
        one, other = (each(*(each.scale(view) for view in views)).logits.softmax(1) for each in (leveled, ordinary))
    assert not torch.equal(one, other)
    assert torch.allclose(one, other, atol=0.05)
