"""What a network is shown in training beside fields as they are."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from allq.classes import CLASSES
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.data import LabelledField, read_labelled
from models.scenes import Scenes, Shares
from models.views import Views, view_all

ONLY = dict.fromkeys(("moved", "glass", "emptied", "debris", "relit", "recoloured"), 0.0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Views, list[LabelledField]]:
    """A field of each class, every second one in another look."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(1)
    rows = ["file,group,stream"]
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        style = ("violet", "slate")[number % 2]
        field = render_field(random, klass=name, style=STYLES[style], leukocytes=(4, 6))
        cv2.imwrite(str(folder / name / f"{name}.png"), field.pixels[..., ::-1])
        rows.append(f"{name}.png,{name},{style}")
    (folder / "groups.csv").write_text("\n".join(rows))
    fields = read_labelled(folder)
    return view_all(fields), fields


def scenes(labelled: tuple[Views, list[LabelledField]], **shares: float) -> Scenes:
    return Scenes(*labelled, Shares(**(ONLY | shares)))


def test_the_smear_that_is_lent_has_no_leukocytes(labelled: tuple[Views, list[LabelledField]]) -> None:
    views, _ = labelled
    for smear, nuclei in zip(views.smears, views.nuclei, strict=True):
        assert len(nuclei) > 0
        assert len(segment(smear).leukocytes) == 0


@pytest.mark.parametrize("kind", ["moved", "glass"])
def test_leukocytes_on_another_smear_or_on_glass_keep_their_class(
    labelled: tuple[Views, list[LabelledField]], kind: str
) -> None:
    views, fields = labelled
    made = scenes(labelled, **{kind: 1.0})
    for index, field in enumerate(fields):
        scene = made.show("field", index, 224, np.random.default_rng(index))
        assert scene.target.tolist() == np.eye(4)[field.label].tolist()
        found = len(segment(scene.pixels).leukocytes)
        assert found >= len(views.nuclei[index]) // 2  # scale and shift may push some over the edge


def test_what_may_go_by_the_look_is_shown_fields_as_they_are(labelled: tuple[Views, list[LabelledField]]) -> None:
    moved, as_they_are = scenes(labelled, moved=0.4, glass=0.3, emptied=0.3), scenes(labelled)
    for index, field in enumerate(labelled[1]):
        shown, plain = (made.show("look", index, 96, np.random.default_rng(index)) for made in (moved, as_they_are))
        assert (shown.pixels == plain.pixels).all()
        assert shown.target.tolist() == np.eye(4)[field.label].tolist()


def test_an_emptied_smear_and_debris_may_be_anything(labelled: tuple[Views, list[LabelledField]]) -> None:
    made = scenes(labelled, emptied=1.0, debris=1.0)
    for view in ("field", "cells"):
        scene = made.show(view, 0, 96, np.random.default_rng(0))
        assert scene.pixels.shape == (96, 96, 3)
        assert scene.target.tolist() == [0.25] * 4


def test_a_scene_is_drawn_from_its_generator_alone(labelled: tuple[Views, list[LabelledField]]) -> None:
    made = Scenes(*labelled)
    for view in ("field", "cells", "look"):
        first, again = (made.show(view, 1, 96, np.random.default_rng(3)) for _ in range(2))
        assert (first.pixels == again.pixels).all()


def test_a_field_without_leukocytes_may_be_anything_wherever_it_is_laid(
    labelled: tuple[Views, list[LabelledField]],
) -> None:
    views, fields = labelled
    without = replace(views, cells=np.zeros_like(views.cells))
    for kind in ("moved", "glass", "relit"):
        made = Scenes(without, fields, Shares(**(ONLY | {kind: 1.0})))
        for view in ("field", "cells"):
            assert made.show(view, 0, 96, np.random.default_rng(0)).target.tolist() == [0.25] * 4


def test_leukocytes_lit_otherwise_keep_their_class_and_change_their_colour(
    labelled: tuple[Views, list[LabelledField]],
) -> None:
    as_they_are, relit = scenes(labelled), scenes(labelled, relit=1.0)
    changed = []
    for index, field in enumerate(labelled[1]):
        for seed in range(4):
            scene = relit.show("cells", index, 96, np.random.default_rng(seed))
            assert scene.target.tolist() == np.eye(4)[field.label].tolist()
            plain = as_they_are.show("cells", index, 96, np.random.default_rng(seed))
            changed.append((scene.pixels != plain.pixels).any())
    assert any(changed)


def test_every_look_lends_its_smears_equally_often(labelled: tuple[Views, list[LabelledField]]) -> None:
    views, fields = labelled
    # Three fields of one look, one of the other, each smear of a colour of its own.
    looks = [replace(field, stream="many" if number < 3 else "single") for number, field in enumerate(fields)]
    smears = np.stack([np.full_like(views.smears[0], 10 * number) for number in range(4)])
    made = Scenes(replace(views, smears=smears), looks)
    random = np.random.default_rng(0)
    drawn = np.array([made.smear(random)[0, 0, 0] // 10 for _ in range(400)])
    assert 0.4 < (drawn == 3).mean() < 0.6
