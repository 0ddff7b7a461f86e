"""Which numbers have occurred: whatever order and company they come in, each counts once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from db.rows_told import Seen

NUMBERS = st.integers(-2, 12) | st.integers(1_020, 1_030) | st.sampled_from([-(1 << 63), (1 << 63) - 1])
IN_A_ROW = st.tuples(st.integers(-1_030, 1_030), st.integers(0, 2_100)).map(lambda one: list(range(*one)))


@given(st.lists(st.lists(NUMBERS, max_size=6) | st.lists(NUMBERS, max_size=6).map(sorted) | IN_A_ROW, max_size=4))
def test_numbers_that_come_together_count_as_they_do_one_by_one(calls: list[list[int]]) -> None:
    together, singly, by_parts = Seen(), Seen(), Seen()
    before: set[int] = set()
    for numbers in calls:
        there = [number for number in numbers if not singly.add(number)]
        assert together.add_all(numbers) == there
        part = Seen()
        part.add_all(numbers)
        assert sorted(by_parts.merge(part)) == sorted(before.intersection(numbers))
        before.update(numbers)
        assert all(number in together for number in numbers)
    assert together.numbers() == singly.numbers() == by_parts.numbers() == sorted(before)
    assert together.count == singly.count == by_parts.count == len(before)
    assert {number for number in range(-1_100, 3_200) if number in together} == before & set(range(-1_100, 3_200))


def test_a_number_that_comes_twice_at_once_is_told_and_one_between_is_not_seen() -> None:
    seen = Seen()
    assert seen.add_all([5, 5, 7]) == [5]
    assert seen.numbers() == [5, 7]
    assert seen.count == 2
    assert 6 not in seen
