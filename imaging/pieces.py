"""Parts of a mask, each with its own small window: what segmentation hands from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Box = tuple[int, int, int, int]


def as_pixels(array: npt.NDArray[Any]) -> Pixels:
    """The same array, known to be uint8: OpenCV's annotations don't say so."""
    return array.astype(np.uint8, copy=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A connected part of a mask: uint8 (h, w) of 0 and 1 in the box x, y, width, height of the whole."""

    mask: Pixels
    box: Box
    area: float

    @property
    def window(self) -> tuple[slice, slice]:
        """The box as slices of rows and columns."""
        x, y, w, h = self.box
        return slice(y, y + h), slice(x, x + w)

    def contour(self) -> Labels:
        """The longest outer contour in coordinates of the whole, int32 (n, 2)."""
        contours, _ = cv2.findContours(
            self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(self.box[0], self.box[1])
        )
        longest: Labels = max(contours, key=len)[:, 0, :].astype(np.int32, copy=False)
        return longest

    def solidity(self) -> float:
        """Area over convex area, both with the half pixel around pixel centres."""
        contour = self.contour()
        hull = cv2.convexHull(contour)
        return float(min(1.0, self.area / (cv2.contourArea(hull) + cv2.arcLength(hull, closed=True) / 2 + 1)))

    def filled(self, share: float) -> Piece:
        """The piece with its holes of up to `share` of its area filled."""
        contours, hierarchy = cv2.findContours(self.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holes = [
            contour
            for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True)
            if parent >= 0 and cv2.contourArea(contour) <= share * self.area
        ]
        if not holes:
            return self
        mask = as_pixels(cv2.drawContours(self.mask.copy(), holes, -1, (1,), cv2.FILLED))
        return Piece(mask=mask, box=self.box, area=float(cv2.countNonZero(mask)))

    def parts(self, labels: Labels) -> list[Piece]:
        """The parts under the labels 1 to n, int32 (h, w), of this piece's window."""
        if int(labels.max()) < 2:
            return [self]
        return [_cropped(as_pixels(cv2.inRange(labels, n, n)), self.box) for n in range(1, int(labels.max()) + 1)]


def _cropped(mask: Pixels, within: Box) -> Piece:
    x, y, w, h = cv2.boundingRect(mask)
    ones = np.minimum(mask[y : y + h, x : x + w], 1)
    return Piece(mask=ones, box=(within[0] + x, within[1] + y, w, h), area=float(cv2.countNonZero(ones)))


def labelled(mask: Pixels) -> tuple[Labels, Labels]:
    """Label the 8-connected components of uint8 (h, w); return labels int32 (h, w) and OpenCV's statistics (n + 1, 5).

    The block-based algorithm of Grana et al. 2010 takes a third of the time of OpenCV's default (0.09 ms, 224×224).
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_BBDT)
    return labels.astype(np.int32, copy=False), stats.astype(np.int32, copy=False)


def components(mask: Pixels, *, least: float, most: float) -> list[Piece]:
    """The connected parts of uint8 (h, w) that have between `least` and `most` pixels."""
    labels, stats = labelled(mask)
    areas = stats[1:, cv2.CC_STAT_AREA]
    pieces = []
    for label in 1 + np.flatnonzero((areas >= least) & (areas <= most)):
        x, y, w, h, area = stats[label].tolist()
        part = (labels[y : y + h, x : x + w] == label).astype(np.uint8)
        pieces.append(Piece(mask=part, box=(x, y, w, h), area=float(area)))
    return pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class Nuclei:
    """Labels 1 to n, int32 (h, w), and the box x, y, width, height of each."""

    labels: Labels
    boxes: tuple[Box, ...]


def painted(nuclei: Sequence[Sequence[Piece]], shape: tuple[int, ...]) -> Nuclei:
    """Paint nuclei, each of one or more pieces, into a label image; numbered from the top down."""
    labels = np.zeros(shape, np.int32)
    boxes = []
    for label, pieces in enumerate(sorted(nuclei, key=lambda nucleus: nucleus[0].box[1::-1]), start=1):
        for piece in pieces:
            labels[piece.window][piece.mask > 0] = label
        left, top = min(p.box[0] for p in pieces), min(p.box[1] for p in pieces)
        right, bottom = max(p.box[0] + p.box[2] for p in pieces), max(p.box[1] + p.box[3] for p in pieces)
        boxes.append((left, top, right - left, bottom - top))
    return Nuclei(labels=labels, boxes=tuple(boxes))
