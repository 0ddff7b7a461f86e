import subprocess
import sys

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
    assert is_dead(f"{place}/{process}/1.00")


def test_nothing_is_known_of_other_machines():
    assert not is_dead("elsewhere/00000000/1/99999999/1.00")
