"""Each change does to a field what it says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from allq.settings import Settings
from imaging.overlays import find_bar
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.artefact import Model
from models.classifier import Classifier
from models.data import read_labelled
from models.interventions import CHANGES, Subject, intervene, join_outcomes, remove_suspects, subjects, weighted


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


def test_removing_suspects_says_how_many_fields_it_could_ask(classifier: Classifier, changed: list[Subject]) -> None:
    suspect = [subject for subject in changed if subject.assessment.call not in (None, "benign")]
    found = remove_suspects(classifier, changed)
    assert found["fields"] == len([subject for subject in suspect if len(subject.assessment.suspicions) >= 4])


def test_folds_without_a_field_to_ask_are_joined_as_none() -> None:
    assert weighted([{"fields": 0}, {"fields": 0}]) == {"fields": 0}
    assert weighted([{"fields": 1, "suspicion_before": 1.0}, {"fields": 3, "suspicion_before": 0.6}]) == {
        "fields": 4,
        "suspicion_before": pytest.approx(0.7),
    }
