"""`allq worker` whose decoder is killed by one kind of file: what a bug in a C library would do."""

import os
import signal
import sys

from worker import pipeline

POISON = b"this file kills whoever decodes it"

decode = pipeline.decode


def deadly(data, **options):
    if data.endswith(POISON):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, **options)


pipeline.decode = deadly

if __name__ == "__main__":
    from cli.main import run

    sys.exit(run())
