"""Which model is active is a fact of the database: who chose it, when and why, told to the ledger and never changed."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from allq.errors import UsageError
from allq.settings import Settings
from db import activations, bundle, named, sealing, verifying
from db.database import Database
from db.example import made_up_model
from db.witness import Witness
from tests import store
from tests.integration.test_ledger import verify_bundle

OTHER = "cd" * 32


def latest(database: Database) -> object:
    with database.read() as conn:
        return activations.latest(conn)


def test_the_latest_activation_holds_and_the_earlier_ones_stay(database: Database, settings: Settings) -> None:
    assert latest(database) is None
    first = store.activate(database, "  fits our smears ")
    assert (first.reason, first.model_id, first.activated_by) == ("fits our smears", store.MODEL_ID, "Dr Tester")
    assert latest(database) == first
    second = store.activate(database, "a new stain", model_id=OTHER, name="newer", by="Dr Second")
    third = store.activate(database, "the old stain again")
    assert latest(database) == third
    with database.read() as conn:
        columns, rows = named.run(conn, "model_activations", {})
        shown = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [(one["model"], one["activated_by"], one["active"]) for one in shown] == [
        ("tester", "Dr Tester", True),
        ("newer", "Dr Second", False),
        ("tester", "Dr Tester", False),
    ]
    assert [one["superseded_at"] for one in shown] == [None, third.activated_at, second.activated_at]
    sealing.seal(database, settings)
    assert verifying.verify(database, Witness(settings.checkpoint_file), complete=True).problems == []


def test_the_ledger_tells_who_activated_which_model_and_why(database: Database) -> None:
    done = store.activate(database, "fits “our” smears")
    ((actor, body),) = store.rows(database, "SELECT actor, body FROM event WHERE kind = 'model-activated'")
    told = json.loads(str(body))
    assert actor == "Dr Tester"
    assert told.pop("row")
    assert told == {
        "activation": done.number,
        "model": store.MODEL_ID,
        "name": "tester",
        "reason": "fits “our” smears",
    }


def test_of_two_activations_at_once_the_one_that_is_committed_later_holds(database: Database) -> None:
    for model_id, name in ((store.MODEL_ID, "tester"), (OTHER, "newer")):
        store.activate(database, "both are known", model_id=model_id, name=name)
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as conn:
            first = activations.activate(conn, made_up_model(OTHER, "newer"), reason="slow", actor="Dr Slow")
            second = pool.submit(store.activate, database, "at once")
            assert wait([second], timeout=0.5).not_done, "it waits for the one before it"
        later = second.result(timeout=30)
    assert first.number < later.number
    assert first.activated_at <= later.activated_at
    assert latest(database) == later
    told = store.rows(database, "SELECT actor FROM event WHERE kind = 'model-activated' ORDER BY id")
    assert [actor for (actor,) in told][2:] == ["Dr Slow", "Dr Tester"]


def test_an_activation_without_a_reason_is_refused_and_leaves_nothing(database: Database) -> None:
    with pytest.raises(UsageError, match="--reason"):
        store.activate(database, " \n ")
    assert latest(database) is None
    assert store.rows(database, "SELECT count(*) FROM model") == [(0,)]
    assert store.rows(database, "SELECT count(*) FROM event") == [(0,)]


def test_an_activation_vanishes_with_its_transaction(database: Database) -> None:
    before = store.activate(database, "fits our smears")
    with pytest.raises(RuntimeError), database.begin() as conn:
        activations.activate(conn, made_up_model(OTHER, "newer"), reason="x", actor="x")
        raise RuntimeError
    assert latest(database) == before
    assert store.rows(database, "SELECT count(*) FROM event WHERE kind = 'model-activated'") == [(1,)]


def test_who_gets_a_bundle_of_a_slide_sees_and_verifies_which_models_were_active(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    done = store.activate(database, "fits our smears")
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 1)])
    store.work(database, chunk_ids)
    sealing.seal(database, settings)
    with database.read() as conn:
        bundle.export(conn, tmp_path / "a.zip", slide="A")
    checked = verify_bundle(tmp_path / "a.zip")
    assert checked.returncode == 0, checked.stderr
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        told = archive.read("events.jsonl").decode()
        rows = archive.read("rows.jsonl").decode()
    assert "model-activated" in told
    assert "fits our smears" in rows
    assert done.model_id in told
