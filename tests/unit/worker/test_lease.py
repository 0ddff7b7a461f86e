"""Which leases have nobody behind them any more."""

import pytest

from worker.lease import LapsedLeases


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("worker.lease.time.monotonic", lambda: now[0])
    return now


def test_a_lease_that_ran_out_is_abandoned_once_its_worker_had_time_to_renew_it(settings, clock):
    leases = LapsedLeases(settings.model_copy(update={"lease_seconds": 60.0}))
    assert leases.abandoned([(1, 1), (2, 1)]) == []
    clock[0] += 39
    assert leases.abandoned([(1, 1), (2, 1)]) == []
    clock[0] += 2
    assert leases.abandoned([(2, 1), (3, 1)]) == [(2, 1)], "the first was renewed"
    assert leases.abandoned([(1, 1), (2, 2)]) == [], "they ran out anew"


def test_after_an_outage_of_the_database_everybody_has_that_time_again(settings, clock):
    leases = LapsedLeases(settings.model_copy(update={"lease_seconds": 60.0}))
    assert leases.abandoned([(1, 1)]) == []
    clock[0] += 3600
    leases.forget()
    assert leases.abandoned([(1, 1)]) == []
