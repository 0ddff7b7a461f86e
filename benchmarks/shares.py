"""Whose the cores are while the whole path runs: processor time by process, against the bare loop's.

    python benchmarks/shares.py FOLDER [--fields 3072] [--repeat 3] [--write]

The whole path as `benchmarks/screening.py` times it, on PostgreSQL, with a process for each core; in turn with the bare
loop over the same files. Processor time is the kernel's, of every process by itself, from the start of `submit` until
the last row is committed. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import bare, measuring
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import others_busy

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


def _used(processes: Sequence[psutil.Process]) -> float:
    """User and system seconds of processes that still are, and of the children that they have waited for."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _named(name: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["name"]) if name in (process.info["name"] or "")]


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _look() -> dict[str, float]:
    """Seconds so far, by whose they are. Screens: the forks of the worker, which have its command line."""
    here = psutil.Process()
    workers = [one for one in here.children() if "worker" in one.cmdline()]
    found: defaultdict[str, float] = defaultdict(float, {_SELF: _own(here)})
    for worker in workers:
        found[_FIRST] += _own(worker)
        forks = [one for one in worker.children(recursive=True) if "worker" in one.cmdline()]
        found[_SCREEN] += sum(map(_own, forks))
    found[_DATABASE] = _used(_named("postgres"))
    found[_BROKER] = _used(_named("valkey"))
    machine = psutil.cpu_times()
    found[_NOBODY] = machine.idle + machine.iowait
    found[_REST] = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
    found[_REST] -= sum(found[who] for who in (_SCREEN, _DATABASE, _SELF, _FIRST, _BROKER))
    return found


def whole_path(folder: Path, model: str | None, server: str, processes: int) -> tuple[float, dict[str, float]]:
    """Seconds of one run by the clock, and of everybody's processor time meanwhile."""
    from models.artefact import find
    from worker.submission import SubmitOptions, submit

    with measuring.new_installation(server) as (settings, database):
        options = SubmitOptions(model=find(settings, model), operator="benchmark")
        with measuring.warm_workers(settings, database, options, processes) as worker:
            before, began = _look(), time.perf_counter()
            batch = submit(database, settings, folder, options).batch
            status = measuring.until_ended(database, batch, worker.problem)
            seconds, after = time.perf_counter() - began, _look()
    if status.failed:
        raise SystemExit(f"{status.failed} of {status.fields} fields failed: nothing can be compared.")
    return seconds, {who: after[who] - before[who] for who in WHO}


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
    lines.append(f"| the bare loop | | {loop:.2f} |")
    return "\n".join(lines)


def measure(folder: Path, model: str | None, server: str, *, repeat: int, processes: int) -> list[Pass]:
    """The whole path and the bare loop in turn."""
    paths = measuring.images(folder)
    found = []
    for number in range(repeat):
        measuring.say(f"the bare loop, pass {number + 1} of {repeat}")
        (rate,) = bare.rates(paths, model, repeat=1, processes=processes)
        measuring.say(f"whole path, PostgreSQL, pass {number + 1} of {repeat}")
        seconds, took = whole_path(folder, model, server, processes)
        found.append(Pass(seconds=seconds, took=took, bare_rate=rate))
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
    processes = len(os.sched_getaffinity(0))
    busy = others_busy()
    with ExitStack() as stack:
        place = stack.enter_context(measuring.apart())
        os.environ["ALLQ_DEVICE"] = "cpu"
        folder = measuring.chosen(asked.folder.resolve() if asked.folder else None, place, asked.fields)
        server = stack.enter_context(measuring.postgresql(asked.database_url))
        passes = measure(folder, asked.model, server, repeat=asked.repeat, processes=processes)
    machine = measuring.machine()
    seconds = statistics.median(each.seconds for each in passes)
    images = "fields of the folder given" if asked.folder else "rendered fields"
    where = f"medians of {asked.repeat}; {measuring.told(machine)}"
    head = f"{asked.fields:,} {images}, {seconds:.1f} s by the clock, {where}.{noise(busy)}"
    said = f"{head}\n\n{table(passes, asked.fields, processes)}"
    print(said)
    if asked.write:
        measuring.put(measuring.PAGE, BEGIN, END, said)
        measuring.say(f"written to {measuring.PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
