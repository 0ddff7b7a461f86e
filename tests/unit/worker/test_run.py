"""How many processes a worker starts, on cores and on cards; nothing is started, and no card is here."""

import contextlib
import os

import pytest
import structlog
from pydantic import SecretStr

from allq.errors import SettingsError
from cli import screening
from models.engines import choose
from worker import cards, embedded, health, run


@pytest.fixture
def machine(monkeypatch, settings):
    """Says what was started on a machine with `seen` cards of which torch can use all or none."""

    def start(*, seen, usable, concurrency=None, card=None, code=0, **changes):
        started = []
        monkeypatch.setattr(cards, "visible", lambda: [str(number) for number in range(seen)])
        monkeypatch.setattr(choose, "_has_cuda", lambda: usable)
        monkeypatch.setattr(run, "_look_at_the_database", lambda _: None)
        monkeypatch.setattr(run.broker, "announcing", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(embedded, "in_use", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(run, "_work", lambda pool, processes, _: started.append((pool, processes)) or 0)
        monkeypatch.setattr(cards, "run_on_each", lambda _s, found, _q: started.append(("cards", len(found))) or 0)
        monkeypatch.setattr("allq.logging.configure", lambda _: None)
        for name in run._ONE_THREAD:
            monkeypatch.setenv(name, os.environ.get(name, ""))  # to be as before afterwards
        with structlog.testing.capture_logs() as logged:
            changed = settings.model_copy(update=changes)
            assert run.run_worker(changed, concurrency=concurrency, card=card) == code
        only = started[0] if started else None
        assert len(started) <= 1
        return only, [entry["event"] for entry in logged if entry["log_level"] == "warning"]

    return start


@pytest.mark.parametrize(
    ("seen", "usable", "changes"),
    [
        (0, False, {}),
        (1, False, {}),  # a driver, and a torch that was built without CUDA or is too new for it
        (2, False, {}),
        (2, True, {"engine": "openvino"}),
        (2, True, {"device": "cpu"}),
    ],
)
def test_without_a_card_that_models_run_on_there_are_as_many_processes_as_asked_for(machine, seen, usable, changes):
    assert machine(seen=seen, usable=usable, concurrency=3, **changes) == (("prefork", 3), [])


def test_without_a_card_there_is_a_process_for_each_core(machine, monkeypatch):
    monkeypatch.setattr("worker.processes.cores", lambda: 5)
    assert machine(seen=0, usable=False) == (("prefork", 5), [])


@pytest.mark.parametrize(("seen", "expected"), [(1, ("solo", 1)), (2, ("cards", 2))])
def test_there_is_a_process_for_each_card_and_another_number_is_said_not_to_be_followed(machine, seen, expected):
    assert machine(seen=seen, usable=True) == (expected, [])
    assert machine(seen=seen, usable=True, concurrency=seen) == (expected, [])
    started, (warning,) = machine(seen=seen, usable=True, concurrency=7)
    assert started == expected
    assert warning.startswith("--concurrency 7 is not followed")
    assert "ALLQ_DEVICE=cpu" in warning


def test_where_a_card_is_asked_for_and_none_is_seen_one_process_says_what_is_wrong(machine):
    started, warnings = machine(seen=0, usable=False, concurrency=4, device="cuda")
    assert started == ("solo", 1)
    assert len(warnings) == 1


def test_without_roots_no_worker_starts_on_a_database_that_others_write_and_nothing_is_submitted(
    machine, settings, tmp_path, monkeypatch
):
    shared = settings.model_copy(update={"database_url": SecretStr("postgresql://allq@db.lab.example/allq")})
    with pytest.raises(SettingsError, match="ALLQ_ROOTS must be set"):
        run.run_worker(shared)
    monkeypatch.setattr(screening, "submit", lambda *_, **__: pytest.fail("submitted"))
    with pytest.raises(SettingsError, match="ALLQ_ROOTS must be set"):
        screening.screen_folder(None, shared, tmp_path, model=None)
    looked_at = health._roots(shared)
    assert (looked_at.ok, "no worker starts" in looked_at.detail) == (None, True)
    assert machine(seen=0, usable=False, concurrency=1, database_url=shared.database_url, roots=(tmp_path,))
    assert health._roots(shared.model_copy(update={"roots": (tmp_path,)})).ok
    assert health._roots(settings).ok is None


def test_the_worker_of_a_card_that_is_gone_ends_as_one_whose_card_failed_and_takes_no_chunk(machine):
    assert machine(seen=0, usable=False, card="3", code=70, device="cuda") == (None, [])
    assert machine(seen=1, usable=True, card="3", device="cuda") == (("solo", 1), [])
