"""What the call of one slide costs that has very many fields, as a flat folder of an archive has: memory and time.

    python benchmarks/flat.py [--fields 100000]

The slide's rows are made by SQL (`benchmarks/filling.py`) in SQLite, and called by a fork of this process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import filling, measuring


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=100_000, help="of the slide (default: 100000)")
    asked = parser.parse_args(arguments)
    with measuring.apart() as place:
        from db.artefacts import remember_model
        from db.database import Database

        settings = measuring.settings_of(place / "home")
        database = Database.open(settings, upgrade=True)
        with database.begin() as conn:
            remember_model(conn, filling.model())
        with mock.patch.object(filling, "FIELDS_PER_SLIDE", asked.fields):
            filling.fill(database, asked.fields, long=asked.fields)
        database.close()
        fork = os.fork()
        if not fork:
            _call(place / "home")
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])


def _call(home: Path) -> None:
    from db import slidecalls
    from db.database import Database
    from models.artefact import find
    from worker.calling import slide_call_of

    settings = measuring.settings_of(home)
    configuration = find(settings, None).configuration
    database = Database.open(settings)
    with database.read() as conn:
        for _ in slidecalls.field_rows(conn, 1):  # what SQLite keeps of the file is not the call's
            pass
        process = psutil.Process()
        before, began = process.memory_info().rss, time.perf_counter()
        call = slide_call_of(slidecalls.field_rows(conn, 1), configuration)
        seconds = time.perf_counter() - began
    most = measuring.most_resident(process) - before
    print(f"{call.leukocytes:,} leukocytes: {seconds:.1f} s, at most {most / 1e6:.0f} MB more than before", flush=True)


if __name__ == "__main__":
    sys.exit(main())
