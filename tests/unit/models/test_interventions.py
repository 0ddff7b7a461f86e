"""Each change does to a field what it says, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from allq.settings import Settings
from imaging.overlays import find_bar
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.artefact import LeukocyteRule, Model
from models.classifier import Classifier
from models.data import read_labelled
from models.interventions import (
    CHANGES,
    REMOVALS,
    Subject,
    intervene,
    join_outcomes,
    remove_suspects,
    subjects,
    weighted,
)
from models.metrics import share_interval


@pytest.fixture(scope="module")
def classifier(untrained: Model, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.load(untrained, Settings(home=tmp_path_factory.mktemp("home"), engine="openvino"))


@pytest.fixture(scope="module")
def changed(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    folder = tmp_path_factory.mktemp("data")
    rows = ["file,group,stream"]
    for number, (klass, style) in enumerate(
        [("benign", "violet"), ("pre-b", "slate"), ("pro-b", "pink"), ("benign", "slate"), ("early-pre-b", "violet")]
    ):
        (folder / klass).mkdir(exist_ok=True)
        field = render_field(np.random.default_rng(number), klass=klass, style=STYLES[style], leukocytes=(5, 8))
        cv2.imwrite(str(folder / klass / f"{number}.png"), field.pixels[..., ::-1])
        rows.append(f"{number}.png,{number},{style}")
    (folder / "groups.csv").write_text("\n".join(rows))
    return subjects(classifier, read_labelled(Path(folder)))


def test_subjects_are_asked_as_they_are(changed: list[Subject]) -> None:
    for subject in changed:
        assert len(subject.assessment.suspicions) == subject.nuclei.max() > 0


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_field_keeps_its_size_and_is_the_same_each_time(name: str, changed: list[Subject]) -> None:
    for subject in changed:
        one, again = (CHANGES[name](subject, changed) for _ in range(2))
        if one is not None:
            assert one.shape == subject.pixels.shape
            assert one.dtype == np.uint8
            assert again is not None
            assert (one == again).all()


def test_leukocytes_are_gone_when_painted_out_and_still_there_when_moved(changed: list[Subject]) -> None:
    for subject in changed:
        emptied = CHANGES["cells painted out"](subject, changed)
        moved = CHANGES["cells on another stream's smear"](subject, changed)
        assert emptied is not None
        assert moved is not None
        assert len(segment(emptied).leukocytes) == 0
        inside = subject.nuclei > 0
        assert np.abs(moved[inside].astype(int) - subject.cleaned[inside]).mean() < 10
        assert np.abs(moved.astype(int) - subject.cleaned)[~inside].mean() > 5


def test_bars_are_added_where_there_are_none_and_removed_where_there_are(changed: list[Subject]) -> None:
    for subject in changed:
        added, removed = (CHANGES[f"scale bar {what}"](subject, changed) for what in ("added", "removed"))
        assert (added is None) != (removed is None)
        if added is not None:
            assert find_bar(added) is not None
        if removed is not None:
            assert find_bar(removed) is None


def test_outcomes_count_what_was_changed_and_join(classifier: Classifier, changed: list[Subject]) -> None:
    outcomes = intervene(classifier, changed, changed)
    assert set(outcomes) <= set(CHANGES)
    assert outcomes["cells painted out"].as_json()["flagged"] == 1.0
    joined = join_outcomes([outcomes["cells painted out"]] * 2)
    assert joined.as_json()["fields"] == 2 * len(changed)
    for name, outcome in outcomes.items():
        found = outcome.as_json()
        for share, (low, high) in found["intervals"].items():
            assert 0 <= low <= found[share] <= high <= 1, (name, share)


def test_the_interval_of_a_share_comes_from_whole_groups() -> None:
    # Ten groups, each all true or all false: as uncertain as ten fields, however many fields they hold.
    values = np.repeat(np.arange(10) < 5, 100)
    low, high = share_interval(values, np.repeat(np.arange(10), 100).astype(str))
    assert low <= 0.25
    assert high >= 0.75
    low, high = share_interval(values, np.arange(1000).astype(str))
    assert high - low < 0.1


def test_removing_leukocytes_asks_of_fields_that_keep_some(classifier: Classifier, changed: list[Subject]) -> None:
    # The model is not trained: its calls are set here, to be the ones that are asked about.
    called = [
        replace(
            subject,
            assessment=replace(
                subject.assessment,
                call="pre-b",
                suspicions=tuple(np.linspace(0, 1, len(subject.assessment.suspicions))),
            ),
        )
        for subject in changed
    ]
    many = [subject for subject in called if len(subject.assessment.suspicions) >= 4]
    assert many
    found = remove_suspects(classifier, called)
    assert list(found) == list(REMOVALS)
    for outcome in found.values():
        assert outcome["fields"] == len(many)
        assert 0 <= outcome["suspicion"] <= 1
        assert 0 <= outcome["benign"] + outcome["no_call"] <= 1
    benign = [replace(subject, assessment=replace(subject.assessment, call="benign")) for subject in called]
    assert all(outcome == {"fields": 0} for outcome in remove_suspects(classifier, benign).values())


def test_most_and_least_suspicious_and_suspects_are_who_they_say(changed: list[Subject]) -> None:
    suspicions = np.array([0.9, 0.1, 0.7, 0.3])
    rule = LeukocyteRule(suspect=0.6)
    gone = {name: set(choose(changed[0], suspicions, rule).tolist()) for name, choose in REMOVALS.items()}
    assert gone["the half least suspicious"] == {1, 3}
    assert gone["the half most suspicious"] == gone["all that count as suspects"] == {0, 2}
    assert len(gone["as many drawn at random"]) == 2


def test_folds_are_joined_by_how_many_fields_they_could_ask() -> None:
    name = next(iter(REMOVALS))
    assert weighted([{name: {"fields": 0}}, {name: {"fields": 0}}]) == {name: {"fields": 0}}
    found = weighted([{name: {"fields": 1, "suspicion": 1.0}}, {name: {"fields": 3, "suspicion": 0.6}}])
    assert found == {name: {"fields": 4, "suspicion": pytest.approx(0.7)}}
