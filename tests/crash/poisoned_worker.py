"""`allq worker` whose decoder some files kill, hang or confuse: what a bug in a C library, or in ours, would do."""

import ctypes
import hashlib
import os
import resource
import signal
import sys
import time

import psutil

from worker import lease, pipeline

KILLS = b"this file kills whoever decodes it"
FAULTS = b"this file makes a library touch memory that is not its own"
DEVOURS = b"this file takes all memory there is"
HANGS = b"this file is decoded for ever"
CONFUSES = b"this file's finding can't be made"

decode = pipeline.decode
finding_of = pipeline.finding_of
confusing = set()


def devour():
    """Take memory until there is no more; the machine's own is not for a test to use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (256 << 20), hard))
    try:
        taken = [bytearray(16 << 20) for _ in range(1000)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    raise AssertionError(len(taken))


def deadly(data, **options):
    if data.endswith(KILLS):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(FAULTS):
        ctypes.string_at(0)
    if data.endswith(DEVOURS):
        devour()
    if data.endswith(HANGS):
        time.sleep(3600)
    if data.endswith(CONFUSES):
        confusing.add(hashlib.sha256(data).digest())
    return decode(data, **options)


def confused(sha256, *arguments, **options):
    if sha256 in confusing:
        raise ZeroDivisionError
    return finding_of(sha256, *arguments, **options)


pipeline.decode = deadly
pipeline.finding_of = confused
lease._GRACE = 0.5

if __name__ == "__main__":
    from cli.main import run

    sys.exit(run())
