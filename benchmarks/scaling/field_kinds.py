"""Fields to measure with: small ones, of the size of the development images, and of a microscope's camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CAMERA = (2592, 1944)


def write_camera_fields(folder: Path, sources: Sequence[Path]) -> Path:
    """JPEG fields of 2592×1944, quality 90: `sources` enlarged, with noise so that they weigh what a camera's do.

    One of each, in their order by name, directly in `folder`, which is returned. Raises FieldError where a source can't
    be decoded.
    """
    import cv2
    import numpy as np

    from imaging.decode import decode

    folder.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources):
        chance = np.random.default_rng([2592, number])
        pixels = decode(source.read_bytes(), max_pixels=CAMERA[0] * CAMERA[1]).pixels
        large = cv2.resize(pixels, CAMERA, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noise = chance.normal(0, 3, large.shape[:2])[..., None]
        seen = np.clip(large + noise, 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", cv2.cvtColor(seen, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (folder / f"field-{number:03}.jpg").write_bytes(encoded.tobytes())
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
