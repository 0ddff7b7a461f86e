"""From fields to a slide. Not any-positive: at 98 % field specificity, 20 fields would make 33 % false alarms.

- `insufficient` below the model's minimum of assessable fields, when no field is suspect but too few leukocytes were
  seen to say so, and when suspect fields are too few to be told from mistakes: a person must look.
- `all-suspected` when so many suspect fields would come by mistake in fewer than `significance` of benign slides
  (binomial tail at the model's `false_suspect_share`) and the mean suspicion reaches `least_suspicion`.
- `no-suspects-seen` when no assessable field is called suspect.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
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
CANCELLED_FIELDS = "cancelled-fields"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSummary:
    """What a slide call needs to know of one field that was screened, has failed or was cancelled."""

    call: str | None
    probabilities: Sequence[float]
    """in the order of the model's classes; empty where `call` is None"""
    suspicion: float
    flags: Sequence[str]
    leukocytes: int
    suspects: int
    failed: bool = False
    cancelled: bool = False


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


def call_slide(fields: Iterable[FieldSummary], configuration: ModelConfiguration) -> SlideCall:
    """The call of a slide, from all of its fields. They are gone through once."""
    return apply_rule(fields, rule=configuration.slide, classes=configuration.classes)


def apply_rule(fields: Iterable[FieldSummary], *, rule: SlideRule, classes: Sequence[str]) -> SlideCall:
    """As `call_slide`, with a rule of which no model is known yet."""
    seen = _Seen(rule, classes)
    for field in fields:
        seen.add(field)
    suspicion = seen.mean(seen.suspicions)
    by_mistake = tail(seen.suspect_fields, seen.assessable, rule.false_suspect_share)

    flags = seen.flags()
    beyond_mistake = by_mistake < rule.significance and suspicion >= rule.least_suspicion
    call = INSUFFICIENT
    if seen.assessable >= rule.minimum_fields:
        if beyond_mistake:  # the binomial tail has weighed how few the fields are
            call = ALL_SUSPECTED
        elif seen.suspect_fields == 0 and seen.leukocytes >= rule.minimum_leukocytes:
            call = NO_SUSPECTS
    if seen.suspect_fields and not beyond_mistake:
        flags.append(SCATTERED)
    confidence = {ALL_SUSPECTED: suspicion, NO_SUSPECTS: 1 - suspicion, INSUFFICIENT: 0.0}[call]
    return SlideCall(
        call=call,
        confidence=confidence,
        probabilities=tuple(map(seen.mean, seen.probabilities)),
        flags=tuple(flags),
        leukocytes=seen.leukocytes,
        suspects=seen.suspects,
        upper_bound=upper_bound(seen.suspects, seen.leukocytes) if seen.leukocytes else None,
    )


class _Seen:
    """What the rule asks of the fields so far: counts, and the numbers to sum, eight bytes each.

    They are summed at the end, as exactly as `math.fsum` does: in whatever order the fields come, the mean is the same.
    """

    def __init__(self, rule: SlideRule, classes: Sequence[str]) -> None:
        self._rule = rule
        self._benign = classes[0]
        self._unassessable = frozenset(rule.unassessable)
        self._failed = self._cancelled = self._screened = 0
        self._flagged: Counter[str] = Counter()
        self.assessable = self.suspect_fields = self.leukocytes = self.suspects = 0
        self.suspicions = array("d")
        self.probabilities = tuple(array("d") for _ in classes)

    def add(self, field: FieldSummary) -> None:
        if field.failed or field.cancelled:
            self._failed += field.failed
            self._cancelled += field.cancelled
            return
        self._screened += 1
        self._flagged.update(set(field.flags))
        if field.call is None or not self._unassessable.isdisjoint(field.flags):
            return
        self.assessable += 1
        self.suspect_fields += field.call != self._benign
        self.leukocytes += field.leukocytes
        self.suspects += field.suspects
        self.suspicions.append(field.suspicion)
        for values, probability in zip(self.probabilities, field.probabilities, strict=True):
            values.append(probability)

    def mean(self, values: array[float]) -> float:
        """Over the assessable fields; 0 where there are none."""
        return math.fsum(values) / self.assessable if self.assessable else 0.0

    def flags(self) -> list[str]:
        """Flags that enough fields carry, in the alphabet's order.

        A duplicate, a failure and a field that was called off count from the first.
        """
        enough = self._rule.flag_share * self._screened
        flags = {flag for flag, count in self._flagged.items() if flag == DUPLICATE or count >= enough}
        if self._failed:
            flags.add(FAILED_FIELDS)
        if self._cancelled:
            flags.add(CANCELLED_FIELDS)
        return sorted(flags)


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
    least = max(0, suspects - _beyond(leukocytes))
    log_ways = _log_ways(leukocytes, least, suspects)
    seen = np.arange(least, suspects + 1)
    low, high = suspects / leukocytes, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        logs = log_ways + seen * math.log(middle) + (leukocytes - seen) * math.log1p(-middle)
        if _sum_of_logs(logs) > 1 - confidence:
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
    mode = int((trials + 1) * share)
    first = max(least, mode - _beyond(trials))
    last = min(trials, max(least, mode) + _beyond(trials))
    counts = np.arange(first, last + 1)
    log_ways = _log_ways(trials, first, last)
    return _sum_of_logs(log_ways + counts * math.log(share) + (trials - counts) * math.log1p(-share))


def _beyond(trials: int) -> int:
    """How far from the most probable count, and outwards from any beyond it, counts add nothing that a float holds.

    Hoeffding, JASA 1963: further away than t lie at most 2 exp(−2 t² / trials), of which e^−3200 is left here.
    """
    return 40 * math.isqrt(trials) + 40


def _log_ways(trials: int, first: int, last: int) -> NDArray[np.float64]:
    """Logarithm of "trials choose k" for k = first … last."""
    counts = np.arange(first, last)
    ways = math.lgamma(trials + 1) - math.lgamma(first + 1) - math.lgamma(trials - first + 1)
    return ways + np.concatenate([[0.0], np.cumsum(np.log(trials - counts) - np.log(counts + 1))])


def _sum_of_logs(logs: NDArray[np.float64]) -> float:
    most = float(logs.max())
    return min(1.0, math.exp(most) * float(np.exp(logs - most).sum()))
