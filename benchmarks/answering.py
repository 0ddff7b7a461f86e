"""What a full database answers, and how fast: status, slides of a batch, the worklist's first page, exports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event

from benchmarks import filling, measuring
from benchmarks.measuring import Bench, Figure

if TYPE_CHECKING:
    from allq.settings import Settings
    from db.database import Database

QUESTIONS = ("status", "slides", "worklist", "worklist-unreviewed")
EXPORTS = ("csv", "parquet")
_WATCHED = """
import os, sys, time
began = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print([time.perf_counter() - began, used.ru_maxrss])
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process of its own: the kernel counts what a parent had in memory as the child's, so the parent must be small."""
BARS = (*QUESTIONS, *EXPORTS, *(f"{form}-memory" for form in EXPORTS))


def measure(bench: Bench, wanted: Collection[str]) -> Iterator[Figure]:
    """Milliseconds of each question and rows per second of each export, with `scale.findings` in the database."""
    from db.artefacts import remember_model

    for name, server in bench.servers.items():
        with measuring.new_installation(server) as (settings, database):
            with database.begin() as connection:
                remember_model(connection, filling.model())
            began = time.perf_counter()
            shown = [0.0]

            def progress(done: int, *, name: str = name, shown: list[float] = shown) -> None:
                if time.perf_counter() - shown[0] > 10:
                    measuring.say(f"filling {name}: {done:,} of {bench.scale.findings:,} findings")
                    shown[0] = time.perf_counter()

            batches = filling.fill(database, bench.scale.findings, long=bench.scale.exported, progress=progress)
            measuring.say(f"filled {name} in {time.perf_counter() - began:,.0f} s")
            batch, fields = next((each for each in batches[1:] if each[1] == filling.BATCH), batches[-1])
            note = f"{bench.scale.findings:,} findings; the batch has {fields:,} fields"
            slides = _count(database, "slide"), _count(database, "review")
            listed = f"{bench.scale.findings:,} findings, {slides[0]:,} slides called, {slides[1]:,} of them reviewed"
            for question in QUESTIONS:
                if question in wanted:
                    told = listed if question.startswith("worklist") else note
                    yield _asked(bench, database, question, batch, name, told)
            for form in EXPORTS:
                if {form, f"{form}-memory"} & set(wanted):
                    yield from _exported(bench, settings, form, batches[0], name)


def _asked(bench: Bench, database: Database, question: str, batch: int, name: str, note: str) -> Figure:
    from db import named, reads
    from review.results import Level, rows

    ask: Callable[[Connection], object] = {
        "status": lambda conn: reads.batch_status(conn, batch),
        "slides": lambda conn: list(rows(conn, batch, Level.SLIDE)),
        "worklist": lambda conn: list(named.run(conn, "worklist", {})[1]),
        "worklist-unreviewed": lambda conn: list(named.run(conn, "review_queue", {})[1]),
    }[question]
    measuring.say(f"{question}, {name}")
    times = []
    for number in range(4 * bench.scale.repeat + 1):
        began = time.perf_counter()
        with database.read() as connection:
            ask(connection)
        if number:  # the first has its statements planned and its pages read
            times.append(1000 * (time.perf_counter() - began))
    alone = 1000 * min(_sql_alone(database, ask) for _ in range(bench.scale.repeat))
    where = {"status": "reads.batch_status", "slides": "review.results.rows"}.get(question, "named.run")
    return measuring.figure(
        question, times, database=name, note=f"{where}, its transaction included; its SQL alone {alone:,.1f} ms; {note}"
    )


def _count(database: Database, table: str) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def _sql_alone(database: Database, ask: Callable[[Connection], object]) -> float:
    """Seconds of the statements that `ask` sends, sent once more past all of our code, their rows fetched."""
    sent: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: Any) -> None:
        sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.read() as connection:
            ask(connection)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        began = time.perf_counter()
        for statement, parameters in sent:
            if not statement.startswith("BEGIN"):
                cursor.execute(statement, parameters).fetchall()
        return time.perf_counter() - began


def _exported(bench: Bench, settings: Settings, form: str, batch: tuple[int, int], name: str) -> Iterator[Figure]:
    """The command itself, as a process: from its start to its end, and the most memory it ever had."""
    from worker.local import environment

    out = bench.place / f"export.{form}"
    command = [sys.executable, "-m", "allq", "results", str(batch[0]), "--level", "field", "--format", form]
    rates, sizes = [], []
    for number in range(bench.scale.repeat):
        measuring.say(f"{form} of {batch[1]:,} fields, {name}, pass {number + 1} of {bench.scale.repeat}")
        done = subprocess.run(
            [sys.executable, "-S", "-c", _WATCHED, *command, "--out", str(out)],
            stdout=subprocess.PIPE,
            env={**os.environ, **measuring.with_source(), **environment(settings)},
            check=True,
        )
        seconds, most = json.loads(done.stdout)
        rates.append(batch[1] / seconds)
        sizes.append(most * 1024 / 1e6)
    note = f"`allq results --level field --format {form}`, its start included, {batch[1]:,} rows"
    yield measuring.figure(form, rates, database=name, note=f"{note}, {out.stat().st_size / 1e6:,.0f} MB")
    yield measuring.figure(f"{form}-memory", sizes, database=name, note=note)
    out.unlink()
