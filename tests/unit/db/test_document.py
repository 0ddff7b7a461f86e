"""docs/queries.md and docs/schema.md are what `python -m db.document` writes."""

from pathlib import Path

import pytest

from db import document, named

DOCS = Path(__file__).parents[3] / "docs"
REMEDY = "run `python -m db.document`"


def test_every_named_query_stands_in_the_document():
    text = (DOCS / "queries.md").read_text("utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == [info.name for info in named.names()], REMEDY


@pytest.mark.parametrize("page", ["queries", "schema"])
def test_the_documents_are_up_to_date(page):
    assert (DOCS / f"{page}.md").read_text("utf-8") == getattr(document, page)(), REMEDY


def test_the_example_leaves_no_query_without_a_result():
    text = document.queries()
    for name in (info.name for info in named.names()):
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert sum(line.startswith("| ") for line in section.splitlines()) > 1, name
