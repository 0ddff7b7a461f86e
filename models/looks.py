"""What imaging says of labelled fields: nuclei and quality. Read once, used by every fold."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imaging.decode import decode
from imaging.parameters import QualityParameters, SegmentationParameters
from imaging.segment import segment
from models.data import MAX_PIXELS, LabelledField
from models.inputs import judge
from models.leukocytes import Nuclei, lay_out
from models.options import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One field as imaging sees it."""

    nuclei: Nuclei
    quality: tuple[str, ...]
    """flags of the quality checks"""


def look_at(
    fields: Sequence[LabelledField],
    *,
    segmentation: SegmentationParameters,
    quality: QualityParameters,
    progress: Progress,
    threads: int = 2,
) -> list[Look]:
    """Segment and judge every field."""

    def look(field: LabelledField) -> Look:
        decoded = decode(field.path.read_bytes(), max_pixels=MAX_PIXELS, reduce_to=segmentation.working_side)
        found = segment(decoded.pixels, segmentation, original_size=(decoded.width, decoded.height))
        return Look(nuclei=lay_out(found), quality=tuple(judge(decoded.pixels, found, decoded.width, quality).flags))

    looks: list[Look] = []
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(look, fields):
            looks.append(found)
            progress("finding leukocytes", len(looks), len(fields))
    return looks
