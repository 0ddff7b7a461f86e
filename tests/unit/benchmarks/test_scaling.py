"""The cost model and the simulation behind docs/scaling.md: they keep count, agree with theory, and fill the page."""

from __future__ import annotations

import ast
import importlib.util
import math
import random
import re
import shutil
import socket
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.measuring import rendered
from benchmarks.scaling import check, model, prices, report
from benchmarks.scaling.__main__ import main
from benchmarks.scaling.check import Case, Checked, predicted_rate
from benchmarks.scaling.constants import Constants
from benchmarks.scaling.field_kinds import CAMERA, some_of, write_camera_fields
from benchmarks.scaling.model import AS_IT_IS, DEMANDS, Demand, Installation
from benchmarks.scaling.prices import Prices
from benchmarks.scaling.realrun import RealRun
from benchmarks.scaling.relay import Target, Traffic, relay
from benchmarks.scaling.simulation import WORKERS, Arrival, Outcome, Route, Visit, arrivals, busiest_hour, run
from db.batches import chunk_sizes
from imaging.decode import decode

CONSTANTS = Constants.load()
HOSPITAL, NETWORK, ARCHIVE = DEMANDS


def poisson(count: int, rate: float, seed: int) -> list[Arrival]:
    chance = random.Random(seed)
    at, found = 0.0, []
    for _ in range(count):
        at += chance.expovariate(rate)
        found.append(Arrival(at=at, fields=1))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --------------------------------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("seed", range(5))
def test_every_field_that_goes_in_comes_out_once(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.randint(1, 256) for _ in range(200)]
    coming = [Arrival(at=at, fields=size) for at, size in enumerate(sizes)]
    routes = {
        size: Route(
            enter=(Visit(part="broker", seconds=0.01),),
            claim=(Visit(part="database", seconds=0.02), Visit(part=None, seconds=0.01)),
            read=[Visit(part="storage", seconds=size / 500)],
            compute=size / 100,
            record=(Visit(part="database", seconds=size / 1000),),
        )
        for size in set(sizes)
    }
    outcome = run({WORKERS: 2, "broker": 1, "database": 1, "storage": 1}, routes, coming)
    assert (outcome.entered, outcome.left, outcome.under_way) == (sum(sizes), sum(sizes), 0)
    assert len(outcome.seconds) == len(sizes)


def test_what_is_cut_off_in_the_middle_is_under_way_and_not_lost() -> None:
    coming = [Arrival(at=0.0, fields=10) for _ in range(5)]
    outcome = run({WORKERS: 1}, {10: Route(compute=1.0)}, coming, until=2.5)
    assert (outcome.entered, outcome.left, outcome.under_way) == (50, 20, 30)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_server_waits_as_the_formula_of_pollaczek_and_khinchine_says(utilisation: float) -> None:
    outcome = run({WORKERS: 1}, {1: Route(compute=1.0)}, poisson(12_000, utilisation, seed=4))
    assert mean(outcome.waits) == pytest.approx(utilisation / (2 * (1 - utilisation)), rel=0.06)


def erlang_wait(servers: int, load: float) -> float:
    """Mean wait in M/M/c in units of the service time (Erlang C)."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    utilisation = load / servers
    waits = blocked / (1 - utilisation * (1 - blocked))
    return waits / (servers - load)


@pytest.mark.parametrize(("servers", "utilisation"), [(2, 0.7), (4, 0.8)])
def test_several_servers_wait_as_cosmetatos_approximates(servers: int, utilisation: float) -> None:
    correction = (1 - utilisation) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * utilisation * servers)
    expected = erlang_wait(servers, servers * utilisation) / 2 * (1 + correction)
    outcome = run({WORKERS: servers}, {1: Route(compute=1.0)}, poisson(16_000, servers * utilisation, seed=4))
    assert mean(outcome.waits) == pytest.approx(expected, rel=0.08)
    assert outcome.busy[WORKERS] == pytest.approx(utilisation, rel=0.02)


@pytest.mark.parametrize("servers", [1, 3])
def test_each_chunk_waits_exactly_as_long_as_until_the_first_server_is_free(servers: int) -> None:
    """By the recursion of Kiefer and Wolfowitz, for the very same arrivals and times of service."""
    chance = random.Random(7)
    times = {size: chance.uniform(0.1, 2.0) for size in range(1, 9)}
    coming = [replace(each, fields=chance.choice(list(times))) for each in poisson(1_000, 0.9 * servers, seed=5)]
    free, expected = [0.0] * servers, []
    for each in coming:
        begun = max(each.at, min(free))
        expected.append(begun - each.at)
        free[free.index(min(free))] = begun + times[each.fields]
    outcome = run({WORKERS: servers}, {size: Route(compute=time) for size, time in times.items()}, coming)
    assert sorted(outcome.waits) == pytest.approx(sorted(expected))


def saturated(times: int) -> Outcome:
    coming = poisson(2_000 * times, 1.25, seed=3)
    return run({WORKERS: 1}, {1: Route(compute=1.0)}, coming, until=coming[-1].at)


def test_above_its_capacity_a_part_is_always_busy_and_the_backlog_grows_with_time() -> None:
    short, long = saturated(1), saturated(4)
    for outcome in (short, long):
        assert outcome.busy[WORKERS] == pytest.approx(1.0, abs=0.01)
        assert outcome.rate == pytest.approx(1.0, rel=0.01)
    assert long.under_way / short.under_way == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("part", ["storage", "database, processors", "database, log"])
def test_the_simulation_stalls_where_the_arithmetic_says_that_a_part_is_full(part: str) -> None:
    demand = replace(NETWORK, submission_fields=256)
    too_small: dict[str, Installation] = {
        "storage": replace(AS_IT_IS, storage_gbit=0.5),
        "database, processors": replace(AS_IT_IS, storage_gbit=1000, machine_gbit=1000, database_cores=1),
        "database, log": replace(AS_IT_IS, storage_gbit=1000, machine_gbit=1000, database_cores=64, log_mb=1),
    }
    constants = CONSTANTS.changed(database_cpu_ms_field=5.0) if part == "database, processors" else CONSTANTS
    installation = replace(too_small[part], workers=400)
    loads = {load.part: load for load in model.loads(constants, demand, installation)}
    assert loads[part].utilisation(demand.rate) >= 1
    assert max(loads.values(), key=lambda load: load.utilisation(demand.rate)).part == part
    outcome = busiest_hour(constants, demand, installation)
    assert outcome.rate < 0.9 * demand.rate
    assert outcome.busy[part] > 0.9


def test_no_more_comes_out_than_the_part_that_is_full_lets_through() -> None:
    """Fifty workers that have all begun before it is watched: what they had read by then does not count."""
    installation = model.sized(CONSTANTS, ARCHIVE, AS_IT_IS)
    (storage,) = (load for load in model.loads(CONSTANTS, ARCHIVE, installation) if load.part == "storage")
    for seed in (1, 2):
        outcome = busiest_hour(CONSTANTS, ARCHIVE, installation, seed=seed)
        assert outcome.rate == pytest.approx(storage.limit, rel=0.005)


def test_below_capacity_simulation_and_arithmetic_agree_on_how_busy_each_part_is() -> None:
    demand = replace(NETWORK, submission_fields=256)
    installation = model.sized(CONSTANTS, demand, replace(AS_IT_IS, storage_gbit=25, machine_gbit=25, database_cores=8))
    outcome = busiest_hour(CONSTANTS, demand, installation)
    for load in model.loads(CONSTANTS, demand, installation):
        if load.part in {"storage", "network, database", "database, log", "database, index reads"}:
            assert outcome.busy[load.part] == pytest.approx(load.utilisation(demand.rate), rel=0.1)
    assert outcome.rate == pytest.approx(demand.rate, rel=0.1)


# --------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.name)
def test_a_load_at_its_limit_is_exactly_full(demand: Demand) -> None:
    for load in model.loads(CONSTANTS, demand, AS_IT_IS):
        if 0 < load.limit < math.inf:
            assert load.utilisation(load.limit) == pytest.approx(1)


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.name)
def test_the_workers_that_are_asked_for_take_the_demand_at_the_target_and_one_fewer_would_not(demand: Demand) -> None:
    known = model.sized(CONSTANTS, demand, replace(AS_IT_IS, database_connections=1_000_000))

    def utilisation(workers: int) -> float:
        return demand.rate * model.occupancy(CONSTANTS, demand, known) / workers

    assert utilisation(known.workers) <= known.target
    assert known.workers == 1 or utilisation(known.workers - 1) > known.target


def test_no_more_workers_are_planned_than_the_database_has_connections_for() -> None:
    few = replace(AS_IT_IS, database_connections=20 + model.CONNECTIONS_OTHERS)
    assert model.workers_needed(CONSTANTS, ARCHIVE, few) > 20
    assert model.sized(CONSTANTS, ARCHIVE, few).workers == 9  # two each, and one for each of two machines
    assert model.sized(CONSTANTS, ARCHIVE, replace(few, processes_per_machine=1)).workers == 6
    lone = replace(AS_IT_IS, processes_per_machine=1_000)
    assert model.sized(CONSTANTS, ARCHIVE, lone).workers == 43  # as docs/deployment.md has it


PARTS = ("storage", "database, connections", "database, processors", "database, index reads", "database, log", "broker")


@pytest.mark.parametrize("part", PARTS)
def test_the_most_fields_a_day_keep_a_part_full_with_the_workers_and_the_chunks_that_they_bring(part: str) -> None:
    most = model.most_fields_a_day(CONSTANTS, NETWORK, AS_IT_IS, part)
    demand = replace(NETWORK, fields_per_day=most)
    known = model.asked_for(CONSTANTS, demand, AS_IT_IS)
    assert known.workers == model.workers_needed(CONSTANTS, demand, AS_IT_IS)
    (load,) = (load for load in model.loads(CONSTANTS, demand, known) if load.part == part)
    assert load.utilisation(demand.rate) == pytest.approx(1, rel=0.001)


def test_what_a_part_is_busy_with_at_a_scale_counts_all_the_workers_that_it_takes() -> None:
    """Not only those that there are connections for: the table says what each part would bear."""
    (row,) = (line for line in report.limits_table(CONSTANTS, DEMANDS, AS_IT_IS).splitlines() if "processors" in line)
    (more,) = (
        line
        for line in report.limits_table(CONSTANTS, DEMANDS, replace(AS_IT_IS, database_connections=9_999)).splitlines()
        if "processors" in line
    )
    assert row == more


def test_workers_take_turns_at_counting_so_that_more_machines_count_no_more_often() -> None:
    def waiting_costs(workers: int) -> float:
        known = replace(AS_IT_IS, workers=workers)
        none, many = (model.housekeeping_share(CONSTANTS, ARCHIVE, known, waiting) for waiting in (0, 660_000))
        return many - none

    assert waiting_costs(800) == waiting_costs(16) == pytest.approx(2 * waiting_costs(8))


def test_shards_share_the_work_and_the_volumes() -> None:
    four = replace(AS_IT_IS, shards=4)
    quarter = replace(ARCHIVE, fields_per_day=ARCHIVE.fields_per_day / 4)
    assert model.workers_needed(CONSTANTS, ARCHIVE, four) == model.workers_needed(CONSTANTS, quarter, AS_IT_IS)
    assert model.days_until_full(CONSTANTS, ARCHIVE, four) == pytest.approx(
        model.days_until_full(CONSTANTS, quarter, AS_IT_IS)
    )


def test_the_index_is_read_from_disk_only_as_far_as_memory_does_not_hold_it() -> None:
    days = (0.001, 1, 10, 100, 1_000, 10_000)
    reads = [model.index_reads(CONSTANTS, NETWORK, replace(AS_IT_IS, held_days=day)) for day in days]
    assert reads[0] == 0
    assert all(earlier <= later for earlier, later in pairwise(reads))
    assert 0.99 < reads[-1] < 1


def test_the_log_takes_at_most_a_page_more_for_each_finding_however_large_the_index_is() -> None:
    days = (0.0, 1, 100, 10_000, 1_000_000)
    row = CONSTANTS["log_bytes_field"] + model.more_outlines(CONSTANTS, NETWORK.kind)
    more = [model.log_bytes(CONSTANTS, NETWORK, replace(AS_IT_IS, held_days=day)) - row for day in days]
    assert more[0] == 0
    assert all(earlier <= later for earlier, later in pairwise(more))
    assert 8000 < more[-1] <= 8192


def test_a_field_is_charged_what_a_worker_took_for_one_of_its_kind() -> None:
    slower = CONSTANTS.changed(worker_cpu_ms_5mp=CONSTANTS["worker_cpu_ms_5mp"] + 7)
    more = [model.compute_seconds(slower, kind) - model.compute_seconds(CONSTANTS, kind) for kind in ("5mp", "small")]
    assert more == pytest.approx([0.007, 0])
    assert CONSTANTS["worker_cpu_ms_5mp"] > 1.5 * CONSTANTS["worker_cpu_ms"]


def test_what_is_said_from_the_stages_alone_knows_nothing_of_a_real_run() -> None:
    stages = model.from_stages(CONSTANTS)
    assert stages.found == model.from_stages(CONSTANTS.changed(worker_cpu_ms=1, worker_cpu_ms_5mp=1)).found
    parts = sum(CONSTANTS[f"{stage}_ms"] for stage in ("read", "decode", "segment", "classify", "record"))
    assert model.compute_seconds(stages, "small") == pytest.approx(parts / 1000)
    of_large = sum(CONSTANTS[f"{stage}_ms_5mp"] for stage in ("read", "decode", "segment"))
    parts = of_large + CONSTANTS["classify_ms"] + CONSTANTS["record_ms"]
    assert model.compute_seconds(stages, "5mp") == pytest.approx(parts / 1000)


def test_a_chunk_asks_more_the_more_slides_it_ends() -> None:
    one, many = (model.round_trips(CONSTANTS, 256, fields) for fields in (256, 32))
    assert many - one == pytest.approx(7 * CONSTANTS["trips_slide"])
    assert one > CONSTANTS["trips_chunk"] + 8 * CONSTANTS["trips_lookup"]


def test_the_way_to_the_broker_and_a_round_of_housekeeping_hold_up_a_chunk_far_away() -> None:
    near, far, farther = (
        model.broker_wait(CONSTANTS, replace(AS_IT_IS, round_trip_ms=each)) for each in (0.0, 10.0, 20.0)
    )
    assert near < 0.001
    assert far - near > model.BROKER_TRIPS * 0.01
    assert farther - near > 2 * (far - near), "a round is met the more often the longer it takes"
    assert model.broker_wait(CONSTANTS.changed(trips_round=0), replace(AS_IT_IS, round_trip_ms=10)) < far


def test_workers_on_one_slide_wait_for_its_row_and_those_on_slides_of_their_own_do_not() -> None:
    far = Case(workers=8, apart=True, round_trip_ms=200)
    constants = CONSTANTS.changed(trips_slide=0)
    alone, together = (predicted_rate(constants, far, [64] * 32, cores=64, slide_fields=each) for each in (40, 2_048))
    assert together < 0.99 * alone
    lone = replace(far, workers=1)
    rates = [predicted_rate(constants, lone, [64] * 32, cores=64, slide_fields=each) for each in (40, 2_048)]
    assert rates[0] == pytest.approx(rates[1])


def test_the_table_of_costs_charges_a_worker_what_the_model_charges_it() -> None:
    *rows, together = [line.split("|")[2:4] for line in report.costs_table(CONSTANTS).splitlines()[2:]]
    servers = rows[-2:]
    for column, kind in enumerate(("small", "5mp")):
        workers = float(together[column].strip()) - sum(float(row[column]) for row in servers)
        assert workers == pytest.approx(1000 * model.compute_seconds(CONSTANTS, kind), abs=0.005)


def test_the_longer_outlines_of_a_camera_field_take_room_in_rows_log_and_wire() -> None:
    longer = CONSTANTS.changed(leukocyte_bytes_more_5mp=CONSTANTS["leukocyte_bytes_more_5mp"] + 100)

    def sizes(constants: Constants, demand: Demand) -> list[float]:
        kind = demand.kind
        log = model.log_bytes(constants, demand, AS_IT_IS)
        return [model.row_bytes(constants, kind), log, model.wire_bytes(constants, 1, kind)]

    for demand, more in ((NETWORK, 100), (replace(NETWORK, kind="small"), 0)):
        grown = [new - old for new, old in zip(sizes(longer, demand), sizes(CONSTANTS, demand), strict=True)]
        assert grown == pytest.approx([more] * 3)


def test_fields_of_a_camera_are_made_of_small_ones_that_can_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "slide").mkdir()
    for number, data in enumerate(rendered(3)):
        (tmp_path / "slide" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff broken" if number == 1 else data)
    sources = some_of(tmp_path, 8)
    assert [path.name for path in sources] == ["0.jpg", "2.jpg"]
    large = sorted(write_camera_fields(tmp_path / "large", sources).iterdir())
    found = [decode(path.read_bytes(), max_pixels=10**7, reduce_to=640) for path in large]
    assert [(each.width, each.height) for each in found] == [CAMERA] * 2


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.name)
def test_submissions_are_cut_into_chunks_as_submit_cuts_them(demand: Demand) -> None:
    sizes = chunk_sizes(demand.submission_fields, AS_IT_IS.chunk_fields, last=True)
    assert len(set(sizes)) > 2
    assert [each.fields for each in arrivals(demand, AS_IT_IS, submissions=2, seed=1)] == 2 * sizes
    assert model.chunk_size(demand, AS_IT_IS) == pytest.approx(sum(sizes) / len(sizes))
    waits = [model.chunk_wait(CONSTANTS, AS_IT_IS, size, demand.kind, demand.slide_fields) for size in sizes]
    expected = model.compute_seconds(CONSTANTS, demand.kind) + sum(waits) / sum(sizes)
    assert model.occupancy(CONSTANTS, demand, AS_IT_IS) == pytest.approx(expected)


def test_two_workers_with_a_core_each_do_twice_as_much_and_a_long_way_costs_both_the_same() -> None:
    chunks = [64] * 10
    one, two = (predicted_rate(CONSTANTS, Case(workers=count, apart=False), chunks, cores=64) for count in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.01)
    far = predicted_rate(CONSTANTS, Case(workers=2, apart=True, round_trip_ms=100, mbit=10), chunks, cores=64)
    assert far < two


def test_workers_are_predicted_to_do_fewer_of_a_camera_fields() -> None:
    small, large = (
        predicted_rate(CONSTANTS, Case(workers=1, apart=False, kind=kind), [64] * 4, cores=2)
        for kind in ("small", "5mp")
    )
    times = [model.compute_seconds(CONSTANTS, kind) for kind in ("5mp", "small")]
    assert 1 / large - 1 / small == pytest.approx(times[0] - times[1], rel=0.01)


def test_more_workers_than_cores_do_no_more_than_the_cores_can() -> None:
    chunks = [64] * 32
    rates = [predicted_rate(CONSTANTS, Case(workers=count, apart=False), chunks, cores=2) for count in (4, 8)]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)


def checked(case: Case, rate: float, trips: int) -> Checked:
    traffic = Traffic(sent=0, received=0, round_trips=10 * trips)
    real = RealRun(
        fields=640, slides=1, failed=0, chunks=10, seconds=640 / rate, worker_cpu=1, database_cpu=1,
        database_traffic=traffic, broker_traffic=traffic, leukocyte_bytes=1,
    )  # fmt: skip
    return Checked(case=case, predicted=100, from_stages=105, predicted_trips=40, real=real, shaped_by="–")


def test_the_sentence_below_the_table_of_checks_is_made_from_it() -> None:
    near = [checked(Case(workers=count, apart=False), 95, 44 + count) for count in (1, 2)]
    far = [checked(Case(workers=2, apart=True, round_trip_ms=ms, mbit=10), 90 - ms, 50 + ms) for ms in (20, 5)]
    sentence = check.differences([*near, *far])
    assert "off by up to 5 %, where links are shaped by up to 30 %;" in sentence
    assert "from the stages alone are off by up to 10 % where no link is shaped." in sentence
    assert check.differences(near) == check.differences(far[:1]) == ""


def test_a_run_that_takes_longer_meets_more_rounds_of_housekeeping() -> None:
    case, chunks = Case(workers=2, apart=False), [64] * 10
    quick, slow = (check.predicted_trips(CONSTANTS, case, chunks, math.inf, rate) for rate in (64.0, 32.0))
    assert quick > model.round_trips(CONSTANTS, 64, math.inf)
    rounds = 2 * 10 / CONSTANTS["round_seconds"]  # ten seconds more, of two workers
    assert slow - quick == pytest.approx(rounds * CONSTANTS["trips_round"] / len(chunks))


# ------------------------------------------------------------------------------------------------------------- prices


def test_a_bill_follows_each_price_in_proportion() -> None:
    usual = prices.bill(CONSTANTS, NETWORK, AS_IT_IS, Prices(), months=12)
    twice = prices.bill(
        CONSTANTS, NETWORK, AS_IT_IS, Prices().changed({"worker_core_hour": 2 * Prices().worker_core_hour}), months=12
    )
    assert twice.workers == pytest.approx(2 * usual.workers)
    assert twice.total - usual.total == pytest.approx(usual.workers)
    assert usual.total == pytest.approx(usual.workers + usual.database + usual.broker + usual.rows + usual.reads)


def test_a_price_or_a_part_that_does_not_exist_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--price", "gold=1"]) == 1
    assert main(["simulate", "--set", "horses=1"]) == 1
    assert main(["simulate", "--price", "gb_out=cheap"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0].split(" it has")[0] for line in lines] == [
        "There is no price 'gold'",
        "An installation has no 'horses'",
        "'gb_out=cheap' is no name=number, e.g. worker_core_hour=0.03.",
    ]


def test_a_constant_that_was_never_measured_says_how_to_measure_it() -> None:
    with pytest.raises(LookupError, match=re.escape("benchmarks.scaling measure")):
        Constants({})["read_ms"]


def test_constants_are_kept_as_they_were_measured(tmp_path: Path) -> None:
    CONSTANTS.save(tmp_path / "copy.json")
    assert Constants.load(tmp_path / "copy.json").found == CONSTANTS.found


# --------------------------------------------------------------------------------------------------------------- page


def test_the_page_shows_what_the_constants_make() -> None:
    """As `python -m benchmarks.scaling simulate --write` leaves it."""
    tables = report.all_tables(CONSTANTS, Prices())
    assert {name: report.read(name) for name in tables} == tables


def test_every_measured_figure_of_the_page_names_its_command_and_day() -> None:
    for name, constant in CONSTANTS.found.items():
        assert constant.by, name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", constant.date), name


# -------------------------------------------------------------------------------------------------------------- links


def test_without_namespaces_the_relay_holds_to_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with check.seats(Case(workers=2, apart=True, round_trip_ms=10, mbit=100)) as (seats, by_relay, shaped_by):
        assert [(seat.host, seat.prefix) for seat in seats] == [("127.0.0.1", ())] * 2
        assert (by_relay, shaped_by) == (True, "relay alone")


# -------------------------------------------------------------------------------------------------------------- relay


def test_the_relay_hands_on_every_byte_and_counts_the_round_trips() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    message = random.Random(1).randbytes(300_000)

    def echo() -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(3):
                left = len(message)
                while left:
                    data = connection.recv(min(left, 1 << 16))
                    connection.sendall(data)
                    left -= len(data)

    server = threading.Thread(target=echo)
    server.start()
    with relay(Target(port=listener.getsockname()[1]), delay=0.001, rate=50e6) as way:
        with socket.create_connection(("127.0.0.1", way.port)) as client:
            for _ in range(3):
                threading.Thread(target=client.sendall, args=(message,)).start()
                received = b""
                while len(received) < len(message):
                    received += client.recv(1 << 16)
                assert received == message
        server.join()
    listener.close()
    assert (way.traffic.sent, way.traffic.received) == (900_000, 900_000)
    assert way.traffic.round_trips >= 3
    assert (way.traffic.connections, way.traffic.most_open) == (1, 1)


def find_spec_of(module: ModuleType, name: str) -> bool:
    """Whether a package has a module of that name, loaded or not."""
    return hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def test_what_is_imported_when_it_is_needed_is_there() -> None:
    for path in sorted(Path(model.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
                module = importlib.import_module(node.module)
                names = [each.name for each in node.names]
                missing = [name for name in names if not hasattr(module, name) and not find_spec_of(module, name)]
                assert not missing, f"{path.name}:{node.lineno}: {node.module} has no {', '.join(missing)}"
