"""Real workers on a real PostgreSQL and Valkey, by way of relays that count and, where asked, delay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

import allq
from allq.settings import Settings
from benchmarks.scaling.links import Seat
from benchmarks.scaling.relay import Relay, Target, Traffic, relay
from benchmarks.scaling.servers import Postgresql, cpu_seconds, home
from db.database import Database

_PATIENCE = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RealRun:
    """What one run came to. Processor seconds are of all its workers together."""

    fields: int
    slides: int
    failed: int
    chunks: int
    seconds: float
    worker_cpu: float
    database_cpu: float
    database_traffic: Traffic
    broker_traffic: Traffic
    leukocyte_bytes: float

    @property
    def rate(self) -> float:
        """Fields per second."""
        return self.fields / self.seconds


def real_run(
    server: Postgresql,
    folder: Path,
    seats: Sequence[Seat],
    *,
    chunk_fields: int,
    delay: float = 0.0,
    rate: float | None = None,
) -> RealRun:
    """Screen `folder` with one worker (of one process) in each of `seats`, all of them started and warm beforehand.

    `delay` in seconds each way between each worker and both servers; `rate` in bytes per second, where it is the relay
    that holds to it.
    """
    from imaging.synthetic import write_slides
    from models.artefact import find
    from worker import embedded
    from worker.submission import SubmitOptions, submit

    name = f"run_{time.monotonic_ns()}"
    url = server.create(name)
    try:
        with ExitStack() as stack:
            settings = stack.enter_context(home(database_url=url, chunk_size=chunk_fields))
            broker_settings = settings.model_copy(update={"broker_url": None})
            stack.enter_context(embedded.in_use(broker_settings))
            database = Database.open(settings, upgrade=True)
            stack.callback(database.close)
            ways = [
                (
                    stack.enter_context(relay(Target(socket=server.socket), delay=delay, rate=rate, host=seat.host)),
                    stack.enter_context(
                        relay(
                            Target(socket=embedded.socket_path(broker_settings)), delay=delay, rate=rate, host=seat.host
                        )
                    ),
                )
                for seat in seats
            ]
            workers = [
                stack.enter_context(_worker(settings, seat, *way, name)) for seat, way in zip(seats, ways, strict=True)
            ]
            warm = settings.home / "warm-up"
            write_slides(warm, slides=2, fields=8 * len(seats), seed=1)
            options = SubmitOptions(model=find(settings, None), operator="benchmark")
            small = broker_settings.model_copy(update={"chunk_size": 4})
            _until_ended(database, submit(database, small, warm, options).batch, workers)
            time.sleep(1.0)  # the round of housekeeping after it
            before = [_copy(way) for way in ways]
            worker_cpu, database_cpu = _cpu(workers), server.cpu_seconds()
            batch = submit(database, broker_settings, folder, options).batch
            started = time.perf_counter()
            _until_ended(database, batch, workers)
            seconds = time.perf_counter() - started
            return _outcome(
                database, batch, seconds, _cpu(workers) - worker_cpu, server.cpu_seconds() - database_cpu, before, ways
            )
    finally:
        server.drop(name)


def _outcome(
    database: Database,
    batch: int,
    seconds: float,
    worker_cpu: float,
    database_cpu: float,
    before: Sequence[tuple[Traffic, Traffic]],
    ways: Sequence[tuple[Relay, Relay]],
) -> RealRun:
    from sqlalchemy import text

    from db import reads

    with database.read() as connection:
        status = reads.batch_status(connection, batch)
        chunks = connection.execute(text("SELECT count(*) FROM chunk WHERE batch_id = :b"), {"b": batch}).scalar_one()
        mean = connection.execute(text("SELECT avg(length(data)) FROM finding_leukocytes")).scalar_one()
    return RealRun(
        fields=status.fields,
        slides=status.slides,
        failed=status.failed,
        chunks=chunks,
        seconds=seconds,
        worker_cpu=worker_cpu,
        database_cpu=database_cpu,
        database_traffic=_sum([_difference(way[0].traffic, old[0]) for way, old in zip(ways, before, strict=True)]),
        broker_traffic=_sum([_difference(way[1].traffic, old[1]) for way, old in zip(ways, before, strict=True)]),
        leukocyte_bytes=float(mean),
    )


@contextmanager
def _worker(
    settings: Settings, seat: Seat, database: Relay, broker: Relay, name: str
) -> Iterator[subprocess.Popen[bytes]]:
    own = settings.home / f"worker-{seat.core}-{database.port}"
    own.mkdir()
    variables = {
        "ALLQ_HOME": str(own),
        "ALLQ_DATABASE_URL": f"postgresql+psycopg://postgres@{seat.host}:{database.port}/{name}",
        "ALLQ_BROKER_URL": f"redis://{seat.host}:{broker.port}/0",
        "ALLQ_ROOTS": "/",
    }
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ALLQ_")}
    command = [*seat.prefix, sys.executable, "-P", "-m", "allq", "worker", "--concurrency", "1"]
    with (own / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**clean, **variables, "PYTHONPATH": str(Path(allq.__file__).parents[1])},
            start_new_session=True,
        )
    psutil.Process(process.pid).cpu_affinity([seat.core])  # before it has a pool: its children are born to it
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ended(database: Database, batch: int, workers: Sequence[subprocess.Popen[bytes]]) -> None:
    from db import reads

    deadline = time.monotonic() + _PATIENCE
    while True:
        with database.read() as connection:
            if reads.batch_status(connection, batch).ended:
                return
        if any(worker.poll() is not None for worker in workers):
            raise SystemExit("A worker ended by itself. Run one with `allq worker` to see why.")
        if time.monotonic() > deadline:
            raise SystemExit(f"The batch has not ended within {_PATIENCE:.0f} s. Give it fewer fields.")
        time.sleep(0.1)  # looking takes processor time from those who work, on cores that they share


def _cpu(workers: Sequence[subprocess.Popen[bytes]]) -> float:
    return sum(cpu_seconds(worker.pid) for worker in workers)


def _copy(way: tuple[Relay, Relay]) -> tuple[Traffic, Traffic]:
    first, second = (
        Traffic(sent=each.traffic.sent, received=each.traffic.received, round_trips=each.traffic.round_trips)
        for each in way
    )
    return first, second


def _difference(now: Traffic, before: Traffic) -> Traffic:
    return Traffic(
        sent=now.sent - before.sent,
        received=now.received - before.received,
        round_trips=now.round_trips - before.round_trips,
        most_open=now.most_open,
    )


def _sum(parts: Sequence[Traffic]) -> Traffic:
    return Traffic(
        sent=sum(part.sent for part in parts),
        received=sum(part.received for part in parts),
        round_trips=sum(part.round_trips for part in parts),
        most_open=sum(part.most_open for part in parts),
    )
