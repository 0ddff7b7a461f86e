"""The torch operations against the OpenCV ones that they stand for; on the CPU, and on a card where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from allq.classes import CLASSES
from imaging.batched import morphology, overlays, resize, stain, transfer, views
from imaging.layers import balanced, on_glass
from imaging.overlays import Overlays, find_overlays
from imaging.parameters import OverlayParameters, SegmentationParameters
from imaging.segment import threshold
from imaging.stain import stained
from imaging.synthetic import STYLES, render_field

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    random = np.random.default_rng(4)
    return [
        render_field(random, klass=CLASSES[number % 4], style=style).pixels
        for number, style in enumerate(STYLES.values())
    ]


def batch(images: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return transfer.sent(np.stack(images), device).permute(0, 3, 1, 2).contiguous()


def nothing(shape: tuple[int, ...]) -> Overlays:
    return Overlays(shape=(shape[0], shape[1]), bar=None, surround=None)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def test_the_stain_and_its_threshold_are_those_of_opencv(fields: list[np.ndarray], device: torch.device) -> None:
    parameters = SegmentationParameters()
    covers = [find_overlays(field) for field in fields]
    covered = transfer.sent(np.stack([cover.mask() for cover in covers]), device)
    found = stain.stained(batch(fields, device), covered, parameters)
    layers, masks, below = transfer.fetched(found.layers, found.masks, found.below)
    assert any(found.found.tolist())
    for place, (field, cover) in enumerate(zip(fields, covers, strict=True)):
        reference = stained(field, cover, parameters.stain)
        nuclear = threshold(reference, cover, parameters)
        apart = np.abs(layers[place].astype(int) - reference.layers)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.01
        assert bool(found.found[place]) == (nuclear is not None)
        assert dice(masks[place], np.zeros_like(masks[place]) if nuclear is None else nuclear.mask > 0) >= 0.99
        if nuclear is not None:
            assert below[place] == pytest.approx(nuclear.below, abs=0.5)


def test_nothing_is_found_where_everything_is_one_colour_or_covered(device: torch.device) -> None:
    blank = np.stack([np.full((40, 50, 3), level, np.uint8) for level in (0, 1, 128, 254, 255)])
    for covered in (np.zeros((5, 40, 50), bool), np.ones((5, 40, 50), bool)):
        found = stain.stained(batch(list(blank), device), transfer.sent(covered, device), SegmentationParameters())
        assert not found.found.any()
        assert not found.masks.any()


@pytest.mark.parametrize("size", [(224, 224), (120, 160), (100, 300), (300, 400)])
def test_images_are_resized_as_by_opencv(fields: list[np.ndarray], device: torch.device, size: tuple[int, int]) -> None:
    shrinks = size[0] <= fields[0].shape[0] and size[1] <= fields[0].shape[1]
    (found,) = transfer.fetched(resize.resized(batch(fields[:2], device), size).permute(0, 2, 3, 1))
    for place, field in enumerate(fields[:2]):
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        reference = cv2.resize(field, size[::-1], interpolation=how)
        apart = np.abs(found[place].astype(int) - reference)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02


def test_boxes_at_the_far_edge_are_means_of_what_they_hold(device: torch.device) -> None:
    image = torch.arange(35, dtype=torch.uint8, device=device).view(1, 1, 5, 7)
    (found,) = transfer.fetched(resize.boxes(image, 2))
    assert found.shape == (1, 1, 3, 4)
    assert found[0, 0, 0, 0] == round((0 + 1 + 7 + 8) / 4)
    assert found[0, 0, 2, 3] == 34


@pytest.mark.parametrize("brush", [3, 5, 6, 9, 18])
def test_masks_are_opened_as_by_opencv(device: torch.device, brush: int) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(brush).normal(size=(70, 90)), (0, 0), brush / 3)
    mask = noise > 0
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (brush, brush))
    reference = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
    (found,) = transfer.fetched(morphology.opened(transfer.sent(mask[None], device), brush))
    assert reference.any()
    assert np.array_equal(found[0], reference)


def test_the_distance_to_a_mask_is_that_of_opencv(device: torch.device) -> None:
    random = np.random.default_rng(1)
    masks = random.random((3, 60, 50)) < np.array([0.0, 0.002, 0.02])[:, None, None]
    widths = np.array([4.0, 2.5, 7.3], np.float32)
    grown = morphology.within(transfer.sent(masks, device), transfer.sent(widths, device), furthest=7.3)
    (found,) = transfer.fetched(grown)
    assert not found[0].any()
    for place in (1, 2):
        distance = cv2.distanceTransform((~masks[place]).astype(np.uint8), cv2.DIST_L2, 3)
        assert np.array_equal(found[place], distance <= widths[place])


def test_views_are_balanced_and_laid_on_glass_as_by_opencv(fields: list[np.ndarray], device: torch.device) -> None:
    squares = [cv2.resize(field, (96, 96), interpolation=cv2.INTER_AREA) for field in fields]
    cells = np.zeros((len(squares), 96, 96), bool)
    cells[:, 20:50, 30:70] = True
    whiter = views.balanced(batch(squares, device))
    glass = views.on_glass(whiter, transfer.sent(cells, device))
    balance, found = transfer.fetched(whiter.permute(0, 2, 3, 1), glass.permute(0, 2, 3, 1))
    for place, square in enumerate(squares):
        assert np.array_equal(balance[place], balanced(square))
        reference = on_glass(balanced(square), cells[place].astype(np.uint8))
        assert np.abs(found[place].astype(int) - reference).max() <= 1


def test_no_bar_and_no_surround_is_overlooked(fields: list[np.ndarray], device: torch.device) -> None:
    parameters = OverlayParameters()
    plain = render_field(np.random.default_rng(2), klass="pre-b", style=STYLES["violet"]).pixels
    barred, dark = plain.copy(), plain.copy()
    cv2.line(barred, (250, 228), (305, 228), (0, 0, 0), 2)
    dark[:, :20] = dark[:, -20:] = 5
    images = [plain, barred, dark, *fields]
    rgb = batch(images, device)
    bars, surrounds = overlays.may_have_bar(rgb, parameters), overlays.may_have_surround(rgb, parameters)
    found = [find_overlays(image, parameters) for image in images]
    assert found[1].bar is not None
    assert found[2].surround is not None
    for place, cover in enumerate(found):
        assert bars[place] or cover.bar is None
        assert surrounds[place] or cover.surround is None


def test_work_that_needs_too_much_memory_is_done_in_halves() -> None:
    sizes: list[int] = []

    def double(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("so many don't fit")
        return [2 * item for item in items]

    assert transfer.halving(double, list(range(10))) == [2 * item for item in range(10)]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    assert transfer.halving(double, []) == []


def test_only_what_does_not_fit_by_itself_is_given_up() -> None:
    tried: list[list[int]] = []

    def without_three(items: Sequence[int]) -> list[int]:
        tried.append(list(items))
        if 3 in items:
            raise torch.OutOfMemoryError("not so large a one")
        return list(items)

    *others, three, four = transfer.halving(without_three, [0, 1, 2, 3, 4])
    assert others == [0, 1, 2]
    assert isinstance(three, MemoryError)
    assert four == 4
    assert tried == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4], [3], [4]]


def test_pinned_memory_that_lacks_is_a_lack_of_memory_and_other_errors_are_not() -> None:
    def of_one(items: Sequence[int], message: str) -> list[int]:
        if len(items) > 1:
            raise RuntimeError(message)
        return list(items)

    assert transfer.halving(partial(of_one, message="CUDA error: out of memory"), [1, 2]) == [1, 2]
    with pytest.raises(RuntimeError, match="illegal"):
        transfer.halving(
            partial(of_one, message="CUDA error: an illegal instruction was encountered"),
            [1, 2],
            ends=lambda error: "CUDA error" in str(error),
        )


def test_an_error_that_nobody_foresaw_stands_in_the_place_of_what_has_it_alone() -> None:
    def but_three(items: Sequence[int]) -> list[int]:
        return [item + 0 // (item - 3) for item in items]

    *before, three, four = transfer.halving(but_three, [0, 1, 2, 3, 4])
    assert (before, four) == ([0, 1, 2], 4)
    assert isinstance(three, ZeroDivisionError)


def test_memory_that_opencv_lacks_is_a_lack_of_memory() -> None:
    def of_one(items: Sequence[int]) -> list[int]:
        if len(items) > 1:
            error = cv2.error("Failed to allocate")
            error.code = -4
            raise error
        return list(items)

    assert transfer.halving(of_one, [1, 2]) == [1, 2]
