from __future__ import annotations

import numpy as np
import pytest

from models.calibration import (
    brier,
    expected_calibration_error,
    fit_sigmoid,
    fit_temperature,
    sigmoid,
    softmax,
    suspect_margin,
)


def drawn(temperature: float, count: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large, and labels drawn from the honest probabilities."""
    random = np.random.default_rng(3)
    honest = random.normal(0, 2, (count, 4))
    labels = (softmax(honest).cumsum(1) > random.random((count, 1))).argmax(1)
    return honest * temperature, labels


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoiled_the_logits_is_found(true: float) -> None:
    logits, labels = drawn(true)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.05)


def test_calibration_lowers_the_calibration_error_of_overconfident_logits() -> None:
    logits, labels = drawn(3.0)

    def error(temperature: float) -> float:
        probabilities = softmax(logits, temperature)
        return expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == labels)

    assert error(fit_temperature(logits, labels)) < 0.02 < error(1.0)


def test_the_suspect_margin_is_the_log_odds_of_not_benign() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))
    assert 1 - softmax(logits)[:, 0] == pytest.approx(sigmoid(suspect_margin(logits)))


def test_huge_logits_overflow_nowhere() -> None:
    logits = np.array([[1000.0, -1000.0, 0.0, 0.0], [-1000.0, 900.0, 0.0, 0.0]])
    with np.errstate(all="raise", under="ignore"):
        assert softmax(logits)[0, 0] == 1
        assert sigmoid(suspect_margin(logits)).tolist() == [0, 1]


def test_the_sigmoid_follows_its_targets_and_stays_finite_when_the_classes_never_overlap() -> None:
    margins = np.linspace(-3, 3, 400)
    offset, slope = fit_sigmoid(margins, sigmoid(1 + 2 * margins), np.ones(400))
    assert (offset, slope) == (pytest.approx(1, abs=0.3), pytest.approx(2, abs=0.3))
    _, steep = fit_sigmoid(margins, (margins > 0).astype(float), np.ones(400))
    assert 0 < steep < 100


def test_the_brier_score_of_the_truth_is_zero_and_of_certain_error_two() -> None:
    assert brier(np.eye(4), np.arange(4)) == 0
    assert brier(np.eye(4), np.array([1, 2, 3, 0])) == 2
