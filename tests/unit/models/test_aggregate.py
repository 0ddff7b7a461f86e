from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.aggregate import (
    ALL_SUSPECTED,
    INSUFFICIENT,
    NO_SUSPECTS,
    SCATTERED,
    FieldSummary,
    call_slide,
    tail,
    upper_bound,
)
from models.artefact import ModelConfiguration

Configuration = Callable[..., ModelConfiguration]


def benign(**changes: Any) -> FieldSummary:
    given_values: dict[str, Any] = {
        "call": "benign",
        "probabilities": (0.97, 0.01, 0.01, 0.01),
        "suspicion": 0.03,
        "flags": (),
        "leukocytes": 20,
        "suspects": 0,
    }
    return FieldSummary(**(given_values | changes))


def suspect(**changes: Any) -> FieldSummary:
    return benign(
        **({"call": "pre-b", "probabilities": (0.02, 0.02, 0.95, 0.01), "suspicion": 0.98, "suspects": 15} | changes)
    )


def test_a_slide_without_suspect_fields_gives_the_exact_bound_of_what_may_have_been_missed(
    configuration: Configuration,
) -> None:
    called = call_slide([benign(leukocytes=21)] * 20, configuration())
    assert called.call == NO_SUSPECTS
    assert called.leukocytes == 420
    assert called.suspects == 0
    assert called.upper_bound == pytest.approx(1 - 0.05 ** (1 / 420), rel=1e-12)
    assert called.confidence == pytest.approx(0.97)


def test_one_suspect_field_among_many_is_neither_an_alarm_nor_an_all_clear(configuration: Configuration) -> None:
    called = call_slide([benign()] * 19 + [suspect()], configuration())
    assert called.call == INSUFFICIENT
    assert "scattered-suspects" in called.flags
    assert called.confidence == 0


def test_a_slide_of_suspect_fields_is_suspected(configuration: Configuration) -> None:
    called = call_slide([suspect()] * 18 + [benign()] * 2, configuration())
    assert called.call == ALL_SUSPECTED
    assert called.probabilities[2] > 0.8
    assert sum(called.probabilities) == pytest.approx(1)


@pytest.mark.parametrize("fields", [[], [benign(leukocytes=200)] * 4, [benign(leukocytes=9)] * 11])
def test_too_few_fields_or_leukocytes_are_insufficient(
    fields: list[FieldSummary], configuration: Configuration
) -> None:
    assert call_slide(fields, configuration()).call == INSUFFICIENT


def test_novel_blurred_and_failed_fields_do_not_count_towards_a_call(configuration: Configuration) -> None:
    failed = FieldSummary(call=None, probabilities=(), suspicion=0, flags=(), leukocytes=0, suspects=0, failed=True)
    fields = [suspect(flags=("novel",))] * 30 + [suspect(flags=("blurred",))] * 10 + [failed]
    called = call_slide(fields, configuration())
    assert called.call == INSUFFICIENT
    assert called.leukocytes == 0
    assert called.upper_bound is None
    assert called.flags == ("blurred", "failed-fields", "novel")


def test_a_slide_of_which_a_field_was_called_off_says_so_however_many_were_seen(configuration: Configuration) -> None:
    unseen = FieldSummary(call=None, probabilities=(), suspicion=0, flags=(), leukocytes=0, suspects=0, cancelled=True)
    called = call_slide([benign()] * 20 + [unseen], configuration())
    assert (called.call, called.flags) == (NO_SUSPECTS, ("cancelled-fields",))
    assert set(called.flags) <= set(configuration().flags), "and the sentence is there"


def test_a_flag_of_few_fields_is_not_the_slides_but_one_duplicate_is(configuration: Configuration) -> None:
    fields = [benign(flags=("uncertain",))] + [benign(flags=("duplicate",))] + [benign()] * 30
    assert call_slide(fields, configuration()).flags == ("duplicate",)


def test_98_percent_specificity_over_20_fields_does_not_make_33_percent_false_alarms(
    configuration: Configuration,
) -> None:
    alarms = 0.0
    for wrong in range(21):
        fields = [suspect()] * wrong + [benign()] * (20 - wrong)
        if call_slide(fields, configuration()).call == ALL_SUSPECTED:
            alarms += math.comb(20, wrong) * 0.02**wrong * 0.98 ** (20 - wrong)
    assert alarms < 0.001


@given(st.integers(1, 400), st.data())
def test_the_upper_bound_is_where_so_few_would_be_seen_once_in_twenty(leukocytes: int, data: st.DataObject) -> None:
    suspects = data.draw(st.integers(0, leukocytes - 1))
    bound = upper_bound(suspects, leukocytes)
    assert suspects / leukocytes < bound < 1
    assert 1 - tail(suspects + 1, leukocytes, bound) == pytest.approx(0.05, abs=1e-5)


def test_of_very_many_only_the_counts_that_matter_are_summed() -> None:
    """Against all of them, as logarithms of factorials give them."""
    for successes, trials, share in ((30_500, 100_000, 0.3), (31_000, 100_000, 0.3), (200, 100_000, 0.001)):
        counts = range(successes, trials + 1)
        ways = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts]
        logs = [
            way + k * math.log(share) + (trials - k) * math.log1p(-share) for way, k in zip(ways, counts, strict=True)
        ]
        assert tail(successes, trials, share) == pytest.approx(math.fsum(map(math.exp, logs)), rel=1e-8)
    bound = upper_bound(600_000, 1_200_000)
    assert bound == pytest.approx(0.5 + 1.6449 * math.sqrt(0.25 / 1_200_000), abs=1e-6)


def test_the_upper_bound_agrees_with_published_values() -> None:
    # One-sided 95 % Clopper-Pearson, e.g. Hanley & Lippman-Hand, JAMA 1983 (rule of three): 0 of 100 -> 2.95 %.
    assert upper_bound(0, 100) == pytest.approx(0.02951, abs=1e-5)
    assert upper_bound(1, 20) == pytest.approx(0.21611, abs=1e-5)
    assert upper_bound(5, 5) == 1


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_binomial_tail_is_the_sum_of_its_terms(least: int, trials: int, share: float) -> None:
    expected = sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(least, trials + 1))
    assert tail(least, trials, share) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_a_dozen_suspect_fields_of_few_leukocytes_are_suspected(configuration: Configuration) -> None:
    called = call_slide([suspect(leukocytes=3, suspects=3)] * 12, configuration())
    assert called.call == ALL_SUSPECTED
    assert SCATTERED not in called.flags
