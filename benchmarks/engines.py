"""What the networks cost in each arithmetic, batch and division of the cores, and how far their answers lie apart.

    python benchmarks/engines.py [FOLDER] [--fields N] [--timed 128] [--repeat 3] [--only rates,batches,cores,apart]
                                 [--model NAME] [--batch 32] [--torch] [--write]
    python benchmarks/engines.py --paper [--batch 8] [--threads 1]

Four tables of the networks alone, that is without decoding and segmenting. The first three are of `--timed` fields in
full batches, medians of `--repeat` passes in turn; the last is of all fields of the folder, or `--fields` of them,
evenly. Without a folder, rendered smears are used. Five minutes on two cores with 2,478 fields. bf16 is left out where
the processor has no instructions for it. `--torch` adds torch in single precision, whose fields take ten times as long.
`--paper` times the network of the dataset's paper instead, with weights drawn at random: it is not trained here.

"Without levels" are the same weights as an ordinary network, of which nothing is rounded to the 256 levels that the
model is on (docs/decisions/0007): what single precision and bf16 would be used for if there were no levels.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final, TypeVar

import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.classes import CLASSES
from allq.errors import FieldError
from benchmarks import measuring
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import others_busy
from imaging.decode import decode
from models.architectures.blueprint import View
from models.architectures.registry import blueprint
from models.artefact import Model, find
from models.classifier import Assessment, Classifier, PreparedField
from models.engines.base import Engine
from models.engines.openvino import (
    IN_INTEGERS,
    IN_SINGLE,
    Levels,
    Node,
    OpenVinoEngine,
    build,
    compiled,
    process_core,
)

Pixels = NDArray[np.uint8]
Pictures = tuple[Pixels, Pixels]
"""What the networks are shown of N fields: leukocytes on glass and whole fields, RGB (N, S, S, 3)."""

Key = TypeVar("Key", bound=Hashable)

_DECISION: Final = measuring.DOCS / "decisions" / "0007-eight-bit.md"
PAGES: Final = {"rates": _DECISION, "batches": measuring.PAGE, "cores": measuring.PAGE, "apart": _DECISION}
"""Of each table, where it stands."""

TABLES: Final = tuple(PAGES)
BATCHES: Final = (1, 4, 8, 16, 32, 64, 128)


def _unrounded(node: Node, _step: np.float32, _least: int) -> Node:
    return node


SINGLE, BF16 = "single precision, without levels", "bf16, without levels"
LEVELS, INTEGERS, MIXED = "levels in single precision", "levels in integers", "levels in integers, the rest bf16"
TORCH = "torch, levels in single precision"

ARITHMETICS: Final[Mapping[str, Levels]] = {
    SINGLE: Levels(name="f32", round_to=_unrounded),
    BF16: Levels(name="bf16", round_to=_unrounded, rest="bf16"),
    LEVELS: IN_SINGLE,
    INTEGERS: IN_INTEGERS,
    MIXED: replace(IN_INTEGERS, rest="bf16"),
}
"""By name. What screens is INTEGERS, and LEVELS where a processor can't add up 8-bit products."""

TRIED: Final = (SINGLE, BF16, INTEGERS)
"""Those that batches and cores are tried with."""

COMPARED: Final = ((SINGLE, BF16), (LEVELS, INTEGERS), (LEVELS, MIXED), (SINGLE, LEVELS), (INTEGERS, BF16))
"""Whose answers are held against each other."""


def marks(table: str) -> tuple[str, str]:
    """Between which a table stands in its page."""
    command = f"python benchmarks/engines.py FOLDER --only {table} --write"
    return f"<!-- The networks, {table}: written by `{command}`. -->", f"<!-- End of the networks, {table}. -->"


def here(names: Iterable[str]) -> list[str]:
    """Those that this processor has instructions for: elsewhere OpenVINO takes single precision for bf16."""
    bf16 = "BF16" in process_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name in names if bf16 or name not in ARITHMETICS or ARITHMETICS[name].rest != "bf16"]


# ------------------------------------------------------------------------------------------------------- the fields


def prepared_fields(classifier: Classifier, folder: Path | None, count: int | None) -> list[PreparedField]:
    """What can be decoded of `count` fields, evenly from `folder`, or rendered; None: all of a folder, 256 rendered."""
    if folder is None:
        files: Iterable[bytes] = measuring.rendered(256 if count is None else count)
    else:
        files = (path.read_bytes() for path in measuring.images(folder, count))
    found = []
    for data in files:
        try:
            field = decode(data, max_pixels=10**8, reduce_to=classifier.decode_side)
        except FieldError:
            continue
        found.append(classifier.prepare(field))
    return found


def pictures_of(fields: Sequence[PreparedField]) -> Pictures:
    """The networks' two pictures of each field."""
    return np.stack([each.cells for each in fields]), np.stack([each.field for each in fields])


def evenly(pictures: Pictures, count: int) -> Pictures:
    """`count` fields' pictures, evenly; some more than once where there are fewer."""
    chosen = np.arange(count) * len(pictures[0]) // count
    return pictures[0][chosen], pictures[1][chosen]


# ------------------------------------------------------------------------------------------------------- the speed


def request(
    model: Model, levels: Levels, *, batch: int, threads: int, views: Iterable[View] | None = None
) -> ov.InferRequest:
    """The engine's graph, compiled as the engine compiles it, with all outputs or those of `views` alone."""
    configuration = model.configuration
    graph = build(
        blueprint(configuration.architecture),
        model.arrays(),
        batch=batch,
        sizes=configuration.input_sizes,
        mean=configuration.mean,
        deviation=configuration.deviation,
        levels=levels,
    )
    if views is not None:
        wanted = {f"{view}.{output}" for view in views for output in ("logits", "class_maps")}
        results = [result for result in graph.get_results() if result.output(0).get_names() & wanted]
        graph = ov.Model(results, graph.get_parameters())
    return compiled(process_core(), graph, threads, levels.rest)


def passing(run: Callable[[list[Pixels]], Any], pictures: Pictures, batch: int) -> Callable[[], None]:
    """What passes all full batches through `run`, which has had one of them before."""
    parts = [
        [view[start : start + batch] for view in pictures] for start in range(0, len(pictures[0]) - batch + 1, batch)
    ]
    run(parts[0])

    def through() -> None:
        for part in parts:
            run(part)

    return through


def openvino_pass(given: ov.InferRequest, pictures: Pictures, batch: int) -> Callable[[], None]:
    """The same of a compiled graph."""
    return passing(lambda part: given.infer(part, share_inputs=True), pictures, batch)


def seconds_of(passes: Mapping[Key, Callable[[], None]], repeat: int) -> dict[Key, float]:
    """The median of each pass's times, `repeat` of each, all in turn."""
    found: dict[Key, list[float]] = {name: [] for name in passes}
    for _ in range(repeat):
        for name, through in passes.items():
            began = time.perf_counter()
            through()
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def rates(model: Model, pictures: Pictures, given: Asked) -> list[str]:
    """Each arithmetic, together and each network by itself. "Look" begins where "field" has got to."""
    views = blueprint(model.configuration.architecture).views
    parts: dict[str, tuple[View, ...] | None] = {"together": None}
    parts |= {view: ("field", "look") if view == "look" else (view,) for view in views}
    passes = {}
    for name in here(ARITHMETICS):
        measuring.say(f"rates: {name} is compiled")
        for part, of in parts.items():
            graph = request(model, ARITHMETICS[name], batch=given.batch, threads=given.threads, views=of)
            passes[name, part] = openvino_pass(graph, pictures, given.batch)
    if given.torch:
        engine = torch_engine(model, given)
        passes[TORCH, "together"] = passing(lambda part: engine.run(*part), pictures, given.batch)
    measuring.say(f"rates: {len(passes)} passes, {given.repeat} times")
    taken = {key: 1000 * seconds / len(pictures[0]) for key, seconds in seconds_of(passes, given.repeat).items()}
    sizes = {view: model.configuration.input_sizes.of(view) for view in views}
    lines = [
        f"| ms a field | together | {' | '.join(f'{view}, {size}²' for view, size in sizes.items())} | fields/s |",
        f"|---|{'---|' * (len(views) + 2)}",
    ]
    for name in dict.fromkeys(name for name, _ in taken):
        whole = taken[name, "together"]
        alone = [taken.get((name, view)) for view in views]
        if "look" in views and (field := taken.get((name, "field"))) is not None:
            alone[views.index("look")] = taken[name, "look"] - field
        shown = " | ".join("" if each is None else f"{each:.2f}" for each in alone)
        lines.append(f"| {name} | {whole:.2f} | {shown} | {1000 / whole:.0f} |")
    return lines


def batches(model: Model, pictures: Pictures, given: Asked) -> list[str]:
    """Fields a call against milliseconds a field."""
    sizes = [size for size in BATCHES if size <= len(pictures[0])]
    names = here(TRIED)
    passes = {}
    for name in names:
        measuring.say(f"batches: {name} is compiled")
        for size in sizes:
            graph = request(model, ARITHMETICS[name], batch=size, threads=given.threads)
            passes[name, size] = openvino_pass(graph, pictures, size)
    measuring.say(f"batches: {len(passes)} passes, {given.repeat} times")
    seconds = seconds_of(passes, given.repeat)
    lines = [f"| ms a field, in batches of | {' | '.join(map(str, sizes))} |", f"|---|{'---|' * len(sizes)}"]
    for name in names:
        full = (seconds[name, size] / (len(pictures[0]) // size * size) for size in sizes)
        lines.append(f"| {name} | {' | '.join(f'{1000 * each:.2f}' for each in full)} |")
    return lines


# ------------------------------------------------------------------------------------------------------- the cores

_met: Barrier | None = None


def _meet_at(barrier: Barrier) -> None:
    global _met  # noqa: PLW0603  # a barrier reaches a pool's process by its start alone
    _met = barrier


def _in_a_process(kept: Path, model: Model, threads: int, given: Asked) -> dict[str, list[float]]:
    """The seconds of each pass of each arithmetic, begun together with the other processes."""
    assert _met is not None
    pictures = np.load(kept / "cells.npy"), np.load(kept / "fields.npy")
    passes = {
        name: openvino_pass(
            request(model, ARITHMETICS[name], batch=given.batch, threads=threads), pictures, given.batch
        )
        for name in here(TRIED)
    }
    found: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(given.repeat):
        for name, through in passes.items():
            _met.wait(timeout=300)
            began = time.perf_counter()
            through()
            found[name].append(time.perf_counter() - began)
    return found


def divisions() -> list[tuple[int, int]]:
    """Processes and threads of each: one and one; as many threads as cores, processes, and both."""
    count = len(os.sched_getaffinity(0))
    return list(dict.fromkeys([(1, 1), (1, count), (count, 1), (count, count)]))


def cores(model: Model, pictures: Pictures, given: Asked, place: Path, divided: Iterable[tuple[int, int]]) -> list[str]:
    """Fields per second of all processes together, by how many there are and their threads."""
    np.save(place / "cells.npy", pictures[0])
    np.save(place / "fields.npy", pictures[1])
    context = multiprocessing.get_context("spawn")
    names = here(TRIED)
    lines = [f"| fields/s | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for processes, threads in divided:
        what = f"{processes} process{'es' if processes > 1 else ''} of {threads} thread{'s' if threads > 1 else ''}"
        measuring.say(f"cores: {what}")
        barrier = context.Barrier(processes)
        with ProcessPoolExecutor(processes, context, _meet_at, (barrier,)) as pool:
            futures = [pool.submit(_in_a_process, place, model, threads, given) for _ in range(processes)]
            found = [future.result() for future in futures]
        shown = []
        for name in names:
            last = [max(times) for times in zip(*(each[name] for each in found), strict=True)]
            shown.append(f"{processes * len(pictures[0]) / statistics.median(last):.0f}")
        lines.append(f"| {what} | {' | '.join(shown)} |")
    return lines


# ----------------------------------------------------------------------------------------------------- the answers


def apart(model: Model, fields: Sequence[PreparedField], pictures: Pictures, given: Asked) -> list[str]:
    """How far the answers of two arithmetics lie apart, over all fields."""

    def answers(name: str) -> list[Assessment]:
        measuring.say(f"apart: {name}, {len(fields)} fields")
        if name == TORCH:
            engine: Engine = torch_engine(model, given)
        else:
            engine = OpenVinoEngine(model, batch=given.batch, threads=1, levels=ARITHMETICS[name])
        return Classifier(model, engine).assess(fields, engine.run(*pictures))

    names = here((*ARITHMETICS, *((TORCH,) if given.torch else ())))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = dict(zip(names, pool.map(answers, names), strict=True))
    lines = [
        "| | a probability's largest move | of 99 % of the fields at most | equal calls | equal flags |",
        "|---|---|---|---|---|",
    ]
    pairs = (*COMPARED, *(((TORCH, LEVELS), (TORCH, INTEGERS)) if given.torch else ()))
    lines += [
        f"| {other}, against {one} | {_differences(found[one], found[other])} |"
        for one, other in pairs
        if one in found and other in found
    ]
    return lines


def _differences(some: Sequence[Assessment], others: Sequence[Assessment]) -> str:
    pairs = list(zip(some, others, strict=True))
    moved = np.array([np.abs(np.subtract(one.probabilities, other.probabilities)).max() for one, other in pairs])
    calls = sum(one.call == other.call for one, other in pairs)
    flags = sum(one.flags == other.flags for one, other in pairs)
    total = f"of {len(pairs):,}"
    return f"{moved.max():.4f} | {np.quantile(moved, 0.99):.4f} | {calls:,} {total} | {flags:,} {total}"


# ------------------------------------------------------------------------------------------------------------ torch


def torch_engine(model: Model, given: Asked) -> Engine:
    """The model by torch, on the processor."""
    from models.engines.torch import TorchEngine

    return TorchEngine(model, batch=given.batch, threads=given.threads)


def paper(batch: int, threads: int) -> float:
    """Milliseconds a field of the two-channel DenseNet201, the best of three."""
    import torch

    from models.architectures.make import make_network
    from models.architectures.registry import TWO_CHANNELS

    torch.set_num_threads(threads)
    network = make_network(TWO_CHANNELS, len(CLASSES)).eval()
    views = torch.zeros(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            began = time.perf_counter()
            network(views, views)
            best = min(best, time.perf_counter() - began)
    return 1000 * best / batch


# ------------------------------------------------------------------------------------------------------------- main


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How it is measured."""

    batch: int
    threads: int
    repeat: int
    torch: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=lambda path: Path(path).resolve())
    parser.add_argument("--model", help="name or id (default: the one that comes with allq)")
    parser.add_argument("--fields", type=int, help="whose answers are compared (default: all; 256 rendered ones)")
    parser.add_argument("--timed", type=int, default=128, help="fields of a pass (default: 128)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of the first two tables and of torch (default: 1)")
    parser.add_argument("--only", default=",".join(TABLES), help="some of the tables, separated by commas")
    parser.add_argument("--torch", action="store_true", help="torch, too")
    parser.add_argument("--write", action="store_true", help="put the tables into the pages that have them")
    parser.add_argument("--paper", action="store_true", help="the two-channel DenseNet201 instead")
    asked = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    if asked.paper:
        cost = paper(asked.batch, asked.threads)
        print(f"two-channel-densenet201, torch, {asked.threads} thread(s): {cost:.0f} ms a field")
        return
    wanted = asked.only.split(",")
    if unknown := set(wanted) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    if asked.timed < asked.batch:
        parser.error(f"--timed {asked.timed} is less than a batch of {asked.batch}")
    given = Asked(batch=asked.batch, threads=asked.threads, repeat=asked.repeat, torch=asked.torch)
    with measuring.apart() as place:
        model = find(measuring.settings_of(place), asked.model)
        measuring.say("fields are prepared")
        engine = OpenVinoEngine(model, batch=given.batch, threads=1)
        fields = prepared_fields(Classifier(model, engine), asked.folder, asked.fields)
        if not fields:
            raise SystemExit(f"No field in {asked.folder} can be decoded.")
        pictures = pictures_of(fields)
        timed = evenly(pictures, asked.timed)
        of = f"{asked.timed} fields, {model.name}, medians of {given.repeat}"
        tables: dict[str, tuple[str, Callable[[], list[str]]]] = {
            "rates": (
                f"{of}, batches of {given.batch}, {given.threads} thread(s)",
                lambda: rates(model, timed, given),
            ),
            "batches": (f"{of}, {given.threads} thread(s)", lambda: batches(model, timed, given)),
            "cores": (
                f"{of}, a process, batches of {given.batch}",
                lambda: cores(model, timed, given, place, divisions()),
            ),
            "apart": (f"{len(fields):,} fields, {model.name}", lambda: apart(model, fields, pictures, given)),
        }
        where = "of the folder given" if asked.folder else "of rendered smears"
        machine = measuring.told(measuring.machine())
        for name in wanted:
            title, table = tables[name]
            busy = others_busy()
            lines = table()
            disturbed = "" if name == "apart" else noise(max(busy, others_busy()))
            said = f"{title}, {where}; {machine}.{disturbed}\n\n" + "\n".join(lines)
            measuring.shown(said, write=asked.write, page=PAGES[name], marks=marks(name))


if __name__ == "__main__":
    main()
