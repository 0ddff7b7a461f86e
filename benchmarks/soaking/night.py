"""The night: work is submitted, things happen, and in the end everything is accounted for."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import text

from allq.errors import AllqError, BrokerUnreachable, StoreError
from benchmarks.soaking.happenings import LOOKS, REFUSED, Happenings, NotNow
from benchmarks.soaking.programme import FIELDS_PER_SLIDE, LATE, STALLED, SUBMISSION_KILLED
from db import sealing
from tests import accounts
from tests.processes import Runner, Task
from worker import broker

_EARLY: Final = 0.8
"""Stalls happen to those at work: in this first part of it."""
_BUSY: Final = 5.0
"""Seconds by which what is waited for may be late where four workers and two servers share two cores."""
_LOST_AT_WORK: Final = "chunk dropped: it is no longer ours"


class Soak(Happenings):
    """One such night."""

    def _keep_submitting(self) -> None:
        """One submission after the other; one that was cut short, or found no database, is made again.

        As an operator would, we look first whether it had come to its end before it was cut short: a folder submitted
        anew is another batch.
        """
        if self._submitting is not None and not self._submitting.alive():
            submitted = self._submitting.process.exitcode == 0 or self._is_submitted(self._submissions[0])
            if submitted is None:
                return
            if submitted:
                self._submissions.pop(0)
                self._moved = time.monotonic()
            self._submitting = None
        if not self._submissions and all(name in {STALLED, LATE} for _, name in self._due):  # at work
            self._submissions, self._held_back = self._held_back, []
        if self._submitting is None and self._submissions and "database" not in self._outages:
            self._submitting = Runner(
                Task(settings=self.settings, log=self.folder / "logs" / "submissions", folder=self._submissions[0])
            )
            submission = self._submitting
            self._after(self._random.uniform(0, 0.25), lambda: self._kill_submission(submission))

    def _is_submitted(self, folder: Path) -> bool | None:
        """Whether a batch holds all of a folder; None while the database does not answer."""
        statement = "SELECT count(*) FROM batch WHERE root = :root AND registered_at IS NOT NULL"
        try:
            with self.database.read() as connection:
                return bool(connection.execute(text(statement), {"root": str(folder.resolve())}).scalar_one())
        except StoreError:
            return None

    def _keep_working(self) -> None:
        for place in [*self._places, *self._sealers]:
            if place.runner is not None and not place.runner.alive():  # it gave up: as a service manager would
                self._start(place)

    def _ended(self) -> int | None:
        """Fields that have ended; None while the database does not answer."""
        statement = """
            SELECT coalesce(sum(fields - waiting), 0), max(CASE WHEN state = 'running' THEN {overdue} END) FROM chunk
        """
        overdue = {
            "sqlite": "(julianday('now') - julianday(lease_until)) * 86400",
            "postgresql": "extract(epoch FROM clock_timestamp() - lease_until)",
        }
        try:
            with self.database.read() as connection:
                found = connection.execute(text(statement.format(overdue=overdue[self.database.dialect]))).one()
        except StoreError:
            return None
        if not self._outages and found[1] is not None:
            self.figures.longest_overdue = max(self.figures.longest_overdue, float(found[1]))
        return int(found[0])

    def run(self, say: Callable[[str], None]) -> bool:
        """Let it happen. Returns whether the work came to its end; if it did not, what is stuck has been said."""
        self._due = self._timetable()
        for place in [*self._places, *self._sealers]:
            self._start(place)
        total = self.programme.fields
        began = self._moved = time.monotonic()
        progress, last, told = 0, 0.0, 0.0
        while progress < total or self._submissions or self._held_back:
            time.sleep(0.1)
            self._mend()
            self._see_to_the_late()
            self._keep_submitting()
            self._keep_working()
            self._look_who_waits()
            found = self._ended()
            if found is not None and found > progress:
                progress, self._moved = found, time.monotonic()
            if self._due and progress >= self._due[0][0] and self._let_happen():
                last = self._moved = time.monotonic()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"{progress:,} of {total:,} fields; {self.figures.happened.total()} things have happened")
            problem = self._out_of_patience(began)
            if problem is not None:
                for line in [problem, *self.stuck()]:
                    say(line)
                return False
        while self._later or (self._late and self._late.stopped_at):
            time.sleep(0.1)
            self._mend()
            self._see_to_the_late()
        if self._late:
            self._once_more(self._late)
        for name, times in Counter(name for _, name in self._due).items():
            self.figures.left_out[f"{name}, {times} ×"] = "the work had ended before it could happen"
            self.figures.too_late = True
        self.figures.seconds_to_the_end = max(0.0, self._moved - last)
        return True

    def _look_who_waits(self) -> None:
        """Counted from when database and broker can be reached and a worker runs: not in an outage."""
        if time.monotonic() - self._looked_at < LOOKS:
            return
        self._looked_at = time.monotonic()
        try:
            if self._outages or not any(place.stands() and not place.stalled for place in self._places):
                self._attendance.begin_anew()
            else:
                self._attendance.look()
        except (BrokerUnreachable, StoreError):
            self._attendance.begin_anew()

    def _out_of_patience(self, began: float) -> str | None:
        now = time.monotonic()
        if now - self._moved > self.programme.patience:
            return f"nothing has moved for {self.programme.patience:.0f} s"
        if now - began > self.programme.longest:
            return f"after {self.programme.longest:.0f} s it has not come to its end"
        return None

    def stuck(self) -> list[str]:
        """What has not come to its end, and what would have to see to it, a line each."""
        lines = [f"not submitted: {folder.name}" for folder in [*self._submissions, *self._held_back]]
        lines += [f"has not happened: {name}, {times} ×" for name, times in Counter(n for _, n in self._due).items()]
        lines += [f"not mended: {what}" for what in sorted(self._outages)]
        try:
            lines += accounts.waiting(self.database)
        except StoreError as error:
            lines.append(str(error))
        try:
            lines += [f"queue {name}: {count} messages" for name, count in broker.queue_lengths(self.settings).items()]
        except BrokerUnreachable as error:
            lines.append(str(error))
        runners = {place.task.log.name: place.runner for place in [*self._places, *self._sealers]}
        for name, runner in (runners | {"submissions": self._submitting}).items():
            lines.append(f"{name}: {_condition(runner)}; {_last_line(self.folder / 'logs' / name)}")
        return lines

    def _timetable(self) -> list[tuple[int, str]]:
        """What happens when so many fields have ended, in that order; none waits for those held back."""
        names = [
            name
            for name, times in self.programme.happenings.items()
            if name not in self.figures.left_out and name != SUBMISSION_KILLED
            for _ in range(times)
        ]
        self._random.shuffle(names)
        fields = FIELDS_PER_SLIDE * sum(1 for folder in self._submissions for _ in folder.iterdir())
        parts = [(_EARLY if name in {STALLED, LATE} else 1.0, name) for name in names]
        return sorted((int(self._random.uniform(0, part * fields)), name) for part, name in parts)

    def _let_happen(self) -> bool:
        at, name = self._due.pop(0)
        try:
            self._how[name]()
        except NotNow:
            self._due.insert(min(len(self._due), 3), (at, name))
            return False
        if name != LATE:  # that happens when its result is refused
            self.figures.happened[name] += 1
        return True

    def _mend(self) -> None:
        now = time.monotonic()
        ready = [action for when, action in self._later if when <= now]
        self._later = [(when, action) for when, action in self._later if when > now]
        for action in ready:
            action()

    # ------------------------------------------------------------------------------------------------- the account

    def account(self) -> dict[str, Any]:
        """Everything is counted from the files, the rows and the logs."""
        for place in [*self._places, *self._sealers]:
            if place.runner is not None:
                place.runner.kill()
        count = self._count
        made_meanwhile = count("SELECT count(*) FROM checkpoint")
        try:
            sealing.seal(self.database, self.settings, wait=True)  # what was told since, by those just killed
            not_sealed = [] if made_meanwhile else ["nothing was sealed while it went on"]
        except AllqError as error:
            not_sealed = [str(error)]
        exported = self.settings.checkpoint_file
        files = sum(1 for folder in self.folder.glob("batch-*") for _ in folder.rglob("*.png"))
        contents = len({path.read_bytes() for folder in self.folder.glob("batch-*") for path in folder.rglob("*.png")})
        log = "".join(path.read_text(errors="replace") for path in (self.folder / "logs").iterdir())
        return {
            "files": files,
            "screened": count("SELECT count(*) FROM field WHERE state = 'screened'"),
            "failed": count("SELECT count(*) FROM field WHERE state = 'failed'"),
            "lost": files
            - count(
                "SELECT count(DISTINCT path || ' ' || batch_id) FROM field f JOIN slide s "
                "ON s.id = f.slide_id WHERE f.state = 'screened'"
            ),
            "doubled": count("SELECT count(*) FROM field")
            - files
            + abs(count("SELECT count(*) FROM finding") - contents),
            "stuck": count("SELECT count(*) FROM field WHERE state = 'waiting'"),
            "findings": count("SELECT count(*) FROM finding"),
            "linked": count("SELECT count(*) FROM field WHERE linked"),
            "chunks": count("SELECT count(*) FROM chunk"),
            "halvings": count("SELECT count(*) FROM event WHERE kind = 'chunk-halved'"),
            "most attempts at a chunk": count("SELECT max(attempt) FROM chunk"),
            "leases noticed as lost while computing": log.count(_LOST_AT_WORK),
            "late results refused by the fence": log.count(REFUSED),
            "chunks given back": len(re.findall(r"chunk given back ", log)),
            "times chunks were published again": len(re.findall(r"no queue held were published again", log)),
            "tracebacks in the logs": len(re.findall(r"^Traceback", log, re.MULTILINE)),
            "checkpoints sealed meanwhile": made_meanwhile,
            "events sealed": count("SELECT coalesce(max(size), 0) FROM checkpoint"),
            "longest lease overdue": round(self.figures.longest_overdue, 1),
            "longest wait of a chunk unattended": round(self._attendance.longest, 1),
            "seconds from the last happening to the end": round(self.figures.seconds_to_the_end, 1),
            "wrong": [
                *not_sealed,
                *self._amiss(log),
                *accounts.violations(self.database, exported=exported, sealed=True),
                *accounts.mistaken(self.database),
            ],
        }

    def _amiss(self, log: str) -> list[str]:
        found = []
        most = self.settings.longest_wait + _BUSY
        if self._attendance.longest > most:
            waited = f"{self._attendance.longest:.1f} s, not {most:.1f}"
            found.append(f"nobody came for {waited}: {self._attendance.by}")
        if self.programme.happenings.get(LATE) and REFUSED not in log:
            found.append("no late result was refused by the fence")
        return found

    def _count(self, statement: str) -> int:
        with self.database.read() as connection:
            return int(connection.execute(text(statement)).scalar_one() or 0)


def _condition(runner: Runner | None) -> str:
    """Whether it lives; its processes, and how each is."""
    if runner is None:
        return "not started"
    found = []
    for process in runner.family():
        with suppress(psutil.NoSuchProcess):
            found.append(f"{process.pid} {process.status()}")
    return f"processes {', '.join(found)}" if found else f"ended with exit code {runner.process.exitcode}"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"its log ends with {lines[-1][:300]!r}" if lines else "no log"
