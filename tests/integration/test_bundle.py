"""Bundles of a ledger with events and rows that allq never writes: told in a sentence, never a fault of ours."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from allq.errors import LedgerError
from allq.settings import Settings
from db import batches, bundle, checkpoints, events, sealing
from db.database import Database
from tests import store
from tests.integration.test_ledger import changed, cut_back, exported, screen, verify, verify_bundle
from tests.integration.test_provenance import by_hand

NONSENSE = {
    "of no chunk": ("chunk-recorded", "NULL", "{}", None),
    "a second one of a chunk": ("chunk-recorded", "1", "{}", "The findings of chunk 1 are not those of event"),
    "a row that is none": ("slide-reviewed", "NULL", '{"row":"0"}', "that event 10 tells of are not in the bundle"),
    "no object": ("x", "NULL", "7", "is no JSON object"),
    "no JSON": ("x", "NULL", "[", "is not in canonical JSON"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_an_event_without_sense_keeps_nobody_from_a_bundle_and_the_script_names_it(
    database: Database, settings: Settings, tmp_path: Path, what: str
) -> None:
    kind, chunk, body, sentence = NONSENSE[what]
    for name in "AB":
        screen(database, name)
    values = f"min(at), '{kind}', 'x', {chunk}, '{body}'"
    by_hand(database, f"INSERT INTO event (at, kind, actor, chunk_id, body) SELECT {values} FROM event")
    sealing.seal(database, settings)
    with database.read() as conn:
        bundle.export(conn, tmp_path / "all.zip")
    done = verify_bundle(tmp_path / "all.zip")
    assert (done.returncode, "Traceback" in done.stderr) == (0 if sentence is None else 1, False)
    assert sentence is None or sentence in done.stderr, done.stderr


@pytest.mark.parametrize("column", ["review SET reason", "finding SET quality", "event SET body"])
def test_what_is_no_text_is_told_in_a_sentence_and_other_slides_can_be_exported(
    database: Database, settings: Settings, tmp_path: Path, column: str
) -> None:
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL takes no such value")
    for name in "AB":
        screen(database, name)
        store.review(database, name, "insufficient", "smudged")
    sealing.seal(database, settings)
    first = "(SELECT min(id) FROM event WHERE kind = 'slide-reviewed')"
    where = f"id = {first}" if "event" in column else "id = 1"
    for value in ("CAST(X'ff' AS TEXT)", "X'ff'"):
        by_hand(database, f"UPDATE {column} = {value} WHERE {where}")
        with database.read() as conn:
            if value == "X'ff'" and "finding" in column:  # it has no line, and the script says that it does not fit
                bundle.export(conn, tmp_path / "a.zip")
                assert "The findings of chunk 1 are not those of" in verify_bundle(tmp_path / "a.zip").stderr
            else:
                with pytest.raises(LedgerError, match="Run `allq audit verify`"):
                    bundle.export(conn, tmp_path / "a.zip")
            bundle.export(conn, tmp_path / "b.zip", slide="B")
        assert verify_bundle(tmp_path / "b.zip").returncode == 0


CHECKPOINT_COLUMNS = [one for one in checkpoints.COLUMNS if one != "number"]


@pytest.mark.parametrize("column", [f"checkpoint.{one}" for one in CHECKPOINT_COLUMNS] + ["leaf.hash"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_a_leaf_or_a_checkpoint_never_holds_is_told_with_its_number(
    database: Database, settings: Settings, tmp_path: Path, column: str
) -> None:
    """SQLite keeps any value in any column."""
    screen(database, "A")
    sealing.seal(database, settings)
    screen(database, "B")
    table, name = column.split(".")
    row = "seq = 2" if table == "leaf" else "number = 1"
    for value in ("'x'", "CAST(X'ff' AS TEXT)", "X'ff'", "7", "1 << 60"):
        by_hand(database, f"UPDATE {table} SET {name} = {value} WHERE {row}")
        with database.read() as conn:
            try:
                bundle.export(conn, tmp_path / "all.zip")
            except LedgerError as error:
                assert re.search(rf"(?i)\b{table} {row[-1]}\b.*Run `allq audit verify`", str(error)), error
            else:  # it is what there might be, and the script says where that is signed
                assert verify_bundle(tmp_path / "all.zip").returncode == (name != "frontier")
        found = verify(database, settings)
        assert any(str(one).startswith(f"{table} {row[-1]}: ") for one in found.problems), found.problems
        if table == "checkpoint":
            with pytest.raises(LedgerError, match=r"[Cc]heckpoint 1\b"):
                sealing.seal(database, settings)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_gives_up_no_checkpoint_is_told_with_its_number(database: Database, settings: Settings) -> None:
    for name in "ABC":
        screen(database, name)
        sealing.seal(database, settings)
    screen(database, "D")
    remove = ("DELETE FROM checkpoint WHERE number = 3", "DELETE FROM leaf WHERE seq > 11")
    by_hand(database, *remove, "UPDATE checkpoint SET number = 9, given_up = X'ff' WHERE number = 2")
    with pytest.raises(LedgerError, match="Checkpoint 9 holds"):
        sealing.seal(database, settings)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_lines_drawn_together_are_refused(database: Database, settings: Settings, tmp_path: Path) -> None:
    """Their digest is the same, but they would be counted as one row."""
    screen(database, "A")
    sealing.seal(database, settings)
    path = tmp_path / "all.zip"
    with database.read() as conn:
        bundle.export(conn, path)
    with zipfile.ZipFile(path) as whole:
        (row,) = (line for line in whole.read("rows.jsonl").splitlines() if b'"table":"finding"' in line)
    record = json.loads(row)
    drawn = json.dumps({**record, "lines": ["\n".join(record["lines"])]}).encode()
    assert "drawn together" in verify_bundle(changed(path, "rows.jsonl", row, drawn)).stderr


def test_all_that_does_not_fit_in_a_bundle_is_said(database: Database, settings: Settings, tmp_path: Path) -> None:
    for name in "AB":
        screen(database, name)
        store.review(database, name, "insufficient", "smudged")
        sealing.seal(database, settings)
    path = tmp_path / "all.zip"
    with database.read() as conn:
        bundle.export(conn, path)
    with zipfile.ZipFile(path) as whole:
        sealed, told = (whole.read(f"{name}.jsonl").splitlines(True) for name in ("checkpoints", "events"))
    path = changed(path, "rows.jsonl", b"smudged", b"bright!").rename(tmp_path / "rows.zip")
    path = changed(path, "events.jsonl", told[1], b"{}\n").rename(tmp_path / "events.zip")
    path = changed(path, "events.jsonl", b"slide-looked-at", b"slide-locked-at").rename(tmp_path / "more.zip")
    path = changed(path, "checkpoints.jsonl", b"number 1", b"number 7")
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes(sealed[0])
    done = verify_bundle(path, "--origin", "allq-ledger-0", "--checkpoint", str(kept), "--complete")
    assert (done.returncode, done.stdout) == (1, "")
    *said, last = done.stderr.splitlines()
    for sentence in (
        "The signature of checkpoint 7 is not that of its key.",
        "Checkpoint 2 is not chained to the one before.",
        "not allq-ledger-0.",
        "The bundle has not the checkpoint 1 that you have kept.",
        "Line 2 of events.jsonl is none that allq writes",
        f"1 of {len(told)} events of the ledger are not in this bundle.",
    ):
        assert sum(sentence in one for one in said) == 1, done.stderr
    assert sum("is not in the tree of checkpoint 2" in one for one in said) == 2
    assert sum("The row of review is not the one of event" in one for one in said) == 2
    assert last == f"{len(said)} problems: the bundle does not fit."


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_of_each_kind_of_what_does_not_fit_a_hundred_are_said_and_how_many_more(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    with database.begin() as conn:
        for number in range(130):
            events.append(conn, "tested", {"number": number}, actor="tester")
    sealing.seal(database, settings)
    with database.read() as conn:
        bundle.export(conn, tmp_path / "all.zip")
    changed_events = changed(tmp_path / "all.zip", "events.jsonl", b"tester", b"\\u001b[31mtester")
    done = verify_bundle(changed_events)
    assert done.stderr.count("is not in the tree of checkpoint 1.\n") == 100
    assert "And 30 more of these: The event at leaf … is not in the tree of checkpoint …." in done.stderr


@pytest.mark.parametrize("member", ["checkpoints.jsonl", "events.jsonl", "rows.jsonl"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_bundle_that_lacks_a_file_or_has_another_for_it_is_refused_in_a_sentence(
    database: Database, settings: Settings, tmp_path: Path, member: str
) -> None:
    screen(database, "A")
    sealing.seal(database, settings)
    path = tmp_path / "all.zip"
    with database.read() as conn:
        bundle.export(conn, path)
    with zipfile.ZipFile(path) as whole:
        names = [name for name in whole.namelist() if name != member]
        sound = {name: whole.read(name) for name in whole.namelist()}
    lines = [b"null\n", b"[]\n", b"7\n", b"{\n", b"\xff\n", b"[" * 100_000 + b"\n"]
    lines += [json.dumps(dict.fromkeys(json.loads(sound[member].splitlines()[0]))).encode() + b"\n"]
    lines += [b'{"event":"null","leaf":0,"proof":[],"table":"\\u001b[31m","lines":[7]}\n']
    for data in (None, *lines):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as other:
            for name in names:
                other.writestr(name, sound[name])
            if data is not None:
                other.writestr(member, data + sound[member])
        done = verify_bundle(path)
        assert done.returncode == 1, data
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr
        assert member in done.stderr or "table" in str(data), done.stderr
    data = bytearray(path.read_bytes())
    at = data.index(member.encode()) + len(member) + 2
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    assert f"The bundle's {member} can't be read" in verify_bundle(path).stderr


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bundle_that_is_packed_in_another_way_is_refused_in_a_sentence(tmp_path: Path, method: int) -> None:
    """Whole or damaged: what reads it may be a Python without that method, and each has errors of its own."""
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("checkpoints.jsonl", "".join(f"[{number}]\n" for number in range(1_000)))
        packed.write(bundle.SCRIPT, "verify.py")
    whole = path.read_bytes()
    at = whole.index(b"checkpoints.jsonl") + len("checkpoints.jsonl") + 30
    for data in (whole, whole[:at] + bytes(12) + whole[at + 12 :]):
        path.write_bytes(data)
        done = verify_bundle(path)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "The bundle's checkpoints.jsonl can't be read" in done.stderr, done.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nothing_to_compare_with_is_no_comparison(database: Database, settings: Settings, tmp_path: Path) -> None:
    path = exported(database, settings, tmp_path).path
    empty, torn = tmp_path / "empty.jsonl", tmp_path / "torn.jsonl"
    empty.write_bytes(b"\n")
    torn.write_bytes(settings.checkpoint_file.read_bytes()[:-9])
    for given, sentence in (
        (("--origin", ""), "not one without a name"),
        (("--checkpoint", ""), "is no file of checkpoints"),
        (("--checkpoint", str(empty)), "has no checkpoint that the bundle could be compared with"),
        (("--checkpoint", str(torn)), "has no checkpoint that the bundle could be compared with"),
    ):
        done = verify_bundle(path, *given)
        assert (done.returncode, done.stdout) == (1, ""), given
        assert sentence in done.stderr
    assert "Compare this origin with" in verify_bundle(path).stdout
    kept = settings.checkpoint_file.read_bytes()
    torn.write_bytes(kept[:-9] + b"\n" + kept + kept[:50])
    done = verify_bundle(path, "--checkpoint", str(torn))
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 2), done.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_kept_checkpoints_that_a_bundle_lawfully_lacks_are_said_and_others_refused(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    """Those that went with a restored backup, and those that came later."""

    def export(name: str) -> Path:
        with database.read() as conn:
            return bundle.export(conn, tmp_path / name).path

    with database.begin() as conn:
        store.submit(conn, [store.new_slide("A", 1)])
    sealing.seal(database, settings)
    first = export("first.zip")
    for name in "BC":
        with database.begin() as conn:
            store.submit(conn, [store.new_slide(name, 1)])
        sealing.seal(database, settings)
    lost = export("lost.zip")
    cut_back(database, 1)
    sealing.go_on_after_restore(database, settings, reason="the disk failed", actor="tester")
    kept = settings.checkpoint_file
    went = "Checkpoints 2 to 3 that you have kept went with a restored backup; checkpoint 4 of the bundle says so."
    later = "Checkpoints 2 to 4 that you have kept came after the bundle, whose newest is 1."
    for path, sentence in ((export("all.zip"), went), (first, later), (lost, "Checkpoint 4 that you have kept came")):
        done = verify_bundle(path, "--checkpoint", str(kept))
        assert (done.returncode, done.stderr) == (0, "")
        assert sentence in done.stdout
    noted = kept.read_bytes().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    for name, data, sentence in (
        (
            "all",
            noted[1].replace(b"settled ", b"settled 1") + noted[2],
            "checkpoint 2 that you have kept is not the one",
        ),
        ("all", noted[2].replace(b"settled ", b"settled 1"), "checkpoint 3 that you have kept is not the one that 4"),
        ("all", noted[0].replace(b"settled ", b"settled 1"), "has not the checkpoint 1 that you have kept"),
        (
            "first",
            noted[1].replace(b"previous ", b"previous 0"),
            "checkpoint 2 that you have kept goes on from another",
        ),
        ("lost", noted[3].replace(b"given-up 3 ", b"given-up 3 0"), "checkpoint 4 that you have kept goes on from"),
        ("first", noted[3].replace(b"allq-ledger-", b"allq-ledger-0"), "checkpoint 4 that you have kept is of allq-"),
    ):
        other.write_bytes(data)
        done = verify_bundle(tmp_path / f"{name}.zip", "--checkpoint", str(other))
        assert (done.returncode, sentence in done.stderr) == (1, True), (sentence, done.stderr)


def test_a_bundle_says_how_many_events_of_it_wait_to_be_sealed_and_which_script_verifies_it(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    screen(database, "A")
    sealing.seal(database, settings)
    screen(database, "B")
    store.review(database, "A", "insufficient", "smudged")
    with database.read() as conn:
        done = bundle.export(conn, tmp_path / "of A.zip", slide="A")
        assert bundle.export(conn, tmp_path / "all.zip").waiting == 6
    assert done.waiting == 2
    sealing.seal(database, settings)
    with database.read() as conn:
        assert bundle.export(conn, tmp_path / "a.zip", slide="A").waiting == 0
    with zipfile.ZipFile(done.path) as whole:
        readme = whole.read("README.txt").decode()
        assert hashlib.sha256(whole.read("verify.py")).hexdigest() == done.script
    assert f"python verify.py 'of A.zip' --origin {done.checkpoint.origin}" in readme
    assert done.script in readme


def introduced(database: Database, worker: str) -> None:
    with database.begin() as conn:
        events.append(conn, "worker-started", {"operator": "tester", "version": "1", "settings": "{}"}, actor=worker)


def test_a_slides_bundle_shows_which_fields_are_its_own_which_are_others_and_how_they_were_computed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    introduced(database, "worker-1")
    introduced(database, "worker-2")
    with database.begin() as conn:
        slides = [store.new_slide("A", 3), store.new_slide("B", 4), store.new_slide("C", 1)]
        batch, chunk_ids = store.submit(conn, slides, chunk_size=4)
    store.work(database, chunk_ids, lambda one: (store.failed if "000" in one.path else store.screened)(one))
    sealing.seal(database, settings)
    with database.read() as conn:
        done = bundle.export(conn, tmp_path / "a.zip", slide="A")
        every = bundle.export(conn, tmp_path / "batch.zip", batch=batch)
        bundle.export(conn, tmp_path / "bare.zip", slide="A", with_places=False)
    assert (done.others, every.others) == (0, 0)  # of chunk 1 one other field, and that failed
    with zipfile.ZipFile(done.path) as whole:
        told = [json.loads(line)["event"] for line in whole.read("events.jsonl").splitlines()]
        records = [json.loads(line) for line in whole.read("places.jsonl").splitlines()]
    assert [json.loads(one)["actor"] for one in told if "worker-started" in one] == ["worker-1"]
    shown = [(one["of"], *map(json.loads, one["lines"])) for one in records]
    (slide,) = {json.loads(one)["slides"][0] for one in told if '"slide-called"' in one}
    (of_places, *screened), (of_shown, failed) = shown
    assert (of_places, of_shown, failed["slide"], failed["path"]) == ("places", "shown", slide, "A/000.png")
    assert [(one["slide"], one["path"]) for one in screened] == [(slide, "A/001.png"), (slide, "A/002.png")]
    for path, sentence in (
        (done.path, "It tells slide and file of 2 screened and 1 failed fields."),
        (every.path, "It tells slide and file of 5 screened and 3 failed fields."),
        (tmp_path / "bare.zip", "It has no places.jsonl"),
    ):
        checked = verify_bundle(path)
        assert (checked.returncode, checked.stderr) == (0, "")
        assert sentence in checked.stdout
    with zipfile.ZipFile(every.path) as whole:
        (names,) = (one for one in whole.read("places.jsonl").splitlines(keepends=True) if b"slide_names" in one)
    for old, new, sentence in (
        (b"A/001.png", b"B/001.png", "The slides and files of chunk 1 are not those of event"),
        (b"it can't be read", b"it was not read", "The failed fields are not those of event"),
        (rb"\"name\":\"B", rb"\"name\":\"D", f"The names of the slides of batch {batch} are not those of event"),
        (b'"of":"places"', b'"of":"plaices"', "Events have no digest of plaices"),
        (b'"of":"places"', b'"of":"plaices"', "are not in the bundle"),
        (
            names,
            names + names.replace(b"slide_names", b"shown") + names,
            "tells of no slide_names, or they came before",
        ),
    ):
        bad = verify_bundle(changed(every.path, "places.jsonl", old, new))
        assert (bad.returncode, sentence in bad.stderr) == (1, True), bad.stderr


def test_a_retried_failure_and_slides_that_came_later_leave_a_bundle_sound(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    with database.begin() as conn:
        batch, chunk_ids = store.submit(conn, [store.new_slide("A", 1), store.new_slide("B", 2)], chunk_size=4)
    store.work(database, chunk_ids, store.failed)
    with database.begin() as conn:
        again = batches.retry(conn, batch, operator="tester", chunk_size=4).chunk_ids
    store.work(database, again)
    with database.begin() as conn:
        batches.reopen(conn, batch, operator="tester")
        batches.register(conn, batch, [store.new_slide("C", 1)], chunk_size=4)
    sealing.seal(database, settings)
    with database.read() as conn:
        assert bundle.export(conn, tmp_path / "a.zip", slide="A").others == 2
        bundle.export(conn, tmp_path / "all.zip")
    for name in ("a", "all"):
        done = verify_bundle(tmp_path / f"{name}.zip")
        assert (done.returncode, done.stderr) == (0, "")
        assert "slide and file of 3 screened and 0 failed fields" in done.stdout
