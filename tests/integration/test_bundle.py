"""Bundles of a ledger with events and rows that allq never writes: told in a sentence, never a fault of ours."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from allq.errors import LedgerError
from allq.settings import Settings
from db import bundle, sealing
from db.database import Database
from tests import store
from tests.integration.test_ledger import changed, screen, verify_bundle
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
