"""Fields to measure with: synthetic ones, of the size of the development images or of a microscope's camera."""

from __future__ import annotations

from pathlib import Path

CAMERA = (2592, 1944)


def write_camera_fields(folder: Path, count: int) -> Path:
    """JPEG fields of 2592×1944, quality 90: synthetic ones enlarged, with noise so that they weigh what a camera's do.

    `count` of them, directly in `folder`, which is returned.
    """
    import cv2
    import numpy as np

    from imaging.styles import STYLES
    from imaging.synthetic import render_field

    folder.mkdir(parents=True, exist_ok=True)
    style = STYLES[sorted(STYLES)[0]]
    for number in range(count):
        chance = np.random.default_rng([2592, number])
        pixels = render_field(chance, klass="pre-b", style=style).pixels
        large = cv2.resize(pixels, CAMERA, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noise = chance.normal(0, 3, large.shape[:2])[..., None]
        seen = np.clip(large + noise, 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", cv2.cvtColor(seen, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (folder / f"field-{number:03}.jpg").write_bytes(encoded.tobytes())
    return folder


def write_small_fields(folder: Path, count: int) -> Path:
    """`count` synthetic fields of 320×240 on slides of 32; nearly all of them can be screened."""
    from imaging.synthetic import write_slides

    write_slides(folder, slides=max(1, count // 32), fields=32, seed=11)
    return folder
