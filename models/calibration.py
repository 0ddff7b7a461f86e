"""Probabilities that mean what they say, and where to draw the lines. Plain numpy: used at run time too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """(N, classes) or (N, classes, …) logits to probabilities over axis 1."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponents = np.exp(scaled)
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def suspect_margin(logits: NDArray[np.floating]) -> Floats:
    """Log-odds of any class but the first (benign): (N, classes, …) to (N, …)."""
    rest = logits[:, 1:].astype(np.float64)
    most = rest.max(axis=1)
    return np.asarray(most + np.log(np.exp(rest - most[:, None]).sum(axis=1)) - logits[:, 0])


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(−values)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int_]) -> float:
    """The temperature with the least negative log-likelihood on held-out fields (Guo et al., ICML 2017).

    Searched between 0.2 and 5 by golden section on its logarithm; the likelihood has one minimum there.
    """

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())

    ratio = (np.sqrt(5) - 1) / 2
    low, high = np.log(0.2), np.log(5.0)
    while high - low > 1e-3:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def fit_sigmoid(margins: Floats, targets: Floats, weights: Floats, *, ridge: float = 1e-6) -> tuple[float, float]:
    """Offset and slope of a logistic regression of `targets` (0 to 1) on `margins`, each (N,); Newton's method.

    Targets are pulled off 0 and 1 as in Platt (1999), so that classes that never overlap still give a finite slope.
    """
    total = weights.sum()
    positive = float((weights * targets).sum())
    soft = targets * (positive + 1) / (positive + 2) + (1 - targets) / (total - positive + 2)
    centre, spread = float(margins.mean()), float(margins.std()) or 1.0
    design = np.stack([np.ones_like(margins), (margins - centre) / spread], axis=1)
    solution = np.zeros(2)
    for _ in range(200):
        predicted = sigmoid(design @ solution)
        gradient = design.T @ (weights * (predicted - soft)) / total + ridge * solution
        curvature = weights * np.maximum(predicted * (1 - predicted), 1e-6) / total
        step = np.linalg.solve(design.T @ (design * curvature[:, None]) + ridge * np.eye(2), gradient)
        solution -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    slope = float(solution[1] / spread)
    return float(solution[0] - slope * centre), slope


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, weighted by their fields."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[which == number].mean() - correct[which == number].mean()) * (which == number).mean()
        for number in np.unique(which)
    ]
    return float(sum(gaps))


def brier(probabilities: Floats, labels: NDArray[np.int_]) -> float:
    """Mean squared distance of (N, classes) probabilities to the truth, summed over classes."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())
