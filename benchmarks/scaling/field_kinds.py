"""Fields to measure with: small ones, of the size of the development images, and of a microscope's camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CAMERA = (2592, 1944)
_ROWS = 32
"""to which noise is added at once: in floating point they fit in the processor's caches, a field takes 121 MB"""


def camera_field(source: bytes, number: int) -> bytes:
    """A JPEG of 2592×1944, quality 90: `source` enlarged, with the noise of that number, so that it weighs what a
    camera's does. Raises FieldError where the source can't be decoded.
    """
    import numpy as np

    large = _enlarged(source)
    random = np.random.default_rng([2592, number])
    for top in range(0, len(large), _ROWS):
        rows = large[top : top + _ROWS]
        noise = random.normal(0, 3, rows.shape[:2])[..., None]
        rows[:] = np.clip(rows + noise, 0, 255).astype(np.uint8)
    return _jpeg(large, quality=90)


def smooth_field(source: bytes) -> bytes:
    """The same without noise, quality 92: less than half as heavy. Raises FieldError as well."""
    return _jpeg(_enlarged(source), quality=92)


def _enlarged(source: bytes) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    from imaging.decode import decode

    pixels = decode(source, max_pixels=10**9).pixels
    return np.asarray(cv2.resize(pixels, CAMERA, interpolation=cv2.INTER_CUBIC), np.uint8)


def _jpeg(pixels: NDArray[np.uint8], *, quality: int) -> bytes:
    import cv2

    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def write_camera_fields(folder: Path, sources: Sequence[Path]) -> Path:
    """`camera_field` of each of the sources, in their order by name, directly in `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources):
        (folder / f"field-{number:03}.jpg").write_bytes(camera_field(source.read_bytes(), number))
    return folder


def some_of(folder: Path, count: int) -> list[Path]:
    """`count` fields below `folder`, evenly, but for those of them that can't be decoded."""
    from allq.errors import FieldError
    from benchmarks.measuring import images
    from imaging.decode import decode

    found: list[Path] = []
    for path in images(folder, count):
        try:
            decode(path.read_bytes(), max_pixels=CAMERA[0] * CAMERA[1])
        except FieldError:
            continue
        found.append(path)
    return found


def write_small_fields(folder: Path, count: int) -> Path:
    """`count` synthetic fields of 320×240 on slides of 32; nearly all of them can be screened."""
    from imaging.synthetic import write_slides

    write_slides(folder, slides=max(1, count // 32), fields=32, seed=11)
    return folder
