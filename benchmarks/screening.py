"""The whole path against the bare loop, plain scripts, the paper's way, one process, and itself on a known folder."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from allq.text import plural
from benchmarks import measuring
from benchmarks.measuring import Bench, Figure

BARS = ("paper", "plain", "bare", "two", "resubmit")
BARE = "bare loop"
PAPER = "the paper's way"
PLAIN = {"without levels": (), "with levels": ("--with-levels",)}
"""Two plain scripts by the networks that they have, and their options."""
_HERE = Path(__file__).parent


class Way(NamedTuple):
    """What is measured: the whole path on the database `name`, or what it is compared with."""

    name: str
    processes: int

    @property
    def said(self) -> str:
        """For people."""
        if self.name == PAPER:
            return self.name
        if self.name in PLAIN:
            return f"a plain script, network {self.name}"
        return f"{'' if self.name == BARE else 'whole path, '}{self.name}, {_processes(self.processes)}"


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """The ratios that are `wanted`.

    All that is compared is measured in turn and compared pass by pass, every other pass the other way round: the
    machine's own speed changes over the minutes.
    """
    most = measuring.processes()
    if most == 1 and "two" in wanted:
        measuring.say("one core or card: there are no two processes to compare with one")
        wanted = [bar for bar in wanted if bar != "two"]
    rates: dict[Way, list[float]] = {}
    again: dict[str, list[float]] = {}
    ways = _ways(bench, wanted, most)
    for number in range(bench.scale.repeat):
        for way in ways if number % 2 == 0 else reversed(ways):
            measuring.say(f"{way.said}, pass {number + 1} of {bench.scale.repeat}")
            if way.name in bench.servers:
                both = "resubmit" in wanted and way.processes == most
                first, second = _whole_path(bench, bench.servers[way.name], way.processes, again=both)
                rates.setdefault(way, []).append(first)
                if both:
                    again.setdefault(way.name, []).append(second / first)
            else:
                rates.setdefault(way, []).append(_rate_of_program(bench, way))
    for name in bench.servers:
        yield from _compared(name, most, rates, again.get(name), wanted)


def _ways(bench: Bench, wanted: Collection[str], most: int) -> list[Way]:
    """What is measured, in the order of a pass."""
    counts = (most, 1) if "two" in wanted else (most,)
    ways = [Way(BARE, count) for count in counts] if {"bare", "two"} & set(wanted) else []
    ways += [Way(PAPER, most)] if "paper" in wanted else []
    ways += [Way(name, count) for name in bench.servers for count in counts]
    ways += [Way(name, most) for name in PLAIN] if "plain" in wanted else []
    return ways


def _compared(
    name: str, most: int, rates: Mapping[Way, list[float]], again: list[float] | None, wanted: Collection[str]
) -> Iterator[Figure]:
    """The ratios of the whole path on one database."""
    path = rates[Way(name, most)]
    if "paper" in wanted:
        paper = rates[Way(PAPER, most)]
        note = f"{_rate(path)} against {_rate(paper)}"
        yield measuring.figure("paper", _ratios(path, paper), database=name, note=note)
    if "plain" in wanted:
        yield _against_plain(name, path, {each: rates[Way(each, most)] for each in PLAIN})
    if "bare" in wanted:
        bare = rates[Way(BARE, most)]
        note = f"{_rate(path)} against {_rate(bare)}"
        yield measuring.figure("bare", _ratios(path, bare), database=name, note=note)
    if "two" in wanted:
        one = rates[Way(name, 1)]
        own = statistics.median(_ratios(rates[Way(BARE, most)], rates[Way(BARE, 1)]))
        note = f"{_processes(most)}: {_rate(path)}; one: {_rate(one)}; the bare loop itself {own:.2f}×"
        yield measuring.figure("two", _ratios(path, one), database=name, note=note)
    if again:
        note = f"first {_rate(path)}; nothing is taken for known unread"
        yield measuring.figure("resubmit", again, database=name, note=note)


def _against_plain(name: str, path: Sequence[float], plain: Mapping[str, Sequence[float]]) -> Figure:
    """The bar goes by the faster of the plain scripts; the note has both."""
    fastest = max(plain, key=lambda each: statistics.median(plain[each]))
    parts = [f"{each} {statistics.median(_ratios(path, found)):.2f}× ({_rate(found)})" for each, found in plain.items()]
    note = f"{_rate(path)} against a network {' and '.join(parts)}; the faster counts"
    return measuring.figure("plain", _ratios(path, plain[fastest]), database=name, note=note)


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


def _rate_of_program(bench: Bench, way: Way) -> float:
    """Fields per second of one pass of what allq is compared with."""
    program, *options = {
        BARE: ("bare.py", "--images", str(bench.scale.fields), "--processes", str(way.processes), *_model(bench)),
        PAPER: ("paper.py", "--images", str(bench.scale.paper)),
        **{
            name: ("plain.py", "--images", str(bench.scale.plain), *flags, *_model(bench))
            for name, flags in PLAIN.items()
        },
    }[way.name]
    rates = _program(bench, program, "--repeat", "1", *options)["fields_per_second"]
    return float(rates[0])


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
