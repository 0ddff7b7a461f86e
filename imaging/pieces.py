"""Parts of a mask, each with its own small window: what segmentation hands from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Contour = npt.NDArray[np.int32]
"""A closed chain of neighbouring pixels, int32 (n, 1, 2) of x, y: OpenCV's own form."""
Box = tuple[int, int, int, int]
"""x, y, width, height."""

SQUARE: Final = np.ones((3, 3), np.uint8)
SQUARE.setflags(write=False)


def as_pixels(array: npt.NDArray[Any]) -> Pixels:
    """The same array, known to be uint8: OpenCV's annotations don't say so."""
    return array.astype(np.uint8, copy=False)


def window(box: Box) -> tuple[slice, slice]:
    """The box as slices of rows and columns."""
    x, y, w, h = box
    return slice(y, y + h), slice(x, x + w)


def convex_area(contour: npt.NDArray[Any]) -> float:
    """The area of a contour's convex hull, with the half pixel around the pixel centres through which it runs."""
    hull = cv2.convexHull(contour)
    return cv2.contourArea(hull) + cv2.arcLength(hull, closed=True) / 2 + 1


class Colour(NamedTuple):
    """Means of the four layers of a field under a mask, 0 to 255, and the standard deviation of the stain."""

    red: float
    green: float
    blue: float
    stain: float
    texture: float


def colour_of(layers: Pixels, mask: Pixels, box: Box, area: float) -> Colour:
    """The colour under a mask, uint8 (h, w) of 0 and 1 in its box, in red, green, blue and stain, uint8 (h, w, 4).

    `area` is the mask's. OpenCV is faster without a mask by more than it takes to set to 0 what lies outside; the
    moments over the box are then those under the mask times the share of it that the mask has.
    """
    x, y, w, h = box
    means, spreads = cv2.meanStdDev(cv2.copyTo(layers[y : y + h, x : x + w], mask))
    share = area / mask.size
    red, green, blue, stain = (mean / share for mean in means.ravel().tolist())
    square = (spreads.item(3) ** 2 + means.item(3) ** 2) / share
    return Colour(red=red, green=green, blue=blue, stain=stain, texture=max(0.0, square - stain**2) ** 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A connected part of a mask: uint8 (h, w) of 0 and 1 in its box of the whole."""

    mask: Pixels
    box: Box
    area: float
    contour: Contour
    """In coordinates of the whole, as are the holes'."""
    holes: Sequence[Contour]
    """Each runs through the pixels around a hole."""

    def filled(self, share: float, colour: Colour) -> Piece:
        """The component, of this `colour`, with its holes of up to `share` of its area filled."""
        mask, area = self.mask, self.area
        known: Colour | None = colour
        if self.holes:
            mask = _drawn(self.box, [self.contour, *(h for h in self.holes if cv2.contourArea(h) > share * area)])
            area, known = float(cv2.countNonZero(mask)), None
        convex = convex_area(self.contour)
        return Piece(mask=mask, box=self.box, area=area, contours=(self.contour,), convex_area=convex, colour=known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A nucleus, a part of one or several joined: uint8 (h, w) of 0 and 1 in its box of the whole."""

    mask: Pixels
    box: Box
    area: float
    contours: Sequence[Contour]
    """In coordinates of the whole, one for each part that touches no other."""
    convex_area: float
    """Area of the convex hull."""
    colour: Colour | None = None
    """Where it is known already."""

    @property
    def solidity(self) -> float:
        """Area over convex area."""
        return min(1.0, self.area / self.convex_area)

    @property
    def contour(self) -> Contour:
        """The longest of its contours."""
        return max(self.contours, key=len)

    def parts(self, labels: Pixels) -> list[Piece]:
        """The parts under the labels 1 to n, uint8 (h, w), of this piece's window."""
        count = int(labels.max())
        return [self] if count < 2 else [self._part(labels, label) for label in range(1, count + 1)]

    def _part(self, labels: Pixels, label: int) -> Piece:
        whole = (labels == label).view(np.uint8)
        x, y, w, h = cv2.boundingRect(whole)
        mask, box = whole[y : y + h, x : x + w], (self.box[0] + x, self.box[1] + y, w, h)
        contours = _contours(mask, box)
        # A corner that the seam has cut off doesn't make a part ragged.
        convex = convex_area(max(contours, key=len))
        return Piece(mask=mask, box=box, area=float(cv2.countNonZero(mask)), contours=contours, convex_area=convex)


def joined(pieces: Sequence[Piece]) -> Piece:
    """One piece of one or several, with the convex hull around all that belongs to it."""
    if len(pieces) == 1 and len(pieces[0].contours) == 1:
        return pieces[0]
    left, top = min(piece.box[0] for piece in pieces), min(piece.box[1] for piece in pieces)
    right = max(piece.box[0] + piece.box[2] for piece in pieces)
    bottom = max(piece.box[1] + piece.box[3] for piece in pieces)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for piece in pieces:
        x, y, w, h = piece.box
        mask[window((x - left, y - top, w, h))] |= piece.mask
    box = left, top, right - left, bottom - top
    contours = _contours(mask, box)
    convex = convex_area(np.concatenate(contours))
    return Piece(mask=mask, box=box, area=float(cv2.countNonZero(mask)), contours=contours, convex_area=convex)


def _contours(mask: Pixels, box: Box) -> Sequence[Contour]:
    """The outer contours of uint8 (h, w) that fills `box`, in coordinates of the whole."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=box[:2])
    return cast("Sequence[Contour]", contours)


def _drawn(box: Box, contours: Sequence[Contour]) -> Pixels:
    """What the first contour encloses without what the others, its holes, do: uint8 (h, w) of 0 and 1."""
    x, y, w, h = box
    mask = np.zeros((h, w), np.uint8)
    return as_pixels(cv2.drawContours(mask, contours, -1, (1,), cv2.FILLED, offset=(-x, -y)))


def components(mask: Pixels, *, least: float, most: float) -> list[Component]:
    """The 8-connected parts of uint8 (h, w) that have between `least` and `most` pixels, from the top down.

    Contours cost less than labels with their statistics, and are wanted later.
    """
    traced, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not traced:
        return []
    _, cut = cv2.threshold(mask, 0, 1, cv2.THRESH_BINARY)
    contours = cast("Sequence[Contour]", traced)
    links = hierarchy[0].tolist()
    found = []
    for contour, (_, _, child, parent) in zip(contours, links, strict=True):
        if parent >= 0:
            continue
        # A closed chain of n pixels that encloses an area A holds A + n / 2 + 1 pixels (Pick 1899); one by itself, 1.
        area = float(int(cv2.contourArea(contour) + len(contour) / 2 + 1))
        if area < least:
            continue
        holes, hole = [], child
        while hole >= 0:
            holes.append(contours[hole])
            hole = links[hole][0]
        x, y, w, h = cv2.boundingRect(contour)
        box = x, y, w, h
        part = as_pixels(cut[y : y + h, x : x + w])
        # Without holes, what is as large as the component is it; else there is part of another in its box.
        if holes or cv2.countNonZero(part) != area:
            part = _drawn(box, [contour, *holes])
            area = float(cv2.countNonZero(part)) if holes else area
        if least <= area <= most:
            found.append(Component(mask=part, box=box, area=area, contour=contour, holes=holes))
    return sorted(found, key=lambda component: component.box[1::-1])


def painted(pieces: Sequence[Piece], shape: tuple[int, ...]) -> Labels:
    """The label image, int32 (h, w): 1, 2, … where the pieces lie, in their order, and else 0."""
    labels = np.zeros(shape, np.int32)
    for label, piece in enumerate(pieces, start=1):
        np.copyto(labels[window(piece.box)], label, where=piece.mask.view(np.bool_))
    return labels
