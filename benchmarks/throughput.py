"""How fast a folder is screened: the whole path, and each stage alone.

    python benchmarks/throughput.py FOLDER --workers 2 --engine openvino --repeat 3 [--json]
    python benchmarks/throughput.py FOLDER --device cuda --batch 64

The whole path is timed from the start of `submit` until the last row is committed, on a new database each time, with
workers that run already and have their model loaded. The stages are timed one after the other in this process; a
worker does them at the same time. On cards there is one process for each, and every measurement takes half a minute or
more (`--seconds`): fields are screened again and again, in files of other bytes with the same pixels. Nothing of an
existing installation is touched: database and broker are made for the purpose, in a temporary folder, or on the server
that `--database-url` names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.errors import AllqError
from allq.settings import load
from benchmarks import measuring
from benchmarks.multiplied import multiplied
from benchmarks.stages import Stage, profile
from models.engines.choose import require_cuda
from worker.processes import planned

_ON_CARDS: Final = 30.0
"""Seconds of a measurement: a card's clock takes some to settle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of the whole path. `start_seconds`: until every worker process had its model loaded; not in the rate."""

    fields: int
    screened: int
    failed: int
    linked: int
    start_seconds: float
    seconds: float

    @property
    def rate(self) -> float:
        """Fields per second."""
        return self.fields / self.seconds


# ------------------------------------------------------------------------------------------------------- whole path


def whole_path(folder: Path, model: str | None, workers: int, database_url: str | None) -> Run:
    """Screen `folder` once, from nothing."""
    from models.artefact import find
    from worker.submission import SubmitOptions, submit

    with measuring.new_installation(database_url) as (settings, database):
        options = SubmitOptions(model=find(settings, model), operator="benchmark")
        begun = time.perf_counter()
        with measuring.warm_workers(settings, database, options, workers) as worker:
            started = time.perf_counter()
            batch = submit(database, settings, folder, options).batch
            status = measuring.until_ended(database, batch, worker.problem)
            seconds = time.perf_counter() - started
    return Run(
        fields=status.fields,
        screened=status.screened,
        failed=status.failed,
        linked=status.findings_linked,
        start_seconds=started - begun,
        seconds=seconds,
    )


# -------------------------------------------------------------------------------------------------------- reporting


def show(runs: Sequence[Run], measured: Sequence[Stage], arguments: argparse.Namespace, where: dict[str, str]) -> None:
    """Print everything as tables of at most 80 columns."""
    console = Console(width=min(80, Console().width))
    console.print(", ".join(f"{name} {value}" for name, value in where.items()))
    if runs:
        table = Table(title=f"Whole path, {arguments.workers} worker processes, {_database_name(arguments)}")
        for name in ("run", "fields", "screened", "failed", "linked", "start s", "seconds", "fields/s"):
            table.add_column(name, justify="right")
        for number, run in enumerate(runs, 1):
            counts = (run.fields, run.screened, run.failed, run.linked)
            numbers = (f"{run.start_seconds:.1f}", f"{run.seconds:.2f}", f"{run.rate:.1f}")
            table.add_row(str(number), *map(str, counts), *numbers)
        table.add_section()
        table.add_row("median", *[""] * 6, f"{statistics.median(run.rate for run in runs):.1f}")
        console.print(table)
    if measured:
        table = Table(title=f"Each stage alone, one process, median of {arguments.repeat}")
        on_card = any(stage.card_bytes is not None for stage in measured)
        for name in ("stage", "fields", "fields/s", "ms a field", *(["card, MiB at most"] if on_card else [])):
            table.add_column(name, justify="left" if name == "stage" else "right")
        for stage in measured:
            name = f"  {stage.name}, alone" if stage.of else stage.name
            cells = [name, str(stage.fields), f"{stage.rate:.1f}", f"{stage.milliseconds:.2f}"]
            if stage.card_bytes is not None:
                cells.append(f"{stage.card_bytes / 2**20:.0f}")
            table.add_row(*cells)
        console.print(table)


def _database_name(arguments: argparse.Namespace) -> str:
    return "PostgreSQL" if arguments.database_url else "embedded SQLite"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of slides; without it, synthetic ones are made")
    parser.add_argument("--workers", type=int, help="worker processes (default: the cores; always the cards)")
    parser.add_argument("--engine", choices=["auto", "openvino", "torch"], help="default: ALLQ_ENGINE, or auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default: ALLQ_DEVICE, or auto")
    parser.add_argument("--batch", type=int, help="fields per network call (default: ALLQ_INFERENCE_BATCH, or 32)")
    parser.add_argument("--seconds", type=float, help="of each measurement, at least (default: 30 on cards, else 0)")
    parser.add_argument("--model", help="name or id (default: the active one; synthetic slides have their own)")
    parser.add_argument("--database-url", help="a PostgreSQL on which databases may be made (default: embedded SQLite)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--stage-fields", type=int, default=256, help="fields for the stages alone; 0 leaves them out")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    asked = _parse(arguments)
    folder = asked.folder.resolve() if asked.folder else None
    for name, value in (("ENGINE", asked.engine), ("DEVICE", asked.device), ("INFERENCE_BATCH", asked.batch)):
        if value is not None:
            os.environ[f"ALLQ_{name}"] = str(value)
    with measuring.apart() as place:
        try:
            return _measure(asked, folder, place)
        except AllqError as error:
            print(error, file=sys.stderr)
            return error.exit_code


def _measure(asked: argparse.Namespace, folder: Path | None, place: Path) -> int:
    model: str | None = asked.model
    processes = planned(load(), concurrency=asked.workers)
    if processes.not_followed is not None:
        print(processes.not_followed, file=sys.stderr)
    if processes.on_card:
        require_cuda()  # workers without it would leave their chunks to others, and this would wait for ever
    asked.workers = processes.count
    if asked.seconds is None:
        asked.seconds = _ON_CARDS if processes.on_card else 0.0
    if folder is None:
        from imaging.synthetic import write_slides

        print("rendering 4 × 128 synthetic fields …", file=sys.stderr)
        folder = place / "slides"
        write_slides(folder, slides=4, fields=128, seed=5)
        model = model or "synthetic-smears"
    runs = _runs(asked, folder, model, place)
    measured: list[Stage] = []
    if asked.stage_fields:
        print("stages …", file=sys.stderr)
        paths = measuring.images(folder, asked.stage_fields)
        servers = {_database_name(asked): asked.database_url}
        measured = profile(paths, model, asked.repeat, servers, parts=False, seconds=asked.seconds).stages
    where = {**measuring.machine(), "batch": str(load().inference_batch)}
    if asked.json:
        document = {
            "machine": where,
            "workers": asked.workers,
            "database": _database_name(asked),
            "runs": [{**asdict(run), "fields_per_second": run.rate} for run in runs],
            "fields_per_second": statistics.median(run.rate for run in runs) if runs else None,
            "stages": [{**asdict(stage), "fields_per_second": stage.rate} for stage in measured],
        }
        print(json.dumps(document, indent=2))
    else:
        show(runs, measured, asked, where)
    return 0


def _runs(asked: argparse.Namespace, folder: Path, model: str | None, place: Path) -> list[Run]:
    """All runs of the whole path; where the first is over too soon, all of them with so many fields more."""
    runs: list[Run] = []
    while len(runs) < asked.repeat:
        print(f"whole path, run {len(runs) + 1} of {asked.repeat} …", file=sys.stderr)
        run = whole_path(folder, model, asked.workers, asked.database_url)
        if not runs and run.seconds < asked.seconds:
            times = math.ceil(1.2 * asked.seconds / run.seconds)
            print(f"{run.seconds:.1f} s are too few: each field {times} times …", file=sys.stderr)
            folder = multiplied(measuring.images(folder), times, place / f"times-{times}-{run.fields}")
            continue
        runs.append(run)
    return runs


if __name__ == "__main__":
    raise SystemExit(main())
