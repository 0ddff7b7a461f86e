"""What the commands that print say of a batch. No worker, no model: the rows are made by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from allq.settings import load
from allq.text import storable
from cli.main import app
from cli.screen import report
from cli.screening import Screened
from db import chunks, named, reads
from db.database import Database
from models import artefact
from review.results import Level
from tests.hand_made import SYNTHETIC, make_batch
from worker.submission import Submission

SLIDES = {"A-2024-001": ["f1.png", "f2.png", "bad.png"], "B-2024-002": ["f1.png", "blank.png"]}


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def with_chunk_in_hand(batch: int) -> None:
    database = Database.open(load())
    with database.begin() as connection:
        (chunk,) = chunks.unpublished(connection, queue="routine", older_than_seconds=0, limit=9)
        claim = chunks.claim(connection, chunk, "worker@lab-workstation-03/4711", 60)
    database.close()
    assert claim is not None
    assert claim.batch_id == batch


def lines(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments).stdout.splitlines()]


@pytest.fixture
def batch(home: Path) -> int:
    return make_batch(SLIDES, skipped=[("Thumbs.db", "a system file"), ("a\x1b[2Jb.txt", "not an image")])


def test_status_of_a_batch_has_the_keys_of_the_contract_and_its_states_add_up(batch: int) -> None:
    (status,) = lines("status", str(batch), "--json")
    keys = "batch state slides fields waiting screened failed cancelled fields_per_second seconds_left"
    assert list(status)[:10] == keys.split()
    assert status["state"] == "done"
    assert status["fields"] == 5 == sum(status[state] for state in ("waiting", "screened", "failed", "cancelled"))
    assert (status["failed"], status["model"], status["synthetic"]) == (1, "ab" * 32, False)


def test_last_is_the_newest_batch(home: Path) -> None:
    make_batch({"A": ["f1.png"]})
    newest = make_batch({"B": ["f1.png"]})
    assert lines("status", "last", "--json")[0]["batch"] == newest
    assert [status["batch"] for status in lines("status", "--json")] == [newest, newest - 1]


def test_last_without_any_batch_says_what_to_do(home: Path) -> None:
    result = run("results", "last", code=1)
    assert result.stderr == "There is no batch yet. Start one with `allq screen PATH`.\n"
    assert run("status").stdout == ""


@pytest.mark.parametrize("command", ["status", "results", "failures", "retry", "cancel"])
def test_a_batch_that_does_not_exist_is_one_sentence(batch: int, command: str) -> None:
    result = run(command, "999", code=1)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "999" in result.stderr
    assert (
        run(command, "x7", code=2).stderr
        == "'x7' is no batch: give its number, as `allq status` lists it, or `last`.\n"
    )


def test_status_shows_a_batch_in_words(batch: int) -> None:
    text = run("status", str(batch)).stdout
    assert "5: 4 screened, 1 failed" in text
    assert "lite0-three-views (abababababab)" in text
    assert "2 entries" in text


def test_an_interrupted_batch_has_no_time_left(home: Path) -> None:
    batch = str(make_batch({"A": ["f1.png"], "B": ["f1.png"]}, chunk_size=1, screened=1))
    (status,) = lines("status", batch, "--json")
    assert (status["state"], status["waiting"]) == ("running", 1)
    assert (status["fields_per_second"], status["seconds_left"]) == (None, None)
    text = run("status", batch).stdout
    assert "no worker has any of it in hand" in text
    assert "left" not in text


def test_watching_a_batch_that_has_ended_with_failures_ends_at_once_with_3(batch: int) -> None:
    result = run("status", "--watch", code=3)
    assert "4 screened, 1 failed of 5" in result.stdout
    assert json.loads(run("status", "last", "--watch", "--json", code=3).stdout)["state"] == "done"


def test_cancelling_a_batch_that_has_ended_says_that_there_is_nothing_to_do(batch: int) -> None:
    result = run("cancel", str(batch), "--json")
    assert json.loads(result.stdout) == {"batch": batch, "fields": 0}
    assert result.stderr == f"No field of batch {batch} is waiting (it is done): nothing to cancel.\n"


def test_retrying_where_nothing_has_failed_says_that_there_is_nothing_to_do(home: Path) -> None:
    batch = make_batch({"A": ["f1.png"]})
    result = run("retry", str(batch), "--json")
    assert json.loads(result.stdout) == {"batch": batch, "fields": 0, "broker_problem": None}
    assert result.stderr == f"Batch {batch} has no failed field: nothing to retry.\n"


def test_cancelling_and_retrying_say_how_many_and_who_will_do_it(batch: int) -> None:
    result = run("retry", str(batch))
    assert result.stderr.splitlines() == [
        f"1 field of batch {batch} waits again.",
        "The work waits for a worker: `allq worker` does it.",
    ]
    assert run("cancel", str(batch)).stderr == f"1 field of batch {batch} cancelled.\n"
    assert lines("status", str(batch), "--json")[0]["cancelled"] == 1
    for command in ("failures", "retry"):
        assert f"Batch {batch} has no failed field, and 1 field was cancelled" in run(command, str(batch)).stderr


def test_a_batch_that_was_still_being_registered_can_be_cancelled(home: Path) -> None:
    batch = make_batch({"A": ["f1.png"]}, finish=False)
    assert run("cancel", str(batch)).stderr == f"Batch {batch} cancelled; no field of it was waiting.\n"
    assert lines("status", str(batch), "--json")[0]["state"] == "cancelled"


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A folder that can be submitted."""
    (tmp_path / "my slides" / "S-1").mkdir(parents=True)
    (tmp_path / "my slides" / "S-1" / "f1.jpg").touch()
    return tmp_path / "my slides"


def test_work_submitted_before_any_worker_runs_waits_and_that_is_no_problem(home: Path, slides: Path) -> None:
    result = run("submit", str(slides), "--json")
    done = json.loads(result.stdout)
    assert (done["fields"], done["published"], done["broker_problem"]) == (1, False, None)
    assert f"The work waits for a worker: `allq worker`, or `allq screen '{slides}'`, does it.\n" in result.stderr


def test_a_folder_that_may_not_be_read_ends_submit_and_watching_with_3_and_is_told(
    home: Path, slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slides / "T").mkdir()
    opened = os.open

    def refusing(path: Any, *arguments: Any, **more: Any) -> int:
        if os.fspath(path) == str(slides / "T"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refusing)
    result = run("submit", str(slides), "--json", code=3)
    assert (json.loads(result.stdout)["skipped"], json.loads(result.stdout)["unread"]) == (1, 1)
    assert "1 folder or file could not be read: slides may be missing." in result.stderr
    assert "unread     1 folder or file could not be read" in run("status", "last").stdout
    assert lines("status", "last", "--json")[0]["unread"] == 1
    run("cancel", "last")
    assert "slides may be missing" in run("status", "last", "--watch", code=3).stderr


def test_a_screening_that_left_out_what_it_could_not_read_ends_with_3(home: Path) -> None:
    number = make_batch({"B": ["f1.png"]}, skipped=[("T", "the folder can't be read: Permission denied")])
    with closing(Database.open(load())) as database:
        with database.read() as connection:
            status, unread = reads.batch_status(connection, number), reads.unread(connection, number)
        submitted = Submission(
            batch=number,
            resumed=False,
            added=1,
            slides=1,
            fields=1,
            skipped=1,
            unread=unread,
            bytes=9,
            published=True,
            broker_problem=None,
        )
        done = Screened(status=status, submission=submitted, model=artefact.find(load()), interrupted=False)
        assert report(database, done, path="/slides", json=True) == 3
        assert (
            report(
                database,
                dataclasses.replace(done, submission=dataclasses.replace(submitted, unread=0)),
                path="/slides",
                json=True,
            )
            == 0
        )


def test_a_broker_that_should_be_there_and_is_not_is_a_problem_and_the_batch_is_kept(
    home: Path, slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLQ_BROKER_URL", "redis://:geheim@localhost:1/0")
    result = run("submit", str(slides), "--json")
    done = json.loads(result.stdout)
    assert not done["published"]
    assert done["broker_problem"].startswith("The broker at redis://localhost:1/0 does not answer")
    assert "geheim" not in result.output
    assert f"{done['broker_problem']} Workers publish the work once it answers: start it, or correct" in result.stderr


@pytest.mark.parametrize("level", list(Level))
def test_json_lines_of_results_have_exactly_the_keys_of_the_contract(batch: int, level: Level) -> None:
    for row in lines("results", str(batch), "--level", level.value, "--format", "jsonl"):
        assert tuple(row) == level.keys


def test_results_per_slide_and_per_field_agree(batch: int) -> None:
    slides = {row["slide"]: row for row in lines("results", str(batch), "--json")}
    fields = lines("results", str(batch), "--level", "field", "--json")
    assert [row["field"] for row in fields][:3] == ["A-2024-001/f1.png", "A-2024-001/f2.png", "A-2024-001/bad.png"]
    assert slides["A-2024-001"]["call"] == "all-suspected"
    assert slides["A-2024-001"]["failed"] == 1 == sum(row["state"] == "failed" for row in fields)
    assert slides["A-2024-001"]["leukocytes"] == sum(
        row["leukocytes"] for row in fields if row["slide"] == "A-2024-001" and row["state"] == "screened"
    )
    failed = next(row for row in fields if row["state"] == "failed")
    assert (failed["failure"], failed["call"], failed["probabilities"]) == ("corrupt", None, None)
    assert fields[0]["probabilities"] == {"benign": 0.01, "early-pre-b": 0.005, "pre-b": 0.98, "pro-b": 0.005}


def test_without_a_call_there_is_no_confidence_in_any_output(home: Path) -> None:
    batch = str(make_batch({"B": ["f1.png", "blank.png"], "C": ["blank.png"]}))
    slides = {row["slide"]: row["confidence"] for row in lines("results", batch, "--json")}
    assert slides == {"B": 0.97, "C": None}
    fields = {row["field"]: row["confidence"] for row in lines("results", batch, "--level", "field", "--json")}
    assert fields == {"B/f1.png": 0.98, "B/blank.png": None, "C/blank.png": None}
    found = {row["field"]: row["confidence"] for row in lines("query", "flagged_fields", batch, "--json")}
    assert found == {"B/blank.png": None, "C/blank.png": None}
    rows = csv.DictReader(io.StringIO(run("results", batch, "--format", "csv").stdout))
    assert [row["confidence"] for row in rows] == ["0.97", ""]


def test_a_slide_without_suspects_is_never_called_negative(batch: int) -> None:
    text = run("results", str(batch)).stdout
    assert "0 suspect among 20 leukocytes (95 % upper bound 7.2 %)" in text
    assert "negative" not in text.lower()


def test_a_synthetic_model_is_named_as_such_in_every_output(home: Path, tmp_path: Path) -> None:
    batch = str(make_batch(SLIDES, model=SYNTHETIC))
    words = "trained on synthetic smears only, not for patients"
    assert words in " ".join(run("status", batch).stdout.split())
    assert words in run("results", batch).stderr
    assert lines("status", batch, "--json")[0]["synthetic"] is True
    assert all(row["synthetic"] for row in lines("results", batch, "--json"))
    assert all(row["synthetic"] for row in lines("results", batch, "--json", "--level", "field"))
    assert "synthetic" in run("results", batch, "--format", "csv").stdout.splitlines()[0]


def test_failures_are_listed_each_with_its_reason(batch: int) -> None:
    assert lines("failures", str(batch), "--json") == [
        {
            "batch": batch,
            "slide": "A-2024-001",
            "field": "A-2024-001/bad.png",
            "failure": "corrupt",
            "reason": "The image is cut short: 3 of 9 kB are there. Copy it again.",
        }
    ]
    assert "A-2024-001/bad.png  The image is cut short" in run("failures", str(batch)).stdout


def test_what_was_skipped_is_listed_with_control_characters_escaped(batch: int) -> None:
    text = run("failures", str(batch), "--skipped").stdout
    assert "a\\x1b[2Jb.txt" in text
    assert "a system file" in text


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_the_name_of_the_file_says_the_format(batch: int, tmp_path: Path, name: str) -> None:
    result = run("results", str(batch), "--level", "field", "--out", str(tmp_path / name))
    assert result.stdout == ""
    assert "5 rows written to" in result.stderr
    data = (tmp_path / name).read_bytes()
    if name.endswith("csv"):
        assert len(list(csv.DictReader(io.StringIO(data.decode())))) == 5
    elif name.endswith("jsonl"):
        assert len(data.splitlines()) == 5
    else:
        assert data[:4] == b"PAR1" == data[-4:]


def test_a_file_without_a_telling_name_needs_a_format(batch: int, tmp_path: Path) -> None:
    run("results", str(batch), "--out", str(tmp_path / "out.txt"), code=2)
    run("results", str(batch), "--json", "--format", "csv", code=2)
    run("results", str(batch), "--format", "table", "--out", str(tmp_path / "out.csv"), code=2)
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_is_not_there_is_one_sentence(batch: int, tmp_path: Path) -> None:
    result = run("results", str(batch), "--out", str(tmp_path / "nowhere" / "out.csv"), code=1)
    assert len(result.stderr.splitlines()) == 1
    assert "nowhere" in result.stderr
    assert "name a folder that exists" in result.stderr
    assert ".part" not in result.stderr, "a temporary name says nothing to a person"


def test_a_name_and_a_format_that_contradict_each_other_are_refused(batch: int, tmp_path: Path) -> None:
    for contradiction in (["--format", "jsonl"], ["--json"], ["--format", "parquet"]):
        result = run("results", str(batch), *contradiction, "--out", str(tmp_path / "out.csv"), code=2)
        assert "out.csv says csv" in result.stderr
    run("results", str(batch), "--format", "csv", "--out", str(tmp_path / "out.txt"))
    assert [path.name for path in tmp_path.glob("out*")] == ["out.txt"]


def test_results_of_a_batch_that_goes_on_say_so(home: Path) -> None:
    batch = make_batch(SLIDES, screened=0)
    result = run("results", str(batch))
    assert "has not ended (5 fields wait)" in result.stderr
    assert "waiting" in result.stdout


def test_queries_are_listed_with_what_they_take(home: Path) -> None:
    found = {row["name"]: row for row in lines("query", "--json")}
    assert "worklist" in found
    assert all(row["description"] for row in found.values())
    text = run("query").stdout
    assert all(name in text for name in found)


def test_every_query_runs_and_takes_last_for_a_batch(batch: int) -> None:
    for info in lines("query", "--json"):
        names = [one["name"] for one in info["parameters"] if one["required"]]
        if set(names) <= {"batch"}:
            given = [f"{name}=last" for name in names]
            rows = lines("query", info["name"], *given, "--json")
            csv_rows = list(csv.DictReader(io.StringIO(run("query", info["name"], *given, "--format", "csv").stdout)))
            assert len(rows) == len(csv_rows), info["name"]
            run("query", info["name"], *given)


def test_a_slide_whose_name_is_no_text_is_found_by_its_bytes_and_by_what_is_shown(home: Path) -> None:
    text, _ = storable(os.fsdecode(b"H\xff-1"))
    make_batch({text: ["f1.png"]})
    for given in (os.fsdecode(b"H\xff-1"), text):
        assert [row["field"] for row in lines("query", "slide_findings", given, "--json")] == [f"{text}/f1.png"]


REALISTIC = {
    "2024-11733-B": [*(f"WBC-Malignant-Pre-{number:03}.jpg" for number in range(14)), "bad-014.jpg"],
    "A-2024-11734-C": [*(f"WBC-Malignant-Pre-{number:03}.jpg" for number in range(8)), "blank-008.jpg"],
    "A-2024-11735": ["bad.png"],
}
TABLES = [
    "status",
    "results last",
    "results last --level field",
    "results last --level leukocyte",
    "failures last",
    "failures last --skipped",
    "models list",
    "query",
    *(f"query {info.name}" for info in named.names()),
]


@pytest.mark.parametrize("command", TABLES)
def test_every_table_is_a_table_on_80_columns_with_the_names_of_slides_whole(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    make_batch(REALISTIC, model=SYNTHETIC, skipped=[("2024-11733-B/protocol of the second aspirate.docx", "no image")])
    waits = make_batch({"2024-11736": ["f1.jpg"]}, screened=0)
    with_chunk_in_hand(waits)
    given = {"batch": f"batch={waits - 1}", "slide": "slide=2024-11733-B"}
    name = command.rpartition(" ")[2]
    info = next((info for info in named.names() if info.name == name), None)
    values = [given[one.name] for one in info.parameters if one.required] if info else []
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(*command.replace("last", str(waits - 1)).split(), *values).stdout.splitlines()
    assert max(map(len, shown)) <= 80
    assert set(next(line for line in shown if "─" in line)) == {"─"}, "no rows turned on their side"
    if "2024-11733" in "".join(shown):
        assert any("2024-11733-B" in line for line in shown)


def test_a_synthetic_model_is_marked_in_a_query_however_narrow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batch(REALISTIC, model=SYNTHETIC)
    monkeypatch.setenv("COLUMNS", "80")
    result = run("query", "worklist")
    assert "yes" in result.stdout
    assert "trained on synthetic smears only" in result.stderr
    assert "Not shown for want of width: " in result.stderr


def test_an_unknown_query_is_wrong_usage_and_the_nearest_one_is_named(home: Path) -> None:
    result = run("query", "work_list", code=2)
    assert result.stderr.startswith(
        "There is no query named 'work_list'. Did you mean worklist? There are: failure_kinds"
    )
    assert result.stdout == ""


def test_upgrading_twice_does_nothing_the_second_time(home: Path) -> None:
    assert [lines("db", "upgrade", "--json")[0]["upgraded"] for _ in range(2)] == [True, False]
