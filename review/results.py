"""The results of a batch as rows: what `allq results` prints and exports, with the JSON keys that DESIGN.md fixes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from allq.classes import CLASSES
from db import reads

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from db.records import Probabilities


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


def rows(connection: Connection, batch: int, level: Level) -> Iterator[dict[str, Any]]:
    """Yield the results of a batch, one mapping a row, read page by page. Raises NotFound.

    `synthetic` is added, as True, only where the model is one: a row of a real model has exactly the keys of its level.
    """
    synthetic = reads.batch_status(connection, batch).synthetic
    if level is Level.SLIDE:
        return _slides(connection, batch, synthetic=synthetic)
    if level is Level.FIELD:
        return _fields(connection, batch, synthetic=synthetic)
    return _leukocytes(connection, batch)


def _slides(connection: Connection, batch: int, *, synthetic: bool) -> Iterator[dict[str, Any]]:
    for slide in reads.slide_results(connection, batch):
        row = {
            "batch": slide.batch,
            "slide": slide.slide,
            "call": slide.call,
            "confidence": slide.confidence,
            "probabilities": _by_class(slide.probabilities),
            "flags": list(slide.flags),
            "fields": slide.fields,
            "screened": slide.screened,
            "failed": slide.failed,
            "cancelled": slide.cancelled,
            "leukocytes": slide.leukocytes,
            "suspects": slide.suspects,
            "upper_bound": slide.upper_bound,
            "model": slide.model,
        }
        yield row | {"synthetic": True} if synthetic else row


def _fields(connection: Connection, batch: int, *, synthetic: bool) -> Iterator[dict[str, Any]]:
    for field in reads.field_results(connection, batch):
        row = {
            "batch": field.batch,
            "slide": field.slide,
            "field": field.field,
            "sha256": field.sha256,
            "state": field.state,
            "call": field.call,
            "confidence": field.confidence,
            "probabilities": _by_class(field.probabilities),
            "novelty": field.novelty,
            "flags": list(field.flags),
            "leukocytes": field.leukocytes,
            "suspects": field.suspects,
            "model": field.model,
            "failure": field.failure,
        }
        yield row | {"synthetic": True} if synthetic else row


def _leukocytes(connection: Connection, batch: int) -> Iterator[dict[str, Any]]:
    from imaging.outlines import unpack  # noqa: PLC0415  (the other levels need no imaging)

    for field in reads.leukocyte_results(connection, batch):
        for leukocyte in unpack(field.data):
            yield {"batch": field.batch, "slide": field.slide, "field": field.field, **leukocyte.as_json()}


def _by_class(probabilities: Probabilities | None) -> dict[str, float] | None:
    return None if probabilities is None else dict(zip(CLASSES, probabilities, strict=True))
