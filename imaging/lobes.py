"""Lobes of one nucleus joined: a neutrophil's nucleus shows as two to five pieces, and is one leukocyte."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from imaging.pieces import Piece


def join_lobes(pieces: Sequence[Piece], *, gap: float, lobe_area: float, most_area: float) -> list[list[Piece]]:
    """Return the pieces in groups, one group a nucleus.

    Pieces of at most `lobe_area` pixels whose edges lie within `gap` pixels belong together, nearest pair first, as
    long as the whole has at most `most_area` pixels.
    """
    groups = [[piece] for piece in pieces]
    small = [position for position, piece in enumerate(pieces) if piece.area <= lobe_area]
    if len(small) < 2:
        return groups
    boxes = np.array([pieces[position].box for position in small], np.float64)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    clear = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(axis=2)

    @cache
    def edge(position: int) -> npt.NDArray[np.float64]:
        return pieces[position].contour[:, 0].T.astype(np.float64)

    pairs = []
    for first, second in np.argwhere(clear <= gap).tolist():
        if first >= second:
            continue
        one, other = small[first], small[second]
        (x, y), (u, v) = edge(one), edge(other)
        apart = float(np.sqrt(((x[:, None] - u) ** 2 + (y[:, None] - v) ** 2).min()))
        if apart <= gap:
            pairs.append((apart, one, other))
    home = list(range(len(pieces)))
    for _, one, other in sorted(pairs):
        into, from_ = home[one], home[other]
        if into != from_ and sum(piece.area for piece in groups[into] + groups[from_]) <= most_area:
            groups[into] += groups[from_]
            groups[from_] = []
            home = [into if target == from_ else target for target in home]
    return [group for group in groups if group]
