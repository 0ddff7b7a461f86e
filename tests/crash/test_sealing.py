"""What seals the ledger is killed between the transaction and what is known outside of it: the next one goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import get_args

import pytest

from allq.settings import Settings
from db import keys, sealing, witness
from db.database import Database
from db.verifying import verify
from db.witness import Witness
from tests import store
from tests.crash.test_matrix import LEDGER, of, points
from tests.processes import Fault, Ledger, Plan, Runner, Task

STEPS: dict[Ledger, tuple[str, ...]] = {
    "seal": ("key.written", "key.made", "export.written", "export.kept"),
    "rotate": ("key.written", "rotate.written", "rotate.committed", "rotate.retired"),
    "restore": ("restore.written", "restore.committed"),
}
"""By what does it, in the order in which it comes by."""


def test_every_step_is_tried():
    assert {point for steps in STEPS.values() for point in steps} == {p for p in points() if of(p, LEDGER)}
    assert STEPS.keys() == set(get_args(Ledger))


@pytest.mark.parametrize(("what", "point"), [(what, point) for what, steps in STEPS.items() for point in steps])
def test_a_ledger_whose_sealer_was_killed_goes_on(
    database: Database, settings: Settings, tmp_path: Path, what: Ledger, point: str
):
    settings = settings.model_copy(update={"ledger_hooks": (str(_hook(tmp_path)),)})
    _screen(database, "A")
    if what != "seal":
        sealing.seal(database, settings)
    if what == "restore":
        _lose_a_checkpoint(database, settings)
    _die_at(point, what, settings, tmp_path)

    _screen(database, "B")
    if what == "restore":
        lost = sealing.go_on_after_restore(database, settings, reason="the disk failed", actor="tester")
        assert (lost is None) == (point == "restore.committed"), "it is said once"
    sealing.seal(database, settings)
    if what == "rotate":
        first, *_, newest = Witness(settings.checkpoint_file)
        assert (newest.public_key == first.public_key) == (point in {"key.written", "rotate.written"})
        sealing.rotate_key(database, settings, actor="tester")
        assert not keys.successor(settings.ledger_key_file).exists()
    found = verify(database, Witness(settings.checkpoint_file), complete=True)
    assert found.problems == []
    outside = list(Witness(settings.checkpoint_file))
    assert found.newest == outside[-1]
    handed_on = [json.loads(line)["checkpoint"] for line in (tmp_path / "handed-on").read_text().splitlines() if line]
    assert set(handed_on) == {one.number for one in outside}


def _hook(folder: Path) -> Path:
    hook = folder / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> '{folder / 'handed-on'}'\n")
    hook.chmod(0o755)
    return hook


def _screen(database: Database, name: str) -> None:
    with database.begin() as conn:
        _, chunk_ids = store.submit(conn, [store.new_slide(name, 2)], root=f"/{name}")
    store.work(database, chunk_ids)


class _Undone(Exception):
    pass


def _lose_a_checkpoint(database: Database, settings: Settings) -> None:
    """As a restored backup has: the file and the hook know a checkpoint more than the database."""
    with pytest.raises(_Undone), database.begin() as conn:
        _, _ = store.submit(conn, [store.new_slide("lost", 1)], root="/lost")
        sealing._seal_some(conn, settings)
        witness.catch_up(conn, settings)
        raise _Undone


def _die_at(point: str, what: Ledger, settings: Settings, folder: Path) -> None:
    (folder / "plan").mkdir()
    plan = Plan(folder / "plan")
    plan.arm([Fault(point=point, victim="process", by="ledger")], broker=Path(), postgresql=None)
    runner = Runner(Task(settings=settings, log=folder / "log", plan=plan.folder, ledger=what))
    runner.process.join(60)
    assert runner.process.exitcode == -signal.SIGKILL, (folder / "log").read_text()
    assert plan.happened(0)
