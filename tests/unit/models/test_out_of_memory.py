"""Memory that runs out in the network makes its batches smaller; only a single field that doesn't fit is an error."""

import numpy as np
import pytest

from allq.settings import Settings
from imaging.decode import Decoded
from imaging.formats import ImageFormat
from imaging.synthetic import STYLES, render_field
from models import artefact
from models.classifier import Classifier


class Narrow:
    """An engine with memory for `room` fields at a time, as torch or OpenVINO say it."""

    def __init__(self, engine, room, error):
        self._engine, self.room, self._error = engine, room, error
        self.asked: list[int] = []

    name = "narrow"

    def fewer(self, count):
        return count // 2

    def run(self, cells, fields):
        self.asked.append(len(cells))
        if len(cells) > self.room:
            raise self._error
        return self._engine.run(cells, fields)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    settings = Settings(_env_file=None, home=tmp_path_factory.mktemp("home"), inference_batch=8)
    return Classifier.load(artefact.find(settings, "synthetic-smears"), settings)


@pytest.fixture(scope="module")
def prepared(loaded):
    style = STYLES[min(STYLES)]
    fields = []
    for seed in range(8):
        pixels = render_field(np.random.default_rng(seed), klass="benign", style=style, size=(96, 72)).pixels
        fields.append(loaded.prepare(Decoded(pixels=pixels, format=ImageFormat.PNG, width=96, height=72)))
    return fields


@pytest.mark.parametrize("room", [1, 3, 7, 8])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")])
def test_the_batch_shrinks_until_it_fits_and_the_assessments_are_the_same(loaded, prepared, room, error):
    engine = Narrow(loaded._engine, room, error)
    classifier = Classifier(loaded.model, engine)
    found = classifier.classify(prepared)
    wanted = loaded.classify(prepared)
    assert [each.call for each in found] == [each.call for each in wanted]
    assert np.allclose([each.probabilities for each in found], [each.probabilities for each in wanted], atol=1e-5)
    # What doesn't fit is not tried again,
    engine.asked.clear()
    classifier.classify(prepared)
    assert max(engine.asked) <= room and sum(engine.asked) == len(prepared)
    # for a while.
    engine.room = 8
    for _ in range(64):
        engine.asked.clear()
        classifier.classify(prepared)
    assert engine.asked == [8]


def test_one_field_that_does_not_fit_and_any_other_error_are_raised(loaded, prepared):
    engine = Narrow(loaded._engine, 0, MemoryError())
    with pytest.raises(MemoryError):
        Classifier(loaded.model, engine).classify(prepared)
    assert engine.asked == [8, 4, 2, 1]
    broken = Narrow(loaded._engine, 4, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape"):
        Classifier(loaded.model, broken).classify(prepared)
    assert broken.asked == [8]


def test_a_batch_is_made_smaller_only_where_that_takes_less_memory(loaded):
    """OpenVINO has networks for 4 and for 8 fields, and fills up what has fewer."""
    assert [loaded._engine.fewer(count) for count in (8, 5, 4, 1)] == [4, 4, 0, 0]
