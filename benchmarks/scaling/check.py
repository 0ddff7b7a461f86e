"""The model against reality: what it says of some runs on this machine, and what real workers then do."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.scaling import model
from benchmarks.scaling.constants import Constants
from benchmarks.scaling.field_kinds import CAMERA, some_of, write_camera_fields, write_small_fields
from benchmarks.scaling.links import NamespacesMissing, Seat, here, namespaces
from benchmarks.scaling.model import Installation, Kind
from benchmarks.scaling.realrun import RealRun, real_run
from benchmarks.scaling.report import table
from benchmarks.scaling.servers import Postgresql, others_busy, postgresql
from benchmarks.scaling.simulation import WORKERS, Arrival, Route, Visit, run
from db.batches import chunk_sizes

_SLIDE = "slide"
_CAMERA_FIELDS = 256
"""Enlarged for the runs with a camera's fields: a quarter of a gigabyte."""
SAID: Final[dict[Kind, str]] = {"small": "small", "5mp": f"{CAMERA[0]}×{CAMERA[1]}"}
"""The kinds of fields in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A run to be predicted and made. `round_trip_ms`, `mbit`: of each worker's link; `kind`: of the fields."""

    workers: int
    apart: bool
    round_trip_ms: float = 0.0
    mbit: float | None = None
    kind: Kind = "small"

    @property
    def name(self) -> str:
        """For people."""
        who = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        if not self.apart:
            return f"{who}, this machine" + (f", {SAID[self.kind]}" if self.kind != "small" else "")
        rate = f"{self.mbit:g} Mbit/s" if self.mbit else "not shaped"
        return f"{who}, a namespace each, {rate}, {self.round_trip_ms:g} ms there and back"


CASES = (
    Case(workers=1, apart=False),
    Case(workers=2, apart=False),
    Case(workers=1, apart=False, kind="5mp"),
    Case(workers=2, apart=False, kind="5mp"),
    Case(workers=2, apart=True),
    Case(workers=2, apart=True, round_trip_ms=10, mbit=100),
    Case(workers=2, apart=True, round_trip_ms=50, mbit=10),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A case with both answers, in fields per second. `shaped_by`: what held the link to its rate.

    `from_stages`: predicted from the stages alone, without a worker's time in a real run.
    """

    case: Case
    predicted: float
    from_stages: float
    predicted_trips: float
    real: RealRun
    shaped_by: str


def predicted_trips(constants: Constants, case: Case, chunks: Sequence[int], slide_fields: float, rate: float) -> float:
    """Questions a chunk, in the mean: its own, and those of the rounds of housekeeping that go on meanwhile."""
    own = sum(model.round_trips(constants, fields, slide_fields) for fields in chunks)
    rounds = case.workers * sum(chunks) / rate / constants["round_seconds"]
    return (own + rounds * constants["trips_round"]) / len(chunks)


def predicted_rate(
    constants: Constants, case: Case, chunks: Sequence[int], cores: int, slide_fields: float = math.inf
) -> float:
    """Fields per second of workers that begin with all `chunks` (fields of each) in the queue and end with none.

    Each chunk waits for database and broker as `model.chunk_wait` says, and for its slide's row where another holds
    it; `slide_fields`: of each slide. Where processes, database and broker want more than the `cores` that there are,
    all of it takes as much longer.
    """
    link = Installation(
        name="", round_trip_ms=case.round_trip_ms, machine_gbit=case.mbit / 1000 if case.mbit else math.inf
    )
    compute = model.compute_seconds(constants, case.kind)
    serial = model.field_seconds(constants, link, chunks, case.kind, slide_fields)
    most = model.one_machine_rate(
        constants,
        workers=case.workers,
        cores=cores,
        sizes=chunks,
        slide_fields=slide_fields,
        round_trip_ms=case.round_trip_ms,
        mbit=case.mbit or math.inf,
        kind=case.kind,
    )
    slower = case.workers / serial / most
    routes = {}
    for size in set(chunks):
        wait = model.chunk_wait(constants, link, size, case.kind, slide_fields)
        held = model.slide_seconds(constants, link, size, slide_fields)
        routes[size] = Route(
            compute=slower * (size * compute + wait - held), record=(Visit(part=_SLIDE, seconds=slower * held),)
        )
    # Chunks of one slide wait for its row; where slides are small, hardly two are at the same one.
    slides = 1 if slide_fields > max(chunks) else case.workers
    arrivals = [Arrival(at=0.0, fields=fields) for fields in chunks]
    return run({WORKERS: case.workers, _SLIDE: slides}, routes, arrivals).rate


def check(
    constants: Constants, slides: Path | None, *, fields: int, chunk_fields: int, cases: Sequence[Case] = CASES
) -> Iterator[Checked]:
    """Make the runs of `cases`, one after the other."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="allq-scaling-") as place, postgresql() as server:
        folder = slides or write_small_fields(Path(place) / "slides", fields)
        large = Path(place) / "large"
        if any(case.kind == "5mp" for case in cases):
            print(f"enlarging fields to {SAID['5mp']} …", file=sys.stderr, flush=True)
            write_camera_fields(large / "slide", some_of(folder, _CAMERA_FIELDS))
        for case in cases:
            print(f"{case.name} …", file=sys.stderr, flush=True)
            real, shaped_by = _make(server, large if case.kind == "5mp" else folder, case, chunk_fields)
            chunks = chunk_sizes(real.fields, chunk_fields, last=True)
            slide_fields = real.fields / real.slides
            predicted = predicted_rate(constants, case, chunks, cores, slide_fields)
            yield Checked(
                case=case,
                predicted=predicted,
                from_stages=predicted_rate(model.from_stages(constants), case, chunks, cores, slide_fields),
                predicted_trips=predicted_trips(constants, case, chunks, slide_fields, predicted),
                real=real,
                shaped_by=shaped_by,
            )


def _make(server: Postgresql, folder: Path, case: Case, chunk_fields: int) -> tuple[RealRun, str]:
    with seats(case) as (places, by_relay, shaped_by):
        real = real_run(
            server,
            folder,
            places,
            chunk_fields=chunk_fields,
            delay=case.round_trip_ms / 2000,
            rate=case.mbit * 1e6 / 8 if by_relay and case.mbit else None,
        )
    return real, shaped_by


@contextmanager
def seats(case: Case) -> Iterator[tuple[list[Seat], bool, str]]:
    """The places, whether the relay is to hold to the rate, and what does."""
    if not case.apart:
        yield here(case.workers), True, "–"
        return
    with ExitStack() as stack:
        try:
            places = stack.enter_context(namespaces(case.workers, case.mbit))
        except NamespacesMissing as missing:
            print(f"no network namespaces here ({missing}): the relay shapes the way instead", file=sys.stderr)
            yield here(case.workers), True, "relay alone"
        else:
            yield places, False, "veth" + (", tbf" if case.mbit else "") + (", relay" if case.round_trip_ms else "")


def checks_table(found: Sequence[Checked]) -> str:
    """Predicted against measured."""
    rows = [
        (
            each.case.name,
            each.shaped_by,
            f"{each.from_stages:.1f}",
            f"{each.predicted:.1f}",
            f"{each.real.rate:.1f}",
            f"{each.real.rate / each.predicted - 1:+.0%}".replace("%", " %"),
            f"{1000 * each.real.worker_cpu / each.real.fields:.1f}",
            f"{each.predicted_trips:.0f}",
            f"{each.real.database_traffic.round_trips / each.real.chunks:.0f}",
            f"{each.real.database_traffic.bytes / each.real.fields / 1000:.1f}",
        )
        for each in found
    ]
    head = (
        "run",
        "link",
        "from the stages alone, fields/s",
        "predicted, fields/s",
        "measured, fields/s",
        "off by",
        "worker's processor, ms a field",
        "round trips a chunk, predicted",
        "measured",
        "kB a field",
    )
    return table(head, rows)


def differences(found: Sequence[Checked]) -> str:
    """How far off the predictions are, in a sentence."""
    shaped = [each for each in found if each.case.mbit]
    if len(found) < 2 or not shaped:
        return ""
    off, elsewhere = (
        max(
            (abs(each.real.rate / each.predicted - 1) for each in found if bool(each.case.mbit) is with_link), default=0
        )
        for with_link in (True, False)
    )
    stages = max((abs(each.real.rate / each.from_stages - 1) for each in found if not each.case.mbit), default=0)
    return (
        f"Predictions are off by up to {elsewhere:.0%}, where links are shaped by up to {off:.0%}; so is what follows. "
        f"Those from the stages alone are off by up to {stages:.0%} where no link is shaped. "
        "The longer a chunk takes, the more rounds of housekeeping go on meanwhile; their questions are counted, too."
    ).replace("%", " %")


def quiet_line() -> str | None:
    """A sentence when others keep the machine busy; None when it is quiet."""
    from benchmarks.scaling.measure import QUIET

    busy = others_busy()
    return f"other work keeps {busy:.0%} of the processors busy: these figures say little" if busy > QUIET else None
