"""How many rounds it takes to isolate a field that stops its worker, in a full chunk, wherever it stands."""

import math

import pytest

from db import chunks
from db.chunks import CRASHED
from tests.store import assert_sums_hold, claimed, new_slide, record, rows, submit

FULL = 256
MOST_ROUNDS = math.log2(FULL) + 2


@pytest.mark.parametrize("poisoned", [{0}, {255}, {128}, {170}, {3, 200}])
def test_in_a_full_chunk_a_deadly_field_is_isolated_in_ten_rounds_and_costs_itself_alone(database, poisoned):
    """A round: every chunk that is pending is tried once, and workers die of those with a deadly field in them."""
    with database.begin() as conn:
        _, pending = submit(conn, [new_slide("A-1", 100), new_slide("B-2", 156)], chunk_size=FULL)
    assert len(pending) == 1
    deadly = {path for number, path in enumerate(_paths(database)) if number in poisoned}
    rounds = 0
    deaths = 0
    while pending:
        rounds += 1
        again = []
        for chunk_id in pending:
            claim = claimed(database, chunk_id, owner=f"worker-{rounds}-{chunk_id}")
            if deadly.isdisjoint(field.path for field in claim.fields):
                assert record(database, claim) is not None
            else:
                deaths += 1
                with database.begin() as conn:
                    again += chunks.reclaim_owner(conn, [claim.owner])
        pending = again
        assert_sums_hold(database)
    assert rounds <= MOST_ROUNDS
    assert deaths <= len(deadly) * MOST_ROUNDS
    failed = rows(database, "SELECT path, failure, failure_sentence FROM field WHERE state = 'failed'")
    assert {path for path, *_ in failed} == deadly
    assert all(why == [CRASHED.code, CRASHED.sentence] for _, *why in failed)
    assert rows(database, "SELECT count(*) FROM field WHERE state = 'screened'") == [(FULL - len(deadly),)]
    assert rows(database, "SELECT count(*) FROM event WHERE kind = 'field-crashed-worker'") == [(len(deadly),)]


def _paths(database):
    return [path for (path,) in rows(database, "SELECT path FROM field ORDER BY id")]
