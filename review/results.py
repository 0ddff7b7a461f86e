"""The results of a batch as rows: what `allq results` prints and exports, with the JSON keys that DESIGN.md fixes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """What a row of results is about."""

    SLIDE = "slide"
    FIELD = "field"
    LEUKOCYTE = "leukocyte"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a row, in order. Rows that name a synthetic model have `synthetic` besides."""
        return _KEYS[self]


_KEYS: Final[dict[Level, tuple[str, ...]]] = {
    Level.SLIDE: (
        "batch",
        "slide",
        "call",
        "confidence",
        "probabilities",
        "flags",
        "fields",
        "screened",
        "failed",
        "cancelled",
        "leukocytes",
        "suspects",
        "upper_bound",
        "model",
    ),
    Level.FIELD: (
        "batch",
        "slide",
        "field",
        "sha256",
        "state",
        "call",
        "confidence",
        "probabilities",
        "novelty",
        "flags",
        "leukocytes",
        "suspects",
        "model",
        "failure",
    ),
    Level.LEUKOCYTE: (
        "batch",
        "slide",
        "field",
        "index",
        "box",
        "centre",
        "area",
        "suspicion",
        "outline",
        "measures",
    ),
}
