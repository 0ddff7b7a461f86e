import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from allq.classes import CLASSES
from allq.errors import FailureCode, FieldError
from imaging.decode import decode
from imaging.synthetic import STYLES, render_field, write_slides


@pytest.mark.parametrize("klass", CLASSES)
def test_a_rendered_field_tells_the_truth_about_itself(klass: str) -> None:
    field = render_field(np.random.default_rng(6), klass=klass, style=STYLES["slate"], leukocytes=(4, 9))
    count = len(field.kinds)
    assert 1 <= count <= 9 and field.klass == klass and field.kinds[0] == klass
    assert set(field.kinds) <= {klass, "benign"}
    assert field.pixels.shape == (240, 320, 3) and field.pixels.dtype == np.uint8
    assert set(np.unique(field.nuclei)) == set(range(count + 1))
    for label, box in enumerate(field.boxes, start=1):
        rows, columns = np.nonzero(field.nuclei == label)
        assert tuple(box) == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_nuclei_are_darker_and_more_violet_than_anything_else() -> None:
    field = render_field(np.random.default_rng(6), klass="pre-b", style=STYLES["violet"])
    inside, outside = field.pixels[field.nuclei > 0], field.pixels[field.nuclei == 0]
    assert np.median(inside[:, 1]) < np.percentile(outside[:, 1], 5)


def test_the_same_seed_renders_the_same_field() -> None:
    one, other = (render_field(np.random.default_rng(9), klass="pro-b", style=STYLES["pink"]) for _ in range(2))
    assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.nuclei, other.nuclei)


def test_classes_differ_in_the_size_of_their_nuclei_and_styles_do_not() -> None:
    def area(klass: str, style: str) -> float:
        fields = [
            render_field(np.random.default_rng(seed), klass=klass, style=STYLES[style], touching=0) for seed in range(6)
        ]
        sizes = [
            np.bincount(field.nuclei.ravel())[1:][index]
            for field in fields
            for index, kind in enumerate(field.kinds)
            if kind == klass
        ]
        return float(np.median(sizes))

    assert area("benign", "slate") < area("early-pre-b", "slate") < area("pro-b", "slate")
    assert area("pre-b", "pink") == pytest.approx(area("pre-b", "green"), rel=0.1)


def test_slides_come_with_one_blank_and_one_corrupt_field_and_the_truth_beside_them(tmp_path: Path) -> None:
    told: list[int] = []
    truth = write_slides(tmp_path / "slides", slides=4, fields=6, seed=11, progress=told.append)
    assert truth.parent == tmp_path and told == list(range(1, 25))
    lines = list(csv.DictReader(truth.read_text(encoding="utf-8").splitlines()))
    assert [line["note"] for line in lines if line["note"]] == ["blank", "corrupt"]
    folders = sorted(path.name for path in (tmp_path / "slides").iterdir())
    assert folders == sorted({line["slide"] for line in lines}) and len(folders) == 4
    for line in lines:
        data = (tmp_path / "slides" / line["slide"] / line["field"]).read_bytes()
        if line["note"] == "corrupt":
            with pytest.raises(FieldError) as caught:
                decode(data, max_pixels=10**6)
            assert caught.value.code is FailureCode.CORRUPT
        else:
            assert decode(data, max_pixels=10**6).pixels.shape == (240, 320, 3)
    first = {line["class"] for line in lines if line["slide"] == folders[0]} - {""}
    assert first == {"benign"}
    assert {Path(line["field"]).suffix for line in lines} == {".jpg", ".png"}


def test_slides_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, other = (write_slides(tmp_path / name, slides=2, fields=3, seed=5) for name in ("a", "b"))
    assert one.read_text() == other.read_text()
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_scale_bar_is_drawn_in_the_lower_right_corner() -> None:
    field = render_field(np.random.default_rng(1), klass="benign", style=STYLES["slate"])
    corner = field.pixels[210:, 270:].astype(int)
    red = corner[:, :, 0] - np.maximum(corner[:, :, 1], corner[:, :, 2]) > 60
    assert red.sum() > 30
    assert cv2.boundingRect(red.astype(np.uint8))[2] > 25
