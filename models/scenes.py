"""What is shown in training: fields as they are, and fields whose leukocytes and smear don't belong together.

Class and look go together in the images at hand. So leukocytes are laid on other looks' smears and on plain glass,
under the class of the leukocytes: what the smear tells is then often wrong, what the leukocytes tell never. And where
there is no leukocyte (smears emptied, pieces of smear cut out as though they were cells) every class is as likely.
Only what looks at "look" sees none but fields as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from allq.classes import CLASSES
from imaging.layers import balanced, balanced_like, on_glass, put_together
from models.architectures.blueprint import View
from models.augment import Augmentation, augment, cut_out, reshaped, vary_stain, with_patch
from models.data import LabelledField
from models.views import Views

Pixels = NDArray[np.uint8]

_ANY: Final = np.full(len(CLASSES), 1 / len(CLASSES), np.float32)
"""Where there is no leukocyte every class is as likely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How often each scene is drawn; the rest are fields as they are."""

    moved: float = 0.25
    """whole field: the leukocytes on the smear of any field, every look equally often"""
    glass: float = 0.08
    """whole field: the leukocytes on plain glass"""
    emptied: float = 0.05
    """whole field: the smear without its leukocytes"""
    debris: float = 0.03
    """leukocytes: pieces of a smear without any"""
    relit: float = 0.25
    """leukocytes: their white taken from another field, as on a smear that they don't belong to"""
    recoloured: float = 0.5
    """of the moved: leukocytes stained otherwise than the smear"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is shown, and what should be said of it."""

    pixels: Pixels
    """RGB (S, S, 3)"""
    target: NDArray[np.float32]
    """(classes,): the probability that each class should get"""


class Scenes:
    """The scenes of labelled fields."""

    def __init__(self, views: Views, fields: Sequence[LabelledField], shares: Shares | None = None) -> None:
        self._views = views
        self._shares = shares or Shares()
        self._targets = np.eye(len(CLASSES), dtype=np.float32)[[field.label for field in fields]]
        self._targets[[not cells.any() for cells in views.cells]] = _ANY
        looks: defaultdict[str, list[int]] = defaultdict(list)
        for index, field in enumerate(fields):
            looks[field.stream or f"class {field.label}"].append(index)
        self._looks = [looks[name] for name in sorted(looks)]

    def show(self, view: View, index: int, side: int, random: np.random.Generator) -> Scene:
        """A scene of the field of this index, squashed to `side` and varied at random."""
        if view == "cells":
            return self._cells(index, side, random)
        return self._field(index, side, random) if view == "field" else self._look(index, side, random)

    def _cells(self, index: int, side: int, random: np.random.Generator) -> Scene:
        views = self._views
        if random.random() < self._shares.debris:
            smear = balanced(self.smear(random))
            shown, target = on_glass(smear, views.cells[index], softness=float(random.uniform(0.6, 1.6))), _ANY
        else:
            shown, target = views.balanced[index], self._targets[index]
            if random.random() < self._shares.relit:
                shown = balanced_like(views.pixels[index], self.smear(random))
            shown = cut_out(shown, views.cells[index], random)
        return Scene(pixels=augment(shown, side, random), target=target)

    def _field(self, index: int, side: int, random: np.random.Generator) -> Scene:
        views, shares = self._views, self._shares
        target = self._targets[index]
        kind = random.random()
        if kind < shares.moved:
            shown = self._moved(index, random)
        elif kind < shares.moved + shares.glass:
            shown = self._on_glass(index, random)
        elif kind < shares.moved + shares.glass + shares.emptied:
            shown, target = views.smears[index], _ANY
        else:
            shown = views.pixels[index]
        return Scene(pixels=augment(with_patch(shown, random), side, random), target=target)

    def _look(self, index: int, side: int, random: np.random.Generator) -> Scene:
        shown = with_patch(self._views.pixels[index], random)
        return Scene(pixels=augment(shown, side, random), target=self._targets[index])

    def _moved(self, index: int, random: np.random.Generator) -> Pixels:
        smear = np.rot90(self.smear(random), int(random.integers(4)))
        if random.random() < 0.5:
            smear = smear[::-1]
        front = self._views.pixels[index]
        if random.random() < self._shares.recoloured:
            front = vary_stain(front, random, Augmentation())
        return self._laid(front, index, np.ascontiguousarray(smear), random)

    def _on_glass(self, index: int, random: np.random.Generator) -> Pixels:
        front, cells = self._views.pixels[index], self._views.cells[index]
        bare = front[::4, ::4][cells[::4, ::4] == 0]
        level = random.uniform(75, 97)
        colour = np.percentile(bare if len(bare) else front.reshape(-1, 3), level, axis=0).astype(np.uint8)
        return self._laid(front, index, np.broadcast_to(colour, front.shape).copy(), random)

    def _laid(self, front: Pixels, index: int, background: Pixels, random: np.random.Generator) -> Pixels:
        cells = reshaped(self._views.cells[index], random)
        return put_together(front, cells, background, softness=float(random.uniform(0.6, 1.6)))

    def smear(self, random: np.random.Generator) -> Pixels:
        """A smear without leukocytes, RGB (C, C, 3), every look equally often."""
        look = self._looks[int(random.integers(len(self._looks)))]
        smear: Pixels = self._views.smears[look[int(random.integers(len(look)))]]
        return smear
