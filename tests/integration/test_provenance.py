"""One query answers how a result came about: bytes, model, settings, code, worker, person, decision and why."""

from __future__ import annotations

import hashlib
import json
import socket
from datetime import UTC, datetime
from pathlib import Path

from allq.settings import Settings
from allq.version import __version__
from db import history, named, reads, reviews
from db.database import Database
from imaging.synthetic import write_slides
from models import artefact
from tests import store
from tests.screening import SYNTHETIC_MODEL, submit_synthetic
from worker.station import Station


def test_every_question_about_a_result_is_answered_by_one_query(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    write_slides(tmp_path / "slides", slides=1, fields=4, seed=3)
    (slide,) = (folder.name for folder in (tmp_path / "slides").iterdir() if folder.is_dir())
    before = datetime.now(UTC)
    first = submit_synthetic(
        database, settings.model_copy(update={"operator": "b.submitter@ward"}), tmp_path / "slides"
    )
    screen(database, settings.model_copy(update={"operator": "service@worker-1", "engine": "openvino"}))
    sign(database, slide, "insufficient", "smear to be photographed again")
    answer = provenance(database, slide)

    model = artefact.find(settings, SYNTHETIC_MODEL)
    screened = [row for row in answer if row["state"] == "screened"]
    assert screened
    assert len(answer) == first.fields
    for row in screened:
        assert row["sha256"] == hashlib.sha256((tmp_path / "slides" / str(row["field"])).read_bytes()).hexdigest()
        assert (row["model"], row["model_sha256"]) == (model.name, model.id)
        assert str(row["engine"]).startswith("openvino-cpu-")
        assert row["code_version"] == __version__
        assert json.loads(str(row["settings"]))["version"] == __version__
        assert row["submitted_by"] == "b.submitter@ward"
        assert str(row["computed_by"]).startswith(socket.gethostname() + "/")
        started = json.loads(str(row["worker_started"]))
        assert started["operator"] == "service@worker-1"
        assert started["settings"]["engine"] == "openvino"
        assert started["settings"]["max_pixels"] == settings.max_pixels
        times = [row[name] for name in ("submitted_at", "computed_at", "called_at", "looked_at", "decided_at")]
        assert times == sorted(times)  # type: ignore[type-var]
        assert abs((times[0] - before).total_seconds()) < 60  # type: ignore[operator]
        assert (row["reviewer"], row["decision"]) == ("m.meier@lab", "insufficient")
        assert row["reason"] == "smear to be photographed again"

    # The same bytes once more: nothing is computed, and the answer is still who did compute it.
    submit_synthetic(database, settings.model_copy(update={"operator": "c.other@ward"}), tmp_path / "slides")
    screen(database, settings.model_copy(update={"operator": "service@worker-2"}))
    linked = [row for row in provenance(database, slide) if row["submitted_by"] == "c.other@ward"]
    assert [row["field"] for row in linked] == [row["field"] for row in answer]
    for row, of_old in zip(linked, answer, strict=True):
        if row["state"] == "screened":
            assert [row[name] for name in ("computed_by", "computed_at", "sha256")] == [
                of_old[name] for name in ("computed_by", "computed_at", "sha256")
            ]
        assert row["reviewer"] is None, "nobody has looked at this submission's slide"


def screen(database: Database, settings: Settings) -> None:
    station = Station(settings)
    try:
        for (chunk,) in store.rows(database, "SELECT id FROM chunk WHERE state = 'pending'"):
            assert station.screen_chunk(int(str(chunk))) is not None
    finally:
        station.close()


def sign(database: Database, slide: str, call: str, reason: str) -> None:
    with database.begin() as conn:
        found = reviews.find(conn, slide)
        reviews.look(conn, found, reviewer="m.meier@lab")
    with database.begin() as conn:
        reviews.sign(conn, found, call=call, reason=reason, reviewer="m.meier@lab")


def provenance(database: Database, slide: str) -> list[dict[str, object]]:
    with database.read() as conn:
        columns, rows = named.run(conn, "provenance", {"slide": slide})
        return [dict(zip(columns, row, strict=True)) for row in rows]


FAR_OR_NEAR = (
    ("4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00"),
    ("2026-01-01 00:00:00+00", "2026-01-01 00:00:00.0001+00"),
)
"""Of the first PostgreSQL has no interval, of the second hardly one."""


def test_a_time_that_is_none_keeps_nobody_from_the_record(database: Database) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide("A", 2)])
    store.work(database, chunk_ids)
    store.review(database, "A", "all-suspected", "seen with the eye as well")
    by_hand(database, "UPDATE finding SET recorded_at = 'infinity'", "UPDATE review SET looked_at = 'infinity'")
    with database.read() as conn:
        (shown,) = history.of_slide(conn, "A")
        (decided,) = reviews.find(conn, "A").reviews
    assert [field.computed_at for field in shown.fields] == [None, None]
    assert (decided.looked_at, decided.reason) == (None, "seen with the eye as well")
    assert {(row["computed_at"], row["looked_at"]) for row in provenance(database, "A")} == {("infinity", "infinity")}
    with database.begin() as conn:
        batch, (waiting,) = store.submit(conn, [store.new_slide("B", 2)])
    store.claimed(database, waiting)
    by_hand(
        database,
        f"UPDATE chunk SET started_at = 'infinity', lease_until = 'infinity' WHERE id = {waiting}",
        f"UPDATE batch SET registered_at = 'infinity' WHERE id = {batch}",
    )
    with database.read() as conn:
        columns, rows = named.run(conn, "running", {})
        (running,) = (dict(zip(columns, row, strict=True)) for row in rows)
        found = reads.batch_status(conn, batch)
    assert (running["started_at"], running["lease_ends_at"]) == ("infinity", "infinity")
    assert (found.state, found.waiting, found.started_at) == ("running", 2, None)
    for begin, end in (("infinity", "infinity"), ("-infinity", "infinity"), ("2026-01-01", "infinity"), *FAR_OR_NEAR):
        by_hand(
            database,
            f"UPDATE chunk SET started_at = '{begin}', ended_at = '{end}' WHERE id = {waiting}",
            f"UPDATE batch SET created_at = '{begin}' WHERE id = {batch - 1}",
        )
        with database.read() as conn:
            columns, rows = named.run(conn, "progress", {})
            (shown,) = (row for row in (dict(zip(columns, one, strict=True)) for one in rows) if row["batch"] == batch)
            assert (shown["state"], shown["waiting"], shown["fields_per_second"] or 0) == ("running", 2, 0)
            assert len(list(named.run(conn, "turnaround", {})[1])) == 1


def by_hand(database: Database, *statements: str) -> None:
    """As the database's owner, past the triggers."""
    with database.begin() as conn:
        if database.dialect == "sqlite":
            triggers = conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
            for name in triggers:
                conn.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            conn.exec_driver_sql(statement)
