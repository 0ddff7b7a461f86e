"""Fitting a network's weights: from ImageNet, with checkpoints after every epoch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from allq.classes import CLASSES
from allq.cores import cores
from models.architectures.blueprint import View
from models.architectures.imagenet import load_imagenet
from models.architectures.make import make_network
from models.architectures.network import FieldNetwork, Learner
from models.augment import Augmentation
from models.data import LabelledField
from models.options import Progress, TrainOptions
from models.scenes import Scenes, Shares
from models.views import Views

_FITTING = (
    "architecture",
    "frozen_blocks",
    "epochs",
    "batch",
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "warmup",
    "ema",
    "balance",
    "seed",
)
"""The options that change what the weights become."""


def fit_network(
    views: Views,
    fields: Sequence[LabelledField],
    options: TrainOptions,
    *,
    checkpoint: Path,
    progress: Progress,
    stage: str,
) -> FieldNetwork:
    """Train on fields, and return the averaged network, ready to evaluate.

    The same fields, options and threads give the same weights, stopped and resumed or not: all that is random is drawn
    from the seed, the epoch and the step. A checkpoint of other data or options is not used. Where the processor
    computes with bfloat16 the activations are (half as long; the weights and their averages stay in single precision).
    """
    torch.set_num_threads(options.threads or cores())
    torch.manual_seed(options.seed)
    network = make_network(options.architecture, len(CLASSES)).to(memory_format=torch.channels_last)
    from_imagenet = load_imagenet(network, options.architecture)
    learners = network.learners()
    for learner in learners:
        _fit(
            learner,
            network,
            views,
            fields,
            options,
            frozen=learner.start[: max(learner.borrowed, options.frozen_blocks if from_imagenet else 0)],
            checkpoint=checkpoint.with_name(f"{checkpoint.stem}-{learner.name}{checkpoint.suffix}"),
            progress=progress,
            stage=f"{stage}, {learner.name}" if len(learners) > 1 else stage,
        )
    return network.eval()


def _fit(
    learner: Learner,
    network: FieldNetwork,
    views: Views,
    fields: Sequence[LabelledField],
    options: TrainOptions,
    *,
    frozen: Sequence[nn.Module],
    checkpoint: Path,
    progress: Progress,
    stage: str,
) -> None:
    """Train one part of the network; its weights are the averaged ones in the end.

    The first parts in `frozen` are held as they are: no gradient, and the statistics of their normalisation untouched.
    """
    module = learner.module
    for part in frozen:
        for parameter in part.parameters():
            parameter.requires_grad_(False)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        fused=True,
    )
    steps = max(1, len(fields) // options.batch)
    averaged = {name: value.detach().clone() for name, value in module.state_dict().items()}
    identity = _identity(learner.inputs, views, fields, options)
    half = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    first = _resume(checkpoint, identity, module, optimiser, averaged)
    for epoch in range(first, options.epochs):
        progress(stage, epoch, options.epochs)
        module.train()
        for part in frozen:
            part.eval()
        torch.manual_seed(hash((options.seed, epoch)) & 0x7FFFFFFF)
        batches = _batches(learner.inputs, views, fields, options, epoch=epoch, steps=steps)
        for step, (inputs, truth) in enumerate(batches, start=epoch * steps):
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * _rate(step, steps * options.epochs, options.warmup)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = learner.logits(*(network.scale(each) for each in inputs))
            loss = functional.cross_entropy(logits.float(), truth, label_smoothing=options.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimiser.step()
            _average(averaged, module, min(options.ema, (1 + step) / (10 + step)))
        _save(checkpoint, identity=identity, epochs=epoch + 1, module=module, optimiser=optimiser, averaged=averaged)
    progress(stage, options.epochs, options.epochs)
    module.load_state_dict(averaged)


def _batches(
    inputs: tuple[View, ...],
    views: Views,
    fields: Sequence[LabelledField],
    options: TrainOptions,
    *,
    epoch: int,
    steps: int,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The epoch's batches: augmented uint8 (B, S, S, 3) of each view, S its size, and targets (B, classes).

    The next ones are made while one is used.
    """
    shares = _shares(fields, options.balance)
    scenes = Scenes(views, fields)

    def make(step: int) -> tuple[list[Tensor], Tensor]:
        random = np.random.default_rng((options.seed, epoch, step))
        chosen = random.choice(len(shares), options.batch, p=shares).tolist()
        drawn = [[scenes.show(view, index, options.sizes.of(view), random) for index in chosen] for view in inputs]
        pixels = [torch.from_numpy(np.stack([scene.pixels for scene in view])) for view in drawn]
        # Where a network takes several views at once, one of them may be empty.
        targets = np.mean([[scene.target for scene in view] for view in drawn], axis=0)
        return pixels, torch.from_numpy(targets)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, 0)
        for step in range(steps):
            ready = waiting.result()
            if step + 1 < steps:
                waiting = pool.submit(make, step + 1)
            yield ready


def _shares(fields: Sequence[LabelledField], balance: float) -> NDArray[np.float64]:
    """How often each field is drawn, (N,), sum 1: a look of n fields in proportion to n^(1 − balance)."""
    looks = [field.stream or f"class {field.label}" for field in fields]
    sizes = Counter(looks)
    weights = np.array([sizes[look] ** -balance for look in looks])
    return np.asarray(weights / weights.sum())


def _rate(step: int, total: int, warmup: float) -> float:
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


@torch.no_grad()
def _average(averaged: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            averaged[name].lerp_(value, 1 - decay)
        else:
            averaged[name].copy_(value)


def _identity(inputs: tuple[View, ...], views: Views, fields: Sequence[LabelledField], options: TrainOptions) -> str:
    """What a checkpoint belongs to: SHA-256 over the data and the options that change the weights."""
    chosen: dict[str, Any] = {name: value for name, value in asdict(options).items() if name in _FITTING}
    chosen["sizes"] = {view: options.sizes.of(view) for view in inputs}
    chosen["augmentation"] = asdict(Augmentation())
    chosen["scenes"] = asdict(Shares())
    chosen["fields"] = [(field.label, field.stream) for field in fields]
    chosen["inputs"] = inputs
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    for array in (views.pixels, views.balanced, views.cells, views.smears):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _save(
    path: Path,
    *,
    identity: str,
    epochs: int,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    averaged: dict[str, Tensor],
) -> None:
    """Written beside and moved into place, so that a run stopped while writing leaves the checkpoint before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(
        {
            "identity": identity,
            "epochs": epochs,
            "network": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "averaged": averaged,
        },
        beside,
    )
    beside.replace(path)


def _resume(
    path: Path, identity: str, module: nn.Module, optimiser: torch.optim.Optimizer, averaged: dict[str, Tensor]
) -> int:
    """Epochs already done, whose state is now in the network, the optimiser and `averaged`."""
    if not path.is_file():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["identity"] != identity:
        return 0
    module.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    averaged.update(saved["averaged"])
    return int(saved["epochs"])
