"""Fitting a network's weights: from ImageNet, with checkpoints after every epoch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from allq.classes import CLASSES
from models.architectures.imagenet import load_imagenet
from models.architectures.network import Network
from models.architectures.registry import blueprint
from models.augment import Augmentation, augment
from models.options import Progress, TrainOptions

_FITTING = (
    "architecture",
    "input_size",
    "frozen_blocks",
    "epochs",
    "batch",
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "warmup",
    "ema",
    "seed",
)
"""The options that change what the weights become."""


def fit_network(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int_],
    options: TrainOptions,
    *,
    checkpoint: Path,
    progress: Progress,
    stage: str,
) -> Network:
    """Train on fields RGB uint8 (N, S, S, 3) and labels (N,), and return the averaged network, ready to evaluate.

    The same pixels, labels, options and threads give the same weights, stopped and resumed or not: all that is
    random is drawn from the seed, the epoch and the field. A checkpoint of other data or options is not used.
    """
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    torch.manual_seed(options.seed)
    network = Network(blueprint(options.architecture), len(CLASSES)).to(memory_format=torch.channels_last)
    start_from_imagenet = load_imagenet(network, options.architecture)
    frozen = _freeze(network, options.frozen_blocks if start_from_imagenet else 0)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )
    steps = max(1, len(labels) // options.batch)
    averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
    identity = _identity(pixels, labels, options)
    first = _resume(checkpoint, identity, network, optimiser, averaged)
    for epoch in range(first, options.epochs):
        progress(stage, epoch, options.epochs)
        network.train()
        for block in frozen:
            block.eval()
        torch.manual_seed(hash((options.seed, epoch)) & 0x7FFFFFFF)
        for step, (inputs, truth) in enumerate(_batches(pixels, labels, options, epoch, steps), start=epoch * steps):
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * _rate(step, steps * options.epochs, options.warmup)
            output = network(network.scale(inputs))
            loss = functional.cross_entropy(output.logits, truth, label_smoothing=options.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimiser.step()
            _average(averaged, network, min(options.ema, (1 + step) / (10 + step)))
        _save(checkpoint, identity=identity, epochs=epoch + 1, network=network, optimiser=optimiser, averaged=averaged)
    progress(stage, options.epochs, options.epochs)
    network.load_state_dict(averaged)
    return network.eval()


def _freeze(network: Network, count: int) -> list[nn.Module]:
    """Hold the first blocks as they are: no gradient, and the statistics of their normalisation untouched."""
    frozen = list(network.blocks.values())[:count]
    for block in frozen:
        for parameter in block.parameters():
            parameter.requires_grad_(False)
    return frozen


def _batches(
    pixels: NDArray[np.uint8], labels: NDArray[np.int_], options: TrainOptions, epoch: int, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The epoch's batches: augmented uint8 (B, S, S, 3) and labels (B,); the next one is made while one is used."""
    order = np.random.default_rng((options.seed, epoch)).permutation(len(labels))

    def make(step: int) -> tuple[Tensor, Tensor]:
        chosen = order[step * options.batch : (step + 1) * options.batch]
        fields = [
            augment(pixels[index], options.input_size, np.random.default_rng((options.seed, epoch, int(index))))
            for index in chosen
        ]
        return torch.from_numpy(np.stack(fields)), torch.from_numpy(labels[chosen].astype(np.int64))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, 0)
        for step in range(steps):
            ready = waiting.result()
            if step + 1 < steps:
                waiting = pool.submit(make, step + 1)
            yield ready


def _rate(step: int, total: int, warmup: float) -> float:
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


@torch.no_grad()
def _average(averaged: dict[str, Tensor], network: Network, decay: float) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            averaged[name].lerp_(value, 1 - decay)
        else:
            averaged[name].copy_(value)


def _identity(pixels: NDArray[np.uint8], labels: NDArray[np.int_], options: TrainOptions) -> str:
    """What a checkpoint belongs to: SHA-256 over the data and the options that change the weights."""
    chosen = {name: value for name, value in asdict(options).items() if name in _FITTING}
    chosen["augmentation"] = asdict(Augmentation())
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _save(
    path: Path,
    *,
    identity: str,
    epochs: int,
    network: Network,
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
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "averaged": averaged,
        },
        beside,
    )
    beside.replace(path)


def _resume(
    path: Path, identity: str, network: Network, optimiser: torch.optim.Optimizer, averaged: dict[str, Tensor]
) -> int:
    """Epochs already done, whose state is now in the network, the optimiser and `averaged`."""
    if not path.is_file():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["identity"] != identity:
        return 0
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    averaged.update(saved["averaged"])
    return int(saved["epochs"])
