"""Real workers on a real Valkey, on SQLite and on PostgreSQL: what is promised whatever happens to them."""

import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from allq.settings import Settings
from db import chunks, reads
from db.database import Database
from imaging.synthetic import write_slides
from tests.databases import kill_server
from tests.screening import copies, status, submit_synthetic, wait_for, workers
from worker import broker, embedded
from worker.app import make_app
from worker.housekeeping import Housekeeper
from worker.submission import retry


@pytest.fixture(scope="module")
def smears(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smears")
    write_slides(folder / "slides", slides=3, fields=12, seed=7)
    return folder / "slides"


def fields_by_state(database: Database, batch: int) -> dict[str, int]:
    """Counted from the rows themselves, not from the counters that are being tested."""
    with database.read() as connection:
        rows = list(reads.field_results(connection, batch))
    return {state: sum(row.state == state for row in rows) for state in sorted({row.state for row in rows})}


def findings(database: Database, batch: int) -> tuple[int, int]:
    """Distinct contents among screened fields, and how many fields were linked to a finding that existed."""
    with database.read() as connection:
        rows = [row for row in reads.field_results(connection, batch) if row.state == "screened"]
    return len({row.sha256 for row in rows}), sum(row.linked for row in rows)


def assert_accounted_for(database: Database, batch: int) -> None:
    """The batch has ended, and its counters are those of its rows."""
    found = status(database, batch)
    counted = fields_by_state(database, batch)
    assert found.state == "done"
    assert found.waiting == 0
    assert found.fields == found.screened + found.failed + found.cancelled == sum(counted.values())
    assert (found.screened, found.failed) == (counted.get("screened", 0), counted.get("failed", 0))
    assert found.findings_linked == findings(database, batch)[1]


def assert_nothing_doubled(database: Database, batch: int) -> None:
    """Of a first batch: each content has one finding, and every other field with these bytes is linked to it."""
    contents, linked = findings(database, batch)
    assert contents + linked == status(database, batch).screened


def done(database: Database, batch: int) -> bool:
    return status(database, batch).state == "done"


def test_two_workers_screen_a_folder_and_link_twins(database, settings, smears, tmp_path):
    slide = sorted(folder for folder in smears.iterdir() if folder.is_dir())[0]
    folder = copies(slide, tmp_path / "slides", 3)
    settings = settings.model_copy(update={"chunk_size": 8})
    submission = submit_synthetic(database, settings, folder)
    assert (submission.published, submission.broker_problem) == (False, None), "no worker runs, and nothing is wrong"
    with workers(settings, 2):
        wait_for(lambda: done(database, submission.batch), what="the batch ends")
    assert_accounted_for(database, submission.batch)
    assert_nothing_doubled(database, submission.batch)
    contents, linked = findings(database, submission.batch)
    assert linked == 2 * contents
    assert not embedded.is_running(settings)


def test_a_second_submission_links_to_the_findings_of_the_first(database, settings, smears):
    first = submit_synthetic(database, settings, smears)
    with workers(settings):
        wait_for(lambda: done(database, first.batch), what="the first batch ends")
        second = submit_synthetic(database, settings, smears)
        assert second.batch != first.batch
        assert second.published
        wait_for(lambda: done(database, second.batch), what="the second batch ends")
    assert_accounted_for(database, second.batch)
    assert status(database, second.batch).findings_linked == status(database, second.batch).screened


def test_broken_files_fail_with_their_reason_and_only_they_are_retried(database, settings, smears, tmp_path):
    folder = tmp_path / "slides"
    shutil.copytree(smears, folder)
    slide = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    good = sorted(slide.glob("*.png")) + sorted(slide.glob("*.jpg"))
    whole = good[0].read_bytes()
    good[0].write_bytes(whole[: len(whole) // 2])
    gone = good[1]
    (slide / "lost.JPG").touch()
    (slide / "lost too.png").touch()
    (slide / "letter.tif").write_text("Dear colleague")
    (slide / "readme.txt").write_text("no field")
    first = submit_synthetic(database, settings, folder)
    kept = gone.read_bytes()
    gone.unlink()
    with workers(settings):
        wait_for(lambda: done(database, first.batch), what="the batch ends")
        with database.read() as connection:
            found = list(reads.failures(connection, first.batch))
        failures = {Path(row.field).name: row.code for row in found}
        sentences = {Path(row.field).name: row.sentence for row in found}
        assert sentences["lost.JPG"] == sentences["lost too.png"] == "The file is empty."
        assert failures["letter.tif"] == failures["lost.JPG"] == "not-an-image"
        assert "readme.txt" not in failures
        assert failures[good[0].name] == "corrupt"
        assert failures[gone.name] == "vanished"
        gone.write_bytes(kept)
        retried = retry(database, settings, first.batch)
        assert retried.fields == len(failures)
        wait_for(lambda: done(database, first.batch), what="the retried fields end")
    assert_accounted_for(database, first.batch)
    assert status(database, first.batch).failed == len(failures) - 1


def test_killing_pool_processes_and_whole_workers_loses_and_doubles_nothing(database, settings, smears, tmp_path):
    folder = copies(smears, tmp_path / "slides", 20)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):  # distinct bytes: every field has to be inferred
        path.write_bytes(path.read_bytes() + number.to_bytes(4, "big"))
    settings = settings.model_copy(update={"chunk_size": 32, "lease_seconds": 5.0, "housekeeping_seconds": 0.5})
    submission = submit_synthetic(database, settings, folder)
    with workers(settings, 2) as (first, second):
        wait_for(lambda: status(database, submission.batch).screened > 0, what="something is screened")
        for process in first.pool():
            process.kill()
        wait_for(lambda: bool(first.pool()), what="the pool process is replaced")
        second.kill()
        wait_for(lambda: done(database, submission.batch), what="the batch ends")
    assert_accounted_for(database, submission.batch)
    assert_nothing_doubled(database, submission.batch)


def test_a_broker_emptied_in_mid_batch_is_filled_again(database, settings, smears, tmp_path):
    folder = copies(smears, tmp_path / "slides", 6)
    settings = settings.model_copy(update={"chunk_size": 8, "housekeeping_seconds": 0.5, "republish_seconds": 1.0})
    submission = submit_synthetic(database, settings, folder)
    with workers(settings):
        wait_for(lambda: status(database, submission.batch).screened > 0, what="something is screened")
        redis.Redis(unix_socket_path=str(embedded.socket_path(settings))).flushall()
        wait_for(lambda: done(database, submission.batch), what="the batch ends")
    assert_accounted_for(database, submission.batch)
    assert_nothing_doubled(database, submission.batch)


def test_of_all_workers_one_counts_what_waits_in_half_a_round(database, settings, monkeypatch):
    counted = []
    count = chunks.waiting_by_queue
    monkeypatch.setattr(chunks, "waiting_by_queue", lambda conn: counted.append(1) or count(conn))
    settings = settings.model_copy(update={"housekeeping_seconds": 600.0})
    with embedded.in_use(settings):
        app = make_app(settings)
        for _ in range(3):
            Housekeeper(app, settings).tick()
        assert len(counted) == 1
        redis.Redis(unix_socket_path=str(embedded.socket_path(settings))).flushall()
        for _ in range(3):
            Housekeeper(app, settings).tick()
        assert len(counted) == 2  # a broker that was emptied has forgotten whose turn it was


def test_a_worker_by_itself_has_the_turn_to_count_in_each_round(settings):
    settings = settings.model_copy(update={"housekeeping_seconds": 0.2})
    with embedded.in_use(settings):
        for _ in range(3):
            assert broker.queue_lengths_in_turn(settings) == {"stat": 0, "routine": 0}
            time.sleep(settings.housekeeping_seconds)


def test_workers_whose_rounds_differ_take_turns_to_count_each_by_its_own_round(settings):
    hasty, slow = (settings.model_copy(update={"housekeeping_seconds": seconds}) for seconds in (4.0, 600.0))
    with embedded.in_use(settings):
        for first, second in ((hasty, slow), (slow, hasty)):
            client = redis.Redis(unix_socket_path=str(embedded.socket_path(settings)))
            client.flushall()
            assert broker.queue_lengths_in_turn(first) is not None
            assert broker.queue_lengths_in_turn(second) is None
        (key,) = client.keys("*counted")
        client.pexpire(key, client.pttl(key) - 4_000)  # as if a round of the hasty one had gone by
        assert broker.queue_lengths_in_turn(slow) is None
        assert broker.queue_lengths_in_turn(hasty) is not None


def test_of_workers_that_ask_at_the_same_moment_one_counts(settings):
    with embedded.in_use(settings), ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(broker.queue_lengths_in_turn, [settings] * 32))
    assert [found for found in counted if found is not None] == [{"stat": 0, "routine": 0}]


def test_a_key_that_no_worker_made_keeps_none_from_its_turn_to_count(settings):
    settings = settings.model_copy(update={"housekeeping_seconds": 600.0})
    with embedded.in_use(settings):
        somebody = redis.Redis(unix_socket_path=str(embedded.socket_path(settings)))
        key = broker.KEY_PREFIX + "counted"
        for put in (
            lambda: somebody.set(key, "somebody"),
            lambda: somebody.set(key, "somebody", ex=86_400),
            lambda: somebody.rpush(key, "a list"),
            lambda: somebody.hset(key, "a", "hash"),
        ):
            somebody.delete(key)
            put()
            assert broker.queue_lengths_in_turn(settings) is not None
            assert broker.queue_lengths_in_turn(settings) is None


def test_a_healthy_worker_keeps_its_connection(database, settings, smears, tmp_path):
    folder = copies(smears, tmp_path / "slides", 2)
    settings = settings.model_copy(update={"chunk_size": 8, "housekeeping_seconds": 0.2})
    submission = submit_synthetic(database, settings, folder)
    with workers(settings) as (worker,):
        wait_for(lambda: done(database, submission.batch), what="the batch ends")
        time.sleep(2)
        log = worker.log.read_text()
    for sign in ("connecting anew", "onnection restart", "onnection to broker lost", "Restoring"):
        assert sign not in log, log


def test_a_killed_broker_is_started_again(database, settings, smears, tmp_path):
    folder = copies(smears, tmp_path / "slides", 6)
    settings = settings.model_copy(update={"chunk_size": 8, "housekeeping_seconds": 0.5, "republish_seconds": 1.0})
    submission = submit_synthetic(database, settings, folder)
    with workers(settings):
        wait_for(lambda: status(database, submission.batch).screened > 0, what="something is screened")
        killed = int((embedded.folder(settings) / "valkey.pid").read_text())
        kill_server(killed)
        wait_for(lambda: done(database, submission.batch), what="the batch ends")
        assert int((embedded.folder(settings) / "valkey.pid").read_text()) != killed
    assert_accounted_for(database, submission.batch)
    assert_nothing_doubled(database, submission.batch)


def test_a_worker_without_a_broker_says_so_once_and_goes_to_work_when_there_is_one(
    database, settings, smears, tmp_path
):
    elsewhere = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    settings = settings.model_copy(update={"broker_url": SecretStr(embedded.url(elsewhere))})
    submission = submit_synthetic(database, settings, smears)
    assert f"The broker at {embedded.url(elsewhere)} does not answer" in submission.broker_problem
    with workers(settings) as (worker,):
        wait_for(lambda: "this worker keeps trying" in worker.log.read_text(), what="the worker says what is amiss")
        time.sleep(3)
        assert "Cannot connect" not in worker.log.read_text()
        with embedded.in_use(elsewhere):
            wait_for(lambda: done(database, submission.batch), what="the batch ends")
            worker.stop()
        assert worker.log.read_text().count("this worker keeps trying") == 1
        assert "The broker answers: this worker goes to work." in worker.log.read_text()


def test_a_worker_told_to_stop_leaves_nothing_claimed(database, settings, smears, tmp_path):
    folder = copies(smears, tmp_path / "slides", 6)
    settings = settings.model_copy(update={"chunk_size": 16})
    submission = submit_synthetic(database, settings, folder)
    with workers(settings) as (worker,):
        wait_for(lambda: status(database, submission.batch).screened > 0, what="something is screened")
        assert worker.stop() == 0
    with database.read() as connection:
        assert chunks.running_owners(connection) == []
    with workers(settings):
        wait_for(lambda: done(database, submission.batch), what="the batch ends")
    assert_accounted_for(database, submission.batch)
    assert_nothing_doubled(database, submission.batch)


def test_a_worker_is_seen_while_it_runs_and_no_longer_and_ctrl_c_ends_it_as_any_command(database, settings: Settings):
    with embedded.in_use(settings), workers(settings) as (worker,):
        wait_for(lambda: len(broker.present(settings)) == 1, what="the worker announces itself")
        worker.process.send_signal(signal.SIGINT)
        assert worker.process.wait(60) == 130
        assert broker.present(settings) == []


def test_a_worker_that_is_busy_is_seen_too(settings: Settings):
    settings = settings.model_copy(update={"housekeeping_seconds": 0.1})
    with embedded.in_use(settings), broker.announcing(settings):
        time.sleep(3)  # longer than one announcement lasts, and nothing here calls an event loop
        assert len(broker.present(settings)) == 1
