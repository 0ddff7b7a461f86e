"""What is killed here is dead: what lived on would go on working, and be waited for when the tests have ended."""

from __future__ import annotations

import time
from typing import Any

from allq.settings import Settings
from tests.processes import Runner, Task


class _SlowlyRead:
    """What a new process takes long to read, as everything is on a busy machine."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (30.0,)


def test_a_process_killed_before_it_has_a_group_of_its_own_is_dead(settings: Settings):
    runner = Runner(Task(settings=settings, log=_SlowlyRead()))  # type: ignore[arg-type]  # read before it is used
    runner.kill()
    assert not runner.alive()
