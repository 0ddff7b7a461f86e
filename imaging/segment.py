"""Leukocytes found by the stain of their nuclei: from RGB pixels to outlines and measures.

White balance, a stain channel, a three-class Otsu threshold with absolute checks (three classes are found in any
image, so the highest must also look like nuclei), hole filling, touching nuclei split and the lobes of one nucleus
joined. Sizes are judged against the red cells and nuclei of the same field: no magnification need be known. Pure and
thread-safe. Sources and figures: docs/segmentation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imaging.cells import red_cells
from imaging.leukocyte import Leukocyte
from imaging.lobes import join_lobes
from imaging.measures import measure
from imaging.overlays import overlay_mask
from imaging.parameters import SegmentationParameters
from imaging.pieces import Nuclei, Piece, as_pixels, components, painted
from imaging.splitting import split
from imaging.stain import stain_channel, three_classes, white_balanced, white_point

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """The leukocytes of one field."""

    nuclei: Labels
    """Labels int32 (h, w) at the working scale; 0 is anything else."""
    scale: float
    """Original pixels per working pixel."""
    leukocytes: tuple[Leukocyte, ...]


DEFAULT = SegmentationParameters()


def segment(
    rgb: Pixels, parameters: SegmentationParameters = DEFAULT, *, original_size: tuple[int, int] | None = None
) -> Segmentation:
    """Find the leukocytes of RGB uint8 (h, w, 3); `original_size` is (width, height) where `rgb` was reduced."""
    width, height = original_size or (rgb.shape[1], rgb.shape[0])
    working = _working(rgb, parameters.working_side)
    valid = ~overlay_mask(working, parameters.overlays)
    white = white_point(working, valid, parameters.stain.white_percentile)
    balanced = white_balanced(working, white)
    stain = stain_channel(balanced, parameters.stain)
    nuclei = _nuclei(balanced, stain, valid, parameters)
    scale = (width / working.shape[1], height / working.shape[0])
    return Segmentation(
        nuclei=nuclei.labels,
        scale=scale[0],
        leukocytes=measure(nuclei, balanced, stain, scale=scale, size=(width, height)),
    )


def _working(rgb: Pixels, side: int) -> Pixels:
    height, width = rgb.shape[:2]
    longest = max(height, width)
    if longest <= side:
        return rgb
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    return as_pixels(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def _nuclei(balanced: Pixels, stain: Pixels, valid: Mask, parameters: SegmentationParameters) -> Nuclei:
    """Find the nuclei: labels 1 to n, int32 (h, w), with their boxes."""
    none = Nuclei(labels=np.zeros(stain.shape, np.int32), boxes=())
    found = _threshold(balanced, stain, valid, parameters)
    if found is None:
        return none
    threshold, below = found
    mask = ((stain > threshold) & valid).astype(np.uint8)
    candidates = _candidates(mask, balanced, stain, brush=3, below=below, parameters=parameters)
    if not candidates:
        return none
    # Granules of the cytoplasm and tags of nuclei are cut off by an opening that grows with the nuclei.
    brush = 2 * round(0.5 * parameters.brush * _typical(candidates) ** 0.5) + 1
    if brush > 3:
        opened = _candidates(mask, balanced, stain, brush=brush, below=below, parameters=parameters)
        candidates = opened or candidates
    red_cell = _red_cell_area(balanced, mask, valid, _typical(candidates), parameters)
    pieces = [piece for part in candidates for piece in _taken_apart(part, red_cell, parameters)]
    if not pieces:
        return none
    nuclei = join_lobes(
        pieces,
        gap=parameters.lobe_gap * (red_cell / np.pi) ** 0.5,
        lobe_area=parameters.lobe_area * red_cell,
        most_area=parameters.whole_area * red_cell,
    )
    smallest = max(parameters.least_area * red_cell, parameters.least_share * _typical(pieces))
    return painted([nucleus for nucleus in nuclei if sum(piece.area for piece in nucleus) >= smallest], mask.shape)


def _candidates(
    mask: Pixels, balanced: Pixels, stain: Pixels, *, brush: int, below: float, parameters: SegmentationParameters
) -> list[Piece]:
    """The components of `mask`, opened with a disc `brush` pixels wide, that have a nucleus's colour."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (brush, brush))
    opened = as_pixels(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc))
    least = (parameters.least_side * max(mask.shape)) ** 2
    return [
        part
        for part in components(opened, least=least, most=parameters.largest * mask.size)
        if _is_nucleus(part, balanced, stain, below, parameters)
    ]


def _red_cell_area(
    balanced: Pixels, mask: Pixels, valid: Mask, typical: float, parameters: SegmentationParameters
) -> float:
    """The area of a red cell in pixels, kept within what nuclei of the `typical` area allow."""
    measured = red_cells(balanced, mask, valid)
    if measured is None:
        return parameters.no_red_cell * typical
    area = float(np.pi * measured.radius**2)
    return min(area, parameters.largest_red_cell * typical) if measured.crowded else area


def _taken_apart(part: Piece, red_cell: float, parameters: SegmentationParameters) -> list[Piece]:
    """Fill the holes of a component and split it where it is two or more nuclei."""
    filled = part.filled(parameters.hole)
    solidity = filled.solidity()
    least = parameters.split_area * red_cell
    parts = [filled]
    if filled.area >= 2 * least and solidity <= parameters.convex:
        parts = filled.parts(split(filled.mask, neck=parameters.neck, least_area=least))
    # Chains of nuclei are ragged as a whole and round one by one; debris stays ragged.
    return [
        piece for piece in parts if (solidity if piece is filled else piece.solidity()) >= parameters.least_solidity
    ]


def _typical(pieces: Sequence[Piece]) -> float:
    """The area of the piece in which the median stained pixel lies."""
    ordered = np.sort([piece.area for piece in pieces])
    return float(ordered[np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)])


def _threshold(
    balanced: Pixels, stain: Pixels, valid: Mask, parameters: SegmentationParameters
) -> tuple[float, float] | None:
    """Return the stain above which pixels are nuclei and the mean stain of the class below, or None without nuclei.

    When the highest class has the colour of red cells, nuclei can only be a small part of it: it is split again.
    """
    counted = valid.astype(np.uint8)
    area = int(counted.sum())
    for _ in range(3):
        histogram = cv2.calcHist([stain], [0], counted, [256], [0, 256]).ravel().astype(np.float64)
        if histogram.sum() < 0.0005 * area:
            return None
        classes = three_classes(histogram)
        threshold = max(classes.upper, parameters.least_threshold)
        counted = ((stain > threshold) & valid).astype(np.uint8)
        share = int(counted.sum()) / max(area, 1)
        if share == 0:
            return None
        violet = violet_ratio(balanced, counted)
        crowded = share > parameters.most_share and violet < parameters.crowded_violet
        level = cv2.mean(stain, mask=counted)[0]
        if _looks_nuclear(level, violet, parameters) and not crowded:
            return threshold, classes.means[1]
    return None


def violet_ratio(balanced: Pixels, mask: Pixels) -> float:
    """Mean absorption of green over that of blue under `mask` (uint8): about one for haemoglobin, more for nuclei."""
    _, green, blue, _ = cv2.mean(balanced, mask=mask)
    return (255 - green) / (255 - blue + 4.0)


def _is_nucleus(part: Piece, balanced: Pixels, stain: Pixels, below: float, parameters: SegmentationParameters) -> bool:
    level = cv2.mean(stain[part.window], mask=part.mask)[0]
    violet = violet_ratio(balanced[part.window], part.mask)
    return level >= max(parameters.least_stain, parameters.least_contrast * below) and _looks_nuclear(
        level, violet, parameters
    )


def _looks_nuclear(level: float, violet: float, parameters: SegmentationParameters) -> bool:
    return violet >= parameters.least_violet and level * (violet - 0.9) >= parameters.least_evidence
