"""What a field, a chunk and a round of housekeeping cost PostgreSQL: processor, log, bytes, round trips, room."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection, event, text

from allq.settings import Settings
from benchmarks import filling, registering
from benchmarks.scaling.model import LOOKUP_FIELDS
from benchmarks.scaling.relay import Target, Traffic, relay
from benchmarks.scaling.servers import Postgresql, home
from benchmarks.scaling.timing import Found, median
from db import artefacts, chunks, events, findings
from db.database import Database
from db.records import Claim, FieldOutcome

_LARGE, _SMALL = 256, 32
_LONG_SLIDE = 1_280
"""Fields of a slide, so many that hardly a chunk ends one and calls it."""
_WAITING = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkCost:
    """What a chunk asks of the database, in the mean over several."""

    cpu_ms: float
    log_bytes: float
    wire_bytes: float
    round_trips: float
    transactions: float


def database(server: Postgresql, leukocyte_bytes: int, share: float) -> Found:
    """Registering, claiming, looking up and recording as a worker does, without its pixels; rounds of housekeeping."""
    name, waiting_chunks = "costs", round(_WAITING * share)
    server.create(name)
    try:
        with relay(Target(socket=server.socket)) as way:
            with _opened(server.url(name)) as direct:
                fields = round(40_000 * share)
                before = server.cpu_seconds()
                registering.registering(direct, fields)
                register = (server.cpu_seconds() - before) / fields
            url = server.url_by_way_of("127.0.0.1", way.port, name)
            with _opened(url) as relayed:
                large = _chunk_cost(relayed, server, way.traffic, _LARGE, round(60 * share), leukocyte_bytes)
                small = _chunk_cost(relayed, server, way.traffic, _SMALL, round(120 * share), leukocyte_bytes)
                few = _chunk_cost(
                    relayed, server, way.traffic, _LARGE, round(20 * share), leukocyte_bytes, slide=_LONG_SLIDE
                )
                lookup = _lookup_trips(relayed, way.traffic)
                commit = _commit_ms(relayed)
            a_round = _round_trips(url, way.traffic)
        with _opened(server.url(name)) as direct:
            sizes = _sizes(direct)
            alone = _round_cpu(direct, server)
            _fill_waiting(direct, waiting_chunks)
            waiting = _round_cpu(direct, server)
    finally:
        server.drop(name)
    per_field = _slope(large, small)
    usual = registering.FIELDS_PER_SLIDE
    a_call = (large.round_trips - few.round_trips) / (_LARGE / usual - _LARGE / _LONG_SLIDE)
    trips = statistics.mean(
        cost.round_trips - size // LOOKUP_FIELDS * lookup - size / usual * a_call
        for cost, size in ((large, _LARGE), (small, _SMALL))
    )
    return {
        "register_cpu_ms_field": (register * 1000, "ms/field", "PostgreSQL's processor time to register a field"),
        "database_cpu_ms_field": (
            per_field("cpu_ms"),
            "ms/field",
            "PostgreSQL's processor time to record a new finding",
        ),
        "database_cpu_ms_chunk": (
            max(0.0, large.cpu_ms - _LARGE * per_field("cpu_ms")),
            "ms/chunk",
            "PostgreSQL's processor time for a chunk besides: claim, look-ups, counters, ledger",
        ),
        "log_bytes_field": (large.log_bytes / _LARGE, "bytes/field", "PostgreSQL's log (WAL), in chunks of 256"),
        "wire_bytes_field": (per_field("wire_bytes"), "bytes/field", "between worker and PostgreSQL, both ways"),
        "wire_bytes_chunk": (
            max(0.0, large.wire_bytes - _LARGE * per_field("wire_bytes")),
            "bytes/chunk",
            "the same for a chunk besides",
        ),
        "trips_chunk": (
            trips,
            "round trips/chunk",
            "questions to PostgreSQL one after the other, without look-ups and calls",
        ),
        "trips_slide": (a_call, "round trips/slide", "the same, more where a chunk ends a slide and calls it"),
        "trips_round": (a_round, "round trips/round", "of a worker's round of housekeeping that seals"),
        "transactions_chunk": (large.transactions, "transactions", "of a chunk of 256, its eight look-ups among them"),
        "trips_lookup": (lookup, "round trips", "a look-up of the digests of up to 32 fields"),
        "commit_ms": (commit, "ms", "the smallest transaction that writes, until its commit is on disk"),
        "sql_bytes_field": (sizes[0], "bytes/field", "tables and indexes, for a field with a finding of its own"),
        "index_bytes_finding": (sizes[1], "bytes/finding", "of these: the index over (SHA-256, model)"),
        "round_cpu_ms": (alone, "ms/round", "PostgreSQL's processor time for a worker's round of housekeeping"),
        "round_cpu_us_chunk": (
            max(0.0, waiting - alone) * 1000 / waiting_chunks,
            "µs/waiting chunk",
            f"the same, more for each chunk that waits ({waiting_chunks:,} did)",
        ),
        "round_seconds": (
            Settings.model_fields["housekeeping_seconds"].default,
            "s",
            "from one round to the next, not measured: the default of ALLQ_HOUSEKEEPING_SECONDS",
        ),
    }


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    with home(database_url=url) as settings:
        database = Database.open(settings, upgrade=True)
        try:
            with database.begin() as connection:
                artefacts.remember_model(connection, filling.model())
            yield database
        finally:
            database.close()


def _slope(large: ChunkCost, small: ChunkCost) -> Callable[[str], float]:
    def per_field(what: str) -> float:
        more: float = getattr(large, what) - getattr(small, what)
        return max(0.0, more / (_LARGE - _SMALL))

    return per_field


def _chunk_cost(
    database: Database,
    server: Postgresql,
    traffic: Traffic,
    size: int,
    count: int,
    leukocyte_bytes: int,
    *,
    slide: int = registering.FIELDS_PER_SLIDE,
) -> ChunkCost:
    ids = _registered(database, size, count, slide)
    _checkpoint(database)
    log, cpu = _log_position(database), server.cpu_seconds()
    wire, trips, begun = traffic.bytes, traffic.round_trips, 0

    def begins(_: Connection) -> None:
        nonlocal begun
        begun += 1

    event.listen(database.engine, "begin", begins)
    try:
        for chunk_id in ids:
            _as_a_worker(database, chunk_id, leukocyte_bytes)
    finally:
        event.remove(database.engine, "begin", begins)
    wire, trips = traffic.bytes - wire, traffic.round_trips - trips
    _checkpoint(database)
    return ChunkCost(
        cpu_ms=(server.cpu_seconds() - cpu) * 1000 / count,
        log_bytes=(_log_position(database) - log) / count,
        wire_bytes=wire / count,
        round_trips=trips / count,
        transactions=begun / count,
    )


def _registered(database: Database, size: int, count: int, slide: int) -> list[int]:
    """Chunks of so many fields, of which no content is known, of slides of so many."""
    from db import batches
    from db.records import NewField, NewSlide

    label = f"{size}-{time.monotonic_ns()}"
    slides = [
        NewSlide(
            name=f"{label}-{number:05}",
            fields=[
                NewField(f"{label}-{number:05}/field {n:03}.jpg", None, 150_000, 1_700_000_000_000_000_000 + n)
                for n in range(slide)
            ],
        )
        for number in range(-(-size * count // slide))
    ]
    with database.begin() as connection:
        batch = batches.create_batch(connection, root="/data", model_id=registering.MODEL, operator="benchmark")
        ids = batches.register(connection, batch, slides, chunk_size=size)
        batches.finish_registration(connection, batch)
    return ids[:count]


def _as_a_worker(database: Database, chunk_id: int, leukocyte_bytes: int) -> None:
    """The transactions of `worker.station.Station.screen_chunk`."""
    with database.ask() as connection:
        chunks.model_wanted(connection, chunk_id)
    with database.begin() as connection:
        claim = chunks.claim(connection, chunk_id, "benchmark", 60)
    assert claim is not None
    outcomes = _outcomes(claim, leukocyte_bytes)
    for start in range(0, len(outcomes), LOOKUP_FIELDS):
        _look_up(database, outcomes[start : start + LOOKUP_FIELDS])
    with database.begin() as connection:
        chunks.record(connection, claim, outcomes, call_slide=registering.call_slide, worker="benchmark")


def _outcomes(claim: Claim, leukocyte_bytes: int) -> list[FieldOutcome]:
    found = []
    for field in claim.fields:
        outcome = registering.outcome(field.id, field.path, new=True)
        assert outcome.finding is not None
        data = (outcome.finding.sha256 * (leukocyte_bytes // 32 + 1))[:leukocyte_bytes]
        found.append(replace(outcome, finding=replace(outcome.finding, leukocyte_data=data)))
    return found


def _look_up(database: Database, outcomes: Sequence[FieldOutcome]) -> None:
    digests = {outcome.sha256 for outcome in outcomes if outcome.sha256 is not None}
    with database.ask() as connection:
        findings.existing(connection, digests, registering.MODEL)


def _lookup_trips(database: Database, traffic: Traffic) -> float:
    outcomes = [registering.outcome(number, f"nowhere/{number}", new=False) for number in range(LOOKUP_FIELDS)]
    _look_up(database, outcomes)
    before = traffic.round_trips
    for _ in range(10):
        _look_up(database, outcomes)
    return (traffic.round_trips - before) / 10


def _round_trips(url: str, traffic: Traffic) -> float:
    """Of a worker's round of housekeeping, as it is, with a broker of its own and something to seal."""
    from worker import embedded
    from worker.app import make_app
    from worker.housekeeping import Housekeeper

    with (
        home(database_url=url, log_level="warning", seal_seconds=0.001) as settings,
        embedded.in_use(settings),
        _opened(url) as database,
    ):
        keeper = Housekeeper(make_app(settings), settings)
        keeper.tick()
        asked = 0
        for _ in range(5):
            with database.begin() as connection:
                events.append(connection, "benchmark", {}, actor="benchmark")
            before = traffic.round_trips
            keeper.tick()
            asked += traffic.round_trips - before
        return asked / 5


def _commit_ms(database: Database) -> float:
    def commit() -> None:
        with database.begin() as connection:
            connection.execute(text("UPDATE batch SET note = 'x' WHERE id = 1"))

    return median(commit, 50) * 1000


def _checkpoint(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))


def _log_position(database: Database) -> float:
    with database.read() as connection:
        return float(connection.execute(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")).scalar_one())


def _sizes(database: Database) -> tuple[float, float]:
    """Bytes of a field with everything that belongs to it, and of its finding's entry in the index over the content."""
    with database.read() as connection:

        def one(statement: str) -> float:
            return float(connection.execute(text(statement)).scalar_one())

        tables = "'finding', 'finding_leukocytes'"
        new = one(f"SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relname IN ({tables})")
        count = one("SELECT count(*) FROM finding")
        # Fields that were recorded were written twice; what is free of that is used again, so all rows share it.
        rest = one(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relname IN "
            "('field', 'slide', 'slide_call', 'chunk', 'event', 'event_slide')"
        )
        fields = one("SELECT count(*) FROM field")
        index = one(
            "SELECT pg_relation_size(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
            "WHERE c.relname = 'finding' AND i.indisunique AND NOT i.indisprimary"
        )
    return new / count + rest / fields, index / count


def _round_cpu(database: Database, server: Postgresql, rounds: int = 20) -> float:
    """Milliseconds of PostgreSQL's processor time for what `worker.housekeeping.Housekeeper.tick` asks of it."""
    from worker.calling import call_due_slides
    from worker.housekeeping import reclaim
    from worker.lease import LapsedLeases

    with home(database_url=database.url_as_given) as settings:
        leases = LapsedLeases(settings)
        opened = Database.open(settings, upgrade=False)
        before = server.cpu_seconds()
        for _ in range(rounds):
            opened.require_schema()
            try:
                reclaim(opened, leases, settings)
                call_due_slides(opened, settings, worker="benchmark")
                with opened.ask() as connection:
                    for queue in ("stat", "routine"):
                        chunks.unpublished(connection, queue=queue, older_than_seconds=3e9, limit=500)
                    chunks.waiting_by_queue(connection)
            finally:
                opened.close()
        time.sleep(0.5)  # the server's processes for these connections have ended and are counted
        return (server.cpu_seconds() - before) * 1000 / rounds


def _fill_waiting(database: Database, count: int) -> None:
    with database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO chunk (batch_id, state, fields, waiting, published_at) "
                "SELECT (SELECT min(id) FROM batch), 'pending', 1, 1, now() FROM generate_series(1, :count)"
            ),
            {"count": count},
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE chunk"))
