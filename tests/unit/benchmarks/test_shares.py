"""Whose the cores are: what is made of the kernel's figures."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from benchmarks import bare, measuring, shares


def a_pass(seconds: float, screening: float) -> shares.Pass:
    took = dict.fromkeys(shares.WHO, 0.0) | {shares._SCREEN: screening, shares._NOBODY: 2 * seconds - screening}
    return shares.Pass(seconds=seconds, took=took, bare_rate=200.0, busy=0.0)


def test_the_table_has_shares_of_all_cores_and_milliseconds_of_a_field():
    table = shares.table([a_pass(10.0, 18.0), a_pass(11.0, 20.9), a_pass(30.0, 21.0)], fields=1000, processes=2)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert lines[shares._SCREEN] == f"| {shares._SCREEN} | 90.0 % | 20.90 |"
    assert lines["**together**"].endswith("| **22.00** |")
    assert lines["the bare loop, by the clock"].endswith("| 10.00 |")


_WORKER = """
import os, time
child = os.fork()
began = time.process_time()
while time.process_time() - began < (0.2 if child else 0.6):
    pass
if child:
    print("done", flush=True)
    time.sleep(60)
else:
    time.sleep(60)
"""


def test_a_workers_time_is_told_apart_from_that_of_its_forks_and_our_own():
    nobody = shares.Servers(database=2**22 + 1, broker=2**22 + 1)  # more than a kernel gives
    before = shares._look(nobody)
    with subprocess.Popen([sys.executable, "-c", _WORKER, "worker"], stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            deadline = time.monotonic() + 30
            while (now := shares._look(nobody))[shares._SCREEN] < 0.5 and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for process in (*psutil.Process(worker.pid).children(), psutil.Process(worker.pid)):
                process.kill()
    assert 0.1 <= now[shares._FIRST] < 0.5
    assert 0.5 <= now[shares._SCREEN] < 0.9
    assert now[shares._SELF] > before[shares._SELF]


_SERVER = """
import pathlib, sys, time
pathlib.Path("/proc/self/comm").write_text(sys.argv[1])
while time.process_time() < float(sys.argv[2]):
    pass
print("done", flush=True)
time.sleep(60)
"""


@contextmanager
def a_server(name, seconds):
    """The process id of a process of that name that has used so many seconds."""
    command = [sys.executable, "-S", "-c", _SERVER, name, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def test_servers_of_others_are_the_rest_of_the_machine():
    with (
        a_server("postgres", 0.2) as database,
        a_server("postgres", 0.6),
        a_server("valkey-server", 0.4) as broker,
        a_server("valkey-server", 0.6),
    ):
        found = shares._look(shares.Servers(database=database, broker=broker))
    assert 0.15 <= found[shares._DATABASE] < 0.4
    assert 0.35 <= found[shares._BROKER] < 0.6


def test_where_not_all_cores_may_be_used_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(measuring, "postgresql", lambda _given: pytest.fail("it was begun"))
    with pytest.raises(SystemExit, match="Only 1 of this machine's 4 cores"):
        shares.main(["--fields", "4"])


def test_what_others_do_is_looked_at_before_each_pass(monkeypatch, tmp_path):
    looks = iter([0.0, 0.01, 0.0, 0.3])
    monkeypatch.setattr(shares, "others_busy", lambda servers: next(looks) if servers == [7] else None)
    monkeypatch.setattr(measuring, "first_process", lambda _url: 7)
    monkeypatch.setattr(bare, "rates", lambda *_given, **_options: [200.0])
    monkeypatch.setattr(shares, "whole_path", lambda *_given: (10.0, {}))
    passes = shares.measure(tmp_path, None, "url", repeat=2, processes=2)
    assert [each.busy for each in passes] == [0.01, 0.3]


def test_a_server_of_another_machine_is_refused(monkeypatch):
    monkeypatch.setattr(measuring, "first_process", lambda _url: None)
    with pytest.raises(SystemExit, match="PostgreSQL runs on this machine"):
        shares.database_process("url")
