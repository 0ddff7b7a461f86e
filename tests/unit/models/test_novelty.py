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


def test_a_field_within_reach_of_the_called_side_is_novel_when_it_leans_to_the_other() -> None:
    # ALL is two looks far apart, each a group: new ALL fields may lie far from known ones. Benign lies close together.
    random = np.random.default_rng(5)
    benign, first, second = (random.normal(centre, 0.1, (100, 3)) for centre in ((0, 0, 0), (8, 0, 0), (0, 40, 0)))
    values = np.concatenate([benign, first, second]).astype(np.float32)
    groups = [f"benign {n % 5}" for n in range(100)] + ["first"] * 100 + ["second"] * 100
    sides = np.repeat([0, 1, 1], 100)
    fitted = fit_novelty(values, groups, sides, neighbours=1, share=0.02)
    beside_benign = np.array([[0.1, 0.1, 0.1]], np.float32)
    assert fitted.distances(beside_benign)[0, 1] < fitted.units[1]
    assert fitted.score(beside_benign, np.array([1])) > 1
    assert fitted.score(beside_benign, np.array([0])) < 1
    assert fitted.score(values[150:151], np.array([1])) < 1


@pytest.mark.parametrize("middle", [(4, 4, 4, 4, 4, 4), (4, 0, 0, 4, 0, 0)])
def test_a_laboratory_that_is_added_is_known_and_those_before_stay_known(
    fitted: Novelty, middle: tuple[float, ...]
) -> None:
    # Its benign fields lie between the sides that were known: the fields of ALL now have benign ones near them.
    random = np.random.default_rng(6)
    scale = np.array([1, 100, 0.01, 1, 1, 1])
    values = (random.normal(0, 1, (200, 6)) + np.array(middle)) * scale
    values[100:] += 30 * scale
    sides = np.repeat([0, 1], 100)
    extended = fitted.extended(values.astype(np.float32), [f"new {n % 10}" for n in range(200)], sides, share=0.02)
    scores = extended.left_out()
    old = np.arange(len(scores)) < len(fitted.references)
    for laboratory in (old, ~old):
        for side in (0, 1):
            assert (scores[laboratory & (extended.sides == side)] > 1).mean() <= 0.02


def test_no_more_than_the_share_of_either_side_exceeds_distance_or_lean(fitted: Novelty) -> None:
    scores = fitted.left_out()
    for side in (0, 1):
        assert (scores[fitted.sides == side] > 1).mean() <= 0.02


def test_one_group_a_side_can_be_fitted() -> None:
    values, _, sides = clouds(60, 8)
    novelty = fit_novelty(values, [str(side) for side in sides], sides, neighbours=1, share=0.02)
    assert np.isfinite(novelty.scores(values)).all()


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
