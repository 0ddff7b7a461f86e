from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from allq.classes import CLASSES
from allq.errors import UsageError
from imaging.overlays import without_overlays
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.architectures.blueprint import InputSizes
from models.data import read_labelled
from models.inputs import CACHED_SIDE, cells_view, field_view, to_cached
from models.views import view_all


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for index in range(2):
            field = render_field(random, klass=name, style=STYLES["violet"], leukocytes=(3, 5))
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), field.pixels[..., ::-1])
    return tmp_path


def test_training_sees_of_a_field_what_screening_sees(labelled: Path) -> None:
    fields = read_labelled(labelled)
    views = view_all(fields)
    for index, field in enumerate(fields):
        rgb = np.ascontiguousarray(cv2.imread(str(field.path))[..., ::-1])
        square = to_cached(without_overlays(rgb), segment(rgb))
        cells, whole = views.shown([index], InputSizes(cells=192, field=128))
        assert (cells[0] == cells_view(square, 192)).all()
        assert (whole[0] == field_view(square, 128)).all()
        assert len(views.nuclei[index]) == len(segment(rgb).leukocytes)


def test_fields_are_squares_and_a_part_of_them_is_theirs(labelled: Path) -> None:
    views = view_all(read_labelled(labelled))
    assert views.balanced.shape == (8, CACHED_SIDE, CACHED_SIDE, 3)
    part = views.take(np.array([5, 2]))
    assert (part.cells == views.cells[[5, 2]]).all()
    assert part.nuclei == (views.nuclei[5], views.nuclei[2])


def test_a_broken_image_is_named(labelled: Path) -> None:
    path = labelled / "pre-b" / "0.png"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UsageError, match=r"0\.png"):
        view_all(read_labelled(labelled))
