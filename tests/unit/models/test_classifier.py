from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allq.classes import CLASSES
from allq.errors import ModelDamaged
from allq.settings import Settings
from imaging.decode import Decoded, decode
from imaging.synthetic import STYLES, render_field
from models.architectures import blueprint
from models.artefact import LeukocyteRule, Model
from models.classifier import Classifier
from models.engines import NetworkOutput
from models.flags import DIVIDED
from models.leukocytes import count_suspects


def encoded(pixels: np.ndarray) -> Decoded:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return decode(content.getvalue(), max_pixels=10_000_000)


@pytest.fixture(scope="module")
def classifier(untrained: Model, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.load(untrained, Settings(home=tmp_path_factory.mktemp("home"), engine="openvino"))


@pytest.fixture(scope="module")
def fields() -> list[Decoded]:
    random = np.random.default_rng(0)
    rendered = [
        render_field(random, klass=name, style=style).pixels
        for name, style in zip(CLASSES, STYLES.values(), strict=False)
    ]
    return [encoded(pixels) for pixels in rendered]


def test_a_prepared_field_is_its_leukocytes_and_the_whole_at_the_size_of_the_model(
    classifier: Classifier, fields: list[Decoded]
) -> None:
    prepared = classifier.prepare(fields[0])
    assert prepared.cells.shape == (96, 96, 3)
    assert prepared.field.shape == (64, 64, 3)
    assert prepared.cells.dtype == prepared.field.dtype == np.uint8
    assert (prepared.width, prepared.height) == (320, 240)
    assert len(prepared.segmentation.leukocytes) == len(prepared.nuclei)


def test_the_ring_around_nuclei_is_the_models(
    classifier: Classifier, fields: list[Decoded], make_model: Callable[..., Model], tmp_path: Path
) -> None:
    wide = Classifier.load(make_model(tmp_path / "wide", rim=0.9), Settings(home=tmp_path, engine="openvino"))
    bare = [np.count_nonzero((each.prepare(fields[0]).cells == 255).all(axis=2)) for each in (classifier, wide)]
    assert bare[0] > bare[1]


def test_a_model_without_its_novelty_statistics_is_damaged(
    untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = untrained.arrays()
    del arrays["novelty.leans"]
    monkeypatch.setattr(Model, "arrays", lambda _: arrays)
    with pytest.raises(ModelDamaged, match=r"untrained lack 'novelty\.leans'"):
        Classifier.load(untrained, Settings(home=tmp_path, engine="openvino"))


def test_an_assessment_is_consistent_with_itself(classifier: Classifier, fields: list[Decoded]) -> None:
    for field, found in zip(fields, classifier.classify([classifier.prepare(field) for field in fields]), strict=True):
        assert sum(found.probabilities) == pytest.approx(1)
        assert found.call == CLASSES[int(np.argmax(found.probabilities))]
        assert found.confidence == max(found.probabilities)
        assert found.suspicion == pytest.approx(1 - found.probabilities[0])
        assert all(0 <= suspicion <= 1 for suspicion in found.suspicions)
        assert found.suspects == sum(suspicion >= 0.6 for suspicion in found.suspicions)
        assert len(found.suspicions) == len(classifier.prepare(field).segmentation.leukocytes)


def test_a_field_says_the_same_alone_and_in_company(classifier: Classifier, fields: list[Decoded]) -> None:
    prepared = [classifier.prepare(field) for field in fields]
    together = classifier.classify(prepared)
    for one, expected in zip(prepared, together, strict=True):
        (alone,) = classifier.classify([one])
        assert alone.call == expected.call
        assert alone.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


def test_a_blank_field_is_not_called(classifier: Classifier) -> None:
    blank = np.full((240, 320, 3), 243, np.uint8)
    (found,) = classifier.classify([classifier.prepare(encoded(blank))])
    assert found.call is None
    assert found.confidence == 0
    assert found.suspicion == 0
    assert found.suspicions == ()
    assert "no-leukocytes" in found.flags
    assert "uncertain" not in found.flags


def test_every_flag_that_is_raised_has_its_sentence_in_the_model(classifier: Classifier, fields: list[Decoded]) -> None:
    sentences = classifier.model.configuration.flags
    for found in classifier.classify([classifier.prepare(field) for field in fields]):
        assert set(found.flags) <= set(sentences)
    assert all(flag.sentence.endswith((".", ":")) for flag in sentences.values())


def test_nothing_to_classify_gives_nothing(classifier: Classifier) -> None:
    assert classifier.classify([]) == []


def test_the_engine_is_the_one_the_settings_ask_for(untrained: Model, tmp_path: Path) -> None:
    for engine in ("openvino", "torch"):
        loaded = Classifier.load(untrained, Settings(home=tmp_path, engine=engine, device="cpu"))
        assert loaded.engine_name.startswith(f"{engine}-cpu-")


def test_a_field_that_is_called_benign_counts_no_suspects():
    suspicions = np.array([0.2, 0.7, 0.9])
    rule = LeukocyteRule(suspect=0.5)
    assert count_suspects(suspicions, rule, suspect_field=True) == 2
    assert count_suspects(suspicions, rule, suspect_field=False) == 0


def output_of(views: list[list[float]], classifier: Classifier) -> NetworkOutput:
    """One field's output with these logits of its views."""
    logits = np.array([views], np.float32)
    dimensions = blueprint(classifier.model.configuration.architecture).embedding
    return NetworkOutput(
        logits=logits.mean(axis=1),
        embeddings=np.zeros((1, dimensions), np.float32),
        class_maps=tuple(np.repeat(view[:, :, None, None], 4, axis=3) for view in logits.swapaxes(0, 1)),
        views=logits,
    )


@pytest.mark.parametrize(
    ("views", "flagged"),
    [
        ([[9.0, 0, 0, 0], [0, 0, 5.0, 0]], True),
        ([[9.0, 0, 0, 0], [7.0, 0, 0, 0], [0, 0, 5.0, 0]], True),
        ([[0, 9.0, 0, 0], [0, 0, 5.0, 0]], False),
        ([[9.0, 0, 0, 0], [5.0, 0, 0, 0]], False),
        ([[9.0, 0, 0, 0]], False),
    ],
)
def test_views_on_different_sides_are_flagged_and_subtypes_are_not(
    classifier: Classifier, fields: list[Decoded], views: list[list[float]], flagged: bool
) -> None:
    prepared = [classifier.prepare(fields[2])]
    (found,) = classifier.assess(prepared, output_of(views, classifier))
    assert (DIVIDED in found.flags) == flagged
    sentence = classifier.model.configuration.flags[DIVIDED].sentence
    assert "benign or ALL" in sentence
