"""From fields to a slide. Not any-positive: at 98 % field specificity, 20 fields would make 33 % false alarms.

- `insufficient` below the model's minimum of assessable fields, when no field is suspect but too few leukocytes were
  seen to say so, and when suspect fields are too few to be told from mistakes: a person must look.
- `all-suspected` when so many suspect fields would come by mistake in fewer than `significance` of benign slides
  (binomial tail at the model's `false_suspect_share`) and the mean suspicion reaches `least_suspicion`.
- `no-suspects-seen` when no assessable field is called suspect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.artefact import ModelConfiguration, SlideRule

ALL_SUSPECTED = "all-suspected"
NO_SUSPECTS = "no-suspects-seen"
INSUFFICIENT = "insufficient"

DUPLICATE = "duplicate"
SCATTERED = "scattered-suspects"
FAILED_FIELDS = "failed-fields"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSummary:
    """What a slide call needs to know of one field that was screened or has failed."""

    call: str | None
    probabilities: Sequence[float]
    """in the order of the model's classes; empty where `call` is None"""
    suspicion: float
    flags: Sequence[str]
    leukocytes: int
    suspects: int
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideCall:
    """The sum over a slide. `leukocytes` and `suspects` are counted in the assessable fields."""

    call: str
    confidence: float
    """mean probability of the side that is called; 0 for `insufficient`"""
    probabilities: tuple[float, ...]
    """mean over the assessable fields; all 0 where there are none"""
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int
    upper_bound: float | None
    """one-sided 95 % upper bound of the share of suspect leukocytes (Clopper-Pearson); None without leukocytes"""


def call_slide(fields: Sequence[FieldSummary], configuration: ModelConfiguration) -> SlideCall:
    """The call of a slide, from all of its fields that ended as screened or failed."""
    return apply_rule(fields, rule=configuration.slide, classes=configuration.classes)


def apply_rule(fields: Sequence[FieldSummary], *, rule: SlideRule, classes: Sequence[str]) -> SlideCall:
    """As `call_slide`, with a rule of which no model is known yet."""
    assessable = [field for field in fields if _assessable(field, rule.unassessable)]
    leukocytes = sum(field.leukocytes for field in assessable)
    suspects = sum(field.suspects for field in assessable)
    benign = classes[0]
    suspect_fields = sum(field.call != benign for field in assessable)
    suspicion = math.fsum(field.suspicion for field in assessable) / len(assessable) if assessable else 0.0
    by_mistake = tail(suspect_fields, len(assessable), rule.false_suspect_share)

    flags = _slide_flags(fields, rule.flag_share)
    beyond_mistake = by_mistake < rule.significance and suspicion >= rule.least_suspicion
    call = INSUFFICIENT
    if len(assessable) >= rule.minimum_fields:
        if beyond_mistake:  # the binomial tail has weighed how few the fields are
            call = ALL_SUSPECTED
        elif suspect_fields == 0 and leukocytes >= rule.minimum_leukocytes:
            call = NO_SUSPECTS
    if suspect_fields and not beyond_mistake:
        flags.append(SCATTERED)
    confidence = {ALL_SUSPECTED: suspicion, NO_SUSPECTS: 1 - suspicion, INSUFFICIENT: 0.0}[call]
    return SlideCall(
        call=call,
        confidence=confidence,
        probabilities=_mean_probabilities(assessable, len(classes)),
        flags=tuple(flags),
        leukocytes=leukocytes,
        suspects=suspects,
        upper_bound=upper_bound(suspects, leukocytes) if leukocytes else None,
    )


def _assessable(field: FieldSummary, unassessable: Sequence[str]) -> bool:
    return not field.failed and field.call is not None and not set(unassessable).intersection(field.flags)


def _slide_flags(fields: Sequence[FieldSummary], share: float) -> list[str]:
    """Flags that enough fields carry, in the alphabet's order; a duplicate and a failure count from the first on."""
    screened = [field for field in fields if not field.failed]
    counts = Counter(flag for field in screened for flag in set(field.flags))
    flags = {flag for flag, count in counts.items() if flag == DUPLICATE or count >= share * len(screened)}
    if len(screened) < len(fields):
        flags.add(FAILED_FIELDS)
    return sorted(flags)


def _mean_probabilities(fields: Sequence[FieldSummary], classes: int) -> tuple[float, ...]:
    if not fields:
        return (0.0,) * classes
    return tuple(math.fsum(field.probabilities[index] for field in fields) / len(fields) for index in range(classes))


def upper_bound(suspects: int, leukocytes: int, *, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound of a share of which `suspects` of `leukocytes` were seen.

    Clopper and Pearson, Biometrika 1934: the share at which so few or fewer would be seen with probability
    1 − confidence. For none seen this is 1 − (1 − confidence)^(1/n).
    """
    if not 0 <= suspects <= leukocytes or leukocytes < 1:
        raise ValueError(f"{suspects} of {leukocytes} is not a share")
    if suspects == leukocytes:
        return 1.0
    if suspects == 0:
        return -math.expm1(math.log1p(-confidence) / leukocytes)
    log_ways = _log_ways(leukocytes)[: suspects + 1]
    seen = np.arange(suspects + 1)
    low, high = suspects / leukocytes, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if (
            _sum_of_logs(log_ways + seen * math.log(middle) + (leukocytes - seen) * math.log1p(-middle))
            > 1 - confidence
        ):
            low = middle
        else:
            high = middle
    return high


def tail(least: int, trials: int, share: float) -> float:
    """Probability of `least` or more successes in `trials` at `share` each.

    Summed in logarithms, so that thousands of trials don't underflow.
    """
    if least <= 0:
        return 1.0
    if least > trials or share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    counts = np.arange(least, trials + 1)
    return _sum_of_logs(_log_ways(trials)[least:] + counts * math.log(share) + (trials - counts) * math.log1p(-share))


def _log_ways(trials: int) -> NDArray[np.float64]:
    """Logarithm of "trials choose k" for k = 0 … trials."""
    counts = np.arange(trials)
    return np.concatenate([[0.0], np.cumsum(np.log(trials - counts) - np.log(counts + 1))])


def _sum_of_logs(logs: NDArray[np.float64]) -> float:
    most = float(logs.max())
    return min(1.0, math.exp(most) * float(np.exp(logs - most).sum()))
