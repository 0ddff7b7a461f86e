from __future__ import annotations

import cv2
import numpy as np
import pytest

from imaging.layers import balanced, cell_mask, on_glass, paint_out, put_together, without_cells
from imaging.parameters import SegmentationParameters
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field


@pytest.fixture(scope="module", params=sorted(STYLES))
def field(request: pytest.FixtureRequest) -> np.ndarray:
    return render_field(np.random.default_rng(3), klass="pre-b", style=STYLES[request.param], leukocytes=(5, 9)).pixels


def test_the_mask_holds_the_nuclei_and_a_ring_around_them(field: np.ndarray) -> None:
    nuclei = segment(field).nuclei
    mask = cell_mask(nuclei)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert mask[nuclei > 0].all()
    assert (nuclei > 0).sum() < mask.sum() < 4 * (nuclei > 0).sum()


def test_a_field_without_nuclei_has_an_empty_mask() -> None:
    assert not cell_mask(np.zeros((40, 50), np.int32)).any()


@pytest.mark.parametrize(("height", "labels"), [(120, 20), (150, 400)])
@pytest.mark.parametrize("rim", [0.0, 0.3, 0.7, 1.4])
def test_the_mask_is_what_lies_near_enough_to_a_nucleus(height: int, labels: int, rim: float) -> None:
    random = np.random.default_rng(labels)
    nuclei = np.zeros((height, 130), np.int32)
    for label in range(1, labels + 1):
        side = random.integers(4, 4 + 400 // labels)
        y, x = random.integers(0, height), random.integers(0, 130)
        nuclei[y : y + side, x : x + side] = label
    areas = np.bincount(nuclei.ravel())[1:]
    width = max(rim * np.sqrt(np.median(areas[areas > 0]) / np.pi), 2.5)
    distance = cv2.distanceTransform((nuclei == 0).astype(np.uint8), cv2.DIST_L2, 3)
    assert np.array_equal(cell_mask(nuclei, rim=rim), distance <= width)


@pytest.mark.parametrize("softness", [1.0, 1.3])
def test_the_seam_between_leukocytes_and_glass_is_a_gaussian(softness: float) -> None:
    random = np.random.default_rng(5)
    front = random.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    cells = (cv2.GaussianBlur(random.random((90, 110)), (0, 0), 2) > 0.5).astype(np.uint8)
    weights = np.repeat(cv2.GaussianBlur(cells * np.uint8(255), (0, 0), softness)[:, :, None], 3, axis=2)
    glass = cv2.multiply(np.full_like(front, 255), 255 - weights, scale=1 / 255)
    expected = cv2.add(cv2.multiply(front, weights, scale=1 / 255), glass)
    assert np.array_equal(on_glass(front, cells, softness=softness), expected)
    assert np.array_equal(put_together(front, cells, np.full_like(front, 255), softness=softness), expected)


def test_on_glass_nothing_is_left_of_the_smear(field: np.ndarray) -> None:
    nuclei = segment(field).nuclei
    shown = on_glass(balanced(field), cell_mask(nuclei))
    far = np.asarray(cell_mask(nuclei) == 0)
    assert (shown[far] > 250).all(axis=1).mean() > 0.9
    assert np.abs(shown[nuclei > 0].astype(int) - balanced(field)[nuclei > 0]).mean() < 6


def test_another_smear_behind_the_leukocytes_changes_next_to_nothing_that_the_network_is_shown(
    field: np.ndarray,
) -> None:
    nuclei = segment(field).nuclei
    cells = cell_mask(nuclei)
    other = render_field(np.random.default_rng(9), klass="benign", style=STYLES["slate"], leukocytes=(0, 0)).pixels
    moved = put_together(field, cells, other)
    one, two = (on_glass(rgb, cells) for rgb in (field, moved))
    assert np.abs(one.astype(int) - two).mean() < 2


def test_an_emptied_smear_has_no_leukocytes(field: np.ndarray) -> None:
    parameters = SegmentationParameters()
    emptied = without_cells(field, segment(field).nuclei, parameters)
    assert len(segment(emptied).leukocytes) == 0


def test_painting_nothing_out_changes_nothing(field: np.ndarray) -> None:
    assert (paint_out(field, np.zeros(field.shape[:2], np.uint8)) == field).all()
