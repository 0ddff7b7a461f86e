"""docs/compliance.md names columns, kinds of events and queries that there are."""

from __future__ import annotations

import re
from pathlib import Path

from db import named
from db.tables import Base

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compliance.md").read_text(encoding="utf-8")


def test_every_column_that_the_page_names_exists() -> None:
    tables = {table.name: set(table.columns.keys()) for table in Base.metadata.sorted_tables}
    found = {(table, column) for table, column in re.findall(r"`(\w+)\.(\w+)`", PAGE) if table in tables}
    assert len(found) > 8
    assert {(table, column) for table, column in found if column not in tables[table]} == set()


def test_every_answer_is_a_column_of_the_query() -> None:
    statement = named.sql("provenance").rpartition("-- :slide")[2].partition("\nFROM ")[0]
    columns = set(re.findall(r"(?:AS |\.)(\w+)(?=,|\s*$)", statement, re.MULTILINE))
    table = PAGE.split("| part of the question |")[1].split("\n\n")[0]
    answers = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert len(answers) >= 15
    assert answers <= columns


def test_every_query_and_kind_of_event_that_the_page_names_exists() -> None:
    queries = {info.name for info in named.names()}
    assert set(re.findall(r"allq query (\w+)", PAGE)) <= queries
    code = "".join(path.read_text("utf-8") for room in ("db", "worker") for path in (ROOT / room).glob("*.py"))
    kinds = set(re.findall(r"`((?:worker|chunk|batch|slide|model)-[a-z-]+)`", PAGE))
    assert len(kinds) == 7
    assert not [kind for kind in kinds if f'"{kind}"' not in code]
