"""`allq worker` whose decoder some files kill, hang or confuse: what a bug in a C library, or in ours, would do."""

import hashlib
import os
import signal
import sys
import time

from worker import lease, pipeline

KILLS = b"this file kills whoever decodes it"
HANGS = b"this file is decoded for ever"
CONFUSES = b"this file's finding can't be made"

decode = pipeline.decode
finding_of = pipeline.finding_of
confusing = set()


def deadly(data, **options):
    if data.endswith(KILLS):
        os.kill(os.getpid(), signal.SIGKILL)
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
