"""Chunks on their way through an installation, event by event (simpy): where they wait, and what never catches up.

The cost model says how busy a part is; the simulation adds what arithmetic leaves out: submissions come in lumps, a
worker that waits for the database or the storage does nothing else meanwhile, and what is saturated holds up what
comes behind it.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from benchmarks.scaling import model
from benchmarks.scaling.constants import Constants
from benchmarks.scaling.model import Demand, Installation

Steps = Generator[simpy.Event, Any, None]

WORKERS = "workers"
_GROUP = 32
"""Fields read together; storage serves one group after the other, whoever asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """So many seconds at a part, one of its servers being taken; `part` None is time that passes, taking nobody's.

    `fields`: how many are done with what a route's `read` asks, when it is over.
    """

    part: str | None
    seconds: float
    fields: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A chunk's way: up to the queue, then in a worker (which reads and computes at once), then out."""

    enter: Sequence[Visit] = ()
    claim: Sequence[Visit] = ()
    read: Sequence[Visit] = ()
    compute: float = 0.0
    record: Sequence[Visit] = ()
    leave: Sequence[Visit] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A chunk of so many fields, so many seconds after the beginning."""

    at: float
    fields: int


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of the fields. `busy`: each part's share over the watched time; `seconds`: of each chunk, in to out.

    `waits`: of each chunk, the seconds it waited for a worker.
    """

    entered: int = 0
    entered_watched: int = 0
    left: int = 0
    watched: float = 0.0
    done_watched: int = 0
    busy: dict[str, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def under_way(self) -> int:
        """Fields neither out nor lost: waiting or being worked on."""
        return self.entered - self.left

    @property
    def rate_in(self) -> float:
        """Fields per second that came in while it was watched."""
        return self.entered_watched / self.watched

    @property
    def rate(self) -> float:
        """Fields per second that were done while it was watched: read, where the routes read, else out.

        Of a chunk that was begun before only what was read since counts, and of one that is not out yet what was read.
        """
        return self.done_watched / self.watched

    def share(self, quantile: float) -> float:
        """The quantile of the seconds from submission to commit; NaN when nothing came out."""
        return sorted(self.seconds)[int(quantile * (len(self.seconds) - 1))] if self.seconds else float("nan")


class _Run:
    def __init__(self, servers: Mapping[str, int], watch_from: float) -> None:
        self.env = simpy.Environment()
        self.parts = {name: simpy.Resource(self.env, capacity=count) for name, count in servers.items()}
        self.servers = servers
        self.watch_from = watch_from
        self.busy = dict.fromkeys(servers, 0.0)
        self.inside = dict.fromkeys(servers, 0)
        self.outcome = Outcome()

    def visit(self, visits: Iterable[Visit]) -> Steps:
        for each in visits:
            if each.part is None:
                yield self.env.timeout(each.seconds)
                continue
            with self.parts[each.part].request() as turn:
                yield turn
                self.count(each.part, 1)
                yield self.env.timeout(each.seconds)
                self.count(each.part, -1)
            self.done(each.fields)

    def done(self, fields: int) -> None:
        if self.env.now >= self.watch_from:
            self.outcome.done_watched += fields

    def count(self, part: str, more: int) -> None:
        """One server more or less of a part is busy from now on."""
        self.busy[part] -= more * max(self.env.now, self.watch_from)
        self.inside[part] += more

    def share(self, part: str) -> float:
        """How busy the servers of a part have been while they were watched, 0 to 1."""
        seconds = self.busy[part] + self.inside[part] * self.env.now
        return seconds / (self.env.now - self.watch_from) / self.servers[part]

    def chunk(self, fields: int, route: Route) -> Steps:
        self.outcome.entered += fields
        came = self.env.now
        if came >= self.watch_from:
            self.outcome.entered_watched += fields
        yield from self.visit(route.enter)
        with self.parts[WORKERS].request() as turn:
            waiting = self.env.now
            yield turn
            begun = self.env.now
            self.count(WORKERS, 1)
            yield from self.visit(route.claim)
            if route.read:
                yield self.env.process(self.visit(route.read)) & self.env.timeout(route.compute)
            else:
                yield self.env.timeout(route.compute)
            yield from self.visit(route.record)
            self.count(WORKERS, -1)
        yield from self.visit(route.leave)
        self.outcome.left += fields
        if came >= self.watch_from:
            self.outcome.waits.append(begun - waiting)
            self.outcome.seconds.append(self.env.now - came)
        if not route.read:
            self.done(fields)

    def source(self, arrivals: Iterable[Arrival], routes: Mapping[int, Route]) -> Steps:
        for arrival in arrivals:
            yield self.env.timeout(max(0.0, arrival.at - self.env.now))
            self.env.process(self.chunk(arrival.fields, routes[arrival.fields]))


def run(
    servers: Mapping[str, int],
    routes: Mapping[int, Route],
    arrivals: Sequence[Arrival],
    *,
    until: float | None = None,
    watch_from: float = 0.0,
) -> Outcome:
    """Let `arrivals` go their `routes` (by a chunk's fields) through parts of so many `servers`.

    Until all are out, or until so many seconds have passed. What happens before `watch_from` is not counted into rates,
    waits and shares: an installation that begins empty looks better than it is.
    """
    state = _Run(servers, watch_from)
    state.env.process(state.source(arrivals, routes))
    state.env.run(until=until)
    outcome = state.outcome
    outcome.watched = state.env.now - watch_from
    outcome.busy = {name: state.share(name) for name in servers}
    return outcome


def arrivals(demand: Demand, installation: Installation, *, submissions: int, seed: int) -> list[Arrival]:
    """Submissions at random moments (Poisson) in the busiest hour's rate, cut into chunks; of one shard."""
    chance = random.Random(seed)
    rate = demand.rate / installation.shards / demand.submission_fields
    at = 0.0
    found: list[Arrival] = []
    for _ in range(submissions):
        at += chance.expovariate(rate)
        found += [Arrival(at=at, fields=fields) for fields in model.chunks(demand, installation)]
    return found


def parts_of(constants: Constants, demand: Demand, installation: Installation) -> dict[str, int]:
    """The parts of one shard with their servers. `installation` knows its workers."""
    return {
        WORKERS: installation.workers,
        "storage": 1,
        "network, database": 1,
        "database, processors": installation.database_cores,
        "database, log": 1,
        "database, index reads": 1,
        "broker": 1,
    }


def route_of(constants: Constants, demand: Demand, installation: Installation, fields: int) -> Route:
    """The way of a chunk of `fields` through the parts of `parts_of`. What a part does besides makes it slower."""
    loads = {load.part: load for load in model.loads(constants, demand, installation)}

    def slower(part: str) -> float:
        return 1 / max(0.01, 1 - loads[part].background)

    def database(milliseconds: float) -> Visit:
        part = "database, processors"
        return Visit(part=part, seconds=milliseconds / 1000 * slower(part))

    fixed = constants["database_cpu_ms_chunk"]
    message = constants["broker_cpu_us_message"] / 1e6 * slower("broker")
    gigabit = 1e9 / 8
    wire = Visit(
        part="network, database",
        seconds=model.wire_bytes(constants, fields, demand.kind) / (installation.database_gbit * gigabit),
    )
    size = model.field_bytes(constants, demand.kind)
    groups = [min(_GROUP, fields - start) for start in range(0, fields, _GROUP)]
    way = model.round_trips(constants, fields, demand.slide_fields) * installation.round_trip_ms / 1000
    way += model.broker_wait(constants, installation)
    commit = Visit(part=None, seconds=constants["commit_ms"] / 1000)
    log = model.log_bytes(constants, demand, installation) * fields / (installation.log_mb * 1e6)
    reads = model.index_reads(constants, demand, installation) * fields / installation.page_reads
    return Route(
        enter=(database(constants["register_cpu_ms_field"] * fields), Visit(part="broker", seconds=message / 2)),
        claim=(database(fixed / 2), commit),
        read=[
            Visit(part="storage", seconds=group * size / (installation.storage_gbit * gigabit), fields=group)
            for group in groups
        ],
        compute=fields * model.compute_seconds(constants, demand.kind),
        record=(
            wire,
            Visit(part="database, index reads", seconds=reads),
            database(fixed / 2 + fields * constants["database_cpu_ms_field"]),
            Visit(part="database, log", seconds=log),
            commit,
            Visit(part=None, seconds=way),
        ),
        leave=(Visit(part="broker", seconds=message / 2),),
    )


def busiest_hour(constants: Constants, demand: Demand, installation: Installation, *, seed: int = 1) -> Outcome:
    """One shard at the demand's highest rate, while 3,000 chunks come in and for six minutes at least.

    The first fifth of that time is not watched.
    """
    installation = model.sized(constants, demand, installation)
    size = model.chunk_size(demand, installation)
    fields = max(3_000 * size, 360 * demand.rate / installation.shards)
    submissions = max(40, round(fields / demand.submission_fields))
    coming = arrivals(demand, installation, submissions=submissions, seed=seed)
    until = coming[-1].at
    routes = {fields: route_of(constants, demand, installation, fields) for fields in {each.fields for each in coming}}
    return run(parts_of(constants, demand, installation), routes, coming, until=until, watch_from=until / 5)
