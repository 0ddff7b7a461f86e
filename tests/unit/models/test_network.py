"""Blueprint, torch module, OpenVINO graph, augmentation, leukocytes: the parts between pixels and logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allq.classes import CLASSES
from allq.errors import ModelDamaged, ModelError
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.architectures import blueprint, names
from models.architectures.blueprint import same_padding
from models.architectures.network import Network
from models.artefact import Model
from models.augment import Augmentation, augment
from models.engines.openvino import OpenVinoEngine
from models.engines.torch import TorchEngine
from models.leukocytes import GRID, lay_out, margins


@pytest.mark.parametrize("name", names())
def test_the_mean_of_the_class_maps_is_the_logits(name: str) -> None:
    torch.manual_seed(0)
    network = Network(blueprint(name), len(CLASSES)).eval()
    with torch.inference_mode():
        output = network(network.scale(torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)))
    assert output.logits.shape == (2, 4)
    assert output.embedding.shape == (2, blueprint(name).embedding)
    assert torch.allclose(output.class_maps.mean((2, 3)), output.logits, atol=1e-4)


def test_the_tiny_network_is_under_a_megabyte() -> None:
    weights = sum(parameter.numel() for parameter in Network(blueprint("tiny"), 4).parameters())
    assert weights * 4 < 1_000_000


def test_an_unknown_architecture_names_those_there_are() -> None:
    with pytest.raises(ModelError, match="efficientnet-lite0"):
        blueprint("resnet")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(192, 3, 2, (0, 1)), (96, 5, 2, (1, 2)), (97, 3, 2, (1, 1)), (7, 3, 1, (1, 1))],
)
def test_padding_is_tensorflows(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


def fields(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 19])
def test_a_batch_of_any_size_gives_each_field_what_it_gets_alone(untrained: Model, count: int) -> None:
    engine = OpenVinoEngine(untrained, batch=8, threads=1, precision="f32")
    together = engine.run(fields(count))
    alone = [engine.run(field[None]) for field in fields(count)]
    assert together.logits.shape == (count, 4)
    assert np.allclose(together.logits, np.concatenate([each.logits for each in alone]), atol=1e-4)
    assert np.allclose(together.class_maps, np.concatenate([each.class_maps for each in alone]), atol=1e-4)


def test_both_engines_compute_the_same_network(untrained: Model) -> None:
    by_torch = TorchEngine(untrained, batch=4, threads=1).run(fields(6))
    by_openvino = OpenVinoEngine(untrained, batch=4, threads=1, precision="f32").run(fields(6))
    for name in ("logits", "embeddings", "class_maps"):
        assert np.allclose(getattr(by_torch, name), getattr(by_openvino, name), atol=1e-3), name


@pytest.mark.parametrize("engine", [OpenVinoEngine, TorchEngine])
def test_weights_that_lack_a_part_are_damaged(
    untrained: Model, engine: type[OpenVinoEngine | TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = untrained.arrays()
    del arrays["blocks.stem.only.conv.weight"]
    monkeypatch.setattr(Model, "arrays", lambda _: arrays)
    with pytest.raises(ModelDamaged, match="untrained"):
        engine(untrained, batch=2, threads=1)


def test_augmentation_is_drawn_from_its_generator_alone_and_keeps_the_shape() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    first, again, other = (augment(rgb, 192, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (192, 192, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()


def test_augmentation_turned_off_only_turns_and_mirrors() -> None:
    off = Augmentation(stain_gain=0, stain_mix=0, stain_shift=0, strength=0, scale=0, shift=0, blur=0, patch=0, jpeg=0)
    rgb = np.random.default_rng(0).integers(20, 240, (64, 64, 3), dtype=np.uint8)
    rgb = np.repeat(np.repeat(rgb[:8, :8], 8, axis=0), 8, axis=1)
    turned = augment(rgb, 64, np.random.default_rng(5), off)
    views = [np.rot90(view, k) for view in (rgb, rgb[:, ::-1]) for k in range(4)]
    # The last row and column of a turn may be a resampled neighbour; colours survive the way to density and back.
    closest = min(np.abs(turned[2:-2, 2:-2].astype(int) - view[2:-2, 2:-2]).mean() for view in views)
    assert closest < 12


def test_each_leukocyte_reads_the_class_maps_where_it_lies() -> None:
    rendered = render_field(np.random.default_rng(4), klass="pre-b", style=STYLES["violet"], leukocytes=(6, 10))
    found = segment(rendered.pixels)
    maps = np.zeros((4, 12, 12), np.float32)
    maps[2, :, 6:] = 12.0
    maps[0, :, :6] = 12.0
    read = margins(maps, lay_out(found))
    assert len(read) == len(found.leukocytes) > 0
    for leukocyte, margin in zip(found.leukocytes, read, strict=True):
        if abs(leukocyte.centre[0] - 160) > 30:
            assert (margin > 0) == (leukocyte.centre[0] > 160)


def test_a_nucleus_too_small_for_the_grid_reads_its_centre() -> None:
    rendered = render_field(np.random.default_rng(4), klass="benign", style=STYLES["violet"], leukocytes=(3, 5))
    nuclei = lay_out(segment(rendered.pixels))
    gone = type(nuclei)(labels=np.zeros((GRID, GRID), np.uint16), centres=nuclei.centres)
    maps = np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32)
    assert margins(maps, gone).shape == (len(nuclei),)
    assert np.isfinite(margins(maps, gone)).all()


def test_a_field_without_leukocytes_has_no_margins() -> None:
    empty = segment(np.full((240, 320, 3), 245, np.uint8))
    assert margins(np.zeros((4, 6, 6), np.float32), lay_out(empty)).shape == (0,)
