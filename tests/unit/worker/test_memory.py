import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from worker.memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(rounds):
        arrays = [np.ones((224, 224, 3), np.uint8) for _ in range(10)]
        del arrays
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

assert keep_freed_memory()
with ThreadPoolExecutor(1) as thread:
    thread.submit(faults, 5).result()
    print(thread.submit(faults, 100).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_thread_that_frees_arrays_has_their_memory_for_the_next():
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    # 36 pages an array, 36,000 in all, where each comes from the kernel anew.
    assert int(result.stdout) < 1000


@pytest.mark.skipif(platform.libc_ver()[0] == "glibc", reason="glibc listens")
def test_another_allocator_is_left_alone():
    from worker.memory import keep_freed_memory

    assert keep_freed_memory() is False
