"""The writers of results."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allq.classes import CLASSES
from allq.text import printable
from review import export
from review.export import Format
from review.results import Level

FIELD: dict[str, Any] = {
    "batch": 7,
    "slide": "S-2024-001",
    "field": "S-2024-001/f 01.png",
    "sha256": "ab" * 32,
    "state": "screened",
    "call": "pre-b",
    "confidence": 0.98,
    "probabilities": {"benign": 0.01, "early-pre-b": 0.005, "pre-b": 0.98, "pro-b": 0.005},
    "novelty": 0.2,
    "flags": ["novel", "uncertain"],
    "leukocytes": 12,
    "suspects": 11,
    "model": "cd" * 32,
    "failure": None,
}
FAILED: dict[str, Any] = (
    FIELD
    | dict.fromkeys(("sha256", "call", "confidence", "probabilities", "novelty", "leukocytes", "suspects"))
    | {"state": "failed", "flags": [], "failure": "corrupt"}
)
SLIDE: dict[str, Any] = {
    "batch": 7,
    "slide": "S-2024-001",
    "call": "no-suspects-seen",
    "confidence": 0.9,
    "probabilities": dict(zip(CLASSES, (0.9, 0.05, 0.03, 0.02), strict=True)),
    "flags": [],
    "fields": 40,
    "screened": 39,
    "failed": 1,
    "cancelled": 0,
    "leukocytes": 412,
    "suspects": 0,
    "upper_bound": 0.007,
    "model": "cd" * 32,
}
LEUKOCYTE: dict[str, Any] = {
    "batch": 7,
    "slide": "S-2024-001",
    "field": "S-2024-001/f 01.png",
    "index": 0,
    "box": [10, 20, 30, 40],
    "centre": [25.0, 40.5],
    "area": 812.5,
    "suspicion": 0.91,
    "outline": [[10, 20], [40, 20], [25, 60]],
    "measures": {"solidity": 0.93, "circularity": -0.25},
}


def written(rows: list[dict[str, Any]], level: Level, form: Format, **options: bool) -> bytes:
    stream = io.BytesIO()
    assert export.write(rows, stream, level=level, form=form, **options) == len(rows)
    return stream.getvalue()


def read_csv(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_json_lines_have_exactly_the_keys_of_the_contract() -> None:
    for level, row in ((Level.FIELD, FIELD), (Level.SLIDE, SLIDE), (Level.LEUKOCYTE, LEUKOCYTE)):
        assert json.loads(written([row], level, Format.JSONL)) == row
        assert tuple(row) == level.keys


def test_csv_flattens_probabilities_boxes_and_lists() -> None:
    (row,) = read_csv(written([FIELD], Level.FIELD, Format.CSV))
    assert row["p_pre-b"] == "0.98"
    assert row["flags"] == "novel;uncertain"
    (cell,) = read_csv(written([LEUKOCYTE], Level.LEUKOCYTE, Format.CSV))
    assert [cell[f"box_{name}"] for name in ("x", "y", "width", "height")] == ["10", "20", "30", "40"]
    assert cell["outline"] == "10 20;40 20;25 60"
    assert cell["solidity"] == "0.93"


def test_a_failed_field_has_empty_cells_rather_than_words_that_look_like_values() -> None:
    rows = read_csv(written([FIELD, FAILED], Level.FIELD, Format.CSV))
    assert rows[1]["call"] == rows[1]["p_benign"] == rows[1]["leukocytes"] == ""
    assert rows[1]["failure"] == "corrupt"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_a_name_that_a_spreadsheet_would_run_gets_an_apostrophe(start: str) -> None:
    name = f"{start}cmd|' /C calc'!A1.png"
    (row,) = read_csv(written([FIELD | {"field": name}], Level.FIELD, Format.CSV))
    assert row["field"] == "'" + name


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_nor_does_one_run_that_cuts_cells_at_another_separator(separator: str) -> None:
    (row,) = read_csv(written([FIELD | {"field": f"a{separator}=1+1{separator}-2.png"}], Level.FIELD, Format.CSV))
    assert row["field"] == f"a{separator}'=1+1{separator}'-2.png"


def test_numbers_below_zero_are_not_taken_for_formulas() -> None:
    (row,) = read_csv(written([LEUKOCYTE], Level.LEUKOCYTE, Format.CSV))
    assert row["circularity"] == "-0.25"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_every_name_comes_back_from_csv_as_it_was_but_for_the_apostrophe(name: str) -> None:
    (row,) = read_csv(written([FIELD | {"field": name}], Level.FIELD, Format.CSV))
    assert row["field"].replace("'", "") == name.replace("'", "")
    assert not row["field"].startswith(export.SPREADSHEET_RUNS)
    assert not any(part.startswith(export.SPREADSHEET_RUNS) for part in re.split("[;|]", row["field"]))


@given(st.lists(st.text(st.sampled_from("a,\"\r\n;' "), max_size=4), min_size=2, max_size=4))
def test_a_line_of_csv_is_what_the_csv_module_makes_of_its_cells(cells: list[str]) -> None:
    expected = io.StringIO()
    csv.writer(expected).writerow(cells)
    assert export._line(cells) == expected.getvalue().removesuffix("\r\n") + "\n"


def test_on_a_terminal_control_characters_in_names_are_escaped() -> None:
    data = written([FIELD | {"field": "a\x1b[2Jb.png"}], Level.FIELD, Format.CSV, terminal=True)
    assert b"\x1b" not in data
    assert b"a\\x1b[2Jb.png" in data


def test_json_lines_carry_no_control_character_and_the_very_name() -> None:
    name = "a\x1b[2J\x7f\x9b2J\u202e\u2028\U000e0041ü.png"
    data = written([FIELD | {"field": name}], Level.FIELD, Format.JSONL)
    assert json.loads(data)["field"] == name
    text = data.decode().removesuffix("\n")
    assert "ü" in text
    assert printable(text) == text


def test_parquet_gives_back_the_same_rows() -> None:
    import pyarrow.parquet as pq

    for level, rows in ((Level.FIELD, [FIELD, FAILED]), (Level.SLIDE, [SLIDE]), (Level.LEUKOCYTE, [LEUKOCYTE])):
        read = pq.read_table(io.BytesIO(written(rows, level, Format.PARQUET))).to_pylist()
        if level is Level.LEUKOCYTE:
            read = [row | {"measures": dict(row["measures"])} for row in read]
        assert read == rows


def test_parquet_is_written_in_row_groups() -> None:
    import pyarrow.parquet as pq

    size = export.ROW_GROUP[Level.LEUKOCYTE]
    read = pq.ParquetFile(io.BytesIO(written([LEUKOCYTE] * (size + 5), Level.LEUKOCYTE, Format.PARQUET)))
    assert [read.metadata.row_group(index).num_rows for index in range(read.num_row_groups)] == [size, 5]


@pytest.mark.parametrize("form", list(Format))
def test_results_of_a_synthetic_model_say_so_in_every_format(form: Format) -> None:
    assert b"synthetic" in written([SLIDE | {"synthetic": True}], Level.SLIDE, form)


@pytest.mark.parametrize("form", list(Format))
def test_an_empty_batch_makes_a_readable_file(form: Format) -> None:
    data = written([], Level.FIELD, form)
    if form is Format.CSV:
        assert data.startswith(b"batch,slide,field,")
    elif form is Format.PARQUET:
        import pyarrow.parquet as pq

        assert pq.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data == b""


def test_a_file_that_fails_half_way_leaves_neither_a_part_nor_a_changed_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("old")

    def rows() -> Iterator[dict[str, Any]]:
        yield FIELD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), export.new_file(path) as stream:
        export.write(rows(), stream, level=Level.FIELD, form=Format.CSV)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", list(Format))
def test_half_a_million_rows_need_less_than_200_megabytes(form: Format) -> None:
    """In a process of its own, so that only this is measured."""
    script = (
        "import os, re, sys\n"
        "from review import export\n"
        "from review.results import Level\n"
        f"row = {FIELD!r}\n"
        "rows = (dict(row, field=f'slide/{n}.png', sha256=f'{n:064x}', confidence=n / 5e5) for n in range(500_000))\n"
        "with open(os.devnull, 'wb') as stream:\n"
        f"    export.write(rows, stream, level=Level.FIELD, form=export.Format('{form}'))\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200
