"""Blueprint, torch module, OpenVINO graph, augmentation, leukocytes: the parts between pixels and logits."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from allq.classes import CLASSES
from allq.errors import ModelDamaged, ModelError
from allq.settings import Settings
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field
from models.architectures import blueprint, names
from models.architectures.blueprint import InputSizes, same_padding
from models.architectures.imagenet import load_imagenet
from models.architectures.make import make_network
from models.architectures.network import FieldNetwork, Network, to_eight_bit
from models.architectures.registry import TWO_CHANNELS, seen_by
from models.artefact import Model
from models.augment import Augmentation, augment
from models.engines import NetworkOutput, openvino, start
from models.engines.openvino import OpenVinoEngine
from models.engines.torch import TorchEngine, pack
from models.leukocytes import GRID, lay_out, margins

SIDES = dict.fromkeys(names(), (96, 64)) | {TWO_CHANNELS: (96, 96)}


@pytest.mark.parametrize("name", names())
def test_the_mean_of_the_class_maps_is_the_logits(name: str) -> None:
    torch.manual_seed(0)
    network = make_network(name, len(CLASSES)).eval()
    with torch.inference_mode():
        cells, fields = (
            network.scale(torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)) for side in SIDES[name]
        )
        output = network(cells, fields)
        assert torch.allclose(network.describe(fields), output.embedding)
        assert torch.allclose(output.views.mean(1), output.logits, atol=1e-5)
        given = {"cells": cells, "field": fields, "look": fields}
        for index, learner in enumerate(network.learners()):
            assert torch.allclose(learner.logits(*(given[name] for name in learner.inputs)), output.views[:, index])
    assert output.logits.shape == (2, 4)
    means = torch.stack([maps.mean((2, 3)) for maps in output.class_maps])
    assert torch.allclose(means.mean(0), output.logits, atol=1e-4)


def test_the_tiny_network_is_under_a_megabyte() -> None:
    weights = sum(parameter.numel() for parameter in Network(blueprint("tiny"), 4).parameters())
    assert weights * 4 < 1_000_000


@pytest.fixture(scope="module")
def paper() -> FieldNetwork:
    """The network of the paper, not trained."""
    torch.manual_seed(0)
    network = make_network(TWO_CHANNELS, len(CLASSES))
    return network.eval()


def test_the_papers_network_reads_both_views_and_ours_the_leukocytes_alone(paper: FieldNetwork) -> None:
    torch.manual_seed(0)
    cells, look, other = torch.randn(3, 1, 3, 64, 64)
    with torch.inference_mode():
        for network, reads in ((make_network("tiny", len(CLASSES)).eval(), False), (paper, True)):
            assert torch.allclose(network(cells, look).logits, network(cells, other).logits) != reads


def test_the_papers_network_runs_in_torch_whatever_engine_is_there(
    make_model: Callable[..., Model], paper: FieldNetwork, tmp_path: Path
) -> None:
    network, described = paper, seen_by(TWO_CHANNELS)
    model = make_model(
        tmp_path / "paper",
        architecture=TWO_CHANNELS,
        arrays=pack(network),
        input_sizes=InputSizes(cells=64, field=64),
        mean=described.mean,
        deviation=described.deviation,
    )
    settings = Settings(home=tmp_path)
    engine = start(model, settings)
    assert engine.name == "torch-cpu-f32"
    cells, fields = (view[:2, :64, :64] for view in views(2))
    expected = network(*(network.scale(torch.from_numpy(np.ascontiguousarray(view))) for view in (cells, fields)))
    found = engine.run(cells, fields)
    assert np.allclose(found.logits, expected.logits.detach().numpy(), atol=0.05)  # stored in half precision
    with pytest.raises(ModelError, match="ALLQ_ENGINE=torch"):
        start(model, settings.model_copy(update={"engine": "openvino"}))


def test_start_weights_that_are_not_here_are_named(
    paper: FieldNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"densenet201-c1103571\.pth"):
        load_imagenet(paper, TWO_CHANNELS)


def test_start_weights_fill_both_channels(paper: FieldNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    # The file has the names of an older torchvision.
    older = {
        "features." + re.sub(r"(norm|conv)([12])\.", r"\1.\2.", name): value
        for name, value in paper.get_submodule("original").state_dict().items()
    }
    (tmp_path / "checkpoints").mkdir()
    torch.save({**older, "classifier.weight": torch.zeros(1)}, tmp_path / "checkpoints" / "densenet201-c1103571.pth")
    network = make_network(TWO_CHANNELS, len(CLASSES))
    assert load_imagenet(network, TWO_CHANNELS)
    one, other = (network.get_submodule(name).state_dict() for name in ("original", "segmented"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_unknown_architecture_names_those_there_are() -> None:
    with pytest.raises(ModelError, match="efficientnet-lite0"):
        blueprint("resnet")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(192, 3, 2, (0, 1)), (96, 5, 2, (1, 2)), (97, 3, 2, (1, 1)), (7, 3, 1, (1, 1))],
)
def test_padding_is_tensorflows(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


def views(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    cells, fields = (random.integers(0, 256, (20, side, side, 3), dtype=np.uint8) for side in (96, 64))
    return cells[:count], fields[:count]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 19])
def test_a_batch_of_any_size_gives_each_field_what_it_gets_alone(untrained: Model, count: int) -> None:
    engine = OpenVinoEngine(untrained, batch=8, threads=1)
    together = engine.run(*views(count))
    alone = [engine.run(cells[None], look[None]) for cells, look in zip(*views(count), strict=True)]
    assert together.logits.shape == (count, 4)
    assert np.allclose(together.logits, np.concatenate([each.logits for each in alone]), atol=1e-4)
    assert np.allclose(together.embeddings, np.concatenate([each.embeddings for each in alone]), atol=1e-4)
    assert np.allclose(together.class_maps[0], np.concatenate([each.class_maps[0] for each in alone]), atol=1e-4)


def test_both_engines_compute_the_same_network_of_three_views(make_model: Callable[..., Model], tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = make_network("efficientnet-lite0", len(CLASSES)).eval()
    assert isinstance(network, Network)
    shown = (network.scale(torch.from_numpy(view)) for view in views(3))
    model = make_model(
        tmp_path / "three", architecture="efficientnet-lite0", arrays=pack(to_eight_bit(network, *shown))
    )
    by_torch = TorchEngine(model, batch=4, threads=1).run(*views(3))
    assert by_torch.views.shape == (3, 3, 4)
    assert [maps.shape[2:] for maps in by_torch.class_maps] == [(3, 3), (2, 2), (2, 2)]
    assert_same(by_torch, OpenVinoEngine(model, batch=4, threads=1).run(*views(3)))


def assert_same(one: NetworkOutput, other: NetworkOutput) -> None:
    """Equal but for values that fell to either side of the middle between two of 256 levels."""
    for name in ("logits", "embeddings", "views"):
        first, second = getattr(one, name), getattr(other, name)
        assert np.allclose(first, second, rtol=0.02, atol=0.02 * first.std()), name
    for first, second in zip(one.class_maps, other.class_maps, strict=True):
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.999


def test_both_engines_compute_the_same_network(untrained: Model) -> None:
    assert_same(
        TorchEngine(untrained, batch=4, threads=1).run(*views(6)),
        OpenVinoEngine(untrained, batch=4, threads=1).run(*views(6)),
    )


def test_a_processor_that_can_not_add_up_8_bit_products_computes_the_same_in_single_precision(
    untrained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = OpenVinoEngine(untrained, batch=4, threads=1)
    monkeypatch.setattr(openvino, "saturates", lambda _: True)
    single = OpenVinoEngine(untrained, batch=4, threads=1)
    assert single.name == "openvino-cpu-f32"
    assert_same(whole.run(*views(6)), single.run(*views(6)))


def test_whether_the_processor_can_is_seen_from_a_sum_that_would_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    core = openvino.process_core()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    if "vnni" in flags:
        assert not openvino.saturates(core)
    # Pairs of products that end at 32,767 instead of 64,770.
    cut = SimpleNamespace(infer=lambda _: [np.full((1, 64, 8, 8), 64 / 2 * 32_767 * 6 / 255 * 0.01, np.float32)])
    monkeypatch.setattr(openvino, "compiled", lambda *_: cut)
    assert openvino.saturates(core)


@pytest.mark.parametrize("engine", [OpenVinoEngine, TorchEngine])
def test_weights_that_lack_a_part_are_damaged(
    untrained: Model, engine: type[OpenVinoEngine | TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = untrained.arrays()
    del arrays["cells.blocks.stem.only.weight"]
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
    off = Augmentation(stain_gain=0, stain_mix=0, stain_shift=0, strength=0, scale=0, shift=0, blur=0, jpeg=0)
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
    read = margins([maps, np.zeros((4, 6, 6), np.float32)], lay_out(found))
    assert len(read) == len(found.leukocytes) > 0
    for leukocyte, margin in zip(found.leukocytes, read, strict=True):
        if abs(leukocyte.centre[0] - 160) > 30:
            assert (margin > 0) == (leukocyte.centre[0] > 160)


def test_a_nucleus_too_small_for_the_grid_reads_its_centre() -> None:
    rendered = render_field(np.random.default_rng(4), klass="benign", style=STYLES["violet"], leukocytes=(3, 5))
    nuclei = lay_out(segment(rendered.pixels))
    gone = type(nuclei)(labels=np.zeros((GRID, GRID), np.uint16), centres=nuclei.centres)
    maps = np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32)
    assert margins([maps], gone).shape == (len(nuclei),)
    assert np.isfinite(margins([maps], gone)).all()


def test_a_field_without_leukocytes_has_no_margins() -> None:
    empty = segment(np.full((240, 320, 3), 245, np.uint8))
    assert margins([np.zeros((4, 6, 6), np.float32)], lay_out(empty)).shape == (0,)


def test_a_signal_finds_its_stack_when_engines_have_come_and_gone(untrained: Model) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from models.artefact import read\n"
        "from models.engines.openvino import OpenVinoEngine\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "model = read(Path(sys.argv[1]))\n"
        "first = OpenVinoEngine(model, batch=1, threads=1)\n"
        "second = OpenVinoEngine(model, batch=1, threads=1)\n"
        "del first, second\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", code, str(untrained.path)], check=True)
