"""Leukocytes found by the stain of their nuclei: from RGB pixels to outlines and measures.

White balance, a stain channel, a three-class Otsu threshold with absolute checks (three classes are found in any
image, so the highest must also look like nuclei), hole filling, touching nuclei split and the lobes of one nucleus
joined. Sizes are judged against the red cells and nuclei of the same field: no magnification need be known. Pure and
thread-safe. Sources and figures: docs/segmentation.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import cv2
import numpy as np

from imaging.cells import red_cells
from imaging.histograms import histogram
from imaging.leukocyte import Leukocyte
from imaging.lobes import join_lobes
from imaging.measures import measure
from imaging.overlays import Overlays, find_overlays
from imaging.parameters import SegmentationParameters
from imaging.pieces import Colour, Component, Labels, Piece, Pixels, as_pixels, colour_of, components, joined, painted
from imaging.splitting import split
from imaging.stain import Stained, stained, three_classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """The leukocytes of one field."""

    nuclei: Labels
    """Labels int32 (h, w) at the working scale; 0 is anything else."""
    scale: float
    """Original pixels per working pixel."""
    leukocytes: tuple[Leukocyte, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholded:
    """Where the stain of a field is that of nuclei."""

    mask: Pixels
    """uint8 (h, w): 255 there, else 0"""
    below: float
    """Mean stain of the class below."""


DEFAULT = SegmentationParameters()


def segment(
    rgb: Pixels,
    parameters: SegmentationParameters = DEFAULT,
    *,
    original_size: tuple[int, int] | None = None,
    overlays: Overlays | None = None,
) -> Segmentation:
    """Find the leukocytes of RGB uint8 (h, w, 3).

    `original_size` is (width, height) where `rgb` was reduced. `overlays` are those of `rgb`, if they are known; they
    are looked for where they aren't or where `rgb` has to be reduced.
    """
    width, height = original_size or (rgb.shape[1], rgb.shape[0])
    working = _working(rgb, parameters.working_side)
    if overlays is None or working is not rgb:
        overlays = find_overlays(working, parameters.overlays)
    field = stained(working, overlays, parameters.stain)
    return segmented(field, threshold(field, overlays, parameters), overlays, parameters, (width, height))


def segmented(
    field: Stained,
    nuclear: Thresholded | None,
    overlays: Overlays,
    parameters: SegmentationParameters,
    original_size: tuple[int, int],
) -> Segmentation:
    """Find the leukocytes of a stained field where its stain is that of nuclei, if it is anywhere.

    `overlays` are those of the field; `original_size` is the width and height before any reduction.
    """
    width, height = original_size
    nuclei = [] if nuclear is None else _nuclei(field, nuclear, overlays, parameters)
    scale = (width / field.stain.shape[1], height / field.stain.shape[0])
    return Segmentation(
        nuclei=painted(nuclei, field.stain.shape),
        scale=scale[0],
        leukocytes=measure(nuclei, field.layers, scale=scale, size=(width, height)),
    )


def _working(rgb: Pixels, side: int) -> Pixels:
    height, width = working_size(rgb.shape, side)
    if (height, width) == rgb.shape[:2]:
        return rgb
    return as_pixels(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA))


def working_size(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width to which an image of this `shape` (h, w, …) is reduced: its longer side is at most `side`."""
    height, width = shape[:2]
    longest = max(height, width)
    if longest <= side:
        return height, width
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))


def _nuclei(
    field: Stained, nuclear: Thresholded, overlays: Overlays, parameters: SegmentationParameters
) -> list[Piece]:
    """Find the nuclei, from the top down."""
    mask, below = nuclear.mask, nuclear.below
    candidates = _candidates(mask, field, brush=3, below=below, parameters=parameters)
    if not candidates:
        return []
    typical = _typical(part.area for part, _ in candidates)
    # Granules of the cytoplasm and tags of nuclei are cut off by an opening that grows with the nuclei.
    brush = 2 * round(0.5 * parameters.brush * typical**0.5) + 1
    if brush > 3:
        opened = _candidates(mask, field, brush=brush, below=below, parameters=parameters)
        candidates = opened or candidates
        typical = _typical(part.area for part, _ in candidates)
    red_cell = _red_cell_area(field, mask, overlays, typical, parameters)
    pieces = [piece for part, colour in candidates for piece in _taken_apart(part, colour, red_cell, parameters)]
    if not pieces:
        return []
    groups = join_lobes(
        pieces,
        gap=parameters.lobe_gap * (red_cell / np.pi) ** 0.5,
        lobe_area=parameters.lobe_area * red_cell,
        most_area=parameters.whole_area * red_cell,
    )
    smallest = max(parameters.least_area * red_cell, parameters.least_share * _typical(piece.area for piece in pieces))
    nuclei = [group for group in groups if sum(piece.area for piece in group) >= smallest]
    return [joined(group) for group in sorted(nuclei, key=lambda group: group[0].box[1::-1])]


def _candidates(
    mask: Pixels, field: Stained, *, brush: int, below: float, parameters: SegmentationParameters
) -> list[tuple[Component, Colour]]:
    """The components of `mask`, opened with a disc `brush` pixels wide, that have a nucleus's colour, and that."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (brush, brush))
    opened = as_pixels(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc))
    least = (parameters.least_side * max(mask.shape)) ** 2
    found = components(opened, least=least, most=parameters.largest * mask.size)
    coloured = [(part, colour_of(field.layers, part.mask, part.box, part.area)) for part in found]
    return [(part, colour) for part, colour in coloured if _is_nucleus(colour, below, parameters)]


def _red_cell_area(
    field: Stained, mask: Pixels, overlays: Overlays, typical: float, parameters: SegmentationParameters
) -> float:
    """The area of a red cell in pixels, kept within what nuclei of the `typical` area allow."""
    measured = red_cells(field.green, mask, overlays)
    if measured is None:
        return parameters.no_red_cell * typical
    area = float(np.pi * measured.radius**2)
    return min(area, parameters.largest_red_cell * typical) if measured.crowded else area


def _taken_apart(part: Component, colour: Colour, red_cell: float, parameters: SegmentationParameters) -> list[Piece]:
    """Fill the holes of a component and split it where it is two or more nuclei."""
    filled = part.filled(parameters.hole, colour)
    least = parameters.split_area * red_cell
    parts = [filled]
    if filled.area >= 2 * least and filled.solidity <= parameters.convex:
        parts = filled.parts(split(filled.mask, neck=parameters.neck, least_area=least))
    # Chains of nuclei are ragged as a whole and round one by one; debris stays ragged.
    return [piece for piece in parts if piece.solidity >= parameters.least_solidity]


def _typical(areas: Iterable[float]) -> float:
    """The area of the piece in which the median stained pixel lies."""
    ordered = sorted(areas)
    return ordered[bisect_left(list(accumulate(ordered)), sum(ordered) / 2)]


def threshold(field: Stained, overlays: Overlays, parameters: SegmentationParameters) -> Thresholded | None:
    """Find where the stain is that of nuclei; None where it is nowhere.

    When the highest class has the colour of red cells, nuclei can only be a small part of it: it is split again.
    """
    counts = histogram(field.stain)
    counts[0] -= np.count_nonzero(overlays.mask()) if overlays else 0
    area = counts.sum()
    for _ in range(3):
        if counts.sum() < 0.0005 * area:
            return None
        classes = three_classes(counts)
        level = max(classes.upper, parameters.least_threshold)
        counts[: int(level) + 1] = 0
        pixels = counts.sum()
        if pixels == 0:
            return None
        _, mask = cv2.threshold(field.stain, level, 255, cv2.THRESH_BINARY)
        # Sums over what is left of a channel under a mask of 255: a fifth of the time of cv2.mean with that mask.
        green, blue = (cv2.sumElems(cv2.bitwise_and(plane, mask))[0] / pixels for plane in (field.green, field.blue))
        violet = violet_ratio(green, blue)
        crowded = pixels > parameters.most_share * area and violet < parameters.crowded_violet
        mean = float(counts @ np.arange(256)) / pixels
        if _looks_nuclear(mean, violet, parameters) and not crowded:
            return Thresholded(mask=as_pixels(mask), below=classes.middle)
    return None


def violet_ratio(green: float, blue: float) -> float:
    """Absorption of green over that of blue, from mean levels: about one for haemoglobin, more for nuclei."""
    return (255 - green) / (255 - blue + 4.0)


def _is_nucleus(colour: Colour, below: float, parameters: SegmentationParameters) -> bool:
    contrast = colour.stain >= max(parameters.least_stain, parameters.least_contrast * below)
    return contrast and _looks_nuclear(colour.stain, violet_ratio(colour.green, colour.blue), parameters)


def _looks_nuclear(level: float, violet: float, parameters: SegmentationParameters) -> bool:
    return violet >= parameters.least_violet and level * (violet - 0.9) >= parameters.least_evidence
