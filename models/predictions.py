"""What a model, with its calibration, says of fields whose class is known: the material of every report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.aggregate import FieldSummary
from models.artefact import LeukocyteRule
from models.calibration import sigmoid, softmax
from models.classifier import Assessment
from models.data import LabelledField
from models.flags import DIVIDED, NO_LEUKOCYTES, NOVEL, UNCERTAIN, divided
from models.heldout import Calibration, HeldOut
from models.leukocytes import count_suspects


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """N fields. Calls are the likeliest class even where no leukocyte was found: the report tells both."""

    files: NDArray[np.str_]
    groups: NDArray[np.str_]
    streams: NDArray[np.str_]
    labels: NDArray[np.int_]
    probabilities: NDArray[np.float64]
    """(N, classes)"""
    novelty: NDArray[np.float64]
    flags: tuple[tuple[str, ...], ...]
    leukocytes: NDArray[np.int_]
    suspects: NDArray[np.int_]
    mean_suspicion: NDArray[np.float64]
    """of the field's leukocytes; NaN without any"""

    @property
    def calls(self) -> NDArray[np.intp]:
        """(N,) the likeliest class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """(N,) whether a person must look."""
        return np.array([bool(flags) for flags in self.flags], dtype=bool)

    def summaries(self, chosen: NDArray[np.intp], classes: Sequence[str]) -> list[FieldSummary]:
        """The chosen fields, as `models.aggregate` takes them."""
        return [
            FieldSummary(
                call=classes[int(self.calls[index])] if self.leukocytes[index] else None,
                probabilities=tuple(self.probabilities[index]),
                suspicion=float(1 - self.probabilities[index, 0]) if self.leukocytes[index] else 0.0,
                flags=self.flags[index],
                leukocytes=int(self.leukocytes[index]),
                suspects=int(self.suspects[index]),
            )
            for index in chosen
        ]


def from_held_out(held_out: HeldOut, parts: Iterable[tuple[NDArray[np.intp], Calibration]]) -> Predictions:
    """Apply to each part of the held-out fields the calibration that is meant for it."""
    count = len(held_out.labels)
    probabilities = np.zeros((count, held_out.logits.shape[1]))
    uncertain = np.zeros(count)
    rules: list[LeukocyteRule] = [LeukocyteRule()] * count
    for inside, calibration in parts:
        probabilities[inside] = softmax(held_out.logits[inside], calibration.temperature)
        uncertain[inside] = calibration.uncertain
        for index in inside:
            rules[int(index)] = calibration.leukocyte
    suspicions = [
        sigmoid(rule.offset + rule.slope * margins.astype(np.float64))
        for rule, margins in zip(rules, held_out.field_margins(), strict=True)
    ]
    confidence = probabilities.max(axis=1)
    disagreeing = divided(held_out.views)
    flags = [
        _flags(
            quality=str(held_out.quality[index]).split(),
            novel=bool(held_out.novelty[index] > held_out.novelty_threshold[index]),
            empty=bool(held_out.leukocytes[index] == 0),
            uncertain=bool(confidence[index] < uncertain[index]),
            views_disagree=bool(disagreeing[index]),
        )
        for index in range(count)
    ]
    return Predictions(
        files=held_out.files,
        groups=held_out.groups,
        streams=held_out.streams,
        labels=held_out.labels,
        probabilities=probabilities,
        novelty=held_out.novelty.astype(np.float64),
        flags=tuple(flags),
        leukocytes=held_out.leukocytes,
        suspects=np.array(
            [
                count_suspects(each, rule, suspect_field=bool(suspect))
                for each, rule, suspect in zip(suspicions, rules, probabilities.argmax(axis=1) != 0, strict=True)
            ]
        ),
        mean_suspicion=np.array([each.mean() if each.size else np.nan for each in suspicions]),
    )


def _flags(
    *, quality: Sequence[str], novel: bool, empty: bool, uncertain: bool, views_disagree: bool
) -> tuple[str, ...]:
    flags = set(quality)
    if novel:
        flags.add(NOVEL)
    if empty:
        flags.add(NO_LEUKOCYTES)
    else:
        flags |= {name for name, raised in ((UNCERTAIN, uncertain), (DIVIDED, views_disagree)) if raised}
    return tuple(sorted(flags))


def from_assessments(fields: Sequence[LabelledField], assessments: Sequence[Assessment]) -> Predictions:
    """What a finished model said of the fields."""
    return Predictions(
        files=np.array([field.file for field in fields]),
        groups=np.array([field.group for field in fields]),
        streams=np.array([field.stream for field in fields]),
        labels=np.array([field.label for field in fields]),
        probabilities=np.array([each.probabilities for each in assessments]),
        novelty=np.array([each.novelty for each in assessments]),
        flags=tuple(each.flags for each in assessments),
        leukocytes=np.array([len(each.suspicions) for each in assessments]),
        suspects=np.array([each.suspects for each in assessments]),
        mean_suspicion=np.array([np.mean(each.suspicions) if each.suspicions else np.nan for each in assessments]),
    )
