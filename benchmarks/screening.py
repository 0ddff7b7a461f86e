"""The whole path against the bare loop, a plain script, the paper's way, one process, and itself on a known folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import measuring
from measuring import Bench, Figure

BARS = ("paper", "plain", "bare", "two", "resubmit")
_HERE = Path(__file__).parent


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """The ratios that are `wanted`."""
    cores = len(os.sched_getaffinity(0))
    rates: dict[tuple[str, int], list[float]] = {}
    again: dict[str, list[float]] = {}
    bare: list[float] = []
    for number in range(bench.scale.repeat):
        if "bare" in wanted:
            measuring.say(f"bare loop, pass {number + 1} of {bench.scale.repeat}")
            options = ["--images", str(bench.scale.fields), "--repeat", "1", "--processes", str(cores)]
            bare += _program(bench, "bare.py", *options, *_model(bench))["fields_per_second"]
        for name, server in bench.servers.items():
            for processes in (cores, 1) if "two" in wanted else (cores,):
                measuring.say(f"whole path, {name}, {processes} processes, pass {number + 1} of {bench.scale.repeat}")
                first, second = _whole_path(bench, server, processes, again="resubmit" in wanted and processes == cores)
                rates.setdefault((name, processes), []).append(first)
                if second:
                    again.setdefault(name, []).append(second / first)
    paper = _rates_of_paper(bench) if "paper" in wanted else []
    plain = _rates_of_plain(bench) if "plain" in wanted else []
    for name in bench.servers:
        path = measuring.figure("", rates[name, cores])
        shown = f"{path.value:,.1f} fields/s ({measuring.spread(path.values)})"
        for bar, others in (("paper", paper), ("plain", plain), ("bare", bare)):
            if others:
                other = measuring.figure("", others)
                note = f"{shown} against {other.value:,.2f} ({measuring.spread(others)})"
                yield Figure(bar=bar, database=name, value=path.value / other.value, note=note)
        if "two" in wanted:
            one = measuring.figure("", rates[name, 1])
            note = f"{cores} processes: {shown}; one: {one.value:,.1f} ({measuring.spread(one.values)})"
            yield Figure(bar="two", database=name, value=path.value / one.value, note=note)
        if again:
            note = f"first {shown}; nothing is taken for known unread"
            yield measuring.figure("resubmit", again[name], database=name, note=note)


def _whole_path(bench: Bench, server: str | None, processes: int, *, again: bool) -> tuple[float, float]:
    """Fields per second of a first submission and, with `again`, of the same folder once more (else 0)."""
    from models.artefact import find
    from worker.submission import SubmitOptions, submit

    with measuring.new_installation(server) as (settings, database):
        options = SubmitOptions(model=find(settings, bench.model), operator="benchmark")
        with measuring.warm_workers(settings, database, options, processes) as worker:
            found = []
            for _ in range(2 if again else 1):
                began = time.perf_counter()
                batch = submit(database, settings, bench.folder, options).batch
                status = measuring.until_ended(database, batch, worker.problem)
                found.append(status.fields / (time.perf_counter() - began))
                if status.failed:
                    raise SystemExit(f"{status.failed} of {status.fields} fields failed: nothing can be compared.")
    return found[0], found[1] if again else 0.0


def _rates_of_paper(bench: Bench) -> list[float]:
    return list(
        _program(bench, "paper.py", "--images", str(bench.scale.paper), "--repeat", str(bench.scale.repeat))[
            "images_per_second"
        ]
    )


def _rates_of_plain(bench: Bench) -> list[float]:
    options = ["--images", str(bench.scale.plain), "--repeat", str(bench.scale.repeat), *_model(bench)]
    return list(_program(bench, "plain.py", *options)["fields_per_second"])


def _model(bench: Bench) -> list[str]:
    return ["--model", bench.model] if bench.model else []


def _program(bench: Bench, name: str, *options: str) -> Any:
    """Run a benchmark as a program of its own, with its own threads, and return what it prints."""
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))} if name != "bare.py" else {}
    done = subprocess.run(
        [sys.executable, str(_HERE / name), str(bench.folder), "--json", *options],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **measuring.with_source(), **threads},
        cwd=bench.place,
    )
    return json.loads(done.stdout)
