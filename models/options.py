"""What can be asked of training and of evaluation. Importing this imports neither torch nor OpenCV."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from allq.errors import ModelError
from models.architectures.blueprint import InputSizes
from models.architectures.registry import has_blueprint, seen_by

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total): `progress("fold 2 of 5, epoch", 3, 8)`."""

Protocol = Literal["random", "group", "stream", "folder"]


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that tells nobody."""


def told() -> Progress:
    """A Progress that writes a line when a stage begins, and every minute."""
    began = time.monotonic()
    last: list[tuple[str, float]] = [("", 0.0)]

    def progress(stage: str, done: int, total: int) -> None:
        now = time.monotonic() - began
        if stage != last[0][0] or now - last[0][1] > 60:
            last[0] = (stage, now)
            sys.stderr.write(f"{now:6.0f} s  {stage} {done} of {total}\n")

    return progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a network is trained, calibrated and packed. The defaults are those of the model that comes with allq."""

    name: str = "field-model"
    architecture: str = "efficientnet-lite0"
    input_sizes: InputSizes | None = None
    """None: what the architecture is made for."""
    frozen_blocks: int = 6
    """Blocks from the first on that keep their ImageNet weights: cheaper, and generic for the novelty score."""
    epochs: int = 8
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.02
    warmup: float = 0.1
    """Share of all steps in which the rate rises, before it falls along a cosine."""
    ema: float = 0.99
    """Decay per step of the averaged weights, which are the ones that are kept."""
    balance: float = 0.5
    """How far looks (streams) with few fields are drawn more often: 0 not at all, 1 until all looks come as often."""
    seed: int = 0
    threads: int | None = None
    """Threads for the network; None: one per core."""
    groups: Path | None = None
    """CSV with columns file, group and, if wanted, stream. None: `groups.csv` in the data folder, if it is there."""
    calibration: Path | None = None
    """Folder of an evaluation by group of this architecture on this data: its held-out fields calibrate the model,
    which is then trained on all fields. None: `holdout` of the groups is kept from training and calibrates."""
    holdout: float = 0.15
    synthetic: bool = False
    """Marks the model as one that knows synthetic smears only."""
    work: Path | None = None
    """Folder of checkpoints, for resuming. None: `<out>.work` beside the model."""

    @property
    def sizes(self) -> InputSizes:
        """Of the two pictures. Raises ModelError for an unknown architecture, and for sizes that it can't have."""
        sizes = self.input_sizes or seen_by(self.architecture).input_sizes
        if sizes.cells != sizes.field and not has_blueprint(self.architecture):
            raise ModelError(
                f"{self.architecture} takes two pictures of one size, not {sizes.cells} and {sizes.field}."
            )
        return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What is measured, and how."""

    protocol: Protocol = "group"
    """random | group: k folds; stream: each stream left out in turn; folder: a model given, nothing is trained."""
    model: str | None = None
    """Name or id of the model; for protocol `folder` only. None: the active model."""
    folds: int = 5
    only: tuple[str, ...] = ()
    """For protocol `stream`: leave out these streams alone; empty: each in turn."""
    seed: int = 0
    groups: Path | None = None
    work: Path | None = None
    """Folder of checkpoints and of held-out outputs. None: `allq-evaluation` in the working directory."""
    bootstrap: int = 1000
    """Resamplings of the groups for the 95 % intervals."""
    interventions: bool = True
    """Also change the fields (leukocytes painted out, moved, stained otherwise …) and ask again; for `group` and
    `folder`."""
    training: TrainOptions = field(default_factory=TrainOptions)
