"""`allq review` and `allq audit`: a person's way from the list to the signed decision and its proof."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from allq.errors import StoreError
from allq.settings import load
from cli.main import app
from db import rows_shown, slidecalls
from db.database import Database
from tests import store
from tests.hand_made import call, make_batch
from worker.health import checks


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def lines(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json", code=code).stdout.splitlines()]


@pytest.fixture
def batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("ALLQ_OPERATOR", "Dr R. Franklin")
    return make_batch({"A-1": ["f1.png", "f2.png"], "B-2": ["f1.png"]})


def test_a_slide_is_listed_looked_at_and_signed(batch: int) -> None:
    assert [one["slide"] for one in lines("review", "list")] == ["A-1", "B-2"]
    assert "has not looked at" in run("review", "sign", "A-1", "-d", "agree", "-r", "x", code=1).stderr
    (shown,) = lines("review", "show", "A-1")
    assert (shown["call"], shown["batch"], shown["reviews"]) == ("all-suspected", batch, [])
    assert [one["field"] for one in shown["most_suspicious"]] == ["A-1/f1.png", "A-1/f2.png"]
    (signed,) = lines("review", "sign", "A-1", "-d", "insufficient", "-r", "smudged")
    assert (signed["reviewer"], signed["call"], signed["overruled"]) == ("Dr R. Franklin", "insufficient", True)
    assert [one["slide"] for one in lines("review", "list")] == ["B-2"]
    assert [one["reason"] for one in lines("query", "overrides")] == ["smudged"]
    text = run("review", "show", "A-1").stdout
    assert "smudged" in text
    assert "negative" not in text.lower()
    run("review", "show", "B-2")
    run("review", "sign", "B-2", "-d", "agree", "-r", "nothing suspect")
    assert "No slide waits" in run("review", "list").stderr
    assert "no called slide" in run("review", "show", "C-3", code=1).stderr


def test_the_list_says_how_many_more_wait_and_what_nobody_could_judge_is_above_what_seems_benign(home: Path) -> None:
    for _ in range(2):
        make_batch({"B-2": ["f1.png"], "C-3": ["blank.png"], "A-1": ["f1.png"]})
    assert [one["slide"] for one in lines("review", "list")] == ["A-1", "A-1", "C-3", "C-3", "B-2", "B-2"]
    for form in ((), ("--json",)):
        assert "2 of 6 slides shown; --limit 6 shows all." in run("review", "list", "--limit", "2", *form).stderr
        assert "more rows than the 5 shown: limit=50" in run("query", "worklist", "limit=5", *form).stderr
    whole = run("review", "list", "--limit", "6").stderr
    assert "shown" not in whole + run("query", "worklist", "limit=6").stderr
    assert "allq review show SLIDE --batch N" in whole, "each slide was screened twice"
    assert "--batch 1 A-1\n" in run("review", "show", "A-1", "--batch", "1").stderr, "signed is what was looked at"
    run("review", "sign", "A-1", "--batch", "1", "-d", "agree", "-r", "blasts")
    assert ("A-1", 1) not in {(one["slide"], one["batch"]) for one in lines("review", "list")}


def test_what_does_not_count_towards_a_call_is_told(home: Path) -> None:
    make_batch({"B-2": ["f1.png", "odd1.png", "odd2.png", "blank.png"], "C-3": ["blank.png"]})
    text = run("review", "show", "B-2").stdout
    assert "0 suspect among 20 leukocytes" in text
    assert "3 fields (1 no-leukocytes, 2 novel), 8 suspects in them" in text
    text = run("review", "show", "C-3").stdout
    assert "none that can be judged" in text and "0 suspect" not in text.replace("0 suspects in them", "")
    (shown,) = lines("review", "show", "C-3")
    assert shown["not_counted"] == {"fields": 1, "suspects": 0, "flags": {"no-leukocytes": 1}}


def test_a_slide_that_was_cut_short_is_shown_with_what_nobody_looked_at(home: Path) -> None:
    batch = make_batch({"B-2": ["f1.png", "f2.png", "f3.png"]}, chunk_size=2, screened=1)
    run("cancel", str(batch))
    with closing(Database.open(load())) as database, database.begin() as connection:
        assert slidecalls.call_due(connection, lambda _, rows: call(rows), worker="tester") == 1
    assert "3: 2 screened, 0 failed, 1 cancelled" in run("review", "show", "B-2").stdout
    assert lines("review", "show", "B-2")[0]["cancelled"] == lines("query", "worklist")[0]["cancelled"] == 1


def test_the_ledger_is_sealed_verified_shown_and_exported(batch: int, tmp_path: Path) -> None:
    run("review", "show", "A-1")
    run("review", "sign", "A-1", "-d", "agree", "-r", "blasts in both fields")
    (before,) = lines("audit", "verify")
    assert (before["sound"], before["checkpoint"]) == (True, None)
    (sealed,) = lines("audit", "seal")
    assert sealed["checkpoint"] == 1
    (found,) = lines("audit", "verify", "--complete")
    assert (found["sound"], found["events"], found["waiting"]) == (True, sealed["events"], 0)
    assert "as they were sealed" in run("audit", "verify").stdout
    (told,) = lines("audit", "show", "A-1")
    decided = told["events"][-1]
    assert (decided["kind"], decided["actor"]) == ("slide-reviewed", "Dr R. Franklin")
    assert decided["body"]["reason"] == "blasts in both fields"
    assert {one["computed_by"] for one in told["fields"]} == {"tester"}
    text = run("audit", "show", "A-1", "--fields").stdout
    assert "decided all-suspected (the model: all-suspected), because: blasts in both fields" in text
    (exported,) = lines("audit", "export", str(tmp_path / "a.zip"), "--slide", "A-1")
    assert (exported["checkpoint"], exported["others"]) == (1, 1)
    assert "1 field of other slides" in run("audit", "export", str(tmp_path / "a.zip"), "--slide", "A-1").stderr
    assert (tmp_path / "a.zip").is_file()
    done = run("audit", "export", str(tmp_path / "of A 1.zip"))
    assert f"python verify.py '{tmp_path / 'of A 1.zip'}' --origin {exported['origin']}" in " ".join(
        done.stderr.split()
    )
    assert (exported["verify_sha256"] in done.stderr, exported["waiting"], "not sealed" in done.stderr) == (
        True,
        0,
        False,
    )
    assert "no folder" in run("audit", "export", str(tmp_path / "none" / "a.zip"), code=2).stderr
    assert "is a folder" in run("audit", "export", str(tmp_path), code=2).stderr
    assert len(lines("audit", "rotate-key")) == 1
    assert lines("audit", "verify", "--since", "1")[0]["events"] == 1
    (rotated,) = lines("audit", "show", "--ledger")
    assert (rotated["kind"], rotated["actor"]) == ("ledger-key-rotated", "Dr R. Franklin")
    assert f"changed from {rotated['body']['from'][:16]} to" in run("audit", "show", "--ledger").stdout
    assert "one of the two" in run("audit", "show", code=2).stderr
    assert "one of the two" in run("audit", "show", "A-1", "--ledger", code=2).stderr
    assert lines("audit", "restored", "--reason", "none was") == [{"given_up": None, "old_key": False}]
    assert "needs a reason" in run("audit", "restored", "--reason", " ", code=2).stderr
    assert "There is no slide" in run("audit", "show", "Z", code=1).stderr
    assert "no file" in run("audit", "verify", "--checkpoints", "missing.jsonl", code=2).stderr


def test_a_slides_history_tells_what_of_a_chunk_is_the_slides_and_where_its_twins_lie(home: Path) -> None:
    database = Database.open(load())
    with database.begin() as conn:
        batch, (shared,) = store.submit(conn, [store.new_slide("A", 1), store.new_slide("B", 2)])
    store.work(database, [shared], lambda f: store.failed(f) if f.path == "B/001.png" else store.screened(f, of="same"))
    database.close()
    (of_a,), (of_b,) = lines("audit", "show", "A"), lines("audit", "show", "B")
    told = {event["kind"]: event for event in of_a["events"]}
    assert told["chunk-recorded"]["body"]["screened"] == 2
    assert told["chunk-recorded"]["own"] == {"screened": 1, "linked": 0, "failed": 0}
    assert told["twins-found"]["twins"] == [{"slide": "B", "batch": batch, "fields": 1}]
    told = {event["kind"]: event for event in of_b["events"]}
    assert told["chunk-recorded"]["own"] == {"screened": 1, "linked": 1, "failed": 1}
    shown = run("audit", "show", "A")
    assert "1 field screened (0 by a finding of the same bytes), 0 failed; the whole chunk: 2 screened" in shown.stdout
    assert f"in another slide's folder: 1 field also in B (batch {batch})" in shown.stdout
    assert "all of the batch registered: 2 slides, 3 fields" in shown.stdout
    assert "1 fields" not in shown.stdout
    at = datetime.fromisoformat(of_a["submitted_at"])
    assert f"submitted {at:%Y-%m-%d %H:%M:%S} UTC by" in shown.stdout
    assert "`allq audit verify` says" in shown.stderr
    assert "dated back" not in shown.stderr
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("DROP TRIGGER event_no_update")
        conn.exec_driver_sql("UPDATE event SET at = '2021-01-05 08:30:00.000' WHERE kind = 'slide-called'")
    database.close()
    assert "is dated 2021-01-05 08:30:00 UTC, well before one" in run("audit", "show", "A").stderr


def test_what_was_changed_is_named_and_the_exit_code_says_so(batch: int) -> None:
    run("audit", "seal")
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("DROP TRIGGER finding_no_update")
        conn.exec_driver_sql("UPDATE finding SET call = 'benign' WHERE id = 2")
    database.close()
    (found,) = lines("audit", "verify", code=1)
    assert not found["sound"]
    trigger, finding, *_ = found["problems"]
    assert (trigger["table"], trigger["row"]) == ("trigger", "finding_no_update")
    assert finding["table"] == "finding"
    assert finding["row"].startswith("2 of field")
    assert "not as it was sealed" in run("audit", "verify", code=1).stderr


def test_of_a_schema_that_is_not_allqs_it_says_that_the_rows_are(batch: int) -> None:
    run("audit", "seal")
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("DROP VIEW turnaround")
    database.close()
    (found,) = lines("audit", "verify", code=1)
    assert found["problems"] == [{"table": "view", "row": "turnaround", "what": "is missing"}]
    assert "the rows are as sealed: 1 problem" in run("audit", "verify", code=1).stderr
    since = run("audit", "verify", "--since", "1", code=1).stderr
    assert "the rows of what was sealed after checkpoint 1 are as sealed: 1 problem" in since


def test_of_a_schema_from_which_rows_can_not_be_read_it_says_so(batch: int) -> None:
    run("review", "show", "A-1")
    run("review", "sign", "A-1", "-d", "agree", "-r", "blasts in both fields")
    run("audit", "seal")
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE review RENAME COLUMN reason TO because")
    database.close()
    (found,) = lines("audit", "verify", code=1)
    assert (found["sound"], found["finished"]) == (False, False)
    assert {"table": "column", "row": "reason", "what": "of review is missing"} in found["problems"]
    shown = run("audit", "verify", code=1)
    assert "of review is missing" in shown.stdout
    assert "no such column: r.reason" in " ".join(shown.stderr.split())
    assert "not all rows were looked at" in shown.stderr
    assert "unexpectedly" not in shown.stderr


def test_the_doctor_names_a_table_that_is_gone_and_goes_on(batch: int) -> None:
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE event RENAME TO elsewhere")
    database.close()
    found = {check.name: check for check in takewhile(lambda check: check.name != "model", checks(load()))}
    assert "table event is missing" in found["schema"].detail
    assert "no such table: event" in found["ledger"].detail
    assert found["roots"].ok is None


def test_what_was_wrong_until_an_error_is_told_as_well(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run("audit", "seal")
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("DROP TRIGGER finding_no_update")
        conn.exec_driver_sql("UPDATE finding SET call = 'benign' WHERE id = 2")
    database.close()

    def fails(*_: object) -> None:
        raise StoreError("The disk does not answer.")

    monkeypatch.setattr(rows_shown, "compare", fails)
    shown = run("audit", "verify", code=1)
    assert "finding_no_update" in shown.stdout
    assert "2 of field" in shown.stdout
    assert "The disk does not answer." in shown.stderr
    assert not lines("audit", "verify", code=1)[0]["finished"]


def test_who_interrupts_verify_is_told_that_it_has_not_finished(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run("audit", "seal")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rows_shown, "compare", interrupted)
    shown = run("audit", "verify", code=130)
    assert "Nothing wrong was found so far" in shown.stderr
    assert "verify has not finished" in shown.stderr
    (found,) = lines("audit", "verify", code=130)
    assert (found["sound"], found["finished"], found["problems"]) == (False, False, [])
    database = Database.open(load())
    with database.begin() as conn:
        conn.exec_driver_sql("DROP VIEW turnaround")
    database.close()
    shown = run("audit", "verify", code=130)
    assert "turnaround" in shown.stdout
    assert "verify has not finished" in shown.stderr
