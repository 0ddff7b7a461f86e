"""The lines of findings, which the ledger has digests of, are canonical JSON, though they are put together by hand."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from db import findings
from db.lines import canonical

NUMBER = st.integers(0, 2**63 - 1)
SHARE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text() | st.sampled_from(['"quoted"', "back\\slash", "\x00\x1f\x7f\u2028", "\udcff", '{"blur":0.5}'])
KINDS = {"bytea": st.binary(min_size=32, max_size=32), "bigint": NUMBER, "double precision": SHARE, "integer": NUMBER}
COLUMNS = {name: KINDS.get(kind, TEXT) for name, kind in findings.COLUMNS.items() if name != "recorded_at"}
ROW = st.tuples(*(COLUMNS | {"call": st.none() | TEXT}).values())


@given(field=NUMBER, finding=NUMBER, row=ROW, model=TEXT, data=st.binary())
def test_a_findings_line_has_every_column_as_canonical_json(
    field: int, finding: int, row: tuple[Any, ...], model: str, data: bytes
) -> None:
    at = datetime(2026, 1, 5, 8, 30, 0, 250_000, UTC)
    named = dict(zip(findings.COLUMNS, (*row, at), strict=True))
    named |= {"field": field, "finding": finding, "model_id": model, "leukocyte_data": hashlib.sha256(data).hexdigest()}
    named |= {"recorded_at": "2026-01-05T08:30:00.250Z", "sha256": named["sha256"].hex()}
    assert findings.content_line(field, finding, (*row, at), model, data) == canonical(named)


@given(field=NUMBER, slide=NUMBER, path=TEXT, sentence=TEXT, sha256=st.binary(min_size=32, max_size=32))
def test_the_other_lines_are_canonical_json(field: int, slide: int, path: str, sentence: str, sha256: bytes) -> None:
    place = {"field": field, "path": path, "slide": slide}
    assert findings.place_line(field, slide, path) == canonical(place)
    link = {"field": field, "finding": slide, "linked": True, "sha256": sha256.hex()}
    assert findings.link_line(field, slide, sha256) == canonical(link)
    failure = canonical({**place, "sentence": sentence}).encode("utf-8", "surrogatepass") + b"\n"
    assert findings.failure_digest(field, slide, path, sentence) == hashlib.sha256(failure).hexdigest()
