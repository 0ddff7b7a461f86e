"""The cost model: what a field asks of each part of an installation, and how much of it each part can give.

Everything is arithmetic on the measured constants. A *part* is a thing that can be busy: worker processes, the
database's processors, its log, its index, the broker, the storage that holds the slides, the network. `loads` gives,
for each of them, how busy a rate of fields keeps it, and the rate that leaves nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from benchmarks.scaling.constants import Constants
from db.batches import chunk_sizes

DAY: Final = 86_400.0
LOOKUP_FIELDS: Final = 32
"""Fields whose digests are asked for together: ALLQ_INFERENCE_BATCH."""

Kind = Literal["small", "5mp"]

OTHER_STAGES: Final = ("read", "decode", "segment")
"""What takes another time for a camera's field; the networks see pictures of the same size whatever the field's."""

CONNECTIONS_PROCESS: Final = 2
"""To the database, of a process that screens: its own and its lease's (`tests/integration/test_connections.py`)."""
CONNECTIONS_WORKER: Final = 1
"""Of a worker's first process."""
CONNECTIONS_OTHERS: Final = 13
"""Not for workers: three that PostgreSQL keeps for its superusers, ten for people, pages, sealer and monitoring."""

BROKER_TRIPS: Final = 3
"""Questions to the broker from one chunk to the next, one after the other: the message is acknowledged, another one
taken out, and noted as taken. A process has one message in hand at a time, so it waits for all of them."""
ROUND_BROKER_TRIPS: Final = 2
"""Of a worker's round of housekeeping: its name, the queues' lengths."""
COUNTS_ROUND: Final = 2
"""Times that the chunks that wait are counted in a round, at most: workers take turns, each for half a round."""
SLIDE_TRIPS: Final = 5
"""Questions to the database while a chunk holds its slides, where none of them ends: their counters, the event and its
slides, their rows, the commit. (`tests/integration/test_round_trips.py` counts what these constants tell of.)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What comes in. `peak`: the busiest hour's rate by the day's mean; `submission_fields`: of one submission.

    `slide_fields`: of one slide.
    """

    name: str
    fields_per_day: float
    peak: float
    submission_fields: int
    slide_fields: int = 40
    kind: Kind = "5mp"

    @property
    def rate(self) -> float:
        """Fields per second in the busiest hour."""
        return self.fields_per_day * self.peak / DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What there is to work with. `workers` are processes, one a core; 0 stands for as many as the demand asks for.

    `shards` are installations of this size side by side, each with its own database and broker (a laboratory belongs to
    one of them). `held_days` of findings are in the database already. `log_mb`: what the database's log can write a
    second; `page_reads` random reads a second that its volume does.
    """

    name: str
    workers: int = 0
    processes_per_machine: int = 8
    machine_gbit: float = 10.0
    shards: int = 1
    database_cores: int = 4
    database_gib: float = 16.0
    database_gbit: float = 10.0
    database_connections: int = 100
    volume_tb: float = 2.0
    log_mb: float = 200.0
    page_reads: float = 20_000.0
    storage_gbit: float = 1.0
    round_trip_ms: float = 0.5
    chunk_fields: int = 256
    held_days: float = 365.0
    target: float = 0.7


DEMANDS: Final = (
    Demand(name="hospital", fields_per_day=1e5, peak=4.0, submission_fields=2_000),
    Demand(name="hospital network", fields_per_day=1e7, peak=3.0, submission_fields=2_000),
    Demand(name="archive", fields_per_day=1e9, peak=1.0, submission_fields=5_000),
)

AS_IT_IS: Final = Installation(name="as it is")
"""One database server, one broker, one file server on 1 Gbit/s: docs/deployment.md, "Several machines"."""

_WIDER = replace(
    AS_IT_IS, name="changed", storage_gbit=25, machine_gbit=25, database_gib=32, database_connections=200, volume_tb=16
)

CHANGED: Final = {
    "hospital": AS_IT_IS,
    "hospital network": _WIDER,
    "archive": replace(_WIDER, shards=20, volume_tb=64),
}
"""What docs/scaling.md advises at each step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How one part does. `seconds`: of one of its `servers`, a field; `background`: busy whatever comes in, 0 to 1."""

    part: str
    where: str
    seconds: float
    servers: float
    background: float = 0.0

    def utilisation(self, rate: float) -> float:
        """The share of the part that a rate (fields/s) takes; 1 and more: it can't keep up."""
        return rate * self.seconds / self.servers + self.background

    @property
    def limit(self) -> float:
        """Fields per second that leave nothing of it; infinite where a field asks nothing of it."""
        if self.seconds == 0:
            return math.inf
        return max(0.0, 1 - self.background) * self.servers / self.seconds


def chunks(demand: Demand, installation: Installation) -> list[int]:
    """Fields of each chunk of a submission, as `submit` cuts it: they shrink towards its end."""
    return chunk_sizes(demand.submission_fields, installation.chunk_fields, last=True)


def chunk_size(demand: Demand, installation: Installation) -> float:
    """Fields in a chunk, in the mean."""
    return demand.submission_fields / len(chunks(demand, installation))


def field_bytes(constants: Constants, kind: Kind) -> float:
    """Bytes of one field's file."""
    return constants["field_bytes" if kind == "small" else "field_bytes_5mp"]


def more_outlines(constants: Constants, kind: Kind) -> float:
    """Bytes that a field's leukocytes take more than a small field's: their outlines have more points."""
    return 0.0 if kind == "small" else constants["leukocyte_bytes_more_5mp"]


def row_bytes(constants: Constants, kind: Kind) -> float:
    """Bytes that a field and its finding take in the database."""
    return constants["sql_bytes_field"] + more_outlines(constants, kind)


def compute_seconds(constants: Constants, kind: Kind) -> float:
    """Processor seconds of a worker process for one field, all of it: pixels, network, Python, its side of the SQL."""
    return constants["worker_cpu_ms" if kind == "small" else "worker_cpu_ms_5mp"] / 1000


def round_trips(constants: Constants, fields: float, slide_fields: float) -> float:
    """Questions to the database that a chunk of so many fields waits for, one after the other.

    `slide_fields`: of each slide, because the chunk that ends a slide also calls it.
    """
    look_ups = math.ceil(fields / LOOKUP_FIELDS)
    calls = fields / slide_fields
    return constants["trips_chunk"] + constants["trips_lookup"] * look_ups + constants["trips_slide"] * calls


def wire_bytes(constants: Constants, fields: float, kind: Kind) -> float:
    """Bytes between a worker and the database for a chunk, both ways."""
    return constants["wire_bytes_chunk"] + fields * (constants["wire_bytes_field"] + more_outlines(constants, kind))


def slide_seconds(constants: Constants, installation: Installation, fields: float, slide_fields: float) -> float:
    """Seconds for which a chunk holds the rows of its slides, while others that record fields of one of them wait."""
    trips = SLIDE_TRIPS + constants["trips_slide"] * fields / slide_fields
    return (trips * installation.round_trip_ms + constants["commit_ms"]) / 1000


def round_length(constants: Constants, installation: Installation) -> float:
    """Seconds that a worker's round of housekeeping takes, during which it delivers and acknowledges nothing."""
    way = (constants["trips_round"] + ROUND_BROKER_TRIPS) * installation.round_trip_ms
    return (constants["round_cpu_ms"] + way) / 1000


def broker_wait(constants: Constants, installation: Installation) -> float:
    """Seconds from the end of a chunk to the beginning of the next: the broker's answers, and a round of housekeeping.

    A chunk that ends at any time meets a round of length r, of which one begins every p seconds, in r / p of the cases,
    and waits for half of it. Between two rounds there is at least the length of one.
    """
    length = round_length(constants, installation)
    every = constants["round_seconds"] * max(1, math.ceil(2 * length / constants["round_seconds"]))
    way = BROKER_TRIPS * installation.round_trip_ms + constants["broker_cpu_us_message"] / 1000
    return way / 1000 + length**2 / (2 * every)


def database_wait(
    constants: Constants, installation: Installation, fields: float, kind: Kind, slide_fields: float
) -> float:
    """Seconds a chunk waits for the database: its processor, the way there and back, the bytes, the commits."""
    server = constants["database_cpu_ms_chunk"] + fields * constants["database_cpu_ms_field"]
    way = round_trips(constants, fields, slide_fields) * installation.round_trip_ms
    line = wire_bytes(constants, fields, kind) * 8 / (installation.machine_gbit * 1e6)
    return (server + way + line + 2 * constants["commit_ms"]) / 1000


def chunk_wait(
    constants: Constants, installation: Installation, fields: float, kind: Kind, slide_fields: float
) -> float:
    """Seconds a chunk waits for database and broker, when no other is in its way."""
    return database_wait(constants, installation, fields, kind, slide_fields) + broker_wait(constants, installation)


def field_seconds(
    constants: Constants, installation: Installation, sizes: Sequence[int], kind: Kind, slide_fields: float
) -> float:
    """Seconds a worker process is taken up by one field of chunks of these sizes, when no other is in its way."""
    wait = sum(chunk_wait(constants, installation, size, kind, slide_fields) for size in sizes)
    return compute_seconds(constants, kind) + wait / sum(sizes)


def occupancy(constants: Constants, demand: Demand, installation: Installation) -> float:
    """Seconds a worker process is taken up by one field of the demand's submissions."""
    return field_seconds(constants, installation, chunks(demand, installation), demand.kind, demand.slide_fields)


def workers_needed(constants: Constants, demand: Demand, installation: Installation) -> int:
    """Worker processes that take the busiest hour at `target` of their capacity; in one shard."""
    rate = demand.rate / installation.shards
    return max(1, math.ceil(rate * occupancy(constants, demand, installation) / installation.target))


def sized(constants: Constants, demand: Demand, installation: Installation) -> Installation:
    """The installation with the workers that the demand asks for, unless it says how many it has.

    No more of them than the database has connections for: the next one could not start.
    """
    if installation.workers:
        return installation
    free = connections_free(installation)
    most = max(1, free // CONNECTIONS_PROCESS)
    while most > 1 and connections(most, installation) > free:
        most -= 1
    return replace(installation, workers=min(most, workers_needed(constants, demand, installation)))


def asked_for(constants: Constants, demand: Demand, installation: Installation) -> Installation:
    """The installation with all the workers that the demand asks for, whether there are connections for them or not."""
    if installation.workers:
        return installation
    return replace(installation, workers=workers_needed(constants, demand, installation))


def connections_free(installation: Installation) -> int:
    """Connections to the database that workers may have."""
    return max(1, installation.database_connections - CONNECTIONS_OTHERS)


def connections(processes: int, installation: Installation) -> int:
    """To the database, of so many worker processes on as few machines as hold them, a worker on each."""
    machines = math.ceil(processes / installation.processes_per_machine)
    return CONNECTIONS_PROCESS * processes + CONNECTIONS_WORKER * machines


def findings_held(demand: Demand, installation: Installation) -> float:
    """Findings in one shard's database."""
    return demand.fields_per_day * installation.held_days / installation.shards


def index_reads(constants: Constants, demand: Demand, installation: Installation) -> float:
    """Pages of the index over (SHA-256, model) that must be fetched from disk for a new finding, 0 to 1.

    A SHA-256 falls anywhere, so the share of the index that memory can't hold is the share that is not there. Half the
    memory is taken to be the index's.
    """
    index = findings_held(demand, installation) * constants["index_bytes_finding"]
    return max(0.0, 1 - installation.database_gib * 2**30 / 2 / index) if index else 0.0


def log_bytes(constants: Constants, demand: Demand, installation: Installation) -> float:
    """Bytes of the database's log for a field: what is measured, and whole pages of the index.

    PostgreSQL logs a page whole at its first change after a checkpoint. Of F findings in five minutes that fall
    anywhere on P pages, P (1 - exp(-F / P)) pages are met for the first time.
    """
    pages = findings_held(demand, installation) * constants["index_bytes_finding"] / 8192
    fresh = demand.rate / installation.shards * 300
    first = pages * -math.expm1(-fresh / pages) / fresh if pages and fresh else 0.0
    return constants["log_bytes_field"] + more_outlines(constants, demand.kind) + 8192 * first


def housekeeping_share(constants: Constants, demand: Demand, installation: Installation, waiting: float) -> float:
    """Database processors kept busy by the workers' rounds, in some of which the chunks that wait are counted."""
    machines = math.ceil(installation.workers / installation.processes_per_machine)
    counts = min(machines, COUNTS_ROUND) * waiting * constants["round_cpu_us_chunk"] / 1e6
    return (machines * constants["round_cpu_ms"] / 1000 + counts) / constants["round_seconds"]


def waiting_chunks(demand: Demand, installation: Installation) -> float:
    """Chunks that wait when a tenth of a day's fields have been submitted at once."""
    return 0.1 * demand.fields_per_day / installation.shards / chunk_size(demand, installation)


def loads(constants: Constants, demand: Demand, installation: Installation) -> list[Load]:
    """Every part of one shard. Rates that go with it are a shard's, `demand.rate / shards`."""
    installation = sized(constants, demand, installation)
    fields = chunk_size(demand, installation)
    rounds = housekeeping_share(constants, demand, installation, waiting_chunks(demand, installation))
    server = (
        constants["register_cpu_ms_field"]
        + constants["database_cpu_ms_field"]
        + constants["database_cpu_ms_chunk"] / fields
    ) / 1000
    gigabit = 1e9 / 8
    size = field_bytes(constants, demand.kind)
    wire = wire_bytes(constants, fields, demand.kind) / fields
    machines = math.ceil(installation.workers / installation.processes_per_machine)
    polls = machines * constants["broker_idle_commands"] * constants["broker_cpu_us_command"] / 1e6
    return [
        Load(
            part="workers",
            where=f"{installation.workers} processes",
            seconds=occupancy(constants, demand, installation),
            servers=installation.workers,
        ),
        Load(
            part="storage",
            where=f"{installation.storage_gbit:g} Gbit/s",
            seconds=size / (installation.storage_gbit * gigabit),
            servers=1,
        ),
        Load(
            part="network, a worker machine",
            where=f"{machines} × {installation.machine_gbit:g} Gbit/s",
            seconds=(size + wire) / (installation.machine_gbit * gigabit),
            servers=machines,
        ),
        Load(
            part="network, database",
            where=f"{installation.database_gbit:g} Gbit/s",
            seconds=wire / (installation.database_gbit * gigabit),
            servers=1,
        ),
        Load(
            part="database, processors",
            where=f"{installation.database_cores} cores",
            seconds=server,
            servers=installation.database_cores,
            background=rounds / installation.database_cores,
        ),
        Load(
            part="database, log",
            where=f"{installation.log_mb:g} MB/s",
            seconds=log_bytes(constants, demand, installation) / (installation.log_mb * 1e6),
            servers=1,
        ),
        Load(
            part="database, index reads",
            where=f"{installation.page_reads:,.0f} reads/s",
            seconds=index_reads(constants, demand, installation) / installation.page_reads,
            servers=1,
        ),
        Load(
            part="database, connections",
            where=f"{connections_free(installation)} of {installation.database_connections}",
            seconds=occupancy(constants, demand, installation) / installation.target,
            servers=connections_free(installation)
            / (CONNECTIONS_PROCESS + CONNECTIONS_WORKER / installation.processes_per_machine),
        ),
        Load(
            part="broker",
            where="1 thread",
            seconds=constants["broker_cpu_us_message"] / 1e6 / fields,
            servers=1,
            background=polls,
        ),
    ]


def most_fields_a_day(constants: Constants, demand: Demand, installation: Installation, part: str) -> float:
    """Fields a day that leave nothing of a part, come in as `demand`'s do; infinite where it takes any number.

    Workers, chunks that wait and findings held grow with them, and what these ask of the part.
    """

    def share(fields_per_day: float) -> float:
        grown = replace(demand, fields_per_day=fields_per_day)
        known = asked_for(constants, grown, installation)
        (load,) = (load for load in loads(constants, grown, known) if load.part == part)
        return load.utilisation(grown.rate / installation.shards)

    low, high = 0.0, 1e15
    if share(high) < 1:
        return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < 1 else (low, middle)
    return high


def from_stages(constants: Constants) -> Constants:
    """The constants with a worker's time for a field put together from its stages alone and recording into SQLite.

    The time that the model takes was measured in a real run, where nothing can be missing from it.
    """
    small = {stage: constants[f"{stage}_ms"] for stage in (*OTHER_STAGES, "classify")}
    large = small | {stage: constants[f"{stage}_ms_5mp"] for stage in OTHER_STAGES}
    small_ms, large_ms = (sum(stages.values()) + constants["record_ms"] for stages in (small, large))
    return constants.changed(worker_cpu_ms=small_ms, worker_cpu_ms_5mp=large_ms)


def days_until_full(constants: Constants, demand: Demand, installation: Installation) -> float:
    """Days of the demand that fill the database's volume."""
    a_day = demand.fields_per_day * row_bytes(constants, demand.kind)
    return installation.volume_tb * 1e12 * installation.shards / a_day


def one_machine_rate(
    constants: Constants,
    *,
    workers: int,
    cores: int,
    sizes: Sequence[int],
    slide_fields: float,
    round_trip_ms: float = 0.0,
    mbit: float = math.inf,
    kind: Kind = "small",
) -> float:
    """Fields per second of `workers` processes, a core each, that share `cores` with database and broker.

    `sizes`: fields of each chunk that there is; `slide_fields`: of each slide.

    Two bounds, of which the lower holds: what a process can do when each chunk waits for its database, and the
    processor time that there is for all. `mbit` is the rate of the link of each worker.
    """
    wait = Installation(name="", round_trip_ms=round_trip_ms, machine_gbit=mbit / 1000)
    compute = compute_seconds(constants, kind)
    serial = field_seconds(constants, wait, sizes, kind, slide_fields)
    mean = sum(sizes) / len(sizes)
    server = constants["database_cpu_ms_field"] + constants["database_cpu_ms_chunk"] / mean
    broker = constants["broker_cpu_us_message"] / 1000 / mean
    return min(workers / serial, cores / (compute + (server + broker) / 1000))
