"""What networks said of fields that they were not trained on: kept in a file, and what calibration is fitted on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from allq.errors import UsageError
from models.artefact import LeukocyteRule, SlideRule
from models.calibration import fit_sigmoid, fit_temperature, sigmoid, softmax

HELD_OUT: Final = "held-out.npz"
"""Name of the file in an evaluation's work folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """N fields, each seen by the network of the fold that left it out."""

    fingerprint: str
    """of all the data, held out in this fold or another"""
    architecture: str
    files: NDArray[np.str_]
    groups: NDArray[np.str_]
    streams: NDArray[np.str_]
    labels: NDArray[np.int_]
    folds: NDArray[np.int_]
    logits: NDArray[np.float32]
    """(N, classes)"""
    views: NDArray[np.float32]
    """(N, V, classes): the logits of each view by itself"""
    novelty: NDArray[np.float32]
    novelty_threshold: NDArray[np.float32]
    """of the fold's own novelty statistics"""
    quality: NDArray[np.str_]
    """flags of the quality checks, separated by spaces"""
    leukocytes: NDArray[np.int_]
    margins: NDArray[np.float32]
    """of all fields' leukocytes, field after field: (sum of `leukocytes`,)"""

    def save(self, path: Path) -> None:
        """As a compressed .npz, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with beside.open("wb") as out:
            values: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
            np.savez_compressed(out, **values)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> HeldOut:
        """Raises UsageError when the file isn't one of these."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                values: dict[str, Any] = {name: stored[name] for name in cls.__dataclass_fields__}
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise UsageError(
                f"{path} can't be read as held-out outputs ({error}): make it with allq evaluate."
            ) from None
        values["fingerprint"], values["architecture"] = str(values["fingerprint"]), str(values["architecture"])
        return cls(**values)

    def field_margins(self) -> list[NDArray[np.float32]]:
        """The margins of each field's leukocytes."""
        return np.split(self.margins, np.cumsum(self.leukocytes)[:-1])

    def take(self, chosen: NDArray[np.intp]) -> HeldOut:
        """Only the fields of these indices."""
        margins = self.field_margins()
        parts = [margins[index] for index in chosen]
        whole = {"fingerprint", "architecture", "margins"}
        values = {name: getattr(self, name)[chosen] for name in self.__dataclass_fields__ if name not in whole}
        return HeldOut(
            fingerprint=self.fingerprint,
            architecture=self.architecture,
            margins=np.concatenate(parts) if parts else self.margins[:0],
            **values,
        )


def stored(place: Path, fingerprint: str, architecture: str) -> HeldOut:
    """The outputs in `place` (a file or its folder). Raises UsageError when they are of other data or networks."""
    path = place / HELD_OUT if place.is_dir() else place
    held_out = HeldOut.load(path)
    if held_out.fingerprint != fingerprint or held_out.architecture != architecture:
        raise UsageError(f"{path} was made with other images or another architecture: evaluate by group anew.")
    return held_out


def join(parts: Sequence[HeldOut]) -> HeldOut:
    """The fields of several folds as one."""
    whole = {"fingerprint", "architecture"}
    values = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in HeldOut.__dataclass_fields__
        if name not in whole
    }
    return HeldOut(fingerprint=parts[0].fingerprint, architecture=parts[0].architecture, **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is fitted on held-out fields."""

    temperature: float = 1.0
    uncertain: float = 0.7
    """confidence below which a field is flagged"""
    leukocyte: LeukocyteRule = field(default_factory=LeukocyteRule)
    false_suspect_share: float = 0.05
    """of benign fields called suspect, on the safe side"""


UNCERTAIN_SHARE = 0.02
"""Share of held-out fields that the flag `uncertain` may take."""
_UNCERTAIN_LEAST, _UNCERTAIN_MOST = 0.6, 0.95
_BENIGN_SUSPECTS = 0.01
"""Share of the leukocytes of held-out benign fields that may count as suspect."""


def calibrate(held_out: HeldOut) -> Calibration:
    """Fit temperature, thresholds and the leukocytes' rule on held-out fields.

    A leukocyte inherits its field's label, each field weighs the same; the sigmoid is shifted so that the mean
    suspicion over leukocytes equals the mean suspicion over fields.
    """
    temperature = fit_temperature(held_out.logits, held_out.labels)
    probabilities = softmax(held_out.logits, temperature)
    confidence = probabilities.max(axis=1)
    uncertain = float(np.clip(np.quantile(confidence, UNCERTAIN_SHARE), _UNCERTAIN_LEAST, _UNCERTAIN_MOST))
    benign = held_out.labels == 0
    mistaken = float((probabilities[benign].argmax(1) != 0).mean()) if benign.any() else 0.0
    return Calibration(
        temperature=temperature,
        uncertain=uncertain,
        leukocyte=_leukocyte_rule(held_out, 1 - probabilities[:, 0]),
        false_suspect_share=max(0.05, 2 * mistaken),
    )


def _leukocyte_rule(held_out: HeldOut, suspicion: NDArray[np.float64]) -> LeukocyteRule:
    counts = held_out.leukocytes
    if held_out.margins.size == 0:
        return LeukocyteRule()
    margins = held_out.margins.astype(np.float64)
    owner = np.repeat(np.arange(len(counts)), counts)
    weights = 1.0 / counts[owner]
    offset, slope = fit_sigmoid(margins, suspicion[owner], weights)
    slope = max(slope, 1e-3)
    benign = margins[held_out.labels[owner] == 0]
    suspect = 0.5
    if benign.size:
        suspect = float(sigmoid(offset + slope * np.quantile(benign, 1 - _BENIGN_SUSPECTS)))
    return LeukocyteRule(offset=offset, slope=slope, suspect=float(np.clip(suspect, 0.5, 0.95)))


def cross_calibrate(held_out: HeldOut) -> Iterator[tuple[NDArray[np.intp], Calibration]]:
    """For each fold: the indices of its fields, and the calibration fitted on all the others'."""
    for fold in np.unique(held_out.folds):
        inside = np.flatnonzero(held_out.folds == fold)
        outside = np.flatnonzero(held_out.folds != fold)
        yield inside, calibrate(held_out.take(outside if outside.size else inside))


def cautious(calibrations: Iterable[Calibration]) -> SlideRule:
    """The slide rule of the calibration that allows for most mistakes."""
    return SlideRule(false_suspect_share=max(each.false_suspect_share for each in calibrations))
