"""The database alone: what is measured, and the table that is made of it."""

import pytest

from benchmarks import database_alone, measuring


def test_the_page_has_the_table_where_it_is_written_to():
    page = measuring.PAGE.read_text(encoding="utf-8")
    begin, end = page.index(database_alone.BEGIN), page.index(database_alone.END)
    assert "| registering 100,000 fields, fields/s |" in page[begin:end]


def test_each_state_of_a_database_is_a_column_and_each_figure_a_line(page):
    given = ["--databases", "sqlite", "--fields", "600", "--chunks", "1", "--filled", "400", "--write"]
    assert database_alone.main(given) == 0
    lines = page.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[:2] == ["| | SQLite, empty | SQLite, 400 findings |", "|---|---|---|"]
    assert [line.split(" | ")[0] for line in table[2:5]] == [
        "| registering 600 fields, fields/s",
        "| recording new findings, fields/s",
        "| linking to known findings, fields/s",
    ]
    assert any(line.startswith("| results, slide level (7 slides) | ") and line.count(" ms") == 2 for line in table)
    assert lines[2].startswith("A rate is of one pass, a question's time the median of nine; ")


@pytest.fixture
def page(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"{database_alone.BEGIN}\n{database_alone.END}\n", encoding="utf-8")
    monkeypatch.setattr(measuring, "PAGE", page)
    return page
