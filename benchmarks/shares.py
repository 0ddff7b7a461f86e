"""Whose the cores are while the whole path runs: processor time by process, against the bare loop's.

    python benchmarks/shares.py FOLDER [--fields 3072] [--repeat 3] [--write]

The whole path as `benchmarks/screening.py` times it, on PostgreSQL, with a process for each core; in turn with the bare
loop over the same files. Processor time is the kernel's, of every process by itself, from the start of `submit` until
the last row is committed; PostgreSQL and Valkey are those of this run. `--write` puts the table into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import bare, measuring
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import cpu_seconds, others_busy

BEGIN: Final = "<!-- Whose the cores are: written by `python benchmarks/shares.py FOLDER --write`. -->"
END: Final = "<!-- End of whose the cores are. -->"

_SCREEN: Final = "the workers' processes that screen"
_DATABASE: Final = "PostgreSQL"
_SELF: Final = "who submits and waits for the end"
_FIRST: Final = "the worker's first process"
_BROKER: Final = "Valkey"
_REST: Final = "the rest of the machine"
_NOBODY: Final = "nobody"
WHO: Final = (_SCREEN, _DATABASE, _SELF, _FIRST, _BROKER, _REST, _NOBODY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One run of the whole path. `seconds` by the clock; `took`: seconds of processor time by whose they were."""

    seconds: float
    took: Mapping[str, float]
    bare_rate: float
    busy: float
    """The share of the processors that others kept busy before it, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The first processes of the servers that are used: others of their kind may run beside them."""

    database: int
    broker: int


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _look(servers: Servers) -> dict[str, float]:
    """Seconds so far, by whose they are. Screens: the forks of the worker, which have its command line."""
    here = psutil.Process()
    workers = [one for one in here.children() if "worker" in one.cmdline()]
    found: defaultdict[str, float] = defaultdict(float, {_SELF: _own(here)})
    for worker in workers:
        found[_FIRST] += _own(worker)
        forks = [one for one in worker.children(recursive=True) if "worker" in one.cmdline()]
        found[_SCREEN] += sum(map(_own, forks))
    found[_DATABASE] = cpu_seconds(servers.database)
    found[_BROKER] = cpu_seconds(servers.broker)
    machine = psutil.cpu_times()
    found[_NOBODY] = machine.idle + machine.iowait
    found[_REST] = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
    found[_REST] -= sum(found[who] for who in (_SCREEN, _DATABASE, _SELF, _FIRST, _BROKER))
    return found


def require_all_cores() -> int:
    """How many there are. SystemExit where this process may not use all: the machine's times are those of all."""
    usable, all_there = len(os.sched_getaffinity(0)), psutil.cpu_count() or 1
    if usable != all_there:
        raise SystemExit(
            f"Only {usable} of this machine's {all_there} cores may be used here, and whose the others are can't be "
            "told apart: run it without taskset and outside of a cpuset."
        )
    return usable


def whole_path(folder: Path, model: str | None, server: str, processes: int) -> tuple[float, dict[str, float]]:
    """Seconds of one run by the clock, and of everybody's processor time meanwhile."""
    from models.artefact import find
    from worker import embedded
    from worker.submission import SubmitOptions, submit

    with measuring.new_installation(server) as (settings, database):
        options = SubmitOptions(model=find(settings, model), operator="benchmark")
        with measuring.warm_workers(settings, database, options, processes) as worker:
            pid = (embedded.folder(settings) / "valkey.pid").read_text(encoding="ascii")
            servers = Servers(database=database_process(server), broker=int(pid))
            before, began = _look(servers), time.perf_counter()
            batch = submit(database, settings, folder, options).batch
            status = measuring.until_ended(database, batch, worker.problem)
            seconds, after = time.perf_counter() - began, _look(servers)
    if status.failed:
        raise SystemExit(f"{status.failed} of {status.fields} fields failed: nothing can be compared.")
    return seconds, {who: after[who] - before[who] for who in WHO}


def database_process(server: str) -> int:
    """The first process of the server. SystemExit where it is not of this machine."""
    pid = measuring.first_process(server)
    if pid is None:
        raise SystemExit(
            "Whose the cores are can be told only where PostgreSQL runs on this machine: see --database-url."
        )
    return pid


def table(passes: Sequence[Pass], fields: int, processes: int) -> str:
    """Shares of the cores' time, medians of the passes, and what a field costs, in Markdown."""
    lines = ["| who | share of the cores | ms a field |", "|---|---|---|"]
    for who in WHO:
        share = statistics.median(each.took[who] / (processes * each.seconds) for each in passes)
        cost = statistics.median(1000 * each.took[who] / fields for each in passes)
        lines.append(f"| {who} | {100 * share:.1f} % | {cost:.2f} |")
    path = statistics.median(1000 * processes * each.seconds / fields for each in passes)
    loop = statistics.median(1000 * processes / each.bare_rate for each in passes)
    lines.append(f"| **together** | 100 % | **{path:.2f}** |")
    lines.append(f"| the bare loop, by the clock | | {loop:.2f} |")
    return "\n".join(lines)


def measure(folder: Path, model: str | None, server: str, *, repeat: int, processes: int) -> list[Pass]:
    """The whole path and the bare loop in turn; before each of them a look at what others do."""
    paths = measuring.images(folder)
    ours = [database_process(server)]
    found = []
    for number in range(repeat):
        measuring.say(f"the bare loop, pass {number + 1} of {repeat}")
        busy = others_busy(ours)
        (rate,) = bare.rates(paths, model, repeat=1, processes=processes)
        measuring.say(f"whole path, PostgreSQL, pass {number + 1} of {repeat}")
        busy = max(busy, others_busy(ours))
        seconds, took = whole_path(folder, model, server, processes)
        found.append(Pass(seconds=seconds, took=took, bare_rate=rate, busy=busy))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of slides; without it, fields are rendered")
    parser.add_argument("--fields", type=int, default=3072, help="how many of them (default: 3072)")
    parser.add_argument("--repeat", type=int, default=3, help="passes, of which the median counts (default: 3)")
    parser.add_argument("--model", help="name or id (default: the active one)")
    parser.add_argument("--database-url", help="a PostgreSQL on which databases may be made")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args(arguments)
    processes = require_all_cores()
    with ExitStack() as stack:
        place = stack.enter_context(measuring.apart())
        os.environ["ALLQ_DEVICE"] = "cpu"
        folder = measuring.chosen(asked.folder.resolve() if asked.folder else None, place, asked.fields)
        server = stack.enter_context(measuring.postgresql(asked.database_url))
        images = measuring.mixture(folder)
        passes = measure(folder, asked.model, server, repeat=asked.repeat, processes=processes)
    machine = measuring.machine()
    seconds = statistics.median(each.seconds for each in passes)
    busy = max(each.busy for each in passes)
    where = f"medians of {asked.repeat}; {measuring.told(machine)}"
    head = f"{asked.fields:,} {images}, {seconds:.1f} s by the clock, {where}.{noise(busy)}"
    said = f"{head}\n\n{table(passes, asked.fields, processes)}"
    measuring.shown(said, write=asked.write, page=measuring.PAGE, marks=(BEGIN, END))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
