"""What a measurement's servers are told apart from others by."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import measuring
from benchmarks.scaling import servers

_BUSY = """
import time
while time.process_time() < 0.3:
    pass
print("done", flush=True)
time.sleep(60)
"""


@contextmanager
def busy_for_a_while(*before):
    """The process id of one that has been busy for 0.3 s, started by way of `before`."""
    with subprocess.Popen([*before, sys.executable, "-S", "-c", _BUSY], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            for each in (*psutil.Process(process.pid).children(), process):
                each.kill()


@pytest.fixture
def machine(monkeypatch):
    """A machine whose processors are busy for half of ten seconds, in which something is done."""
    times = iter([SimpleNamespace(user=0.0, idle=0.0), SimpleNamespace(user=5.0, idle=5.0)])

    class Times(SimpleNamespace):
        def __iter__(self):
            return iter((self.user, self.idle))

    def during(action):
        monkeypatch.setattr(servers.psutil, "cpu_times", lambda: Times(**vars(next(times))))
        monkeypatch.setattr(servers.time, "sleep", lambda _seconds: action())

    return during


def test_what_this_process_started_is_not_others(machine):
    with ExitStack() as stack:
        machine(lambda: stack.enter_context(busy_for_a_while()))
        assert servers.others_busy() == pytest.approx(0.47, abs=0.015)


def test_a_server_of_ours_is_not_others_and_counts_once(machine):
    with ExitStack() as stack, busy_for_a_while() as server:
        machine(lambda: stack.enter_context(busy_for_a_while()))
        assert servers.others_busy([server, os.getpid()]) == pytest.approx(0.47, abs=0.015)


def test_of_several_processes_each_counts_once():
    with busy_for_a_while() as one:
        alone = servers.cpu_seconds(one)
        assert 0.25 <= alone < 0.5
        assert servers.cpu_seconds(one, one, os.getpid()) < servers.cpu_seconds(os.getpid()) + 0.2


def test_a_server_that_was_given_is_not_one_of_ours(monkeypatch):
    monkeypatch.setattr(measuring, "first_process", lambda url: {"ours": 7, "elsewhere": None}[url])
    assert measuring.started({"SQLite": None, "PostgreSQL": "ours"}, None) == [7]
    assert measuring.started({"PostgreSQL": "ours"}, "ours") == []
    assert measuring.started({"PostgreSQL": "elsewhere"}, None) == []
