import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.overlays import Overlays
from imaging.parameters import StainParameters
from imaging.stain import stain_channel, stained, three_classes, white_balanced, white_point


def none(height: int, width: int) -> Overlays:
    return Overlays(shape=(height, width), bar=None, surround=None)


@pytest.mark.parametrize("white", [1, 50, 182, 200, 210, 234, 242, 255])
def test_white_becomes_255_and_all_else_the_nearest_level(white: int) -> None:
    # All levels once, and the white so often that it is the 95th percentile.
    levels = np.concatenate([np.arange(white + 1), np.full(64 * 64 - white - 1, white)]).astype(np.uint8)
    rgb = np.repeat(levels.reshape(64, 64, 1), 3, axis=2)
    field = stained(rgb, none(64, 64), StainParameters())
    assert np.abs(field.green.ravel() - levels * (255 / white)).max() <= 0.5 + 1e-9
    assert field.green.max() == 255


def test_every_level_is_moved_as_far_as_the_white() -> None:
    levels = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    for white in range(1, 256):
        (moved,) = white_balanced([levels], [white])
        assert np.array_equal(moved, np.minimum(levels * (255.0 / white) + 0.5, 255).astype(np.uint8))


def test_what_overlays_cover_has_no_say_in_the_white_and_no_stain() -> None:
    rgb = np.random.default_rng(1).integers(60, 200, (64, 64, 3), dtype=np.uint8)
    bar = slice(40, 64), slice(0, 64)
    rgb[bar] = 255
    overlays = Overlays(shape=(64, 64), bar=bar, surround=None)
    planes = list(cv2.split(rgb))
    assert white_point(planes, overlays, 95) == tuple(
        int(np.sort(plane[:40].ravel())[int(40 * 64 * 0.95)]) for plane in planes
    )
    assert not stained(rgb, overlays, StainParameters()).stain[bar].any()


def test_the_stain_is_smoothed_as_by_a_gaussian() -> None:
    for seed in range(20):
        red, green, blue = np.random.default_rng(seed).integers(0, 120, (3, 50, 60), dtype=np.uint8)
        sharp = stain_channel(red, green, blue, StainParameters(blur=0, red_absorption=0.1))
        smooth = stain_channel(red, green, blue, StainParameters(blur=1.0, red_absorption=0.1))
        assert np.array_equal(smooth, cv2.GaussianBlur(sharp, (0, 0), 1.0))


@given(seed=st.integers(0, 2**32 - 1), top=st.integers(2, 255))
@settings(max_examples=60, deadline=None)
def test_three_classes_part_a_histogram_nearly_as_well_as_the_best_of_all_pairs(seed: int, top: int) -> None:
    random = np.random.default_rng(seed)
    counts = np.zeros(256)
    for mean, spread, share in random.uniform((0, 1, 1), (top, 20, 50), (3, 3)):
        counts += np.round(100 * share * np.exp(-(((np.arange(256) - mean) / spread) ** 2)))
    counts[top + 1 :] = 0
    if np.count_nonzero(counts) < 3:
        return
    levels, total = np.arange(256), counts.sum()

    def between(first: int, second: int) -> float:
        parts = (slice(0, first + 1), slice(first + 1, second + 1), slice(second + 1, 256))
        means = [(counts[part] @ levels[part], counts[part].sum()) for part in parts]
        return sum(moment**2 / weight for moment, weight in means if weight) / total

    best = max(between(first, second) for first in range(top) for second in range(first + 1, top + 1))
    found = three_classes(counts)
    mine = max(between(first, int(found.upper)) for first in range(int(found.upper)))
    floor = (counts @ levels) ** 2 / total**2
    assert mine - floor >= 0.98 * (best - floor)
