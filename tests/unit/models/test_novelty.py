from __future__ import annotations

import numpy as np
import pytest

from models.novelty import Novelty, fit_novelty


def clouds(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Two separate looks, as two streams are; columns of very different size; 10 groups."""
    random = np.random.default_rng(seed)
    look = np.arange(count) % 2
    values = random.normal(0, 1, (count, 6)) * np.array([1, 100, 0.01, 1, 1, 1]) + 8 * look[:, None]
    groups = [f"{n % 2}-{n % 20}" for n in range(count)]
    return np.hstack([values, random.normal(0, 50, (count, 3))]).astype(np.float32), groups


@pytest.fixture(scope="module")
def fitted() -> tuple[Novelty, float]:
    values, groups = clouds(600, 0)
    return fit_novelty(values, groups, dimensions=6, neighbours=1, share=0.02)


def test_about_the_stated_share_of_new_fields_of_a_known_look_is_called_novel(fitted: tuple[Novelty, float]) -> None:
    novelty, threshold = fitted
    scores = novelty.score(clouds(2000, 1)[0])
    assert 0.005 < (scores > threshold).mean() < 0.05
    assert np.median(scores) == pytest.approx(1, abs=0.2)


def test_a_look_between_two_known_ones_is_novel(fitted: tuple[Novelty, float]) -> None:
    novelty, threshold = fitted
    between = np.full((1, 9), 4, np.float32)
    between[0, 2] = 4.0
    assert novelty.score(between)[0] > threshold


def test_dimensions_beyond_those_asked_for_do_not_matter(fitted: tuple[Novelty, float]) -> None:
    values = clouds(5, 2)[0]
    other = values.copy()
    other[:, 6:] = 1e6
    assert (fitted[0].score(values) == fitted[0].score(other)).all()


def test_what_is_stored_scores_as_what_was_fitted(fitted: tuple[Novelty, float]) -> None:
    values = clouds(20, 3)[0]
    stored = Novelty.from_arrays(fitted[0].arrays(), neighbours=1)
    assert stored.score(values) == pytest.approx(fitted[0].score(values), rel=1e-6)


def test_one_group_alone_can_be_fitted() -> None:
    novelty, threshold = fit_novelty(clouds(50, 4)[0], ["one"] * 50, dimensions=6, neighbours=5, share=0.02)
    assert np.isfinite(threshold)
    assert np.isfinite(novelty.unit)
