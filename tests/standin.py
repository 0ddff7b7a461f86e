"""A stand-in for the pixels' work, for tests of everything around it.

Fields are tiny pictures of one shade, no two with the same bytes. Reading, hashing and decoding them is real; instead
of segmentation and network, the finding of a field is its shade. So a finding that got to another field's bytes would
be noticed, and a worker's processor time is that of the delivery alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from allq.settings import Settings
from imaging.decode import Decoded
from imaging.quality import Quality
from imaging.segment import Segmentation
from models import artefact
from models.artefact import Model
from models.classifier import Assessment, PreparedField
from models.leukocytes import Nuclei

MODEL: Final = "synthetic-smears"
ENGINE: Final = "stand-in"
_SIDE: Final = 32
_EMPTY: Final = np.zeros((1, 1), np.uint8)
_SHADES: Final = 256


def field_bytes(number: int) -> bytes:
    """A PNG file of the shade `number` modulo 256; other bytes for each number."""
    return _png(number % _SHADES) + b"field %d" % number


def write_fields(folder: Path, *, slides: int, fields: int, first: int = 0) -> Path:
    """`slides` folders under `folder` with `fields` files each, numbered from `first` on. Returns `folder`."""
    for slide in range(slides):
        place = folder / f"S{slide:05}"
        place.mkdir(parents=True)
        for field in range(fields):
            (place / f"{field:03}.png").write_bytes(field_bytes(first + slide * fields + field))
    return folder


def suspicion_of(data: bytes) -> float:
    """What the stand-in says of the bytes of a file that `field_bytes` made."""
    return int(data.rpartition(b"field ")[2]) % _SHADES / _SHADES


@cache
def _png(shade: int) -> bytes:
    made, data = cv2.imencode(".png", np.full((_SIDE, _SIDE, 3), shade, np.uint8))
    assert made
    return data.tobytes()


class StandIn:
    """In the place of models.classifier.Classifier. Each group of fields takes `seconds`."""

    engine_name = ENGINE
    decode_side = _SIDE
    batches = None

    def __init__(self, model: Model, seconds: float = 0.0) -> None:
        self.model = model
        self.seconds = seconds

    @classmethod
    def load(cls, model: Model, _: Settings, *, seconds: float = 0.0) -> StandIn:
        return cls(model, seconds)

    def prepare(self, decoded: Decoded) -> PreparedField:
        shade = int(decoded.pixels[0, 0, 0])
        return PreparedField(
            cells=_EMPTY,
            field=np.array([shade], np.uint8),
            segmentation=Segmentation(nuclei=_EMPTY.astype(np.int32), scale=1.0, leukocytes=()),
            nuclei=Nuclei(labels=_EMPTY.astype(np.uint16), centres=np.zeros((0, 2), np.uint8)),
            quality=Quality(sharpness=0.3, contrast=100.0, background=200.0, burnt=0.0, flags=()),
            width=decoded.width,
            height=decoded.height,
        )

    def classify(self, prepared: Sequence[PreparedField]) -> list[Assessment]:
        time.sleep(self.seconds)
        return [_assessment(int(field.field[0]) / _SHADES) for field in prepared]


def _assessment(suspicion: float) -> Assessment:
    return Assessment(
        call="benign" if suspicion < 0.5 else "pre-b",
        confidence=max(suspicion, 1 - suspicion),
        probabilities=(1 - suspicion, 0.0, suspicion, 0.0),
        suspicion=suspicion,
        novelty=0.0,
        flags=(),
        suspicions=(),
        suspects=0,
    )


def model(settings: Settings) -> Model:
    """The model that the stand-in goes under."""
    return artefact.find(settings, MODEL)
