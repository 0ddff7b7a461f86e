import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.pieces import Colour, colour_of, components, joined, painted


def blobs(seed: int, size: int = 40) -> np.ndarray:
    """A mask of ragged blobs, many of them with holes, some with others in their holes."""
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.random((size, size)).astype(np.float32), (0, 0), random.uniform(0.3, 2))
    return (noise > random.uniform(0.45, 0.55)).astype(np.uint8)


@given(seed=st.integers(0, 2**32 - 1), least=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_components_are_those_of_a_labelling(seed: int, least: int) -> None:
    mask = blobs(seed)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    expected = {
        (x, y, w, h, area, (labels[y : y + h, x : x + w] == label).tobytes())
        for label, (x, y, w, h, area) in enumerate(stats.tolist())
        if label and area >= least
    }
    found = components(mask, least=least, most=mask.size)
    assert {(*part.box, part.area, part.mask.astype(bool).tobytes()) for part in found} == expected


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_colour_under_a_mask_is_that_of_its_pixels(seed: int) -> None:
    mask = blobs(seed)
    layers = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 4), dtype=np.uint8)
    for part in components(mask, least=1, most=mask.size):
        x, y, w, h = part.box
        pixels = layers[y : y + h, x : x + w][part.mask > 0].astype(np.float64)
        expected = Colour(*pixels.mean(axis=0), texture=pixels[:, 3].std())
        assert np.allclose(colour_of(layers, part.mask, part.box, part.area), expected, atol=1e-5)


def test_a_hole_is_filled_up_to_its_share() -> None:
    mask = cv2.circle(np.zeros((40, 40), np.uint8), (20, 20), 15, 1, cv2.FILLED)
    cv2.circle(mask, (20, 20), 5, 0, cv2.FILLED)
    (ring,) = components(mask, least=1, most=mask.size)
    colour = Colour(red=1, green=1, blue=1, stain=1, texture=0)
    whole, open_ = ring.filled(0.25, colour), ring.filled(0.05, colour)
    assert whole.area > ring.area == open_.area
    assert whole.colour is None, "what was filled has another colour"


def test_joined_pieces_are_painted_as_one() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:10, 5:15] = mask[15:25, 20:30] = 1
    nothing = Colour(red=0, green=0, blue=0, stain=0, texture=0)
    pieces = [part.filled(0, nothing) for part in components(mask, least=1, most=mask.size)]
    whole = joined(pieces)
    assert (whole.box, whole.area, len(whole.contours)) == ((5, 5, 25, 20), 150, 2)
    assert np.array_equal(painted([whole], mask.shape), mask)
