"""The profile by stages: that it looks at all that a worker does, and how its table adds up."""

from __future__ import annotations

import time

import pytest

from allq.settings import Settings
from benchmarks import measuring, stages
from benchmarks.stages import Profile, Stage
from models import classifier
from models.artefact import Model
from models.batched import BatchPreparer
from models.classifier import Classifier


def test_each_step_of_preparing_a_field_is_in_exactly_one_part() -> None:
    called = {name for name in classifier.Classifier.prepare.__code__.co_names if callable(vars(classifier).get(name))}
    listed = [name for names in stages.PREPARING.values() for name in names]
    assert sorted(listed) == sorted(called - {"PreparedField"})


def test_every_stage_is_timed_over_the_fields_that_can_be_decoded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ALLQ_INFERENCE_BATCH", "4")
    for number, data in enumerate(measuring.rendered(6)):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xff broken" if number == 3 else data)
    found = stages.profile(sorted(tmp_path.iterdir()), "synthetic-smears", 2, {"SQLite": None})
    assert [(stage.name.partition(" (")[0], stage.fields) for stage in found.stages if stage.of is None] == [
        ("read, hash", 6),
        ("decode", 5),
        ("segment, prepare", 5),
        ("networks", 5),
        ("assess", 5),
        ("record, SQLite", 5),
    ]
    parts = [stage.name for stage in found.stages if stage.of == "segment, prepare"]
    assert parts == list(stages.PREPARING)
    networks = [(stage.name, stage.fields) for stage in found.stages if stage.of and stage.of.startswith("networks")]
    assert networks
    assert {fields for _, fields in networks} == {4}  # full batches alone
    assert all(len(stage.rates) == 2 for stage in found.stages)
    assert found.leukocytes > 0


def test_on_a_card_decoding_and_segmenting_are_timed_together_and_each_by_itself(tmp_path, monkeypatch) -> None:
    load = Classifier.load

    def with_card(model: Model, settings: Settings) -> Classifier:
        found = load(model, settings)
        found.batches = BatchPreparer(model.configuration, device="cpu", threads=1, decode_side=found.decode_side)
        return found

    monkeypatch.setattr(Classifier, "load", with_card)
    for number, data in enumerate(measuring.rendered(3)):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    found = stages.profile(sorted(tmp_path.iterdir()), "synthetic-smears", 1, {}, parts=False)
    card = [(stage.name, stage.of) for stage in found.stages if "decode" in f"{stage.name} {stage.of}"]
    assert card == [
        ("decode, segment (card)", None),
        ("decode", "decode, segment (card)"),
        ("segment, prepare", "decode, segment (card)"),
    ]
    assert found.leukocytes > 0


def test_a_stage_is_repeated_until_it_has_taken_as_long_as_it_should_and_says_the_cards_most_memory() -> None:
    class Card:
        most = 7 << 20

        def reset_peak_memory_stats(self) -> None:
            self.most = 3 << 20

        def max_memory_allocated(self) -> int:
            return self.most

    passes: list[float] = []

    def work() -> list[int]:
        passes.append(time.sleep(0.02) or 1)
        return []

    timed = stages._timed("decode", 10, work, 2, seconds=0.1, card=Card()).timed
    assert len(passes) >= 4
    assert all(rate < 10 / 0.02 for rate in timed.rates)
    assert timed.card_bytes == 3 << 20


def test_the_table_adds_up_the_stages_once_for_each_database_and_no_part_twice() -> None:
    found = Profile(
        stages=[
            Stage(name="decode", fields=8, rates=(900, 1000, 2000)),
            Stage(name="segment, prepare", fields=8, rates=(250,)),
            Stage(name="leukocytes", fields=8, rates=(500,), of="segment, prepare"),
            Stage(name="record, SQLite", fields=8, rates=(2000,)),
            Stage(name="record, PostgreSQL", fields=8, rates=(1000,)),
        ],
        leukocytes=5.0,
        model="some",
    )
    lines = stages.table(found).splitlines()
    assert "| segment, prepare | 4.00 | leukocytes 2.00 |" in lines
    assert "| **together**, record, SQLite | **5.50** | that is 182 fields/s |" in lines
    assert "| **together**, record, PostgreSQL | **6.00** | that is 167 fields/s |" in lines


def test_the_page_has_a_place_for_the_profile() -> None:
    page = measuring.PAGE.read_text(encoding="utf-8")
    assert page.index(stages.BEGIN) < page.index(stages.END)


def test_a_database_that_there_is_not_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stages.main(["--databases", "oracle"])
    assert "there is no database 'oracle'" in capsys.readouterr().err
