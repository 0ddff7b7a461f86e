from __future__ import annotations

import numpy as np
import pytest

from models.novelty import Novelty, fit_novelty


def clouds(count: int, seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Two separate looks, as two streams are, one of each side; columns of very different size; 10 groups."""
    random = np.random.default_rng(seed)
    side = np.arange(count) % 2
    values = random.normal(0, 1, (count, 6)) * np.array([1, 100, 0.01, 1, 1, 1]) + 8 * side[:, None]
    groups = [f"{n % 2}-{n % 20}" for n in range(count)]
    return values.astype(np.float32), groups, side


@pytest.fixture(scope="module")
def fitted() -> Novelty:
    values, groups, sides = clouds(600, 0)
    return fit_novelty(values, groups, sides, neighbours=1, share=0.02)


def test_about_the_stated_share_of_new_fields_of_a_known_look_is_novel(fitted: Novelty) -> None:
    values, _, sides = clouds(2000, 1)
    scores = fitted.score(values, sides)
    for side in (0, 1):
        assert 0.005 < (scores[sides == side] > 1).mean() < 0.05


def test_a_look_between_two_known_ones_is_novel_whatever_it_is_called(fitted: Novelty) -> None:
    between = np.full((3, 6), 4, np.float32)
    assert (fitted.score(between, np.array([0, 1, -1])) > 1).all()


def test_a_known_look_is_novel_when_it_is_called_as_the_side_it_never_had(fitted: Novelty) -> None:
    values, _, sides = clouds(200, 2)
    assert (fitted.score(values, 1 - sides) > 1).all()


def test_without_a_call_the_nearer_side_counts(fitted: Novelty) -> None:
    values, _, sides = clouds(50, 3)
    assert fitted.score(values, np.full(50, -1)) == pytest.approx(fitted.scores(values).min(axis=1))
    assert (fitted.score(values, np.full(50, -1)) <= fitted.score(values, sides)).all()


def test_what_is_stored_scores_as_what_was_fitted(fitted: Novelty) -> None:
    values, _, sides = clouds(20, 3)
    stored = Novelty.from_arrays(fitted.arrays(), neighbours=1)
    assert stored.score(values, sides) == pytest.approx(fitted.score(values, sides), rel=1e-6)


def test_one_group_of_one_side_alone_can_be_fitted_and_the_other_side_is_always_novel() -> None:
    values = clouds(50, 4)[0]
    novelty = fit_novelty(values, ["one"] * 50, np.zeros(50, int), neighbours=5, share=0.02)
    assert np.isfinite(novelty.units).all()
    assert (novelty.score(values, np.ones(50, int)) > 1).all()
