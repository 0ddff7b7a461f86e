import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allq.classes import CLASSES
from imaging.leukocyte import MEASURES
from imaging.parameters import SegmentationParameters
from imaging.segment import segment
from imaging.synthetic import STYLES, SyntheticField, render_field


def field(seed: int, klass: str = "early-pre-b", style: str = "violet", **options: object) -> SyntheticField:
    return render_field(np.random.default_rng(seed), klass=klass, style=STYLES[style], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("klass", CLASSES)
def test_nuclei_of_every_class_and_stain_are_found_with_their_area(klass: str, style: str) -> None:
    truth = field(5, klass, style)
    found = segment(truth.pixels)
    assert abs(len(found.leukocytes) - len(truth.kinds)) <= 1
    overlap = ((found.nuclei > 0) & (truth.nuclei > 0)).sum()
    assert 2 * overlap / ((found.nuclei > 0).sum() + (truth.nuclei > 0).sum()) > 0.88


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_field_of_red_cells_only_has_no_leukocytes(style: str) -> None:
    for seed in range(4):
        assert segment(field(seed, style=style, leukocytes=(0, 0)).pixels).leukocytes == ()


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_blank_image_has_no_leukocytes(level: int) -> None:
    assert segment(np.full((64, 80, 3), level, np.uint8)).leukocytes == ()


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(32, 90), height=st.integers(32, 90), smooth=st.floats(0, 6))
@settings(max_examples=60, deadline=None)
def test_any_image_is_segmented_without_an_error_and_within_its_bounds(
    seed: int, width: int, height: int, smooth: float
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if smooth > 0.3:
        noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), smooth), None, 0, 255, cv2.NORM_MINMAX)
    found = segment(noise)
    assert found.nuclei.shape == (height, width)
    assert sorted(set(np.unique(found.nuclei)) - {0}) == [leukocyte.index for leukocyte in found.leukocytes]
    for leukocyte in found.leukocytes:
        x, y, w, h = leukocyte.box
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
        assert (leukocyte.outline >= 0).all() and (leukocyte.outline < [width, height]).all()
        assert set(leukocyte.measures) == set(MEASURES)
        assert all(np.isfinite(value) for value in leukocyte.measures.values())


@given(scale=st.floats(1.0, 6.0), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_lengths_are_in_original_pixels_whatever_the_image_was_reduced_by(scale: float, seed: int) -> None:
    pixels = field(seed, leukocytes=(3, 5)).pixels
    height, width = pixels.shape[:2]
    original = round(width * scale), round(height * scale)
    plain, scaled = segment(pixels), segment(pixels, original_size=original)
    assert len(plain.leukocytes) == len(scaled.leukocytes)
    sx, sy = original[0] / width, original[1] / height
    assert scaled.scale == pytest.approx(sx)
    for one, other in zip(plain.leukocytes, scaled.leukocytes, strict=True):
        assert other.area == pytest.approx(one.area * sx * sy)
        assert other.centre == pytest.approx(((one.centre[0] + 0.5) * sx - 0.5, (one.centre[1] + 0.5) * sy - 0.5))
        assert other.measures["solidity"] == pytest.approx(one.measures["solidity"])
        assert np.abs(other.outline - ((one.outline + 0.5) * [sx, sy] - 0.5)).max() <= 1


def test_a_large_image_gives_the_same_cells_as_its_reduction() -> None:
    truth = field(8, leukocytes=(5, 8))
    large = cv2.resize(truth.pixels, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    small, found = segment(truth.pixels), segment(large)
    assert max(found.nuclei.shape) <= SegmentationParameters().working_side
    assert len(found.leukocytes) == len(small.leukocytes)
    for one, other in zip(small.leukocytes, found.leukocytes, strict=True):
        assert other.centre == pytest.approx([5 * value for value in one.centre], abs=12)
        assert other.area == pytest.approx(25 * one.area, rel=0.15)


def test_touching_nuclei_are_counted_one_by_one() -> None:
    wrong = sum(
        abs(len(segment(truth.pixels).leukocytes) - len(truth.kinds))
        for truth in (field(seed, CLASSES[seed % 4], touching=0.7) for seed in range(20))
    )
    assert wrong <= 10  # of about 150 nuclei


def test_the_lobes_of_one_nucleus_are_one_leukocyte() -> None:
    rgb = field(2, leukocytes=(0, 0), style="orange").pixels.copy()
    cv2.circle(rgb, (160, 120), 22, (205, 185, 215), -1)
    for x, y in ((152, 112), (168, 114), (159, 126)):
        cv2.circle(rgb, (x, y), 6, (95, 50, 150), -1)
    found = segment(rgb).leukocytes
    assert [leukocyte.measures["lobes"] for leukocyte in found] == [3]


def test_scale_bars_and_surrounds_are_no_leukocytes() -> None:
    for style in ("violet", "slate", "pink", "green"):
        assert segment(field(1, style=style, leukocytes=(0, 0)).pixels).leukocytes == ()


def test_measures_describe_shape() -> None:
    rgb = np.full((120, 160, 3), 245, np.uint8)
    cv2.circle(rgb, (40, 60), 16, (110, 60, 170), -1)
    cv2.ellipse(rgb, (110, 60), (26, 11), 0, 0, 360, (110, 60, 170), -1)
    disc, oval = sorted(segment(rgb).leukocytes, key=lambda leukocyte: leukocyte.centre[0])
    assert disc.measures["circularity"] > 0.95 and disc.measures["eccentricity"] < 0.3
    assert oval.measures["circularity"] < 0.85 and oval.measures["eccentricity"] > 0.85
    assert disc.measures["diameter"] == pytest.approx(33, abs=3)
    assert disc.measures["solidity"] > 0.95 and disc.measures["touches_border"] == 0


def test_segmentation_is_the_same_from_many_threads() -> None:
    truths = [field(seed, CLASSES[seed % 4]) for seed in range(8)]
    alone = [segment(truth.pixels) for truth in truths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda truth: segment(truth.pixels), truths * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert np.array_equal(one.nuclei, other.nuclei)


def test_parameters_can_be_written_as_json() -> None:
    assert json.loads(json.dumps(asdict(SegmentationParameters())))["stain"]["blur"] == 1.0
