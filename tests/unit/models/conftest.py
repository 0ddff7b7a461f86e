"""A model that is read in milliseconds: the tiny network with weights drawn from a seed, not trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allq.classes import CLASSES
from imaging.parameters import QualityParameters, SegmentationParameters
from models.architectures import blueprint
from models.architectures.blueprint import InputSizes
from models.artefact import Arrays, LeukocyteRule, Model, ModelConfiguration, NoveltyRule, Provenance, SlideRule, write
from models.flags import flags


def _configuration(**changes: Any) -> ModelConfiguration:
    tiny = blueprint("tiny")
    return replace(
        ModelConfiguration(
            name="untrained",
            architecture="tiny",
            classes=CLASSES,
            input_sizes=InputSizes(cells=96, field=64),
            rim=0.3,
            mean=tiny.mean,
            deviation=tiny.deviation,
            temperature=1.5,
            leukocyte=LeukocyteRule(offset=0.1, slope=0.7, suspect=0.6),
            novelty=NoveltyRule(),
            slide=SlideRule(),
            flags=flags(novel=2.0, uncertain=0.7, quality=QualityParameters()),
            segmentation=SegmentationParameters(),
            quality=QualityParameters(),
            synthetic=True,
            provenance=Provenance(data="none", fingerprint="0" * 64, fields=0, groups=0, training={}),
            code_version="0",
            weights_sha256="",
        ),
        **changes,
    )


def _arrays(seed: int) -> dict[str, Any]:
    import torch

    from models.architectures.network import Network, to_eight_bit
    from models.engines.torch import pack
    from models.novelty import fit_novelty

    torch.manual_seed(seed)
    network = Network(blueprint("tiny"), len(CLASSES)).eval()
    screening = to_eight_bit(network, *(2 * torch.rand(4, 3, side, side) - 1 for side in (96, 64)))
    known = np.random.default_rng(seed).normal(size=(200, blueprint("tiny").embedding)).astype(np.float32)
    groups, sides = [str(n // 20) for n in range(200)], np.arange(200) % 2
    novelty = fit_novelty(known, groups, sides, neighbours=5, share=0.02)
    return {**pack(screening), **novelty.arrays()}


@pytest.fixture(scope="session")
def configuration() -> Callable[..., ModelConfiguration]:
    """Makes a whole configuration; keywords change it."""
    return _configuration


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose calls mean nothing."""
    return write(tmp_path_factory.mktemp("models") / "untrained", _configuration(), _arrays(0), "# untrained\n")


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Writes a model of the given seed and changes into a folder."""

    def make(folder: Path, *, seed: int = 0, arrays: Arrays | None = None, **changes: Any) -> Model:
        return write(folder, _configuration(**changes), arrays or _arrays(seed), "# made for a test\n")

    return make
