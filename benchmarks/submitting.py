"""How fast `submit` registers files: real ones on the disk, walked, looked at, written into the database, published."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Bench, Figure

BARS = ("registering",)
PER_SLIDE = 40


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """Files per second of `submit`, from nothing each time, to a broker that runs; no worker is there."""
    from models.artefact import find
    from worker import embedded
    from worker.submission import SubmitOptions, submit

    folder = bench.place / "many"
    measuring.say(f"writing {bench.scale.files:,} files")
    _write(folder, bench.scale.files)
    for name, server in bench.servers.items():
        rates = []
        for number in range(bench.scale.repeat):
            measuring.say(f"registering {bench.scale.files:,} files, {name}, pass {number + 1} of {bench.scale.repeat}")
            with measuring.new_installation(server) as (settings, database), embedded.in_use(settings):
                options = SubmitOptions(model=find(settings, bench.model), operator="benchmark")
                began = time.perf_counter()
                done = submit(database, settings, folder, options)
                rates.append(done.fields / (time.perf_counter() - began))
                if done.fields != bench.scale.files or not done.published:
                    raise SystemExit(f"{done.fields} of {bench.scale.files} files were registered: {done}")
        yield measuring.figure("registering", rates, database=name, note=f"{bench.scale.files:,} files, published too")
    shutil.rmtree(folder)


def _write(folder: Path, files: int) -> None:
    for slide in range(-(-files // PER_SLIDE)):
        place = folder / f"H26-{slide:06}"
        place.mkdir(parents=True)
        for number in range(min(PER_SLIDE, files - slide * PER_SLIDE)):
            (place / f"field-{number:03}.jpg").write_bytes(b"\xff\xd8\xff\xe0%010d" % (slide * PER_SLIDE + number))
