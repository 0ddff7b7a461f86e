import cv2
import numpy as np
import pytest

from imaging.overlays import find_overlays, find_surround, without_overlays

BACKGROUND = (236, 232, 240)


def smear() -> np.ndarray:
    """Grey-pink red cells and one dark violet nucleus in the lower right corner, 224×224."""
    rgb = np.full((224, 224, 3), BACKGROUND, np.uint8)
    rng = np.random.default_rng(3)
    for x, y in rng.integers(10, 214, (30, 2)):
        cv2.circle(rgb, (int(x), int(y)), 9, (196, 176, 200), -1)
    cv2.circle(rgb, (180, 200), 14, (98, 48, 150), -1)
    return rgb


def with_bar(style: str) -> np.ndarray:
    rgb = smear()
    if style in {"white box", "large white box"}:
        left, top = (193, 194) if style == "large white box" else (194, 205)
        rgb[top : 224 if style == "large white box" else 217, left:224] = 255
    colour = {"red": (205, 40, 50), "green": (60, 230, 70), "cyan": (70, 170, 235)}.get(style, (20, 20, 20))
    y = 218 if style == "large white box" else 213
    cv2.line(rgb, (197, y), (216, y), colour, 1)
    for x in (197, 216):
        cv2.line(rgb, (x, y - 3), (x, y), colour, 1)
    cv2.putText(rgb, "100", (200, y - 2), cv2.FONT_HERSHEY_PLAIN, 0.45, colour, 1)
    return rgb


@pytest.mark.parametrize("style", ["white box", "large white box", "black", "red", "green", "cyan"])
def test_a_scale_bar_is_found_and_painted_over(style: str) -> None:
    rgb = with_bar(style)
    changed = (rgb != smear()).any(axis=2)
    ink = changed & ~(rgb == 255).all(axis=2)
    mask = find_overlays(rgb).mask()
    assert mask[ink].mean() > 0.98
    assert mask.mean() < 0.06
    clean = without_overlays(rgb)
    assert np.array_equal(clean[~mask], rgb[~mask])
    assert np.abs(clean[mask].astype(int) - BACKGROUND).max() <= 6


def test_a_smear_without_a_bar_is_left_as_it_is() -> None:
    rgb = smear()
    assert not find_overlays(rgb)
    assert np.array_equal(without_overlays(rgb), rgb)


def test_the_input_is_never_changed() -> None:
    rgb = with_bar("black")
    before = rgb.copy()
    without_overlays(rgb)
    assert np.array_equal(rgb, before)


def test_the_black_surround_of_an_eyepiece_picture_is_found() -> None:
    inside = np.zeros((224, 224), np.uint8)
    cv2.circle(inside, (112, 112), 108, 1, -1)
    rgb = np.where(inside[:, :, None] == 1, smear(), 8).astype(np.uint8)
    mask = find_surround(rgb)
    assert mask is not None
    assert mask[inside == 0].all()
    assert mask[inside == 1].mean() < 0.08
    assert without_overlays(rgb)[0, 0].min() > 200


def test_a_dark_image_has_no_surround() -> None:
    assert find_surround(np.full((64, 64, 3), 5, np.uint8)) is None
