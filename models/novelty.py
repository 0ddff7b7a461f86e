"""How far a field's look lies from everything of its call that the model was trained on.

The look is the means of early blocks over the whole field, which tell stain, grain, focus and scale. Distances are
whitened by how fields differ within a group: what varies on one slide counts little, what only tells slides apart
counts much. Streams are separate clouds, so neighbours tell more than one Gaussian would (k-NN after Sun et al.,
ICML 2022; figures in docs/model.md).

The nearest neighbour is looked for among the training fields of the side (benign or ALL) that the leukocytes were
called as. The call comes from the leukocytes, the look from the whole field: where a call is wrong the two seldom
agree, so that a field from a new laboratory is noticed where it matters most. A score of 1 is the level that a given
share of known fields exceeds when their group is left out of the references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAX_REFERENCES: Final = 4096
SIDES: Final = 2
"""0: benign, 1: ALL."""

_LEAST_GROUP: Final = 3
_PARTS: Final = 5
_SHRINKAGE: Final = 0.1
"""of the mean variance, added to that of each axis, so that axes without variance don't blow up"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Novelty:
    """What the training fields look like: R of them in D whitened dimensions."""

    mean: Floats
    """(D,)"""
    whitening: Floats
    """(D, D): whitened = (embedding − mean) @ whitening"""
    references: NDArray[np.float16]
    """(R, D)"""
    sides: NDArray[np.uint8]
    """(R,) of the references"""
    units: Floats
    """(SIDES,): the distance that scores 1"""
    neighbours: int

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, neighbours: int) -> Novelty:
        """Out of a model's arrays `novelty.…`."""
        return cls(
            mean=arrays["novelty.mean"].astype(np.float32),
            whitening=arrays["novelty.whitening"].astype(np.float32),
            references=arrays["novelty.references"].astype(np.float16),
            sides=arrays["novelty.sides"].astype(np.uint8),
            units=arrays["novelty.units"].astype(np.float32),
            neighbours=neighbours,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a model's `model.safetensors`."""
        return {
            "novelty.mean": self.mean,
            "novelty.whitening": self.whitening,
            "novelty.references": self.references,
            "novelty.sides": self.sides,
            "novelty.units": self.units,
        }

    def scores(self, embeddings: NDArray[np.floating]) -> Floats:
        """(N, D) embeddings to (N, SIDES) scores, 0 upwards: how new each would be if it were called so."""
        whitened = (embeddings.astype(np.float32) - self.mean) @ self.whitening
        references = self.references.astype(np.float32)
        squares = (whitened**2).sum(1)[:, None] - 2 * whitened @ references.T + (references**2).sum(1)
        found = np.full((len(whitened), SIDES), np.inf, np.float32)
        for side in range(SIDES):
            of_side = squares[:, self.sides == side]
            if of_side.shape[1]:
                rank = min(self.neighbours, of_side.shape[1]) - 1
                distance = np.sqrt(np.maximum(np.partition(of_side, rank, axis=1)[:, rank], 0))
                found[:, side] = distance / self.units[side]
        return found

    def score(self, embeddings: NDArray[np.floating], sides: NDArray[np.integer]) -> Floats:
        """(N, D) embeddings and the sides (N,) they were called as, to (N,) scores. −1: no call; the nearer side."""
        scores = self.scores(embeddings)
        chosen = np.take_along_axis(scores, np.maximum(sides, 0)[:, None], axis=1)[:, 0]
        return np.where(sides < 0, scores.min(axis=1), chosen).astype(np.float32)

    def extended(
        self, embeddings: NDArray[np.floating], groups: Sequence[str], sides: NDArray[np.integer], *, share: float
    ) -> Novelty:
        """The same with fields of another laboratory among the references; the whitening stays.

        `embeddings` (N, D), `groups` (N,), `sides` (N,). A side's level rises, if need be, until no more than `share`
        of its new fields exceed it when their group is left out.
        """
        whitened = ((embeddings.astype(np.float32) - self.mean) @ self.whitening).astype(np.float32)
        names = np.array(groups)
        units = self.units.copy()
        references = np.concatenate([self.references.astype(np.float32), whitened])
        of_side = np.concatenate([self.sides, sides.astype(np.uint8)])
        owners = np.concatenate([np.full(len(self.sides), -1), np.unique(names, return_inverse=True)[1]])
        apart = np.empty(len(whitened))
        for index, (point, side, owner) in enumerate(zip(whitened, sides, owners[len(self.sides) :], strict=True)):
            others = references[(of_side == side) & (owners != owner)]
            rank = min(self.neighbours, len(others)) - 1
            apart[index] = np.sqrt(np.partition(((others - point) ** 2).sum(1), rank)[rank]) if len(others) else np.nan
        for side in range(SIDES):
            if (sides == side).any():
                units[side] = max(float(units[side]), _level(apart[sides == side], share))
        return Novelty(
            mean=self.mean,
            whitening=self.whitening,
            references=references.astype(np.float16),
            sides=of_side,
            units=units,
            neighbours=self.neighbours,
        )


def fit_novelty(
    embeddings: NDArray[np.floating],
    groups: Sequence[str],
    sides: NDArray[np.integer],
    *,
    neighbours: int,
    share: float,
) -> Novelty:
    """The references, in units of the distance that `share` of fields exceed whose group is left out.

    `embeddings` (N, D) of the training fields, `groups` (N,) their groups, `sides` (N,) 0 benign, 1 ALL. The references
    hold every field (at most MAX_REFERENCES, evenly chosen); the units come from five parts of the groups, each left
    out in turn.
    """
    values = embeddings.astype(np.float64)
    kinds = sorted(set(groups))
    numbers = np.array([kinds.index(group) for group in groups])
    # Dealt out at random: neighbours by name share a look, and leaving a whole look out would tell another thing.
    part = np.random.default_rng(0).permutation(len(kinds))[numbers] % _PARTS
    apart = np.full(len(values), np.nan)
    for number in np.unique(part):
        others = np.flatnonzero(part != number) if len(kinds) > 1 else np.arange(len(values))
        rest = _references(values[others], numbers[others], sides[others], neighbours)
        inside = np.flatnonzero(part == number)
        apart[inside] = rest.score(values[inside], sides[inside])
    whole = _references(values, numbers, sides, neighbours)
    return Novelty(
        mean=whole.mean,
        whitening=whole.whitening,
        references=whole.references,
        sides=whole.sides,
        units=np.array([_level(apart[sides == side], share) for side in range(SIDES)], np.float32),
        neighbours=neighbours,
    )


def _level(distances: NDArray[np.float64], share: float) -> float:
    """What `share` of the distances exceed; 1 where there are none to say."""
    known = distances[np.isfinite(distances)]
    return (float(np.quantile(known, 1 - share)) or 1.0) if len(known) else 1.0


def _references(
    values: NDArray[np.float64], groups: NDArray[np.int_], sides: NDArray[np.integer], neighbours: int
) -> Novelty:
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
        sides=sides[chosen].astype(np.uint8),
        units=np.ones(SIDES, np.float32),
        neighbours=neighbours,
    )
