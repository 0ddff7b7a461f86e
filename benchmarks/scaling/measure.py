"""Measuring the constants: pixels, database, broker, each on its own; and one real worker, whole."""

from __future__ import annotations

import hashlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from allq import logging as allq_logging
from allq.settings import load
from benchmarks.scaling.constants import Constant, Constants
from benchmarks.scaling.database_costs import database
from benchmarks.scaling.field_kinds import some_of, write_camera_fields, write_small_fields
from benchmarks.scaling.links import here
from benchmarks.scaling.realrun import RealRun, real_run
from benchmarks.scaling.servers import home, others_busy, postgresql
from benchmarks.scaling.timing import Found, median
from db.database import Database

COMMAND = "python -m benchmarks.scaling measure"
PARTS = ("pixels", "camera", "worker", "database", "broker")
_CAMERA_FIELDS = 32
_RUN_FIELDS = 256
"""Of a camera, for a whole worker: a quarter of a gigabyte."""
QUIET = 0.1
"""Others may keep so much of the processors busy, and the machine still counts as quiet."""


def noise(busy: float) -> str:
    """A sentence where others kept more of the processors busy than that; nothing where they did not."""
    return f" To be measured again: other work kept {100 * busy:.0f} % of the processors busy." if busy > QUIET else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """When and where it was measured."""

    machine: str
    date: str
    quiet: bool

    def constant(self, value: float, unit: str, what: str) -> Constant:
        """A figure with this stamp."""
        return Constant(
            value=_rounded(value),
            unit=unit,
            what=what,
            by=COMMAND,
            machine=self.machine,
            date=self.date,
            quiet=self.quiet,
        )


def measure(
    slides: Path | None, known: Constants, *, fields: int, repeat: int, share: float = 1.0, parts: Sequence[str] = PARTS
) -> Iterator[dict[str, Constant]]:
    """The constants of `parts` anew, yielded part by part.

    `slides`: a folder of small fields; without it synthetic ones are made. `known`: those of parts that are left out.
    `share`: of the usual number of rows and messages; less than 1 shows that everything works and measures badly.
    """
    allq_logging.configure(load(_env_file=None, log_level="warning"))
    with tempfile.TemporaryDirectory(prefix="allq-scaling-") as place:
        small = slides
        if small is None and {"pixels", "camera", "worker"} & set(parts):
            small = write_small_fields(Path(place) / "small", fields)
        for part in parts:
            stamp = _stamp()
            _say(f"{part} …")
            if part == "broker":
                found = broker(round(1_000 * share))
            elif part == "database":
                with postgresql() as server:
                    found = database(server, round(known["leukocyte_bytes_field"]), share)
            else:
                assert small is not None
                if part == "pixels":
                    found = pixels(small, fields, repeat)
                elif part == "camera":
                    found = camera(some_of(small, max(4, round(_CAMERA_FIELDS * share))), Path(place) / "large", repeat)
                else:
                    full = load(_env_file=None).chunk_size
                    large = Path(place) / "camera"
                    write_camera_fields(large / "slide", some_of(small, max(4, round(_RUN_FIELDS * share))))
                    with postgresql() as server:
                        runs = [real_run(server, folder, here(1), chunk_fields=full) for folder in (small, large)]
                    found = whole_worker(*runs)
            constants = {name: stamp.constant(*each) for name, each in found.items()}
            known = known.merged(constants)
            yield constants


def _stamp() -> Stamp:
    from benchmarks.measuring import machine

    busy = others_busy()
    if busy > QUIET:
        _say(f"other work keeps {busy:.0%} of the processors busy: marked as to be measured again")
    known = machine()
    name = f"{known['processor']}, {known['cores']} cores, {known['memory']}, Python {platform.python_version()}"
    return Stamp(machine=name, date=datetime.now(UTC).date().isoformat(), quiet=busy <= QUIET)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# ------------------------------------------------------------------------------------------------------------ pixels


def pixels(small: Path, fields: int, repeat: int) -> Found:
    """Each stage alone, as benchmarks/stages.py times them."""
    from benchmarks.measuring import images
    from benchmarks.stages import profile

    found = profile(images(small, min(fields, 256)), None, repeat, {"SQLite": None}, parts=False)
    read, decode, segment, infer, assess, record = (stage.milliseconds for stage in found.stages)
    return {
        "read_ms": (read, "ms/field", "reading and hashing a small field (in the page cache)"),
        "decode_ms": (decode, "ms/field", "decoding a small field"),
        "segment_ms": (segment, "ms/field", "segmenting it, quality checks, cutting out"),
        "classify_ms": (infer + assess, "ms/field", "the three networks, views of the field and its leukocytes"),
        "record_ms": (record, "ms/field", "recording into SQLite, a transaction a chunk"),
        "field_bytes": (_mean_bytes(small), "bytes", "a small field's file"),
    }


def _mean_bytes(folder: Path) -> float:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.suffix in {".jpg", ".png"}]
    return statistics.mean(sizes)


def camera(sources: Sequence[Path], folder: Path, repeat: int) -> Found:
    """What another size makes other: the file, reading, decoding, segmenting it, and its leukocytes' outlines.

    `sources`: small fields, of which a camera's are made in `folder`. Both go the way that a worker's preparing thread
    takes: decoded at the scale that the model asks for, then `Classifier.prepare`.
    """
    import cv2

    from imaging.decode import Decoded, decode
    from imaging.outlines import pack
    from models.artefact import find
    from models.classifier import Classifier, PreparedField
    from worker.files import read_file
    from worker.memory import keep_freed_memory

    cv2.setNumThreads(1)  # as in a worker
    keep_freed_memory()
    settings = load(_env_file=None)
    classifier = Classifier.load(find(settings, None), settings)
    paths = sorted(write_camera_fields(folder, sources).glob("*.jpg"))

    def read() -> list[bytes]:
        found = [read_file(bytes(path), [folder], max_bytes=settings.max_file_bytes) for path in paths]
        for data in found:
            hashlib.sha256(data).digest()
        return found

    def decoded(files: Sequence[bytes]) -> list[Decoded]:
        side = classifier.decode_side
        return [decode(data, max_pixels=settings.max_pixels, reduce_to=side) for data in files]

    def prepared(fields: Sequence[Decoded]) -> list[PreparedField]:
        return [classifier.prepare(field) for field in fields]

    def outlines(fields: Sequence[PreparedField]) -> float:
        found = zip(fields, classifier.classify(fields), strict=True)
        return statistics.mean(
            len(pack(field.segmentation.leukocytes, assessment.suspicions)) for field, assessment in found
        )

    def milliseconds(work: Callable[[], object]) -> float:
        return 1000 * median(work, repeat, time.process_time) / len(paths)

    files = read()
    fields = decoded(files)
    small = prepared(decoded([source.read_bytes() for source in sources]))
    return {
        "field_bytes_5mp": (_mean_bytes(folder), "bytes", "a 2592×1944 field's file (JPEG, quality 90)"),
        "read_ms_5mp": (milliseconds(read), "ms/field", "reading and hashing a 2592×1944 field (in the page cache)"),
        "decode_ms_5mp": (
            milliseconds(lambda: decoded(files)),
            "ms/field",
            f"decoding it, at the scale that is needed ({fields[0].pixels.shape[1]}×{fields[0].pixels.shape[0]})",
        ),
        "segment_ms_5mp": (
            milliseconds(lambda: prepared(fields)),
            "ms/field",
            "segmenting it at that scale, quality checks, cutting out",
        ),
        "leukocyte_bytes_more_5mp": (
            outlines(prepared(fields)) - outlines(small),
            "bytes",
            "a 2592×1944 field's leukocytes, packed, more than those of the small field that it was enlarged from",
        ),
    }


# -------------------------------------------------------------------------------------------------- a worker, whole


def whole_worker(small: RealRun, large: RealRun) -> Found:
    """What a worker's processes use for a field, all in all, when they have one core; of both kinds."""
    return {
        "worker_cpu_ms": (
            small.worker_cpu / small.fields * 1000,
            "ms/field",
            "processor time of a worker on one core, all of it, for a small field",
        ),
        "worker_cpu_ms_5mp": (
            large.worker_cpu / large.fields * 1000,
            "ms/field",
            "the same for a 2592×1944 field",
        ),
        "worker_rate": (small.rate, "fields/s", "a worker on one core, small fields, from queue to commit"),
        "leukocyte_bytes_field": (small.leukocyte_bytes, "bytes", "a field's leukocytes, packed"),
    }


# ------------------------------------------------------------------------------------------------------------ broker


def broker(messages: int) -> Found:
    """Messages through a real Celery worker: their chunks do not exist, so that all the work is the broker's."""
    import redis

    from worker import embedded
    from worker.app import make_app
    from worker.broker import KEY_PREFIX
    from worker.local import local_worker
    from worker.publish import send

    with home(log_level="warning") as settings, embedded.in_use(settings):
        client = redis.Redis(unix_socket_path=str(embedded.socket_path(settings)))

        def state() -> dict[str, float]:
            information = client.info()
            assert isinstance(information, dict)
            wanted = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes", "used_memory")
            return {name: float(information[name]) for name in wanted} | {
                "cpu": float(information["used_cpu_user"]) + float(information["used_cpu_sys"])
            }

        Database.open(settings).close()
        empty = state()
        send(make_app(settings), "routine", range(1_000_000, 1_000_000 + messages))
        queued = state()
        with local_worker(settings, concurrency=1) as worker:
            while client.llen(KEY_PREFIX + "routine") or client.zcard(KEY_PREFIX + "unacked_index"):
                if (problem := worker.problem()) is not None:
                    raise SystemExit(problem)
                time.sleep(0.2)
            done = state()
            time.sleep(2 * settings.housekeeping_seconds)
            idle = state()
        client.close()

    def between(name: str, first: dict[str, float], last: dict[str, float]) -> float:
        return last[name] - first[name]

    commands = between("total_commands_processed", empty, done)
    both_ways = sum(between(f"total_net_{way}_bytes", empty, done) for way in ("input", "output"))
    seconds = 2 * settings.housekeeping_seconds
    return {
        "broker_commands_message": (commands / messages, "commands/chunk", "publishing, delivering, acknowledging"),
        "broker_bytes_message": (both_ways / messages, "bytes/chunk", "to and from the broker for these"),
        "broker_memory_message": (
            between("used_memory", empty, queued) / messages,
            "bytes/waiting chunk",
            "the broker's memory while the message waits",
        ),
        "broker_cpu_us_message": (
            between("cpu", empty, done) * 1e6 / messages,
            "µs/chunk",
            "Valkey's processor time for these commands",
        ),
        "broker_cpu_us_command": (
            between("cpu", empty, done) * 1e6 / commands,
            "µs/command",
            "Valkey's processor time for one command, in the mean",
        ),
        "broker_idle_commands": (
            between("total_commands_processed", done, idle) / seconds,
            "commands/s",
            "of a worker that waits: polling, its name, the queues' lengths",
        ),
    }
