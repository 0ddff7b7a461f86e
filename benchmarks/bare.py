"""The bare loop, to be compared with: decode, segment and classify in memory, on the same engine and cores.

    python benchmarks/bare.py FOLDER [--images 3072] [--repeat 5] [--processes 2] [--json]

Each process has its share of the files' bytes in memory and its own engine, threads and allocator as a worker process
has them; no queue, no database, nothing is hashed or kept. What the whole path has less than this is what allq itself
costs. With ALLQ_DEVICE=cuda files are prepared on the card by the batch, as a worker does it, in a process for each
card (not run on one yet: docs/decisions/0011).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import measuring

if TYPE_CHECKING:
    from allq.settings import Settings
    from models.classifier import Assessment, Classifier, PreparedField


def _loop(
    paths: Sequence[str], model: str | None, repeat: int, card: str | None, barrier: Barrier, out: Queue[list[float]]
) -> None:
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card  # before torch looks for one
    import cv2

    from models.artefact import find
    from models.classifier import Classifier
    from worker.memory import keep_freed_memory

    keep_freed_memory()
    cv2.setNumThreads(1)
    settings = measuring.settings_of(Path.cwd())
    classifier = Classifier.load(find(settings, model), settings)
    files = [Path(path).read_bytes() for path in paths]
    screened(classifier, files[: settings.inference_batch], settings)
    seconds = []
    for _ in range(repeat):
        barrier.wait()
        began = time.perf_counter()
        screened(classifier, files, settings)
        seconds.append(time.perf_counter() - began)
    out.put(seconds)


def screened(classifier: Classifier, files: Sequence[bytes], settings: Settings) -> list[Assessment]:
    """Decode, segment and classify, a batch at a time; on a card some batches ahead, as a worker does it."""
    from imaging.decode import decode

    size = settings.inference_batch
    parts = [files[start : start + size] for start in range(0, len(files), size)]
    found: list[Assessment] = []
    if classifier.batches is None:
        for part in parts:
            decoded = (decode(data, max_pixels=settings.max_pixels, reduce_to=classifier.decode_side) for data in part)
            found += classifier.classify([classifier.prepare(field) for field in decoded])
        return found
    ahead: deque[list[Future[PreparedField]]] = deque()
    waiting = iter(parts)
    while True:
        for part in islice(waiting, 1 + classifier.batches.under_way - len(ahead)):
            ahead.append(classifier.batches.submit(part, max_pixels=settings.max_pixels))
        if not ahead:
            return found
        found += classifier.classify([future.result() for future in ahead.popleft()])


def rates(paths: Sequence[Path], model: str | None, *, repeat: int, processes: int) -> list[float]:
    """Fields per second of each of `repeat` passes, until the last process has ended its share."""
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(processes), context.Queue()
    cards = measuring.cards()
    loops = []
    for number in range(processes):
        share = [str(path) for path in paths[number::processes]]
        card = cards[number % len(cards)] if cards else None
        loops.append(context.Process(target=_loop, args=(share, model, repeat, card, barrier, out), daemon=True))
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
