"""The bare loop, to be compared with: decode, segment and classify in memory, on the same engine and cores.

    python benchmarks/bare.py FOLDER [--images 3072] [--repeat 5] [--processes 2] [--json]

Each process has its share of the files' bytes in memory and its own engine, threads and allocator as a worker process
has them; no queue, no database, nothing is hashed or kept. What the whole path has less than this is what allq itself
costs.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import measuring


def _loop(paths: Sequence[str], model: str | None, repeat: int, barrier: Barrier, out: Queue[list[float]]) -> None:
    import cv2

    from imaging.decode import decode
    from models.artefact import find
    from models.classifier import Classifier
    from worker.memory import keep_freed_memory

    keep_freed_memory()
    cv2.setNumThreads(1)
    settings = measuring.settings_of(Path.cwd())
    classifier = Classifier.load(find(settings, model), settings)
    files = [Path(path).read_bytes() for path in paths]
    size = settings.inference_batch

    def screen(part: Sequence[bytes]) -> None:
        prepared = [
            classifier.prepare(decode(data, max_pixels=settings.max_pixels, reduce_to=classifier.decode_side))
            for data in part
        ]
        classifier.classify(prepared)

    screen(files[:size])
    seconds = []
    for _ in range(repeat):
        barrier.wait()
        began = time.perf_counter()
        for start in range(0, len(files), size):
            screen(files[start : start + size])
        seconds.append(time.perf_counter() - began)
    out.put(seconds)


def rates(paths: Sequence[Path], model: str | None, *, repeat: int, processes: int) -> list[float]:
    """Fields per second of each of `repeat` passes, until the last process has ended its share."""
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(processes), context.Queue()
    shares = [[str(path) for path in paths[number::processes]] for number in range(processes)]
    loops = [context.Process(target=_loop, args=(share, model, repeat, barrier, out), daemon=True) for share in shares]
    for loop in loops:
        loop.start()
    seconds: list[list[float]] = []
    while len(seconds) < processes:
        with suppress(Empty):
            seconds.append(out.get(timeout=1))
        if any(loop.exitcode for loop in loops):
            raise SystemExit("A process of the bare loop ended by itself: its error stands above.")
    for loop in loops:
        loop.join()
    return [len(paths) / max(passes) for passes in zip(*seconds, strict=True)]


def main() -> None:
    """Measure and print."""
    given = measuring.asked(__doc__, images=3072, cores="--processes")
    paths = measuring.images(given.folder, given.images)
    with measuring.apart():
        found = rates(paths, given.model, repeat=given.repeat, processes=given.processes)
    measuring.tell(found, as_json=given.json)


if __name__ == "__main__":
    main()
