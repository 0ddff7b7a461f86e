"""Labelled fields as imaging sees them: read, segmented and judged once, used by every fold."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.layers import without_cells
from imaging.overlays import find_overlays, without_overlays
from imaging.parameters import QualityParameters, SegmentationParameters
from imaging.segment import segment
from models.architectures.blueprint import InputSizes
from models.data import LabelledField, read_pixels
from models.inputs import CACHED_SIDE, Square, cells_view, field_view, judge, sampled, to_cached
from models.leukocytes import Nuclei, lay_out
from models.options import Progress, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """N fields."""

    pixels: NDArray[np.uint8]
    """RGB (N, C, C, 3), C = CACHED_SIDE: without overlays"""
    balanced: NDArray[np.uint8]
    """the same with the background moved to white"""
    cells: NDArray[np.uint8]
    """(N, C, C): 1 on leukocytes"""
    smears: NDArray[np.uint8]
    """as `pixels`, with the leukocytes painted out"""
    nuclei: tuple[Nuclei, ...]
    quality: tuple[tuple[str, ...], ...]
    """flags of the quality checks"""

    def take(self, chosen: NDArray[np.intp]) -> Views:
        """Only the fields of these indices."""
        return Views(
            pixels=self.pixels[chosen],
            balanced=self.balanced[chosen],
            cells=self.cells[chosen],
            smears=self.smears[chosen],
            nuclei=tuple(self.nuclei[index] for index in chosen),
            quality=tuple(self.quality[index] for index in chosen),
        )

    def shown(self, chosen: Sequence[int], sizes: InputSizes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """What a network is shown of fields: leukocytes and whole fields, RGB (n, S, S, 3) of their sizes S."""
        squares = [
            Square(pixels=self.pixels[index], balanced=self.balanced[index], cells=self.cells[index])
            for index in chosen
        ]
        return (
            np.stack([cells_view(square, sizes.cells) for square in squares]),
            np.stack([field_view(square, sizes.field) for square in squares]),
        )


def view_all(
    fields: Sequence[LabelledField],
    *,
    segmentation: SegmentationParameters | None = None,
    quality: QualityParameters | None = None,
    progress: Progress = silent,
    threads: int = 2,
) -> Views:
    """Read, segment and judge every field. Raises UsageError naming the first that can't be read as an image."""
    segmentation, quality = segmentation or SegmentationParameters(), quality or QualityParameters()
    count = len(fields)
    pixels = np.empty((count, CACHED_SIDE, CACHED_SIDE, 3), np.uint8)
    balanced, smears = np.empty_like(pixels), np.empty_like(pixels)
    cells = np.empty((count, CACHED_SIDE, CACHED_SIDE), np.uint8)

    def view(index: int) -> tuple[Nuclei, tuple[str, ...]]:
        field = fields[index]
        decoded = read_pixels(field, segmentation.working_side)
        overlays = find_overlays(decoded.pixels, segmentation.overlays)
        size = decoded.width, decoded.height
        found = segment(decoded.pixels, segmentation, original_size=size, overlays=overlays)
        square = to_cached(without_overlays(decoded.pixels, overlays), found)
        pixels[index], balanced[index], cells[index] = square.pixels, square.balanced, square.cells
        smears[index] = without_cells(square.pixels, sampled(found.nuclei, CACHED_SIDE), segmentation)
        return lay_out(found), tuple(judge(decoded.pixels, found, decoded.width, quality).flags)

    nuclei: list[Nuclei] = []
    flags: list[tuple[str, ...]] = []
    with ThreadPoolExecutor(threads) as pool:
        for found, raised in pool.map(view, range(count)):
            nuclei.append(found)
            flags.append(raised)
            progress("finding leukocytes", len(nuclei), count)
    return Views(
        pixels=pixels, balanced=balanced, cells=cells, smears=smears, nuclei=tuple(nuclei), quality=tuple(flags)
    )
