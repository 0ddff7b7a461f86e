"""Which numbers have occurred: whatever order and company they come in, each counts once."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.rows_told import Seen

NUMBERS = st.integers(-2, 12) | st.sampled_from([-(1 << 63), (1 << 63) - 1])


@given(st.lists(st.lists(NUMBERS, max_size=6) | st.lists(NUMBERS, max_size=6).map(sorted), max_size=4))
@pytest.mark.parametrize("likely", [0, 8])
def test_numbers_that_come_together_count_as_they_do_one_by_one(likely: int, calls: list[list[int]]) -> None:
    together, singly = Seen(likely), Seen(likely)
    for numbers in calls:
        there = [number for number in numbers if not singly.add(number)]
        assert together.add_all(array("q", numbers)) == there
    assert together.numbers() == singly.numbers() == sorted({number for numbers in calls for number in numbers})
    assert together.count == singly.count == len(singly.numbers())


@pytest.mark.parametrize("likely", [0, 100])
def test_a_number_that_comes_twice_at_once_is_told_and_one_between_is_not_seen(likely: int) -> None:
    seen = Seen(likely)
    assert seen.add_all([5, 5, 7]) == [5]
    assert seen.numbers() == [5, 7]
    assert seen.count == 2
    assert 6 not in seen
