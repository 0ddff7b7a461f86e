"""How far a field's look lies from everything of its call that the model was trained on.

The look is the means of early blocks over the whole field, which tell stain, grain, focus and scale. Distances are
whitened by how fields differ within a group: what varies on one slide counts little, what only tells slides apart
counts much. Streams are separate clouds, so neighbours tell more than one Gaussian would (k-NN after Sun et al.,
ICML 2022; figures in docs/model.md).

The nearest neighbour is looked for among the training fields of the side (benign or ALL) that the leukocytes were
called as. The call comes from the leukocytes, the look from the whole field: where a call is wrong the two seldom
agree, so that a field from a new laboratory is noticed where it matters most: because it lies far from all fields of
the called side, or because it lies so much nearer to those of the other (it *leans* to them). The score is the greater
of the two, each in units of what known fields reach whose group is left out of the references; a given share of these
exceed 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    groups: NDArray[np.uint32]
    """(R,): references of one group have the same number"""
    units: Floats
    """(SIDES,): the distance that scores 1"""
    leans: Floats
    """(SIDES,): the distance to the called side over that to the other, in units of each, that scores 1"""
    neighbours: int

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, neighbours: int) -> Novelty:
        """Out of a model's arrays `novelty.…`."""
        return cls(
            mean=arrays["novelty.mean"].astype(np.float32),
            whitening=arrays["novelty.whitening"].astype(np.float32),
            references=arrays["novelty.references"].astype(np.float16),
            sides=arrays["novelty.sides"].astype(np.uint8),
            groups=arrays["novelty.groups"].astype(np.uint32),
            units=arrays["novelty.units"].astype(np.float32),
            leans=arrays["novelty.leans"].astype(np.float32),
            neighbours=neighbours,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a model's `model.safetensors`."""
        return {
            "novelty.mean": self.mean,
            "novelty.whitening": self.whitening,
            "novelty.references": self.references,
            "novelty.sides": self.sides,
            "novelty.groups": self.groups,
            "novelty.units": self.units,
            "novelty.leans": self.leans,
        }

    def distances(self, embeddings: NDArray[np.floating]) -> Floats:
        """(N, D) embeddings to (N, SIDES): how far the nearest references of each side are; infinite without any."""
        whitened, references = self.whitened(embeddings), self.references.astype(np.float32)
        found = np.full((len(whitened), SIDES), np.inf, np.float32)
        for side in range(SIDES):
            of_side = references[self.sides == side]
            if len(of_side):
                found[:, side] = _nearest(whitened, of_side, self.neighbours)
        return found

    def whitened(self, embeddings: NDArray[np.floating]) -> Floats:
        """(N, D) embeddings in the space of the references."""
        whitened: Floats = ((embeddings.astype(np.float32) - self.mean) @ self.whitening).astype(np.float32)
        return whitened

    def scores(self, embeddings: NDArray[np.floating]) -> Floats:
        """(N, D) embeddings to (N, SIDES) scores, 0 upwards: how new each would be if it were called so."""
        return self._scores(self.distances(embeddings))

    def left_out(self) -> Floats:
        """What each reference scores as its own side when its group is left out: (R,)."""
        return _of_own_side(self._scores(self.apart()), self.sides)

    def _scores(self, distances: Floats) -> Floats:
        scaled = distances / self.units
        scores: Floats = np.fmax(scaled, _lean(scaled) / self.leans).astype(np.float32)
        return scores

    def score(self, embeddings: NDArray[np.floating], sides: NDArray[np.integer]) -> Floats:
        """(N, D) embeddings and the sides (N,) they were called as, to (N,) scores. −1: no call; the nearer side."""
        scores = self.scores(embeddings)
        chosen = np.take_along_axis(scores, np.maximum(sides, 0)[:, None], axis=1)[:, 0]
        return np.where(sides < 0, scores.min(axis=1), chosen).astype(np.float32)

    def extended(
        self, embeddings: NDArray[np.floating], groups: Sequence[str], sides: NDArray[np.integer], *, share: float
    ) -> Novelty:
        """The same with fields of another laboratory among the references; the whitening stays.

        `embeddings` (N, D), `groups` (N,), `sides` (N,). The levels are set anew, so that of the old references and of
        the new ones no more than `share` of a side exceed them when their group is left out.
        """
        owners = np.unique(np.array(groups), return_inverse=True)[1] + int(self.groups.max(initial=0)) + 1
        whole = replace(
            self,
            references=np.concatenate([self.references, self.whitened(embeddings).astype(np.float16)]),
            sides=np.concatenate([self.sides, sides.astype(np.uint8)]),
            groups=np.concatenate([self.groups, owners.astype(np.uint32)]),
        )
        laboratory = np.repeat([0, 1], [len(self.sides), len(sides)])
        levels = _levels(whole.apart(), whole.sides, share=share, laboratory=laboratory, least=self.units)
        return replace(whole, units=levels.units, leans=levels.leans)

    def apart(self) -> Floats:
        """How far each reference is from the nearest of each side that are not of its group: (R, SIDES)."""
        points = self.references.astype(np.float32)
        found = np.full((len(points), SIDES), np.inf, np.float32)
        for group in np.unique(self.groups):
            inside = self.groups == group
            for side in range(SIDES):
                others = points[(self.sides == side) & ~inside]
                if len(others):
                    found[inside, side] = _nearest(points[inside], others, self.neighbours)
        return found


def _nearest(points: Floats, references: Floats, neighbours: int) -> Floats:
    """The distance from each of (N, D) points to the `neighbours`-th nearest of (R, D) references: (N,)."""
    squares = (points**2).sum(1)[:, None] - 2 * points @ references.T + (references**2).sum(1)
    rank = min(neighbours, len(references)) - 1
    return np.sqrt(np.maximum(np.partition(squares, rank, axis=1)[:, rank], 0))


def fit_novelty(
    embeddings: NDArray[np.floating],
    groups: Sequence[str],
    sides: NDArray[np.integer],
    *,
    neighbours: int,
    share: float,
    lean: bool = True,
) -> Novelty:
    """The references, in units that `share` of fields exceed whose group is left out.

    `embeddings` (N, D) of the training fields, `groups` (N,) their groups, `sides` (N,) 0 benign, 1 ALL. The references
    hold every field (at most MAX_REFERENCES, evenly chosen); the units come from five parts of the groups, each left
    out in turn. Without `lean` distance alone counts.
    """
    values = embeddings.astype(np.float64)
    kinds = sorted(set(groups))
    numbers = np.array([kinds.index(group) for group in groups])
    # Dealt out at random: neighbours by name share a look, and leaving a whole look out would tell another thing.
    part = np.random.default_rng(0).permutation(len(kinds))[numbers] % _PARTS
    apart = np.full((len(values), SIDES), np.inf, np.float32)
    for number in np.unique(part):
        others = np.flatnonzero(part != number) if len(kinds) > 1 else np.arange(len(values))
        rest = _references(values[others], numbers[others], sides[others], neighbours)
        inside = np.flatnonzero(part == number)
        apart[inside] = rest.distances(values[inside])
    whole = _references(values, numbers, sides, neighbours)
    levels = _levels(apart, sides, share=share, lean=lean)
    return replace(whole, units=levels.units, leans=levels.leans)


@dataclass(frozen=True, slots=True)
class _Levels:
    units: Floats
    leans: Floats


def _levels(
    apart: Floats,
    sides: NDArray[np.integer],
    *,
    share: float,
    lean: bool = True,
    laboratory: NDArray[np.integer] | None = None,
    least: Floats | None = None,
) -> _Levels:
    """What known fields reach, from their distances (N, SIDES) to fields of other groups and their sides (N,).

    Distance and lean are exceeded by as many fields each, and by no more than `share` of a side and a laboratory
    together. No unit is below `least`.
    """
    laboratory = np.zeros(len(sides), int) if laboratory is None else laboratory
    parts = [(sides == side) & (laboratory == each) for side in range(SIDES) for each in np.unique(laboratory)]
    for tail in np.linspace(share, share / 2, 21) if lean else (share,):
        units = _reached(apart, parts, tail)
        if least is not None:
            units = np.maximum(units, least)
        scaled = apart / units
        leaning = _lean(scaled)
        leans = _reached(leaning, parts, tail) if lean else np.full(SIDES, np.inf, np.float32)
        own = _of_own_side(np.fmax(scaled, leaning / leans), sides)
        if all(_share_above_1(own[part]) <= share for part in parts):
            break
    return _Levels(units, leans)


def _lean(scaled: Floats) -> Floats:
    """Distances in units, (N, SIDES), over those to the other side; NaN where there is nothing to compare with."""
    other = scaled[:, ::-1]
    comparable = np.isfinite(scaled) & np.isfinite(other)
    return np.where(comparable, scaled / np.where(comparable, np.maximum(other, 1e-6), 1), np.nan).astype(np.float32)


def _of_own_side(values: Floats, sides: NDArray[np.integer]) -> Floats:
    return np.take_along_axis(values, sides[:, None].astype(int), axis=1)[:, 0]


def _reached(values: Floats, parts: Sequence[NDArray[np.bool_]], tail: float) -> Floats:
    """For each side what `tail` of its values (N, SIDES) exceed, in the part of it where that is most.

    `parts` are those of the first side, then those of the next; 1 where there is no value to say.
    """
    found = np.ones(SIDES, np.float32)
    each = len(parts) // SIDES
    for side in range(SIDES):
        levels = []
        for part in parts[side * each : (side + 1) * each]:
            known = values[part, side]
            known = known[np.isfinite(known)]
            if len(known):
                levels.append(float(np.quantile(known, 1 - tail, method="higher")))
        found[side] = max(levels, default=0.0) or 1.0
    return found


def _share_above_1(scores: Floats) -> float:
    known = scores[np.isfinite(scores)]
    return float((known > 1).mean()) if len(known) else 0.0


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
        groups=groups[chosen].astype(np.uint32),
        units=np.ones(SIDES, np.float32),
        leans=np.ones(SIDES, np.float32),
        neighbours=neighbours,
    )
