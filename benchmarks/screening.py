"""The whole path against the bare loop, a plain script, the paper's way, one process, and itself on a known folder."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from allq.text import plural
from benchmarks import measuring
from benchmarks.measuring import Bench, Figure

BARS = ("paper", "plain", "bare", "two", "resubmit")
_HERE = Path(__file__).parent


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """The ratios that are `wanted`.

    What is compared with the bare loop and with one process is measured in turn and compared pass by pass: the
    machine's own speed changes over the minutes.
    """
    cores = len(os.sched_getaffinity(0))
    processes = (cores, 1) if "two" in wanted else (cores,)
    rates: dict[tuple[str, int], list[float]] = {}
    again: dict[str, list[float]] = {}
    bare: dict[int, list[float]] = {}
    for number in range(bench.scale.repeat):
        for count in processes if {"bare", "two"} & set(wanted) else ():
            measuring.say(f"bare loop, {_processes(count)}, pass {number + 1} of {bench.scale.repeat}")
            bare.setdefault(count, []).extend(_rates_of_bare(bench, count))
        for name, server in bench.servers.items():
            for count in processes:
                measuring.say(f"whole path, {name}, {_processes(count)}, pass {number + 1} of {bench.scale.repeat}")
                first, second = _whole_path(bench, server, count, again="resubmit" in wanted and count == cores)
                rates.setdefault((name, count), []).append(first)
                if second:
                    again.setdefault(name, []).append(second / first)
    paper = _rates_of_paper(bench) if "paper" in wanted else []
    plain = _rates_of_plain(bench) if "plain" in wanted else []
    for name in bench.servers:
        path = rates[name, cores]
        for bar, others in (("paper", paper), ("plain", plain)):
            if others:
                value = statistics.median(path) / statistics.median(others)
                yield Figure(bar=bar, database=name, value=value, note=f"{_rate(path)} against {_rate(others)}")
        if "bare" in wanted:
            note = f"{_rate(path)} against {_rate(bare[cores])}"
            yield measuring.figure("bare", _ratios(path, bare[cores]), database=name, note=note)
        if "two" in wanted:
            own = f"the bare loop itself {statistics.median(_ratios(bare[cores], bare[1])):.2f}×"
            note = f"{_processes(cores)}: {_rate(path)}; one: {_rate(rates[name, 1])}; {own}"
            yield measuring.figure("two", _ratios(path, rates[name, 1]), database=name, note=note)
        if again:
            note = f"first {_rate(path)}; nothing is taken for known unread"
            yield measuring.figure("resubmit", again[name], database=name, note=note)


def _processes(count: int) -> str:
    return plural(count, "process", "processes")


def _rate(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.4g} fields/s ({measuring.spread(rates)})"


def _ratios(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(some, others, strict=True)]


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


def _rates_of_bare(bench: Bench, processes: int) -> list[float]:
    options = ["--images", str(bench.scale.fields), "--repeat", "1", "--processes", str(processes)]
    return list(_program(bench, "bare.py", *options, *_model(bench))["fields_per_second"])


def _rates_of_paper(bench: Bench) -> list[float]:
    options = ["--images", str(bench.scale.paper), "--repeat", str(bench.scale.repeat)]
    return list(_program(bench, "paper.py", *options)["fields_per_second"])


def _rates_of_plain(bench: Bench) -> list[float]:
    options = ["--images", str(bench.scale.plain), "--repeat", str(bench.scale.repeat), *_model(bench)]
    return list(_program(bench, "plain.py", *options)["fields_per_second"])


def _model(bench: Bench) -> list[str]:
    return ["--model", bench.model] if bench.model else []


def _program(bench: Bench, name: str, *options: str) -> Any:
    """Run a benchmark as a program of its own, with its own threads, and return what it prints."""
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    done = subprocess.run(
        [sys.executable, str(_HERE / name), str(bench.folder), "--json", *options],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **measuring.with_source(), **threads},
        cwd=bench.place,
    )
    return json.loads(done.stdout)
