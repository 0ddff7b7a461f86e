"""Whose the cores are: what is made of the kernel's figures."""

import subprocess
import sys
import time

import psutil

from benchmarks import shares


def a_pass(seconds: float, screening: float) -> shares.Pass:
    took = dict.fromkeys(shares.WHO, 0.0) | {shares._SCREEN: screening, shares._NOBODY: 2 * seconds - screening}
    return shares.Pass(seconds=seconds, took=took, bare_rate=200.0)


def test_the_table_has_shares_of_all_cores_and_milliseconds_of_a_field():
    table = shares.table([a_pass(10.0, 18.0), a_pass(11.0, 20.9), a_pass(30.0, 21.0)], fields=1000, processes=2)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert lines[shares._SCREEN] == f"| {shares._SCREEN} | 90.0 % | 20.90 |"
    assert lines["**together**"].endswith("| **22.00** |")
    assert lines["the bare loop"].endswith("| 10.00 |")


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
    before = shares._look()
    with subprocess.Popen([sys.executable, "-c", _WORKER, "worker"], stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            deadline = time.monotonic() + 30
            while (now := shares._look())[shares._SCREEN] < 0.5 and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for process in (*psutil.Process(worker.pid).children(), psutil.Process(worker.pid)):
                process.kill()
    assert 0.1 <= now[shares._FIRST] < 0.5
    assert 0.5 <= now[shares._SCREEN] < 0.9
    assert now[shares._SELF] > before[shares._SELF]
