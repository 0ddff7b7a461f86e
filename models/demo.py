"""`python -m models.demo OUT`: makes the model of the demo and the tests, `synthetic-smears`, from rendered smears.

Everything is drawn from a seed: the same call on the same machine gives the same model.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from allq.classes import CLASSES
from imaging.synthetic import STYLES, SmearStyle, render_field
from models.architectures.blueprint import InputSizes
from models.artefact import Model
from models.options import Progress, TrainOptions, silent, told

NAME: Final = "synthetic-smears"

OPTIONS: Final = TrainOptions(
    name=NAME,
    architecture="tiny",
    input_sizes=InputSizes(cells=160, field=160),
    frozen_blocks=0,
    epochs=10,
    batch=32,
    learning_rate=3e-3,
    label_smoothing=0.02,
    synthetic=True,
    threads=1,
)

_BLOCK: Final = 24
"""Fields of one style and one seed: a group. Each class comes equally often."""


def render_labelled(folder: Path, *, fields: int, seed: int, progress: Progress = silent) -> Path:
    """Render about `fields` fields into a subfolder per class, with groups.csv (stream: the style). Returns `folder`.

    Every style is also varied at random within a block, so that no class can be told by anything but its cells.
    """
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    styles = tuple(STYLES)
    blocks = [(folder, styles[number % len(styles)], seed, number) for number in range(-(-fields // _BLOCK))]
    rows: list[tuple[str, str, str]] = []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done, made in enumerate(pool.map(_render_block, blocks), start=1):
            rows += made
            progress("rendering smears", done * _BLOCK, len(blocks) * _BLOCK)
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("file", "group", "stream"))
        writer.writerows(rows)
    return folder


def _render_block(block: tuple[Path, str, int, int]) -> list[tuple[str, str, str]]:
    folder, style, seed, number = block
    cv2.setNumThreads(1)
    random = np.random.default_rng((seed, number))
    rows: list[tuple[str, str, str]] = []
    for index in range(_BLOCK):
        name = CLASSES[index % len(CLASSES)]
        field = render_field(random, klass=name, style=vary(STYLES[style], random), leukocytes=(2, 12))
        suffix, options = (".png", []) if random.random() < 0.3 else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
        file = f"{name}/{number:04}-{index:02}{suffix}"
        _, packed = cv2.imencode(suffix, cv2.cvtColor(field.pixels, cv2.COLOR_RGB2BGR), options)
        (folder / file).write_bytes(packed.tobytes())
        rows.append((file, f"block-{number:04}", style))
    return rows


def vary(style: SmearStyle, random: np.random.Generator) -> SmearStyle:
    """The same laboratory on another day: dyes, light, focus and noise a little different."""
    strength = random.uniform(0.85, 1.15)
    return replace(
        style,
        red_cell=_dye(style.red_cell, strength, random),
        nucleus=_dye(style.nucleus, strength, random),
        cytoplasm=_dye(style.cytoplasm, strength, random),
        blur=style.blur * random.uniform(0.8, 1.3),
        noise=style.noise * random.uniform(0.7, 1.3),
    )


def _dye(dye: tuple[float, float, float], strength: float, random: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in np.array(dye) * strength * random.uniform(0.93, 1.07, 3))
    return red, green, blue


def make(
    out: Path, *, fields: int = 3000, seed: int = 0, work: Path | None = None, progress: Progress = silent
) -> Model:
    """Render, train, write to `out`. `work` keeps the renderings and checkpoints, for resuming."""
    from models.train import train  # noqa: PLC0415  # worker processes that render need no torch

    with tempfile.TemporaryDirectory() as temporary:
        place = work or Path(temporary)
        data = place / "rendered-smears"
        if not (data / "groups.csv").is_file():
            render_labelled(data, fields=fields, seed=seed, progress=progress)
        return train(data, out, replace(OPTIONS, seed=seed, work=place / "training"), progress)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the model, named synthetic-smears")
    parser.add_argument("--fields", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="folder of renderings and checkpoints")
    arguments = parser.parse_args()
    make(arguments.out, fields=arguments.fields, seed=arguments.seed, work=arguments.work, progress=told())


if __name__ == "__main__":
    main()
