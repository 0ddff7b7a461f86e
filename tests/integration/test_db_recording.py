"""Claim, compute, record: exactly once, whatever comes late, doubled or dies. On SQLite and on PostgreSQL."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from db import chunks, findings, named, reads, slidecalls
from db.records import Failure, FieldOutcome, NewField
from tests import store


def test_a_chunk_is_claimed_by_one_worker_only(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 3)])
    first = store.claimed(database, chunk)
    assert [field.path for field in first.fields] == ["A/000.png", "A/001.png", "A/002.png"]
    assert (first.root, first.model_id, first.queue, first.attempt) == ("/slides", store.MODEL_ID, "routine", 1)
    with database.begin() as conn:
        assert chunks.claim(conn, chunk, "worker-2", store.LEASE) is None


def test_an_unknown_chunk_is_not_claimed(database):
    with database.begin() as conn:
        assert chunks.claim(conn, 77, "worker-1", store.LEASE) is None


def test_of_many_workers_claiming_at_once_one_gets_the_chunk(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 3)])
    barrier = Barrier(6)

    def attempt(number: int) -> bool:
        barrier.wait()
        with database.begin() as conn:
            return chunks.claim(conn, chunk, f"worker-{number}", store.LEASE) is not None

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1


def test_recording_writes_findings_counters_slide_call_and_events(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 5)])
    store.work(database, chunk_ids, lambda f: store.failed(f) if f.path == "A/001.png" else store.screened(f))
    with database.read() as conn:
        status = reads.batch_status(conn, batch)
        fields = list(reads.field_results(conn, batch))
        (slide,) = reads.slide_results(conn, batch)
        (failure,) = reads.failures(conn, batch)
        leukocytes = list(reads.leukocyte_results(conn, batch))
    assert (status.state, status.fields, status.screened, status.failed, status.waiting) == ("done", 5, 4, 1, 0)
    assert [field.state for field in fields] == ["screened", "failed", "screened", "screened", "screened"]
    assert fields[0].probabilities == (0.75, 0.0, 0.25, 0.0)
    assert fields[0].sha256 == store.content("A/000.png").hex()
    assert fields[1].sha256 == store.content("A/001.png").hex()
    assert (slide.call, slide.screened, slide.failed, slide.leukocytes) == ("no-suspects-seen", 4, 1, 20)
    assert (failure.field, failure.code, failure.sentence) == ("A/001.png", "corrupt", "it can't be read")
    assert [row.data for row in leukocytes] == [b"\x01" + store.content(f.field) for f in fields if f.failure is None]
    kinds = [kind for (kind,) in store.rows(database, "SELECT kind FROM event ORDER BY id")]
    recorded = ["chunk-recorded", "chunk-recorded", "slide-called"]
    assert kinds == ["model-remembered", "batch-created", "batch-submitted", *recorded]
    store.assert_sums_hold(database)


def test_outcomes_must_be_those_of_the_waiting_fields(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 3)])
    claim = store.claimed(database, chunk)
    with pytest.raises(ValueError, match="waiting fields"), database.begin() as conn:
        outcomes = [store.screened(field) for field in claim.fields[:2]]
        chunks.record(conn, claim, outcomes, call_slide=store.call, worker="worker-1")
    with pytest.raises(ValueError, match="does not exist"), database.begin() as conn:
        outcomes = [FieldOutcome(field_id=field.id, sha256=b"0" * 32) for field in claim.fields]
        chunks.record(conn, claim, outcomes, call_slide=store.call, worker="worker-1")
    assert store.record(database, claim) is not None


def test_a_late_worker_is_fenced_off_and_writes_nothing(database):
    with database.begin() as conn:
        batch, (chunk,) = store.submit(conn, [store.new_slide("A", 1)])
    late = store.claimed(database, chunk, "late")
    store.let_lease_run_out(database, chunk)
    successor = store.claimed(database, chunk, "successor")
    assert store.record(database, late) is None
    assert store.rows(database, "SELECT count(*) FROM finding") == [(0,)]
    with database.begin() as conn:
        assert not chunks.renew(conn, late, store.LEASE)
        assert not chunks.release(conn, late)
        assert chunks.renew(conn, successor, store.LEASE)
    assert store.record(database, successor) is not None
    assert store.record(database, successor) is None
    with database.read() as conn:
        assert reads.batch_status(conn, batch).screened == 1


def test_the_same_bytes_are_kept_as_one_finding_and_linked(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 6)], chunk_size=3)
    store.work(database, chunk_ids, lambda field: store.screened(field, of="the same"))
    assert store.rows(database, "SELECT count(*) FROM finding") == [(1,)]
    with database.read() as conn:
        assert reads.batch_status(conn, batch).findings_linked == 5
        assert findings.existing(conn, {store.content("the same"), b"1" * 32}, store.MODEL_ID) == {
            store.content("the same")
        }
        assert all(field.flags == () for field in reads.field_results(conn, batch))


def test_another_model_judges_the_same_bytes_anew(database):
    for model_id in (store.MODEL_ID, "cd" * 32):
        with database.begin() as conn:
            _, chunk_ids = store.submit(conn, [store.new_slide("A", 2)], model_id=model_id)
        store.work(database, chunk_ids)
    assert store.rows(database, "SELECT count(*) FROM finding") == [(4,)]


@pytest.mark.parametrize("together", [True, False])
def test_twins_under_two_slides_are_flagged_on_both(database, together):
    slides = [store.new_slide("A", 2), store.new_slide("B", 2)]
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, slides, chunk_size=4 if together else 2)

    def judge(field):
        return store.screened(field, of="twin" if field.path.endswith("000.png") else None)

    store.work(database, chunk_ids, judge)
    with database.read() as conn:
        fields = {field.field: field.flags for field in reads.field_results(conn, batch)}
        slide_flags = {slide.slide: slide.flags for slide in reads.slide_results(conn, batch)}
    assert fields == {
        "A/000.png": ("duplicate",),
        "A/001.png": (),
        "B/000.png": ("duplicate",),
        "B/001.png": (),
    }
    assert slide_flags == {"A": ("duplicate",), "B": ("duplicate",)}
    store.assert_sums_hold(database)


def test_submitting_a_slide_again_makes_no_twins_but_misfiling_it_does(database):
    batch_ids = []
    for name in ("A", "A", "B", "A"):
        with database.begin() as conn:
            batch, chunk_ids = store.submit(conn, [store.new_slide(name, 2)])
        store.work(database, chunk_ids, lambda field: store.screened(field, of=field.path[1:]))
        batch_ids.append(batch)
        with database.read() as conn:
            flags = [{f.flags for f in reads.field_results(conn, number)} for number in batch_ids]
        expected = ("duplicate",) if "B" in (("A", "A", "B", "A")[: len(batch_ids)]) else ()
        assert flags == [{expected}] * len(batch_ids)
    store.assert_sums_hold(database)


def test_a_slide_screened_alone_and_as_a_part_of_its_parent_is_no_twin_of_itself(database):
    with database.begin() as conn:
        _, whole = store.submit(conn, [store.new_slide("par/sl", 2)], root="/share")
        alone = replace(store.new_slide("sl", 2), fields=[NewField(f"{n:03}.png", None, 1, 1) for n in range(2)])
        _, part = store.submit(conn, [alone], root="/share/par/sl")
    store.work(database, [*whole, *part], lambda field: store.screened(field, of=field.path[-7:]))
    assert store.rows(database, "SELECT count(*) FROM field WHERE duplicate") == [(0,)]
    store.assert_sums_hold(database)


def test_slides_of_one_name_under_two_roots_are_twins(database):
    with database.begin() as conn:
        chunk_ids = [store.submit(conn, [store.new_slide("A", 1)], root=root)[1][0] for root in ("/ward", "/clinic")]
    store.work(database, chunk_ids)
    assert store.rows(database, "SELECT count(*) FROM field WHERE duplicate") == [(2,)]
    assert twins(database, 1) == [("A/000.png", 2, "A/000.png")]
    assert twins(database, 2) == [("A/000.png", 1, "A/000.png")]
    store.assert_sums_hold(database)


def test_twins_that_two_models_judged_are_found_and_a_slide_that_comes_again_is_not_its_own(database):
    for model_id, name in ((store.MODEL_ID, "A"), ("cd" * 32, "B"), (store.MODEL_ID, "A")):
        with database.begin() as conn:
            _, chunk_ids = store.submit(conn, [store.new_slide(name, 1)], model_id=model_id)
        store.work(database, chunk_ids, lambda field: store.screened(field, of="the same"))
    assert twins(database, 1) == [("A/000.png", 2, "B/000.png")]
    assert twins(database, 2) == [("B/000.png", 1, "A/000.png"), ("B/000.png", 3, "A/000.png")]


def test_a_slide_with_a_twin_is_no_twin_of_itself_under_another_name(database):
    with database.begin() as conn:
        _, whole = store.submit(conn, [store.new_slide("par/sl", 1), store.new_slide("B", 1)], root="/share")
        alone = replace(store.new_slide("sl", 1), fields=[NewField("000.png", None, 1, 1)])
        _, part = store.submit(conn, [alone], root="/share/par/sl/")
    store.work(database, [*whole, *part], lambda field: store.screened(field, of="the same"))
    assert twins(database, 2) == [("000.png", 1, "B/000.png")]


def twins(database, batch):
    with database.read() as conn:
        columns, rows = named.run(conn, "twins", {"batch": batch})
        found = [dict(zip(columns, row, strict=True)) for row in rows]
    return [(row["field"], row["other_batch"], row["other_field"]) for row in found]


def test_twins_recorded_at_the_same_moment_do_not_miss_each_other(database):
    """Both link to a finding that exists already, so neither waits for the other's insertion."""
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 8)])
    store.work(database, chunk_ids, lambda field: store.screened(field, of=field.path[-7:]))
    with database.begin() as conn:
        batch, (one, two) = store.submit(conn, [store.new_slide("A", 8), store.new_slide("B", 8)], chunk_size=8)
    claims = [store.claimed(database, chunk) for chunk in (one, two)]
    barrier = Barrier(2)

    def finish(claim):
        barrier.wait()
        return store.record(database, claim, lambda field: store.screened(field, of=field.path[-7:]))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(finish, claims))
    with database.read() as conn:
        assert {field.flags for field in reads.field_results(conn, batch)} == {("duplicate",)}
    store.assert_sums_hold(database)


def test_chunks_of_one_slide_that_finish_at_once_make_one_call(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 12)], chunk_size=2)
    claims = [store.claimed(database, chunk) for chunk in chunk_ids]
    barrier = Barrier(len(claims))

    def finish(claim):
        barrier.wait()
        return store.record(database, claim)

    with ThreadPoolExecutor(len(claims)) as pool:
        results = list(pool.map(finish, claims))
    assert sorted(len(result.slides_called) for result in results) == [0] * 5 + [1]
    assert store.rows(database, "SELECT screened, fields FROM slide_call") == [(12, 12)]
    with database.read() as conn:
        assert reads.batch_status(conn, batch).state == "done"


def test_a_slide_of_many_fields_is_gone_through_in_parts_and_once(database, monkeypatch):
    monkeypatch.setattr(slidecalls, "_ROWS_AT_ONCE", 4)
    for count in (7, 8):
        with database.begin() as conn:
            _, chunk_ids = store.submit(conn, [store.new_slide(f"slide of {count}", count)], chunk_size=8)
        store.work(database, chunk_ids)
        with database.read() as conn:
            slide = conn.exec_driver_sql("SELECT max(slide_id) FROM field").scalar_one()
            wanted = list(conn.exec_driver_sql(f"SELECT id FROM field WHERE slide_id = {slide} ORDER BY id").scalars())
            assert [row.id for row in slidecalls.field_rows(conn, slide)] == wanted
        assert len(wanted) == count


def test_workers_with_the_same_files_in_different_order_do_not_lock_each_other_out(database):
    """Four chunks with the same 250 contents, forwards and backwards, recorded at once: no deadlock."""
    slides = [store.new_slide(f"S{n}", 250) for n in range(4)]
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, slides, chunk_size=250)
    claims = [store.claimed(database, chunk) for chunk in chunk_ids]
    barrier = Barrier(len(claims))
    ordered = sorted(map(str, range(250)), key=store.content)

    def finish(numbered):
        number, claim = numbered
        names = ordered[:: 1 if number % 2 else -1]
        of = dict(zip((field.id for field in claim.fields), names, strict=True))
        barrier.wait()
        return store.record(database, claim, lambda field: store.screened(field, of=of[field.id]))

    with ThreadPoolExecutor(len(claims)) as pool:
        results = list(pool.map(finish, enumerate(claims)))
    assert sum(result.inferred for result in results) == 250
    assert sum(result.linked for result in results) == 750
    assert store.rows(database, "SELECT count(*) FROM field WHERE duplicate") == [(1000,)]
    store.assert_sums_hold(database)


def test_findings_are_written_in_the_order_of_their_contents(database):
    """The order in which rows are locked: with one order for all, nobody waits in a circle."""
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 50)], chunk_size=50)
    store.work(database, chunk_ids)
    written = [bytes(sha) for (sha,) in store.rows(database, "SELECT sha256 FROM finding ORDER BY id")]
    assert len(written) == 50
    assert written == sorted(written)


def test_release_gives_a_chunk_back_without_counting_a_crash(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 4)])
        chunks.mark_published(conn, [chunk])
    claim = store.claimed(database, chunk)
    with database.begin() as conn:
        assert chunks.release(conn, claim)
        assert chunks.unpublished(conn, queue="routine", older_than_seconds=60, limit=10) == [chunk]
    again = store.claimed(database, chunk)
    assert (len(again.fields), again.attempt) == (4, 2)


def test_a_field_that_kills_its_workers_is_isolated_and_its_neighbours_screened(database):
    """Within log2(256) + 2 rounds; the poisoned field ends as failed."""
    with database.begin() as conn:
        batch, _ = store.submit(conn, [store.new_slide("A", 256)], chunk_size=256)
    rounds = 0
    while True:
        with database.begin() as conn:
            pending = chunks.unpublished(conn, queue="routine", older_than_seconds=0, limit=100)
        if not pending:
            break
        poisoned = False
        for chunk in pending:
            claim = store.claimed(database, chunk)
            if any(field.path == "A/137.png" for field in claim.fields):
                poisoned = True
                store.let_lease_run_out(database, chunk)
            else:
                store.record(database, claim)
        rounds += poisoned
        with database.begin() as conn:
            chunks.reclaim_expired(conn)
        store.assert_sums_hold(database)
    assert rounds <= 10
    with database.read() as conn:
        (failure,) = reads.failures(conn, batch)
        assert reads.batch_status(conn, batch).state == "running", "its slide has no call yet"
    assert (failure.field, failure.code) == ("A/137.png", "crashed-the-worker")
    with database.begin() as conn:
        assert slidecalls.call_due(conn, lambda model, rows: None, worker="tester") == 0
        assert slidecalls.call_due(conn, lambda model, rows: store.call(rows), worker="tester") == 1
    with database.read() as conn:
        status = reads.batch_status(conn, batch)
    assert (status.state, status.screened, status.failed) == ("done", 255, 1)


def test_a_takeover_by_claim_counts_no_crash(database):
    """A message that comes late finds a lease that ran out in an outage of the database; nobody has died."""
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 5)], chunk_size=5)
    for worker in ("first", "second", "third"):
        assert len(store.claimed(database, chunk, worker).fields) == 5
        store.let_lease_run_out(database, chunk)
    assert store.rows(database, "SELECT crashes FROM chunk") == [(0,)]


def test_only_the_leases_that_are_named_are_reclaimed(database):
    with database.begin() as conn:
        _, (one, two) = store.submit(conn, [store.new_slide("A", 2)], chunk_size=1)
    for chunk in (one, two):
        store.claimed(database, chunk)
        store.let_lease_run_out(database, chunk)
    with database.begin() as conn:
        assert chunks.lapsed(conn) == [(one, 1), (two, 1)]
        assert chunks.reclaim_expired(conn, only=[]) == []
        assert chunks.reclaim_expired(conn, only=[(one, 2)]) == [], "claimed anew since it was seen"
        assert chunks.reclaim_expired(conn, only=[(two, 1)]) == [two]
        assert chunks.lapsed(conn) == [(one, 1)]


def test_a_lone_field_is_tried_once_more_and_then_failed(database):
    with database.begin() as conn:
        batch, (chunk,) = store.submit(conn, [store.new_slide("A", 1)])
    for attempt in (1, 2):
        assert store.claimed(database, chunk).attempt == attempt
        store.let_lease_run_out(database, chunk)
        with database.begin() as conn:
            chunks.reclaim_expired(conn)
    with database.read() as conn:
        assert [failure.code for failure in reads.failures(conn, batch)] == ["crashed-the-worker"]


def test_a_chunk_given_up_again_and_again_is_halved_until_one_field_fails_for_that_reason(database):
    with database.begin() as conn:
        batch, _ = store.submit(conn, [store.new_slide("A", 256)], chunk_size=256)
    why = Failure(code="time-limit", sentence="it took too long")
    rounds = 0
    while True:
        with database.begin() as conn:
            pending = chunks.unpublished(conn, queue="routine", older_than_seconds=0, limit=100)
        if not pending:
            break
        for chunk in pending:
            claim = store.claimed(database, chunk)
            if any(field.path == "A/137.png" for field in claim.fields):
                rounds += 1
                with database.begin() as conn:
                    assert chunks.give_up(conn, claim, why) is not None
                    assert chunks.give_up(conn, claim, why) is None, "no longer ours"
            else:
                store.record(database, claim)
        store.assert_sums_hold(database)
    assert rounds <= 10
    with database.read() as conn:
        (failure,) = reads.failures(conn, batch)
        assert reads.batch_status(conn, batch).screened == 255
    assert (failure.field, failure.code, failure.sentence) == ("A/137.png", "time-limit", "it took too long")


def test_the_model_of_a_chunk_is_told_while_it_can_be_claimed(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 1)])
        chunks.mark_published(conn, [chunk])
        assert chunks.model_wanted(conn, chunk) == store.MODEL_ID
        assert chunks.model_wanted(conn, chunk + 1) is None
        chunks.unpublish(conn, chunk)
        assert chunks.unpublished(conn, queue="routine", older_than_seconds=60, limit=10) == [chunk]
    store.claimed(database, chunk)
    with database.begin() as conn:
        assert chunks.model_wanted(conn, chunk) is None


def test_chunks_of_dead_workers_are_reclaimed_by_name(database):
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 2)], chunk_size=1)
    store.claimed(database, chunk_ids[0], "dead")
    store.claimed(database, chunk_ids[1], "alive")
    with database.begin() as conn:
        assert chunks.running_owners(conn) == ["alive", "dead"]
        assert chunks.reclaim_owner(conn, []) == []
        assert chunks.reclaim_owner(conn, ["dead", "unknown"]) == [chunk_ids[0]]
        assert chunks.running_owners(conn) == ["alive"]
        assert chunks.waiting_by_queue(conn) == {"routine": 1, "stat": 0}


def test_the_ledger_tells_the_digest_of_the_findings_and_it_can_be_recomputed(database):
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 6)], chunk_size=3)

    def judge(field):
        if field.path == "A/001.png":
            return store.failed(field)
        return store.screened(field, of="x" if field.path > "A/003" else None, suspicion=1 / 3)

    store.work(database, chunk_ids, judge)
    told = dict(store.rows(database, "SELECT chunk_id, body FROM event WHERE kind = 'chunk-recorded'"))
    with database.read() as conn:
        for chunk in chunk_ids:
            assert json.loads(told[chunk])["findings"] == findings.recomputed_digest(conn, chunk)


def test_a_number_that_is_none_is_refused(database):
    with database.begin() as conn:
        _, (chunk,) = store.submit(conn, [store.new_slide("A", 1)])
    claim = store.claimed(database, chunk)

    def immeasurable(field):
        outcome = store.screened(field)
        return replace(outcome, finding=replace(outcome.finding, novelty=float("nan")))

    with pytest.raises(ValueError, match="JSON compliant"):
        store.record(database, claim, immeasurable)
