"""Batches: registered, resumed, cancelled, tried again."""

import os
import shutil
import time

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from sqlalchemy import event

from allq.errors import NotFound, StoreError
from allq.text import storable
from db import batches, chunks, named, reads, slidecalls
from db.database import Database
from db.records import NewField, NewSlide
from models import artefact
from tests import store
from tests.databases import settings_for
from tests.screening import SYNTHETIC_MODEL
from worker.calling import slide_call_of


def test_chunks_are_filled_across_slides_and_keep_the_order(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 3), store.new_slide("B", 4)], chunk_size=5)
    claims = [store.claimed(database, chunk) for chunk in chunk_ids]
    assert [[field.path for field in claim.fields] for claim in claims] == [
        ["A/000.png", "A/001.png", "A/002.png", "B/000.png", "B/001.png"],
        ["B/002.png", "B/003.png"],
    ]
    with database.read() as conn:
        status = reads.batch_status(conn, batch)
    assert (status.slides, status.fields, status.waiting, status.state) == (2, 7, 7, "running")


def test_a_batch_needs_a_model_that_is_known(database):
    with pytest.raises(NotFound, match="knows no model"), database.begin() as conn:
        batches.create_batch(conn, root="/slides", model_id="00" * 32, operator="tester")


def test_a_batch_that_does_not_exist_is_not_found(database):
    with database.read() as conn:
        for read in (reads.batch_status, reads.slide_results, reads.field_results, reads.failures, reads.skipped):
            with pytest.raises(NotFound, match="no batch 99"):
                read(conn, 99)
    with pytest.raises(NotFound), database.begin() as conn:
        batches.cancel(conn, 99, "tester")


def test_the_state_goes_from_registering_to_done(database):
    def state() -> str:
        with database.read() as conn:
            found = reads.batch_status(conn, batch).state
        assert [(found,)] == store.rows(database, "SELECT state FROM batch_progress")
        return found

    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 4)], chunk_size=2, finish=False)
    assert state() == "registering"
    with database.begin() as conn:
        batches.finish_registration(conn, batch)
        batches.finish_registration(conn, batch)
    assert state() == "waiting"
    store.work(database, chunk_ids[:1])
    assert state() == "running"
    store.work(database, chunk_ids[1:])
    assert state() == "done"
    with database.read() as conn:
        status = reads.batch_status(conn, batch)
        assert [status] == reads.batches(conn)
    assert status.ended
    assert status.seconds_left is None
    assert status.finished_at is not None


def test_a_batch_has_a_rate_and_a_time_left_only_while_somebody_works_on_it(database):
    def pace() -> tuple[bool, bool, bool]:
        with database.read() as conn:
            found = reads.batch_status(conn, batch)
        return found.in_hand, found.fields_per_second is not None, found.seconds_left is not None

    with database.begin() as conn:
        batch, (first, second, third) = store.submit(conn, [store.new_slide("A", 6)], chunk_size=2)
    assert pace() == (False, False, False)
    held = store.claimed(database, first)
    assert pace() == (True, False, False), "nothing is known yet"
    time.sleep(0.01)
    store.record(database, held)
    assert pace() == (False, False, False), "interrupted"
    store.claimed(database, second)
    assert pace() == (True, True, True)
    store.let_lease_run_out(database, second)
    assert pace() == (False, False, False), "its worker is gone"
    store.work(database, [second, third])
    assert pace() == (False, True, False), "what it was on average"


def test_an_empty_batch_is_done_at_once(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [])
    assert chunk_ids == []
    with database.read() as conn:
        assert reads.batch_status(conn, batch).state == "done"


def test_names_that_are_no_text_come_back_as_the_bytes_they_are(database):
    name = os.fsdecode(b"odd \xff\xfe \xf0\x9f\xa9\xb8\n.png")
    text, raw = storable(name)
    slide = NewSlide(
        name="S", fields=[NewField(text, raw, 1, 2), NewField("tab\tback\\slash\\N 'quote'", None, 2**40, 2**62)]
    )
    with database.begin() as conn:
        batch, (chunk,) = store.submit(conn, [slide])
    odd, plain = store.claimed(database, chunk).fields
    assert odd.raw_path == os.fsencode(name)
    assert (plain.path, plain.size, plain.modified_ns) == ("tab\tback\\slash\\N 'quote'", 2**40, 2**62)
    with database.read() as conn:
        assert batches.registered_paths(conn, batch) == {name, plain.path}


def test_slides_whose_names_differ_in_bytes_only_stay_apart_in_every_query(database):
    names = [storable(os.fsdecode(raw)) for raw in (b"S\xff", rb"S\xff", rb"S\x5cxff", b"S\\")]
    slides = [NewSlide(name=text, raw_name=raw, fields=[NewField(f"{text}/1.png", raw, 1, 2)]) for text, raw in names]
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, slides)
    store.work(database, chunk_ids, lambda field: store.screened(field, of="the same bytes"))
    with database.read() as conn:
        assert [slide.slide for slide in reads.slide_results(conn, batch)] == [text for text, _ in names]
        fields = [field.field for field in reads.field_results(conn, batch)]
        assert len(set(fields)) == len(names)
        for name in ("slide_history", "slide_calls", "slide_findings"):
            found = {len(list(named.run(conn, name, {"slide": text})[1])) for text, _ in names}
            assert found != {0}
            assert len(found) == 1, f"{name} finds as much of each slide"
        _, twins = named.run(conn, "twins", {"batch": batch})
        assert len(list(twins)) == len(names) * (len(names) - 1)


def test_a_folder_whose_name_is_no_text_is_taken_up_by_its_own_batch(database):
    with database.begin() as conn:
        store.remember(conn)
        for raw in (b"/s\xff", rb"/s\xff"):
            text, exact = storable(os.fsdecode(raw))
            batch = batches.create_batch(conn, root=text, raw_root=exact, model_id=store.MODEL_ID, operator="t@here")
            assert batches.open_batch(conn, root=text, raw_root=exact, model_id=store.MODEL_ID) == batch


def test_a_cut_short_submission_is_found_and_completed(database):
    with database.begin() as conn:
        batch, first = store.submit(conn, [store.new_slide("A", 3, complete=False)], finish=False)
        assert batches.open_batch(conn, root="/slides", model_id=store.MODEL_ID) == batch
        assert batches.open_batch(conn, root="/slides", model_id="00" * 32) is None
        assert batches.open_batch(conn, root="/elsewhere", model_id=store.MODEL_ID) is None
    store.work(database, first)
    assert store.rows(database, "SELECT count(*) FROM slide_call") == [(0,)], "more of the slide may come"
    with database.begin() as conn:
        second = batches.register(conn, batch, [store.new_slide("A", 2, first=3)], chunk_size=4)
        batches.finish_registration(conn, batch)
    store.work(database, second)
    with database.read() as conn:
        (slide,) = reads.slide_results(conn, batch)
        assert batches.open_batch(conn, root="/slides", model_id=store.MODEL_ID) is None
    assert (slide.fields, slide.screened, slide.call) == (5, 5, "no-suspects-seen")
    store.assert_sums_hold(database)


def test_a_slide_whose_last_field_ended_before_it_was_complete_becomes_due(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 3, complete=False)], finish=False)
    store.work(database, chunk_ids)
    with database.begin() as conn:
        batches.finish_registration(conn, batch)
        assert reads.batch_status(conn, batch).state == "running"
        assert slidecalls.call_due(conn, lambda model, rows: store.call(rows), worker="tester") == 1
        assert reads.batch_status(conn, batch).state == "done"


def test_a_closed_batch_takes_no_more_fields(database):
    with database.begin() as conn:
        batch, _ = store.submit(conn, [store.new_slide("A", 1)])
    with pytest.raises(StoreError, match="takes no more fields"), database.begin() as conn:
        batches.register(conn, batch, [store.new_slide("B", 1)], chunk_size=4)


def test_what_was_left_out_is_not_added_to_a_batch_that_was_cancelled_meanwhile(database):
    with database.begin() as conn:
        batch, _ = store.submit(conn, [store.new_slide("A", 1)], finish=False)
        batches.cancel(conn, batch, "tester")
    with pytest.raises(StoreError, match="takes no more fields"), database.begin() as conn:
        batches.skip(conn, batch, [("notes.txt", "no image")])


def test_what_was_skipped_is_listed(database):
    with database.begin() as conn:
        batch, _ = store.submit(conn, [], finish=False)
        batches.skip(conn, batch, [("A/Thumbs.db", "no image"), ("A/.x", "hidden")])
        batches.skip(conn, batch, [])
        batches.finish_registration(conn, batch)
        assert [(item.path, item.reason) for item in reads.skipped(conn, batch)] == [
            ("A/Thumbs.db", "no image"),
            ("A/.x", "hidden"),
        ]
        assert reads.batch_status(conn, batch).skipped == 2


def test_cancel_ends_what_waits_and_fences_off_the_running_worker(database):
    slides = [store.new_slide("A", 4), store.new_slide("B", 4), store.new_slide("C", 4)]
    with database.begin() as conn:
        batch, (one, two, three) = store.submit(conn, slides, chunk_size=4)
        _, others = store.submit(conn, [store.new_slide("Z", 2)])
    store.work(database, [one])
    running = store.claimed(database, two)
    with database.begin() as conn:
        assert batches.cancel(conn, batch, "tester") == 8
        assert batches.cancel(conn, batch, "tester") == 0
    assert store.record(database, running) is None
    with database.begin() as conn:
        assert chunks.claim(conn, three, "worker-1", store.LEASE) is None
        status = reads.batch_status(conn, batch)
        assert (status.state, status.screened, status.cancelled) == ("cancelled", 4, 8)
        assert chunks.unpublished(conn, queue="routine", older_than_seconds=0, limit=9) == others
    store.assert_sums_hold(database)


def test_a_cancelled_batch_whose_failed_fields_wait_again_can_be_cancelled_again(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 8)])
    store.work(database, chunk_ids[:1], store.failed)
    with database.begin() as conn:
        assert batches.cancel(conn, batch, "tester") == 4
        assert batches.retry(conn, batch, "tester", chunk_size=4).fields == 4
        assert batches.cancel(conn, batch, "tester") == 4
        assert batches.cancel(conn, batch, "tester") == 0
    with database.read() as conn:
        status = reads.batch_status(conn, batch)
    assert (status.state, status.waiting, status.cancelled) == ("cancelled", 0, 8)
    store.assert_sums_hold(database)


def test_a_slide_cancelled_half_way_is_called_by_what_was_screened(database):
    slides = [store.new_slide("A", 4), store.new_slide("B", 4)]
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, slides, chunk_size=2)
    store.work(database, chunk_ids[:1])
    with database.begin() as conn:
        batches.cancel(conn, batch, "tester")
        seen = []

        def call_slide(model, rows):
            fields = list(rows)
            seen.append((model, [(row.state, row.call) for row in fields]))
            return store.call(fields)

        assert slidecalls.call_due(conn, call_slide, worker="tester") == 1
        half, none = reads.slide_results(conn, batch)
    assert seen == [(store.MODEL_ID, [("screened", "benign")] * 2 + [("cancelled", None)] * 2)]
    assert (half.call, half.screened, half.cancelled) == ("no-suspects-seen", 2, 2)
    assert (none.call, none.cancelled) == (None, 4)


def test_failed_fields_that_were_cancelled_while_they_waited_again_are_told_as_cancelled(database, settings):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 4)], chunk_size=2)
    store.work(database, chunk_ids[:1])
    store.work(database, chunk_ids[1:], store.failed)
    configuration = artefact.find(settings, SYNTHETIC_MODEL).configuration
    with database.begin() as conn:
        batches.retry(conn, batch, "tester", chunk_size=2)
        assert batches.cancel(conn, batch, "tester") == 2
        assert slidecalls.call_due(conn, lambda _, rows: slide_call_of(rows, configuration), worker="tester") == 1
        (slide,) = reads.slide_results(conn, batch)
    assert (slide.failed, slide.cancelled, slide.flags) == (0, 2, ("cancelled-fields",))


def test_a_slide_of_which_all_known_fields_had_failed_is_called_when_the_rest_is_cancelled(database):
    """`submit` was interrupted, and its batch cancelled: what the slide has had failed, and none was called off."""
    slides = [store.new_slide(name, 2, complete=False) for name in "AB"]
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, slides, chunk_size=2, finish=False)
    store.work(database, chunk_ids[:1], store.failed)
    with database.begin() as conn:
        assert batches.cancel(conn, batch, "tester") == 2
        assert slidecalls.call_due(conn, lambda model, rows: store.call(rows), worker="tester") == 1
        failed, none = reads.slide_results(conn, batch)
    assert (failed.call, failed.failed, failed.cancelled) == ("insufficient", 2, 0)
    assert (none.call, none.cancelled) == (None, 2)


def test_a_slide_with_fields_cancelled_and_none_screened_is_not_called_whenever_the_others_failed(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 4)], chunk_size=2)
    store.work(database, chunk_ids[:1], store.failed)
    with database.begin() as conn:
        assert batches.cancel(conn, batch, "tester") == 2
        (again,) = batches.retry(conn, batch, "tester", chunk_size=2).chunk_ids
    store.work(database, [again], store.failed)
    with database.begin() as conn:
        assert slidecalls.call_due(conn, lambda model, rows: store.call(rows), worker="tester") == 0
        (slide,) = reads.slide_results(conn, batch)
    assert (slide.call, slide.failed, slide.cancelled) == (None, 2, 2)


def test_rows_put_in_ahead_of_their_numbers_keep_nobody_from_submitting_and_trying_again(database):
    """A worker's login may: it writes slides and chunks many at a time, with numbers that were drawn beforehand."""
    with database.begin() as conn:
        batch, (chunk_id,) = store.submit(conn, [store.new_slide("A", 2)])
        for n in (1, 2, 3, 5):
            slide = f"id + {n}, batch_id, 'ahead{n}', true, 0"
            conn.exec_driver_sql(
                f"INSERT INTO slide (id, batch_id, name, complete, fields) SELECT {slide} FROM slide WHERE name = 'A'"
            )
            chunk = f"{chunk_id + n}, {batch}, 'done', 0, 0"
            conn.exec_driver_sql(f"INSERT INTO chunk (id, batch_id, state, fields, waiting) VALUES ({chunk})")
    with database.begin() as conn:
        other, (chunk,) = store.submit(conn, [store.new_slide("A", 2), store.new_slide("B", 2)])
    store.work(database, [chunk], store.failed)
    with database.begin() as conn:
        (again,) = batches.retry(conn, other, "tester", chunk_size=4).chunk_ids
    store.work(database, [again])
    with database.read() as conn:
        assert [found.screened for found in reads.slide_results(conn, other)] == [2, 2]


def test_retry_takes_only_failed_fields_and_calls_the_slide_anew(database):
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 8), store.new_slide("B", 2)], chunk_size=5)
    store.work(
        database, chunk_ids, lambda f: store.failed(f) if f.path[-5] in "246" else store.screened(f, suspicion=0.9)
    )
    with database.begin() as conn:
        result = batches.retry(conn, batch, "tester", chunk_size=2)
    assert result.fields == 3
    assert len(result.chunk_ids) == 2
    store.assert_sums_hold(database)
    claim = store.claimed(database, result.chunk_ids[0])
    assert [field.path for field in claim.fields] == ["A/002.png", "A/004.png"]
    assert store.record(database, claim) is not None
    store.work(database, result.chunk_ids[1:])
    with database.read() as conn:
        status = reads.batch_status(conn, batch)
        slide = reads.slide_results(conn, batch)[0]
        assert list(reads.failures(conn, batch)) == []
    assert (status.state, status.screened, status.failed) == ("done", 10, 0)
    assert (slide.screened, slide.failed) == (8, 0)
    calls = store.rows(database, "SELECT screened, failed FROM slide_call WHERE fields = 8 ORDER BY id")
    assert calls == [(5, 3), (8, 0)]
    with database.begin() as conn:
        assert batches.retry(conn, batch, "tester", chunk_size=2).fields == 0
    store.assert_sums_hold(database)


def test_pages_of_any_size_give_every_field_once_in_order(database):
    slides = [store.new_slide(name, count) for name, count in (("A", 1), ("B", 7), ("C", 3), ("D", 4))]
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, slides, chunk_size=15)
    store.work(database, chunk_ids)
    expected = [field.path for slide in slides for field in slide.fields]
    with database.read() as conn:
        for page in (1, 2, 3, 4, 7, 100):
            assert [field.field for field in reads.field_results(conn, batch, page=page)] == expected
            assert [row.field for row in reads.leukocyte_results(conn, batch, page=page)] == expected


def test_published_chunks_are_offered_again_only_after_a_while(database):
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 4)], chunk_size=1)
        chunks.mark_published(conn, chunk_ids[:3])
        assert chunks.unpublished(conn, queue="routine", older_than_seconds=60, limit=9) == chunk_ids[3:]
        assert chunks.unpublished(conn, queue="stat", older_than_seconds=60, limit=9) == []
    with database.begin() as conn:
        import time

        time.sleep(0.02)
        assert chunks.unpublished(conn, queue="routine", older_than_seconds=0.01, limit=2) == chunk_ids[:2]


def test_what_was_never_published_is_offered_at_once_and_nothing_else(database):
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 4)], chunk_size=1)
        chunks.mark_published(conn, chunk_ids[:3])
        assert chunks.unpublished(conn, queue="routine", older_than_seconds=None, limit=9) == chunk_ids[3:]
        assert chunks.unpublished(conn, queue="stat", older_than_seconds=None, limit=9) == []


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda conn: chunks.unpublished(conn, queue="routine", older_than_seconds=None, limit=9), "chunk_unpublished"),
        (lambda conn: batches.open_batch(conn, root="/slides", model_id=store.MODEL_ID), "chunk_active"),
        (lambda conn: batches.open_batch(conn, root="/slides", model_id=store.MODEL_ID), "batch_root"),
    ],
)
def test_what_is_asked_again_and_again_is_found_by_an_index_over_what_is_new(ask, index, tmp_path, sqlite_template):
    """On SQLite, whose plans do not change with the size of a table; PostgreSQL has the same indexes."""
    shutil.copyfile(sqlite_template, tmp_path / "allq.db")
    database = Database.open(settings_for(tmp_path))
    asked = []
    event.listen(database.engine, "before_cursor_execute", lambda *sent: asked.append(sent[2:4]))
    with database.begin() as conn:
        store.remember(conn)
        asked.clear()
        ask(conn)
        plans = [
            row[3]
            for statement, values in list(asked)
            for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    database.close()
    assert any(f"INDEX {index} " in f"{plan} " for plan in plans), plans


@tried(deadline=None)
@given(fields=st.integers(0, 3_000), most=st.integers(1, 256), last=st.booleans())
def test_chunks_hold_all_fields_none_too_many_and_the_last_ones_fewer_and_fewer(fields, most, last):
    sizes = batches.chunk_sizes(fields, most, last=last)
    assert sum(sizes) == fields
    assert all(0 < size <= most for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    if not last or most <= batches.SMALL_CHUNK:
        assert all(size == most for size in sizes[:-1])
    elif fields > 8 * batches.SMALL_CHUNK:
        assert sizes[-2] <= batches.SMALL_CHUNK
