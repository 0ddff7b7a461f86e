"""Recording a chunk: everything that its work has brought, in one transaction, fenced by owner and attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection

from allq import faults
from db import bulk, events, findings, lines, slidecalls
from db.records import CallSlide, Claim, Failure, FieldOutcome, RecordResult
from db.statements import run

_FENCE = """
    SELECT (SELECT id FROM model WHERE sha256 = :model) AS model_key FROM chunk
    WHERE id = :chunk AND owner = :owner AND attempt = :attempt AND state = 'running' {lock}
"""
_DONE = """
    UPDATE chunk SET state = 'done', owner = NULL, lease_until = NULL, ended_at = {now},
           waiting = 0, screened = screened + :screened, failed = failed + :failed, linked = linked + :linked
    WHERE id = :chunk
"""
_WAITING = """
    SELECT f.id, f.slide_id, f.path, f.raw_path FROM field f
    WHERE f.chunk_id = :chunk AND f.state = 'waiting' ORDER BY f.id
"""
_FIELD_COLUMNS = {
    "id": "bigint",
    "state": "text",
    "finding_id": "bigint",
    "linked": "boolean",
    "duplicate": "boolean",
    "sha256": "bytea",
    "failure": "text",
    "failure_sentence": "text",
}


@dataclass(slots=True)
class _Work:
    """What `record` has found out so far. The one mutable thing here; it never leaves this module."""

    claim: Claim
    model_key: int
    outcomes: list[FieldOutcome]
    slide_of: Mapping[int, int]
    path_of: Mapping[int, str]
    folder_of: Mapping[int, bytes]
    finding_of: dict[bytes, int] = field(default_factory=dict)
    written: dict[bytes, int] = field(default_factory=dict)
    rows: dict[bytes, tuple[Any, ...]] = field(default_factory=dict)
    inferred_by: dict[bytes, int] = field(default_factory=dict)
    twins: set[bytes] = field(default_factory=set)
    changes: dict[int, dict[str, int]] = field(default_factory=dict)

    def count(self, slide_id: int, counter: str) -> None:
        changes = self.changes.setdefault(slide_id, {})
        changes[counter] = changes.get(counter, 0) + 1

    def linked(self, outcome: FieldOutcome) -> bool:
        return outcome.sha256 is None or self.inferred_by.get(outcome.sha256) != outcome.field_id


def record(
    conn: Connection, claim: Claim, outcomes: Sequence[FieldOutcome], *, call_slide: CallSlide, worker: str
) -> RecordResult | None:
    """Write the outcomes of all the claim's fields, the calls of slides that end by it, and the ledger's events.

    Returns None, and has written nothing, when the chunk is no longer ours. Findings that another worker has written in
    the meantime are linked to. ValueError when the outcomes are not those of exactly the waiting fields, or link to a
    finding that does not exist: that is a fault of the caller's.
    """
    fence = {"chunk": claim.chunk_id, "owner": claim.owner, "attempt": claim.attempt, "model": claim.model_id}
    held = run(conn, _FENCE, fence).one_or_none()
    if held is None:
        return None
    waiting = run(conn, _WAITING, {"chunk": claim.chunk_id}).all()
    work = _Work(
        claim=claim,
        model_key=held.model_key,
        outcomes=sorted(outcomes, key=lambda outcome: outcome.field_id),
        slide_of={row.id: row.slide_id for row in waiting},
        path_of={row.id: row.path for row in waiting},
        folder_of={row.id: findings.folder_of(claim.root, claim.raw_root, row.path, row.raw_path) for row in waiting},
    )
    if [row.id for row in waiting] != [outcome.field_id for outcome in work.outcomes]:
        raise ValueError(f"The outcomes for chunk {claim.chunk_id} are not those of its waiting fields")
    _write_findings(conn, work)
    faults.reach("record.findings")
    marked = _find_twins(conn, work)
    _write_fields(conn, work, marked)
    faults.reach("record.fields")
    screened = sum(outcome.failure is None for outcome in work.outcomes)
    linked = sum(outcome.failure is None and work.linked(outcome) for outcome in work.outcomes)
    failed = len(work.outcomes) - screened
    counts = {"screened": screened, "failed": failed, "linked": linked}
    run(conn, _DONE, {"chunk": claim.chunk_id, **counts})
    # From here on we hold the slides. As late as can be: another chunk of theirs waits for each question that is still
    # to come. But before the ledger is written, which is sealed the further the less those wait who write it.
    slidecalls.count(conn, work.changes)
    faults.reach("record.counted")
    _tell(conn, work, marked, counts, worker)
    faults.reach("record.told")
    called = _call_slides(conn, work, call_slide, worker)
    return RecordResult(
        screened=screened, failed=failed, inferred=screened - linked, linked=linked, slides_called=called
    )


def _write_findings(conn: Connection, work: _Work) -> None:
    leukocytes: dict[bytes, tuple[int, bytes]] = {}
    for outcome in work.outcomes:
        new = outcome.finding
        if new is None or outcome.failure is not None or new.sha256 in work.rows:
            continue
        if new.sha256 != outcome.sha256:
            raise ValueError(f"The finding for field {outcome.field_id} is about other bytes")
        work.rows[new.sha256] = findings.row_of(new, work.model_key)
        work.inferred_by[new.sha256] = outcome.field_id
        leukocytes[new.sha256] = (int(new.leukocytes), new.leukocyte_data)
    for sha, (finding_id, at) in findings.write_missing(conn, work.rows, leukocytes).items():
        work.written[sha] = finding_id
        work.rows[sha] = (*work.rows[sha], at)
    for sha in work.rows.keys() - work.written.keys():  # someone was first
        del work.inferred_by[sha]
    work.finding_of.update(work.written)


def _find_twins(conn: Connection, work: _Work) -> list[tuple[int, int]]:
    """Link to findings that exist, and find bytes that lie in several slides' folders.

    Returns (field, slide) of fields recorded earlier that are marked by this; marks of our own are in `work.twins`.
    """
    shas = {outcome.sha256 for outcome in work.outcomes if outcome.failure is None and outcome.sha256 is not None}
    others: dict[bytes, list[int]] = {}
    for held in (True, False):
        wanted = shas & work.written.keys() if not held else shas - work.written.keys()
        for finding_id, sha, its_model in findings.same_content(conn, wanted, hold=held):
            if finding_id == work.written.get(sha):
                continue
            others.setdefault(sha, []).append(finding_id)
            if its_model == work.model_key:
                work.finding_of[sha] = finding_id
    folders: dict[bytes, set[bytes]] = {}
    for outcome in work.outcomes:
        if outcome.failure is None:
            if outcome.sha256 not in work.finding_of:
                raise ValueError(f"Field {outcome.field_id} links to a finding that does not exist")
            folders.setdefault(outcome.sha256, set()).add(work.folder_of[outcome.field_id])
    seen = findings.one_field_each(conn, [finding_id for ids in others.values() for finding_id in ids])
    unmarked: list[int] = []
    for sha, here in folders.items():
        elsewhere = [seen[finding_id] for finding_id in others.get(sha, ()) if finding_id in seen]
        if any(duplicate for duplicate, _ in elsewhere) or len(here.union(folder for _, folder in elsewhere)) > 1:
            work.twins.add(sha)
            unmarked += [finding_id for finding_id in others.get(sha, ()) if not seen.get(finding_id, (True, b""))[0]]
    return findings.mark_duplicates(conn, unmarked)


def _write_fields(conn: Connection, work: _Work, marked: Sequence[tuple[int, int]]) -> None:
    rows: list[tuple[Any, ...]] = []
    for outcome in work.outcomes:
        slide_id = work.slide_of[outcome.field_id]
        if outcome.failure is not None:
            failure = outcome.failure
            rows.append(
                (outcome.field_id, "failed", None, False, False, outcome.sha256, failure.code, failure.sentence)
            )
            work.count(slide_id, "failed")
            continue
        assert outcome.sha256 is not None  # noqa: S101 - _find_twins has seen to it
        duplicate = outcome.sha256 in work.twins
        finding_id = work.finding_of[outcome.sha256]
        rows.append((outcome.field_id, "screened", finding_id, work.linked(outcome), duplicate, None, None, None))
        work.count(slide_id, "screened")
        if duplicate:
            work.count(slide_id, "duplicates")
    for _, slide_id in marked:
        work.count(slide_id, "duplicates")
    bulk.update(conn, "field", _FIELD_COLUMNS, rows)


def _tell(
    conn: Connection, work: _Work, marked: Sequence[tuple[int, int]], counts: Mapping[str, int], worker: str
) -> None:
    claim = work.claim
    own = sorted(set(work.slide_of.values()))
    leukocyte_data = {
        outcome.sha256: outcome.finding.leukocyte_data for outcome in work.outcomes if outcome.finding is not None
    }
    told: list[str] = []
    places: list[str] = []
    for outcome in work.outcomes:
        if outcome.failure is not None or outcome.sha256 is None:
            continue
        field_id = outcome.field_id
        places.append(findings.place_line(field_id, work.slide_of[field_id], work.path_of[field_id]))
        sha, finding_id = outcome.sha256, work.finding_of[outcome.sha256]
        if work.linked(outcome):
            told.append(findings.link_line(field_id, finding_id, sha))
        else:
            data = leukocyte_data[sha]
            told.append(findings.content_line(field_id, finding_id, work.rows[sha], claim.model_id, data))
    failures = [_failure_told(work, outcome, outcome.failure) for outcome in work.outcomes if outcome.failure]
    body = {
        "owner": claim.owner,
        "attempt": claim.attempt,
        **counts,
        "failures": failures,
        "findings": lines.digest(told),
        "marks": lines.marks(told),
        "places": lines.digest(places),
        "place_marks": lines.marks(places),
    }
    append = partial(events.append, conn, actor=worker, batch_id=claim.batch_id, chunk_id=claim.chunk_id)
    append("chunk-recorded", body, slide_ids=own)
    ours = [outcome.field_id for outcome in work.outcomes if outcome.failure is None and outcome.sha256 in work.twins]
    if ours:
        slides = {slide for _, slide in marked} | {work.slide_of[field_id] for field_id in ours}
        twins = {"fields": sorted({*ours, *(field_id for field_id, _ in marked)})}
        append("twins-found", twins, slide_ids=slides)


def _failure_told(work: _Work, outcome: FieldOutcome, failure: Failure) -> dict[str, Any]:
    field_id = outcome.field_id
    return {
        "field": field_id,
        "code": failure.code,
        "sha256": outcome.sha256 and outcome.sha256.hex(),
        "shown": findings.failure_digest(field_id, work.slide_of[field_id], work.path_of[field_id], failure.sentence),
    }


def _call_slides(conn: Connection, work: _Work, call_slide: CallSlide, worker: str) -> tuple[int, ...]:
    """Make the calls of slides that ended by this. We hold them: of two chunks of a slide, the later sees all of it."""
    slides = slidecalls.locked(conn, sorted(set(work.slide_of.values())))
    called = slidecalls.to_call(slides)
    for slide_id in called:
        call = call_slide(slidecalls.field_rows(conn, slide_id))
        slidecalls.write(conn, slides[slide_id], call, actor=worker, chunk_id=work.claim.chunk_id)
    return tuple(called)
