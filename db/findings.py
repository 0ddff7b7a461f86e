"""Findings: one per content and model, written once and then only linked to; and twins, the same bytes elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from json.encoder import encode_basestring as _text
from typing import Any, NamedTuple

from sqlalchemy import Connection

from db import bulk
from db.lines import blob, canonical, digest, instant
from db.records import NewFinding
from db.statements import flags_text, on_sqlite, plain_rows, run

COLUMNS: Mapping[str, str] = {
    "sha256": "bytea",
    "model_id": "bigint",
    "call": "text",
    "confidence": "double precision",
    "p_benign": "double precision",
    "p_early_pre_b": "double precision",
    "p_pre_b": "double precision",
    "p_pro_b": "double precision",
    "suspicion": "double precision",
    "novelty": "double precision",
    "flags": "text",
    "leukocytes": "integer",
    "suspects": "integer",
    "width": "integer",
    "height": "integer",
    "quality": "text",
    "engine": "text",
    "code_version": "text",
    "recorded_at": "timestamptz",
}
"""Every column of a finding but its number, with PostgreSQL's type, in the order of `row_of`; last, when it came."""

_GIVEN: Mapping[str, str] = {name: kind for name, kind in COLUMNS.items() if name != "recorded_at"}


def existing(conn: Connection, shas: Collection[bytes], model_id: str) -> set[bytes]:
    """Which of these contents the model has already judged; none where the database doesn't know it."""
    if not shas:
        return set()
    rows = run(
        conn,
        """
        SELECT sha256 FROM finding
        WHERE model_id = (SELECT id FROM model WHERE sha256 = :model) AND sha256 IN :shas
        """,
        {"model": model_id, "shas": sorted(shas)},
        lists=("shas",),
    )
    return {bytes(row[0]) for row in rows}


def row_of(finding: NewFinding, model_key: int) -> tuple[Any, ...]:
    """A finding's columns but `recorded_at`, numbers as plain Python's (a network's come as numpy's; -0.0 as 0.0)."""
    if len(finding.sha256) != hashlib.sha256().digest_size:
        raise ValueError("A finding's sha256 is 32 bytes")
    p = finding.probabilities
    shares = (finding.confidence, p[0], p[1], p[2], p[3], finding.suspicion, finding.novelty)
    numbers = [float(share) + 0.0 for share in shares]
    canonical(numbers)  # refuses NaN and infinities
    return (
        finding.sha256,
        model_key,
        finding.call,
        *numbers,
        flags_text(finding.flags),
        int(finding.leukocytes),
        int(finding.suspects),
        int(finding.width),
        int(finding.height),
        canonical(finding.quality),
        finding.engine,
        finding.code_version,
    )


def content_line(field_id: int, finding_id: int, row: Sequence[Any], model_id: str, leukocyte_data: bytes) -> str:
    """What the ledger's digest covers of a field and the finding made for it: every column, as canonical JSON.

    This and the lines below are put together by hand, several times as fast as `canonical` gives them: there are
    millions. Of values that no row of ours has they are no JSON, or TypeError is raised.
    """
    sha256, _, call, confidence, benign, early, pre, pro, suspicion, novelty, *others = row
    flags, leukocytes, suspects, width, height, quality, engine, code, at = others
    return (
        f'{{"call":{"null" if call is None else _text(call)},"code_version":{_text(code)},'
        f'"confidence":{confidence!r},"engine":{_text(engine)},"field":{field_id!r},'
        f'"finding":{finding_id!r},"flags":{_text(flags)},"height":{height!r},'
        f'"leukocyte_data":"{hashlib.sha256(leukocyte_data).hexdigest()}","leukocytes":{leukocytes!r},'
        f'"model_id":{_text(model_id)},"novelty":{novelty!r},"p_benign":{benign!r},"p_early_pre_b":{early!r},'
        f'"p_pre_b":{pre!r},"p_pro_b":{pro!r},"quality":{_text(quality)},"recorded_at":{_text(instant(at))},'
        f'"sha256":"{bytes(sha256).hex()}","suspects":{suspects!r},"suspicion":{suspicion!r},"width":{width!r}}}'
    )


def link_line(field_id: int, finding_id: int, sha256: bytes) -> str:
    """The same for a field that was linked to a finding whose columns an earlier event covers."""
    return f'{{"field":{field_id!r},"finding":{finding_id!r},"linked":true,"sha256":"{sha256.hex()}"}}'


def place_line(field_id: int, slide_id: int, path: str) -> str:
    """What the ledger's digest of places covers of a screened field: whose slide's it is, and which file."""
    return f'{{"field":{field_id!r},"path":{_text(path)},"slide":{slide_id!r}}}'


def failure_line(field_id: int, slide_id: int, path: str, sentence: str) -> str:
    """The same of a field that failed, with the reason in words."""
    return f'{{"field":{field_id!r},"path":{_text(path)},"sentence":{_text(sentence)},"slide":{slide_id!r}}}'


def failure_digest(field_id: int, slide_id: int, path: str, sentence: str) -> str:
    """The digest that the ledger has of that line."""
    return digest([failure_line(field_id, slide_id, path, sentence)])


def write_missing(
    conn: Connection, rows: Mapping[bytes, tuple[Any, ...]], leukocytes: Mapping[bytes, tuple[int, bytes]]
) -> dict[bytes, tuple[int, Any]]:
    """Append the findings (by SHA-256) whose content and model have none yet; return the numbers of those appended, and
    when they were: PostgreSQL sets that.

    `leukocytes` gives each one's count and packed data. In the order of the SHA-256, so that two workers with the same
    files wait for each other rather than for ever.
    """
    ordered = [rows[sha] for sha in sorted(rows)]
    if not ordered:
        return {}
    if on_sqlite(conn):  # we are the only writer, and a trigger against REPLACE forbids ON CONFLICT
        known = run(
            conn,
            "SELECT sha256 FROM finding WHERE model_id = :model AND sha256 IN :shas",
            {"model": ordered[0][1], "shas": sorted(rows)},
            lists=("shas",),
        ).scalars()
        missing = rows.keys() - {bytes(sha) for sha in known}
        ordered = [row for row in ordered if row[0] in missing]
        ids = bulk.allocate(conn, "finding", len(ordered))
        now = run(conn, "SELECT {now}").scalar_one()
        new = list(zip(ids, ordered, strict=True))
        bulk.insert(conn, "finding", ("id", *COLUMNS), [(key, *row, now) for key, row in new])
        written = {row[0]: (key, now) for key, row in new}
    else:
        told = ("id", "sha256", "recorded_at")
        new_rows = bulk.insert_missing(conn, "finding", _GIVEN, ordered, order="sha256", told=told)
        written = {bytes(sha): (key, at) for key, sha, at in new_rows}
    bulk.insert(
        conn,
        "finding_leukocytes",
        ("finding_id", "count", "data"),
        [(key, *leukocytes[sha]) for sha, (key, _) in written.items()],
    )
    return written


def same_content(conn: Connection, shas: Collection[bytes], *, hold: bool) -> list[tuple[int, bytes, int]]:
    """Findings of any model about these bytes: (number, SHA-256, model's key).

    `hold` keeps others that link to the same findings waiting, so that neither misses the other as a twin.
    """
    if not shas:
        return []
    lock = "{lock}" if hold else ""
    statement = f"SELECT id, sha256, model_id FROM finding WHERE sha256 IN :shas ORDER BY sha256, id {lock}"
    rows = run(conn, statement, {"shas": sorted(shas)}, lists=("shas",))
    return [(finding_id, bytes(sha), model_key) for finding_id, sha, model_key in rows]


def folder_of(root: str, raw_root: bytes | None, path: str, raw_path: bytes | None) -> bytes:
    """Where a field lies: its slide's absolute folder, by which slides are told apart when bytes are compared.

    Not by the slide's name: a folder screened alone and as a part of its parent goes by two names, and two slides may
    have one.
    """
    absolute = (bytes(raw_root) if raw_root is not None else root.encode()).rstrip(b"/")
    relative = bytes(raw_path) if raw_path is not None else path.encode()
    return (absolute + b"/" + relative).rpartition(b"/")[0]


def one_field_each(conn: Connection, finding_ids: Collection[int]) -> dict[int, tuple[bool, bytes]]:
    """For each finding any one field that shows it: (its duplicate mark, its folder).

    One is enough: all fields of one content are marked, or all lie in one folder.
    """
    if not finding_ids:
        return {}
    rows = run(
        conn,
        """
        SELECT i.id, f.duplicate, b.root, b.raw_root, f.path, f.raw_path
        FROM finding i
        JOIN field f ON f.id = (SELECT x.id FROM field x WHERE x.finding_id = i.id LIMIT 1)
        JOIN slide s ON s.id = f.slide_id
        JOIN batch b ON b.id = s.batch_id
        WHERE i.id IN :ids
        """,
        {"ids": sorted(finding_ids)},
        lists=("ids",),
    )
    return {finding_id: (bool(duplicate), folder_of(*place)) for finding_id, duplicate, *place in rows}


def mark_duplicates(conn: Connection, finding_ids: Collection[int]) -> list[tuple[int, int]]:
    """Mark every field that shows these findings as having a twin; return (field, slide) of those newly marked."""
    if not finding_ids:
        return []
    rows = run(
        conn,
        """
        UPDATE field SET duplicate = true WHERE finding_id IN :ids AND finding_id IS NOT NULL AND NOT duplicate
        RETURNING id, slide_id
        """,
        {"ids": sorted(finding_ids)},
        lists=("ids",),
    )
    return [(field_id, slide_id) for field_id, slide_id in rows]


_LINES = f"""
    SELECT f.chunk_id, f.id, f.slide_id, f.path, f.linked, f.finding_id, i.id, m.sha256, l.count, l.data,
           {", ".join("i." + name for name in COLUMNS)}
    FROM field f LEFT JOIN finding i ON i.id = f.finding_id LEFT JOIN model m ON m.id = i.model_id
    LEFT JOIN finding_leukocytes l ON l.finding_id = i.id
    WHERE f.chunk_id IN :chunks AND f.state = 'screened' ORDER BY f.chunk_id, f.id
"""


class Covered(NamedTuple):
    """A line as the rows stand, or why there can be none; `made`: the field's finding was made for it, not linked.

    `place` is the line of `place_line`, empty where the field lies in no slide or has no path.
    """

    chunk_id: int
    field_id: int
    finding_id: int
    made: bool
    place: str
    line: str
    problem: str | None
    gone: bool = False


def covered(conn: Connection, chunk_ids: Sequence[int]) -> Iterator[Covered]:
    """The lines that the events `chunk-recorded` of these chunks have digested, as the rows stand; chunk by chunk."""
    for row in plain_rows(conn, _LINES, {"chunks": chunk_ids}, lists=("chunks",)):
        chunk_id, field_id, slide_id, path, linked, wanted, finding_id, model_id, count, data, *columns = row
        whole = isinstance(slide_id, int) and isinstance(path, str)
        at = (chunk_id, field_id, wanted, not linked, place_line(field_id, slide_id, path) if whole else "")
        gone = [name for name, value in (("finding", finding_id), ("model", model_id)) if value is None]
        if gone:
            yield Covered(*at, "", f"its {gone[0]} is gone", gone[0] == "finding")
            continue
        try:
            sha256 = blob(columns[0])
            if linked:
                yield Covered(*at, link_line(field_id, finding_id, sha256), None)
                continue
            if data is None:
                yield Covered(*at, "", "its leukocytes are gone")
                continue
            text = content_line(field_id, finding_id, columns, model_id, blob(data))
        except (TypeError, ValueError) as error:
            yield Covered(*at, "", f"it holds what allq never writes ({error})")
            continue
        told = columns[_COUNT]
        problem = None if told == count else f"it counts {told} leukocytes, its outlines {count}"
        yield Covered(*at, text, problem)


_COUNT = tuple(COLUMNS).index("leukocytes")


def recomputed_digest(conn: Connection, chunk_id: int) -> str:
    """The digest that the event `chunk-recorded` of this chunk must show, computed from the rows as they stand."""
    return digest(one.line for one in covered(conn, (chunk_id,)))
