"""Fields per second of each engine and arithmetic, and how far their probabilities lie apart.

    python benchmarks/engines.py [--model NAME] [--images FOLDER] [--fields 256] [--batch 32] [--threads 1]

Without a folder of images, rendered smears are used. `--paper` times the network of the dataset's paper instead, with
weights drawn at random: it is not trained here.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from allq.classes import CLASSES
from allq.settings import Settings
from imaging.decode import Decoded, decode
from imaging.formats import HEAD_BYTES, ImageFormat, sniff
from imaging.overlays import without_overlays
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.artefact import Model, find
from models.calibration import softmax
from models.engines.base import Engine
from models.engines.openvino import IN_INTEGERS, IN_SINGLE, OpenVinoEngine
from models.inputs import cells_view, field_view, to_cached


def images(folder: Path | None, count: int) -> list[Decoded]:
    """`count` fields, evenly from `folder`, or rendered."""
    if folder is None:
        random = np.random.default_rng(0)
        styles = list(STYLES.values())
        rendered = [
            render_field(random, klass=CLASSES[number % 4], style=styles[number % len(styles)]).pixels
            for number in range(count)
        ]
        return [
            Decoded(pixels=each, format=ImageFormat.PNG, width=each.shape[1], height=each.shape[0]) for each in rendered
        ]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and sniff(path.read_bytes()[:HEAD_BYTES])]
    step = max(1, len(files) // count)
    return [decode(path.read_bytes(), max_pixels=10**8, reduce_to=640) for path in files[::step][:count]]


def views_of(field: Decoded, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """What the network is shown of a field."""
    configuration = model.configuration
    found = segment(field.pixels, configuration.segmentation, original_size=(field.width, field.height))
    square = to_cached(without_overlays(field.pixels), found)
    return cells_view(square, configuration.input_sizes.cells), field_view(square, configuration.input_sizes.field)


def engines(model: Model, batch: int, threads: int) -> dict[str, Callable[[], Engine]]:
    """What loads each engine, by name; the first is the reference."""

    def torch_cpu() -> Engine:
        from models.engines.torch import TorchEngine

        return TorchEngine(model, batch=batch, threads=threads)

    return {
        "torch f32": torch_cpu,
        "openvino, single precision": lambda: OpenVinoEngine(model, batch=batch, threads=threads, levels=IN_SINGLE),
        "openvino, integers": lambda: OpenVinoEngine(model, batch=batch, threads=threads, levels=IN_INTEGERS),
    }


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


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--fields", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--paper", action="store_true", help="the two-channel DenseNet201")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.paper:
        cost = paper(given.batch, given.threads)
        print(f"two-channel-densenet201, torch, {given.threads} thread(s): {cost:.0f} ms a field")
        return
    model = find(Settings(), given.model)
    views = [views_of(each, model) for each in images(given.images, given.fields)]
    cells, fields = np.stack([cells for cells, _ in views]), np.stack([look for _, look in views])
    print(
        f"{model.name} {model.id[:12]}, {len(cells)} fields, batch {given.batch}, {given.threads} thread(s), ", end=""
    )
    print(f"{platform.machine()}, {datetime.now(UTC):%Y-%m-%d}\n")
    print("| engine | load s | fields/s | ms a field | max. difference of a probability | calls that differ |")
    print("|---|---|---|---|---|---|")
    reference = None
    for name, load in engines(model, given.batch, given.threads).items():
        began = time.perf_counter()
        engine = load()
        engine.run(cells[: given.batch], fields[: given.batch])
        loaded = time.perf_counter() - began
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            output = engine.run(cells, fields)
            best = min(best, time.perf_counter() - began)
        found = softmax(output.logits, model.configuration.temperature)
        reference = found if reference is None else reference
        apart = float(np.abs(found - reference).max())
        differ = int((found.argmax(1) != reference.argmax(1)).sum())
        rate = len(cells) / best
        print(f"| {name} | {loaded:.1f} | {rate:.0f} | {1000 / rate:.1f} | {apart:.4f} | {differ} |")


if __name__ == "__main__":
    main()
