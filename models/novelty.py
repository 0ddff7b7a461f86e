"""How far a field lies from everything the model was trained on.

The distance is that to the k-th nearest training field in the first dimensions of the network's embedding: channel
means of early blocks, which tell stain, grain, focus and scale. They are whitened by how fields differ within a group:
what varies on one slide counts little, what only tells slides apart counts much. Streams are separate clouds, so
neighbours tell more than one Gaussian would (measured in docs/model.md; k-NN after Sun et al., ICML 2022). A score of 1
is the median over training fields whose group was left out of the references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAX_REFERENCES = 4096
_LEAST_GROUP = 3
_SHRINKAGE = 0.1
"""of the mean variance, added to that of each axis, so that axes without variance don't blow up"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Novelty:
    """What the training fields look like: R of them in D whitened dimensions."""

    mean: Floats
    """(D,)"""
    whitening: Floats
    """(D, D): whitened = (embedding[:D] − mean) @ whitening"""
    references: NDArray[np.float16]
    """(R, D)"""
    unit: float
    """distance that scores 1"""
    neighbours: int

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, neighbours: int) -> Novelty:
        """Out of a model's arrays `novelty.…`."""
        return cls(
            mean=arrays["novelty.mean"].astype(np.float32),
            whitening=arrays["novelty.whitening"].astype(np.float32),
            references=arrays["novelty.references"].astype(np.float16),
            unit=float(arrays["novelty.unit"][0]),
            neighbours=neighbours,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a model's `model.safetensors`."""
        return {
            "novelty.mean": self.mean,
            "novelty.whitening": self.whitening,
            "novelty.references": self.references,
            "novelty.unit": np.array([self.unit], np.float32),
        }

    def score(self, embeddings: NDArray[np.floating]) -> Floats:
        """(N, E) embeddings to (N,) scores, 0 upwards."""
        whitened = (embeddings[:, : len(self.mean)].astype(np.float32) - self.mean) @ self.whitening
        references = self.references.astype(np.float32)
        squares = (whitened**2).sum(1)[:, None] - 2 * whitened @ references.T + (references**2).sum(1)
        rank = min(self.neighbours, len(references)) - 1
        distance = np.sqrt(np.maximum(np.partition(squares, rank, axis=1)[:, rank], 0))
        return np.asarray(distance / self.unit, dtype=np.float32)


def fit_novelty(
    embeddings: NDArray[np.floating], groups: Sequence[str], *, dimensions: int, neighbours: int, share: float
) -> tuple[Novelty, float]:
    """The references, and the score that `share` of fields exceed when their own group is not among the references.

    `embeddings` (N, E) of the training fields, `groups` (N,) their groups. The references hold every field (at most
    MAX_REFERENCES, evenly chosen); the threshold comes from five parts of the groups, each left out in turn.
    """
    values = embeddings[:, :dimensions].astype(np.float64)
    kinds = sorted(set(groups))
    numbers = np.array([kinds.index(group) for group in groups])
    # Dealt out at random: neighbours by name share a look, and leaving a whole look out would tell another thing.
    part = np.random.default_rng(0).permutation(len(kinds))[numbers] % 5
    apart = np.empty(len(values), np.float32)
    for number in np.unique(part):
        others = np.flatnonzero(part != number) if len(kinds) > 1 else np.arange(len(values))
        rest = _references(values[others], numbers[others], neighbours)
        apart[part == number] = rest.score(values[part == number])
    median = float(np.median(apart)) or 1.0
    whole = _references(values, numbers, neighbours)
    novelty = Novelty(
        mean=whole.mean,
        whitening=whole.whitening,
        references=whole.references,
        unit=median,
        neighbours=neighbours,
    )
    return novelty, float(np.quantile(apart, 1 - share) / median)


def _references(values: NDArray[np.float64], groups: NDArray[np.int_], neighbours: int) -> Novelty:
    mean, spread = values.mean(0), values.std(0) + 1e-6
    within = (values - mean) / spread
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    # A group of one or two fields tells nothing of how fields differ within it: all such are taken as one.
    number = np.where(sizes[number] < _LEAST_GROUP, len(sizes), number)
    for each in np.unique(number):
        within[number == each] -= within[number == each].mean(0)
    variances, axes = np.linalg.eigh(within.T @ within / len(within))
    whitening = (axes / np.sqrt(np.maximum(variances, 0) + _SHRINKAGE * variances.mean())) / spread[:, None]
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_REFERENCES)).astype(int))
    return Novelty(
        mean=mean.astype(np.float32),
        whitening=whitening.astype(np.float32),
        references=((values[chosen] - mean) @ whitening).astype(np.float16),
        unit=1.0,
        neighbours=neighbours,
    )
