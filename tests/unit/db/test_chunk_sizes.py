"""What docs/deployment.md says of the chunks of a submission."""

import re
from pathlib import Path

from db.batches import chunk_sizes

PAGE = Path(__file__).parents[3] / "docs" / "deployment.md"
_ROW = re.compile(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", re.MULTILINE)


def test_a_submission_is_cut_into_as_many_chunks_as_the_page_says():
    rows = [[int(number.replace(",", "")) for number in row] for row in _ROW.findall(PAGE.read_text())]
    assert rows
    for fields, full, small in rows:
        assert [len(chunk_sizes(fields, most, last=True)) for most in (256, 64)] == [full, small], fields
