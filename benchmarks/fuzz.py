"""Fuzz the way from a file's bytes to a field ready for the network: decode, check, segment.

    python benchmarks/fuzz.py --minutes 10 --keep found

Atheris changes sound pictures and the hostile ones of `tests/hostile` structure by structure, guided by which lines of
Pillow's readers and of `imaging` they reach. A finding is whatever kills or holds the process, takes more than 2 GB,
raises anything but a FieldError of one printable sentence, or screens a file that was cut off as though it were whole.
It runs in a process of its own on one core, which is started anew after each finding, until the time is up. Findings
are left in the folder `--keep`; those that matter go to `tests/hostile/found`, where the tests take them up.

Needs `pip install 'allq[fuzz]'`. Ends with 3 when it found something.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

MAX_PIXELS = 4_000_000
MAX_BYTES = 1 << 17
SECONDS_EACH = 20
SECONDS_TO_START = 300
"""Loading the libraries, instrumented, and the seeds; much of it on a busy machine."""
MEGABYTES = 2048

_EXECUTED = re.compile(r"^#(\d+)\t", re.MULTILINE)
_INTERESTING = (0, 1, 2, 8, 31, 32, 255, 256, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


def main() -> int:
    """Parse, fuzz, say what came of it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep", type=Path, default=Path("found"), help="folder for findings")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child is not None:
        _on_one_core()
        _fuzz(options.child, options.seed, options.rest)
        return 0
    options.keep.mkdir(parents=True, exist_ok=True)
    figures = _run(options.minutes * 60, options.seed, options.keep)
    print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
    return 3 if figures["findings"] else 0


def _run(seconds: float, seed: int, keep: Path) -> dict[str, Any]:
    executed, starts = 0, 0
    before = set(keep.iterdir())
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        seeds = _write_seeds(corpus)
        deadline = time.monotonic() + seconds
        while (left := int(deadline - time.monotonic())) > 0:
            starts += 1
            with (Path(scratch) / "log").open("w+", errors="replace") as log:
                process = subprocess.Popen(
                    [
                        *(sys.executable, __file__, "--child", str(corpus), "--seed", str(seed + starts), "--"),
                        *(f"-max_total_time={left}", f"-rss_limit_mb={MEGABYTES}", f"-timeout={SECONDS_EACH}"),
                        *(f"-max_len={MAX_BYTES}", f"-artifact_prefix={keep}/", f"-seed={seed + starts}", str(corpus)),
                    ],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                # What hangs so that even its watchdog does is ended from here.
                try:
                    process.wait(left + SECONDS_TO_START)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                log.seek(0)
                text = log.read()
            now = max(map(int, _EXECUTED.findall(text)), default=0)
            if not now:
                sys.exit(f"The fuzzing process did not start:\n{text[-2000:]}")
            executed += now
            if process.returncode != 0:
                (keep / f"log-{starts}.txt").write_text(text[-20_000:])
                ends[_reason(text, process.returncode)] += 1
                print(f"start {starts} ended: {_reason(text, process.returncode)}", file=sys.stderr, flush=True)
            remaining = max(0.0, deadline - time.monotonic())
            print(f"{executed:,} executions, {remaining / 60:.1f} min left", file=sys.stderr, flush=True)
        grown = sum(1 for _ in corpus.iterdir()) - seeds
    found = [path for path in set(keep.iterdir()) - before if not path.name.startswith("log-")]
    return {
        "seconds": round(seconds),
        "seeds": seeds,
        "executions": executed,
        "new paths": grown,
        "starts": starts,
        "findings": len(found),
        "ends": dict(ends),
    }


def _reason(text: str, code: int | None) -> str:
    raised = re.findall(r"^(\w+(?:\.\w+)*(?:Error|Exception|Interrupt)\b.*)$", text, re.MULTILINE)
    summary = re.findall(r"^SUMMARY: (.*)$", text, re.MULTILINE)
    said: list[str] = raised or summary or [f"exit code {code}"]
    return said[-1][:200]


def _on_one_core() -> None:
    os.nice(10)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _write_seeds(corpus: Path) -> int:
    from tests.hostile.cases import cases

    kept = [case.data for case in cases() if len(case.data) <= MAX_BYTES and not case.name.startswith(("cut", "flip"))]
    for data in kept:
        (corpus / sha256(data).hexdigest()).write_bytes(data)
    return sum(1 for _ in corpus.iterdir())


def _fuzz(corpus: Path, seed: int, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["PIL", "imaging.decode", "imaging.whole", "imaging.formats"]):
        from imaging.decode import decode
        from imaging.formats import sniff
    import numpy as np

    from allq.errors import FieldError
    from allq.settings import load
    from models import artefact
    from models.classifier import Classifier
    from tests.hostile.structures import structures

    settings = load(_env_file=None, home=corpus.parent / "home", inference_batch=1)
    classifier = Classifier.load(artefact.find(settings, "synthetic-smears"), settings)
    side = classifier.decode_side
    chance = random.Random(seed)
    sources = [path.read_bytes() for path in sorted(corpus.iterdir())]

    def decoded(data: bytes) -> Any:
        try:
            return decode(data, max_pixels=MAX_PIXELS, reduce_to=side)
        except FieldError as error:
            sentence = str(error)
            assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 400, sentence
            return None

    def one(data: bytes) -> None:
        found = decoded(data)
        if found is None:
            return
        assert found.pixels.dtype == np.uint8 and found.pixels.ndim == 3 and found.pixels.flags.c_contiguous
        classifier.prepare(found)
        # Cut off somewhere, it is refused, or has lost nothing.
        cut = decoded(data[: int.from_bytes(sha256(data).digest()[:4], "big") % len(data)])
        assert cut is None or np.array_equal(cut.pixels, found.pixels), "a file that was cut off is screened"

    def changed(data: bytes, most: int, seed: int) -> bytes:
        chance.seed(seed)
        kind = sniff(data[:16])
        try:
            places = [0, *structures(kind.value, data), len(data)] if kind else []
        except (IndexError, ValueError, OverflowError, MemoryError, struct.error):  # it makes no sense any more
            places = []
        if len(places) < 4 or chance.random() < 0.3:
            data = atheris.Mutate(data, most)
        else:
            for _ in range(chance.randint(1, 3)):
                data = _mutated(chance, data, places, sources)
        if data.startswith(b"\x89PNG") and chance.random() < 0.9:
            data = _with_checksums(data)
        return data[:most]

    atheris.Setup([sys.argv[0], *options], one, custom_mutator=changed, enable_python_coverage=True)
    atheris.Fuzz()


def _mutated(chance: random.Random, data: bytes, places: list[int], sources: list[bytes]) -> bytes:
    a, b, c = sorted(min(place, len(data)) for place in chance.choices(places, k=3))
    match chance.randrange(8):
        case 0:
            return data[:a] + data[b:]
        case 1:
            return data[:b] + data[a:]
        case 2:
            return data[:a] + data[b:c] + data[a:b] + data[c:]
        case 3:
            other = chance.choice(sources)
            return data[:a] + other[min(a, len(other)) :]
        case 4:
            return data[:b] + bytes(len(data) - b)
        case 5:
            return data[:a] + chance.randbytes(chance.randrange(8)) + data[a:]
        case 6 if data:
            flipped = bytearray(data)
            flipped[(a + chance.randrange(8)) % len(data)] ^= 1 << chance.randrange(8)
            return bytes(flipped)
        case _:
            form = chance.choice(("<H", ">H", "<I", ">I", "B"))
            width = struct.calcsize(form)
            value = chance.choice(_INTERESTING) & ((1 << 8 * width) - 1)
            at = a + chance.choice((0, 0, 2, 4, 8))
            return data[:at] + struct.pack(form, value) + data[at + width :]


def _with_checksums(data: bytes) -> bytes:
    """The same PNG with the checksums right, or its damage would hide all other damage."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join([*parts, data[at:]])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
