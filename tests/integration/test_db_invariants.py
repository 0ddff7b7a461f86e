"""Submitted = sum of the states, and all is as the ledger tells, whatever happens in whatever order."""

from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allq.errors import StoreError
from db import batches, chunks, slidecalls, verifying
from db.witness import Witness
from tests import store

_WORKERS = ["claim", "claim", "record", "record", "record-late", "release", "renew", "expire", "reclaim", "dead"]
_OPERATORS = ["submit", "finish", "resume", "cancel", "retry", "call-due"]
_STEPS = st.tuples(st.sampled_from([*_WORKERS, *_OPERATORS]), st.integers(0, 1_000))
_ACTIONS = st.lists(_STEPS, min_size=4, max_size=24)


class Laboratory:
    """Several workers and an operator who do things in an order that nobody planned."""

    def __init__(self, database) -> None:
        self.database = database
        self.names = count()
        self.batches: list[int] = []
        self.claims = []

    def do(self, action: str, number: int) -> None:
        with self.database.begin() as conn:
            getattr(self, action.replace("-", "_"))(conn, number)

    def submit(self, conn, number):
        slides = [store.new_slide(f"S{(number + n) % 3}", 1 + (number + n) % 4) for n in range(1 + number % 3)]
        batch, _ = store.submit(conn, slides, chunk_size=1 + number % 5, finish=number % 4 != 0)
        self.batches.append(batch)

    def finish(self, conn, number):
        if self.batches:
            batches.finish_registration(conn, self.batches[number % len(self.batches)])

    def resume(self, conn, number):
        """Fields come in that were not there, or the submission had been cut off; it may be cut off again."""
        if not self.batches:
            return
        batch = self.batches[number % len(self.batches)]
        with suppress(StoreError):  # cancelled
            batches.reopen(conn, batch, "tester")
            slides = [store.new_slide(f"S{number % 4}", 1 + number % 3, first=10_000 + 10 * next(self.names))]
            batches.register(conn, batch, slides, chunk_size=2)
            batches.skip(conn, batch, [("notes.txt", "no image")])
            if number % 2:
                batches.finish_registration(conn, batch)

    def claim(self, conn, number):
        pending = chunks.unpublished(conn, queue="routine", older_than_seconds=0, limit=100)
        if pending:
            found = chunks.claim(conn, pending[number % len(pending)], f"worker-{next(self.names)}", 60)
            self.claims += [found] if found else []

    def record(self, conn, number):
        if self.claims:
            self._record(conn, self.claims.pop(number % len(self.claims)), number)

    def record_late(self, conn, number):
        if self.claims:  # and the claim is kept: it will be recorded twice
            self._record(conn, self.claims[number % len(self.claims)], number)

    def _record(self, conn, claim, number):
        outcomes = [
            store.failed(field)
            if (field.id + number) % 5 == 0
            else store.screened(field, of=str((field.id * 7 + number) % 11))
            for field in claim.fields
        ]
        chunks.record(conn, claim, outcomes, call_slide=store.call, worker=claim.owner)

    def release(self, conn, number):
        if self.claims:
            chunks.release(conn, self.claims[number % len(self.claims)])

    def renew(self, conn, number):
        if self.claims:
            chunks.renew(conn, self.claims[number % len(self.claims)], 60)

    def expire(self, conn, number):
        past = "'2000-01-01 00:00:00.000'" if self.database.dialect == "sqlite" else "timestamptz '2000-01-01'"
        conn.exec_driver_sql(f"UPDATE chunk SET lease_until = {past} WHERE state = 'running'")
        running = conn.exec_driver_sql("SELECT id FROM chunk WHERE state = 'running' ORDER BY id").scalars().all()
        if running and number % 2:
            found = chunks.claim(conn, running[number % len(running)], f"worker-{next(self.names)}", 60)
            self.claims += [found] if found else []

    def reclaim(self, conn, number):
        chunks.reclaim_expired(conn)

    def dead(self, conn, number):
        chunks.reclaim_owner(conn, chunks.running_owners(conn)[: 1 + number % 2])

    def cancel(self, conn, number):
        if self.batches and number % 3 == 0:
            batches.cancel(conn, self.batches[number % len(self.batches)], "tester")

    def retry(self, conn, number):
        if self.batches:
            batches.retry(conn, self.batches[number % len(self.batches)], "tester", chunk_size=1 + number % 3)

    def call_due(self, conn, number):
        slidecalls.call_due(conn, lambda model, rows: store.call(rows), worker="tester")

    def work_to_the_end(self) -> None:
        for _ in range(200):
            with self.database.begin() as conn:
                for batch in self.batches:
                    batches.finish_registration(conn, batch)
                self.expire(conn, 0)
                chunks.reclaim_expired(conn)
                pending = chunks.unpublished(conn, queue="routine", older_than_seconds=0, limit=100)
                for chunk in pending:
                    found = chunks.claim(conn, chunk, "last", 60)
                    if found:
                        self._record(conn, found, 1)
                slidecalls.call_due(conn, lambda model, rows: store.call(rows), worker="tester")
            if not pending:
                return
        raise AssertionError("the work never ends")


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=_ACTIONS)
def test_submitted_is_the_sum_of_the_states_at_every_moment(database, actions):
    laboratory = Laboratory(database)
    for action, number in [("submit", 5), *actions]:
        laboratory.do(action, number)
        store.assert_sums_hold(database)
    laboratory.work_to_the_end()
    store.assert_sums_hold(database)
    assert store.rows(database, "SELECT count(*) FROM field WHERE state = 'waiting'") == [(0,)]
    unfinished = "SELECT count(*) FROM batch_progress WHERE state NOT IN ('done', 'cancelled')"
    assert store.rows(database, unfinished) == [(0,)]
    uncalled = """
        SELECT count(*) FROM slide LEFT JOIN slide_call ON slide_call.id = slide.slide_call_id
        WHERE (slide.screened > 0 OR slide.failed = slide.fields)
          AND (slide_call.id IS NULL OR slide_call.screened <> slide.screened OR slide_call.failed <> slide.failed)
    """
    assert store.rows(database, uncalled) == [(0,)], "every slide's call is about all its fields"
    twins = """
        SELECT count(*) FROM field JOIN (
            SELECT i.sha256, count(DISTINCT s.name) > 1 AS twin, min(CASE WHEN f.duplicate THEN 1 ELSE 0 END) AS least,
                   max(CASE WHEN f.duplicate THEN 1 ELSE 0 END) AS most
            FROM field f JOIN finding i ON i.id = f.finding_id JOIN slide s ON s.id = f.slide_id GROUP BY i.sha256
        ) c ON field.id > 0
        WHERE (c.twin AND c.least = 0) OR (NOT c.twin AND c.most = 1)
    """
    assert store.rows(database, twins) == [(0,)], "exactly the bytes that lie in several folders are marked"


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=_ACTIONS)
def test_whatever_happens_by_rights_is_no_alarm_of_verify(database, actions):
    laboratory = Laboratory(database)
    for action, number in [("submit", 5), *actions]:
        laboratory.do(action, number)
        assert verifying.verify(database, Witness(Path("nowhere"))).problems == [], action
    laboratory.work_to_the_end()
    assert verifying.verify(database, Witness(Path("nowhere"))).problems == []


def test_an_impossible_count_is_refused_by_the_database_itself(database):
    with database.begin() as conn:
        store.submit(conn, [store.new_slide("A", 3)])
    from sqlalchemy.exc import IntegrityError

    for wrong in (
        "UPDATE chunk SET screened = 1",
        "UPDATE chunk SET state = 'done'",
        "UPDATE field SET state = 'screened'",
        "UPDATE slide SET screened = 4",
    ):
        with pytest.raises(IntegrityError), database.begin() as conn:
            conn.exec_driver_sql(wrong)
    with suppress(IntegrityError), database.begin() as conn:
        conn.exec_driver_sql("UPDATE batch SET queue = 'urgent'")
    assert store.rows(database, "SELECT queue FROM batch") == [("routine",)]
