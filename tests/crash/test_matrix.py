"""Every process and every server is killed at every step. Nothing is lost, nothing doubled, nothing waits for ever."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.laboratory import Laboratory, laboratory
from tests.databases import PostgresqlMissing
from tests.processes import Fault

ROOT = Path(__file__).parents[2]
ROOMS = ("allq", "imaging", "models", "db", "worker", "review", "cli")


def points() -> list[str]:
    """Every fault point, as the sources name it."""
    found = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.reach":
                    (argument,) = node.args
                    assert isinstance(argument, ast.Constant), f"{path}:{node.lineno}: a point's name is a literal"
                    found.add(argument.value)
    return sorted(found)


POOL = ("claim", "compute", "renew", "record", "return", "acknowledge.due")
"""Steps of the processes that screen."""
MAIN = ("acknowledge", "publish", "reclaim", "call", "seal")
"""Steps of a worker's first process."""
SUBMITTING = ("submit", "publish")
"""Steps of the command that submits."""
SEALING = ("seal",)
"""Steps of the process that seals and does nothing else: `allq audit seal --watch`."""

LEDGER = ("export", "key", "rotate", "restore")
"""Steps that no screening comes by each time: tests/crash/test_sealing.py."""

_IN_TRANSACTION = {"written", "findings", "fields", "counted", "told", "finishing"}
"""How far a step has come when it has written and not committed: there it matters which database it is."""

_FIRST = {
    "renew": [Fault(point="compute.begin", victim="pause")],
    "reclaim": [Fault(point="compute.begin", victim="process")],
    "return": [Fault(point="compute.end", victim="error")],
    "call": [Fault(point="compute.end", victim="error")] * 2,
}
"""What has to go wrong before a step is taken at all. A lone field at which it goes wrong twice is given up."""


def of(point: str, steps: tuple[str, ...]) -> bool:
    """Whether a point belongs to one of these steps; one that is listed by its whole name belongs there alone."""
    return point in steps or (point.partition(".")[0] in steps and point not in POOL)


ELSEWHERE = ("claim.committed", "compute.end", "record.written")
"""Where a worker holds a chunk; when one of another machine is killed there, only the end of its lease tells."""


def cases() -> Iterator[tuple[str, str, str, str]]:
    """(database, who comes by, point, victim). Where the database can't matter, the point is visited on one of them."""
    yield from (("sqlite", "worker elsewhere", point, "worker") for point in ELSEWHERE)
    yield "postgresql", "worker elsewhere", ELSEWHERE[-1], "worker"
    for point in points():
        if of(point, LEDGER):
            continue
        how_far = point.partition(".")[2]
        kinds: list[tuple[str, list[str]]] = []
        if of(point, POOL):
            kinds.append(("worker", ["process", "worker"]))
        if of(point, MAIN):
            kinds.append(("worker", ["worker"]))
        if of(point, SUBMITTING):
            kinds.append(("submission", ["process"]))
        if of(point, SEALING):
            kinds.append(("sealer", ["process"]))
        assert kinds, f"which process comes by {point}?"
        for by, victims in kinds:
            for victim in victims:
                yield "sqlite", by, point, victim
                if how_far in _IN_TRANSACTION:
                    yield "postgresql", by, point, victim
            if by != "sealer":  # it needs none
                yield "sqlite", by, point, "broker"
            yield "postgresql", by, point, "postgresql"


@pytest.fixture(scope="module")
def laboratories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Laboratory]]:
    folder = tmp_path_factory.mktemp("laboratories")
    with laboratory(folder / "on-sqlite", "sqlite") as first:
        try:
            with laboratory(folder / "on-postgresql", "postgresql") as second:
                yield {"sqlite": first, "postgresql": second}
        except PostgresqlMissing:
            yield {"sqlite": first}


@pytest.mark.parametrize(("kind", "by", "point", "victim"), list(cases()))
def test_nothing_is_lost_or_doubled_when_it_is_killed_at(laboratories, kind, by, point, victim):
    if kind not in laboratories:
        pytest.skip("no PostgreSQL that may be killed")
    here = laboratories[kind]
    if by == "sealer":
        return _seal_through(here, Fault(point=point, victim=victim, by=by))
    elsewhere = by == "worker elsewhere"
    step = point.partition(".")[0]
    faults = [*_FIRST.get(step, []), Fault(point=point, victim=victim, by="worker" if elsewhere else by)]
    # A worker's housekeeping may publish what was submitted before the submission comes to it.
    alone = by == "submission" and step == "publish"
    if alone or elsewhere:
        here.kill_worker()
    if not alone:
        here.keep_a_worker(elsewhere=elsewhere)
    here.break_at(*faults)
    size = {"slides": 1, "fields": 1} if step == "call" else {"slides": 3, "fields": 2}
    try:
        if by == "submission":
            submitted = here.submission(**size)
            here.until_broken(*faults, keep=None if alone else here.keep_a_worker)
            here.until_submitted(submitted)
        else:
            here.submit(**size, publish=step != "publish")
            here.until_broken(*faults, keep=here.keep_a_worker)
        here.until_done()
    except BaseException:
        print(here.log())
        raise
    here.assert_accounted_for(failed=int(step == "call"))


def _seal_through(here: Laboratory, fault: Fault) -> None:
    """A sealer alone, which something befalls: it goes on, or its next one does, and all is sealed."""
    here.kill_worker()
    try:
        here.start_sealer()
        here.until_sealed()
        first = here.sealer
        here.break_at(fault)
        here.submit(slides=1, fields=1, publish=False)
        here.until_broken(fault, keep=here.keep_a_sealer)
        here.until_sealed()
        assert (here.sealer is first) == (fault.victim != "process"), "what waits for a server needs no start"
        here.stop_sealer()
        here.assert_sealed()
        here.until_done()
    except BaseException:
        print(here.log())
        raise
    finally:
        here.kill_sealer()
    here.assert_accounted_for()
