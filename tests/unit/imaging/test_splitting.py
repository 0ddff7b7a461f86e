from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from imaging.splitting import split


def circles(places: list[tuple[int, int, int]], shape: tuple[int, int]) -> np.ndarray:
    """A mask of discs of x, y and radius: uint8 (h, w)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = [(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for x, y, radius in places]
    return np.logical_or.reduce(inside).astype(np.uint8)


@pytest.mark.parametrize("radii", [[12, 12], [12, 14], [13, 11, 12], [11, 14, 11, 13, 12]])
def test_a_chain_of_discs_is_parted_at_the_chords(radii: list[int]) -> None:
    x, places = radii[0] + 1, []
    for index, radius in enumerate(radii):
        places.append((x, 16, radius))
        x += round(0.9 * (radius + radii[min(index + 1, len(radii) - 1)]))
    mask = circles(places, (33, x))
    labels = split(mask, neck=0.85, least_area=80)
    assert np.array_equal(labels > 0, mask > 0)
    # Each disc's own middle is in a part of its own.
    middles = [int(labels[y, x]) for x, y, _ in places]
    assert sorted(middles) == list(range(1, len(radii) + 1))
    # Between two neighbours the seam is where they have the same power, to a pixel.
    for (x, y, radius), (u, _, other) in pairwise(places):
        seam = ((u**2 - other**2) - (x**2 - radius**2)) / (2 * (u - x))
        row = labels[y, x : u + 1]
        changes = np.flatnonzero(row[1:] != row[:-1])
        assert len(changes) == 1
        assert abs(x + changes[0] + 0.5 - seam) <= 2


def test_what_is_too_small_for_a_nucleus_stays_with_its_neighbour() -> None:
    mask = circles([(15, 16, 13), (34, 16, 8)], (33, 45))
    assert split(mask, neck=0.85, least_area=80).max() == 2
    assert split(mask, neck=0.85, least_area=250).max() == 1
