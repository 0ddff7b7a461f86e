import subprocess
import sys

import psutil
import pytest

from worker.identity import is_dead, owner


def other_owner() -> tuple[subprocess.Popen[str], str]:
    code = "from worker.identity import owner; print(owner(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_this_process_is_alive():
    assert not is_dead(owner())


def test_a_process_of_this_machine_is_dead_once_it_has_ended():
    process, name = other_owner()
    with process:
        assert not is_dead(name)
        process.kill()
    assert is_dead(name)


def test_another_process_under_the_same_number_does_not_count():
    place, process, _started = owner().rsplit("/", 2)
    assert is_dead(f"{place}/{process}/t1")


def test_a_clock_that_is_set_kills_nobody(monkeypatch):
    process, name = other_owner()
    with process:
        for seconds in (-3600, 1, 3600):
            moved = psutil.boot_time() + seconds
            monkeypatch.setattr(psutil._psplatform, "boot_time", lambda moved=moved: moved)
            assert not is_dead(name)
            assert not is_dead(owner())
        process.kill()
    assert is_dead(name)


def test_a_name_from_before_of_a_process_number_in_use_is_not_known_to_be_dead():
    place, process, _started = owner().rsplit("/", 2)
    assert not is_dead(f"{place}/{process}/1700000000.25")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's count is Linux's")
def test_without_a_count_of_the_kernel_the_clock_has_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("worker.identity._PROC", tmp_path)
    process, name = other_owner()
    with process:
        place, number, _started = name.rsplit("/", 2)
        by_clock = f"{place}/{number}/{psutil.Process(process.pid).create_time():.2f}"
        assert not is_dead(by_clock)
        assert is_dead(f"{place}/{number}/1.00")
        process.kill()
    assert is_dead(by_clock)


def test_nothing_is_known_of_other_machines():
    assert not is_dead("elsewhere/00000000/1/99999999/1.00")
