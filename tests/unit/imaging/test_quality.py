import cv2
import numpy as np
import pytest

from imaging.parameters import QualityParameters
from imaging.quality import assess
from imaging.synthetic import STYLES, render_field


def pixels(style: str = "violet") -> np.ndarray:
    return render_field(np.random.default_rng(3), klass="pre-b", style=STYLES[style]).pixels


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_good_field_has_no_flags(style: str) -> None:
    assert assess(pixels(style)).flags == ()


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_field_far_out_of_focus_is_blurred(style: str) -> None:
    assert assess(cv2.GaussianBlur(pixels(style), (0, 0), 5)).flags == ("blurred",)


def test_sharpness_falls_as_blur_grows() -> None:
    values = [assess(cv2.GaussianBlur(pixels(), (0, 0), blur)).sharpness for blur in (0.3, 1, 2, 4)]
    assert values == sorted(values, reverse=True)


def test_sharpness_does_not_depend_on_the_resolution_of_the_camera() -> None:
    small = pixels()
    large = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    assert assess(large).sharpness == pytest.approx(assess(small).sharpness, rel=0.25)


def test_a_dark_and_a_burnt_field_are_badly_exposed() -> None:
    assert assess((pixels() // 4).astype(np.uint8)).flags == ("badly-exposed",)
    assert assess(np.full((100, 100, 3), 255, np.uint8)).flags == ("badly-exposed",)


def test_a_blank_field_is_not_called_blurred() -> None:
    assert assess(np.full((100, 100, 3), 230, np.uint8)).flags == ()


def test_thresholds_are_passed_in() -> None:
    assert assess(pixels(), QualityParameters(least_sharpness=2.0)).flags == ("blurred",)
