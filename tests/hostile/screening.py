"""Screens a folder as a worker does, in this process: submits it, lets its fates come, and says how each field ended.

    python -m tests.hostile.screening HOME FOLDER

Prints one JSON object: fields by path (hex of its bytes), with the SHA-256 of the bytes that were read; what was left
out, how chunks ended at which attempt, and the most memory in use, in bytes, when the model had screened its first
field and at the end.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from db.database import Database
from tests.databases import settings_for
from tests.hostile.places import spoil
from tests.screening import submit_synthetic
from worker.station import Station

_PENDING = "SELECT id FROM chunk WHERE state = 'pending' ORDER BY id"
_FIELDS = """
    SELECT f.path, f.raw_path, f.state, f.failure, f.failure_sentence, n.width, n.height,
           coalesce(n.sha256, f.sha256) AS sha256
    FROM field f LEFT JOIN finding n ON n.id = f.finding_id
"""


def main(home: Path, folder: Path) -> dict[str, Any]:
    """Screen `folder` and return what `__doc__` says."""
    settings = settings_for(home)
    home.mkdir(parents=True)
    database = Database.open(settings)
    warm = folder.with_name("warm")
    submit_synthetic(database, settings, warm)
    station = Station(settings)
    _screen(database, station)
    before = _most_memory()
    submission = submit_synthetic(database, settings, folder)
    spoil(folder)
    _screen(database, station)
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            _FIELDS + "JOIN slide s ON s.id = f.slide_id WHERE s.batch_id = ?", (submission.batch,)
        ).all()
        attempts = connection.exec_driver_sql(
            "SELECT DISTINCT state, attempt FROM chunk WHERE batch_id = ?", (submission.batch,)
        ).all()
        skipped = dict(map(tuple, connection.exec_driver_sql("SELECT path, reason FROM skipped")))
    found = {
        "fields": {
            (row.raw_path if row.raw_path is not None else os.fsencode(row.path)).hex(): [
                "screened" if row.state == "screened" else row.failure or row.state,
                row.failure_sentence,
                row.width,
                row.height,
                None if row.sha256 is None else row.sha256.hex(),
            ]
            for row in rows
        },
        "skipped": skipped,
        "attempts": [tuple(row) for row in attempts],
        "memory": [before, _most_memory()],
    }
    station.close()
    database.close()
    return found


def _screen(database: Database, station: Station) -> None:
    """Screen all that is pending. None may be given up and come again."""
    with database.read() as connection:
        pending = list(connection.exec_driver_sql(_PENDING).scalars())
    for chunk in pending:
        assert station.screen_chunk(chunk) is not None
    with database.read() as connection:
        assert not connection.exec_driver_sql(_PENDING).scalars().all()


def _most_memory() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used << 10


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
