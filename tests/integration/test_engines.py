"""Torch and OpenVINO are the same model, at the precision that screens; and neither calls home."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from allq.classes import CLASSES
from allq.settings import Settings
from imaging.decode import Decoded, decode
from imaging.formats import ImageFormat
from imaging.synthetic import STYLES, render_field
from models.artefact import Model, find
from models.classifier import Assessment, Classifier
from models.flags import UNCERTAIN

TOLERANCE = 1e-2
DATA = Path(os.environ.get("ALLQ_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def rendered() -> list[Decoded]:
    random = np.random.default_rng(17)
    fields = []
    for style in STYLES.values():
        for name in CLASSES:
            pixels = render_field(random, klass=name, style=style).pixels
            fields.append(Decoded(pixels=pixels, format=ImageFormat.PNG, width=pixels.shape[1], height=pixels.shape[0]))
    return fields


def photographed(classifier: Classifier) -> list[Decoded]:
    if not (DATA / "taleqani").is_dir():
        pytest.skip("the development images are not here (ALLQ_TEST_DATA)")
    files = [path for folder in sorted((DATA / "taleqani").iterdir()) for path in sorted(folder.glob("*.jpg"))[::20]]
    return [decode(path.read_bytes(), max_pixels=10**8, reduce_to=classifier.decode_side) for path in files]


def both(model: Model, home: Path) -> tuple[Classifier, Classifier]:
    return (
        Classifier.load(model, Settings(home=home, engine="torch", device="cpu")),
        Classifier.load(model, Settings(home=home, engine="openvino")),
    )


def assert_agree(by_torch: Sequence[Assessment], by_openvino: Sequence[Assessment], threshold: float) -> None:
    """Calls equal, probabilities within TOLERANCE; `uncertain` may differ only where the confidence is that close."""
    for one, other in zip(by_torch, by_openvino, strict=True):
        assert one.call == other.call
        assert one.probabilities == pytest.approx(other.probabilities, abs=TOLERANCE)
        if abs(one.confidence - threshold) > TOLERANCE:
            assert (UNCERTAIN in one.flags) == (UNCERTAIN in other.flags)
        assert one.novelty == pytest.approx(other.novelty, abs=0.1)


@pytest.mark.data
def test_the_engines_agree_on_real_images(tmp_path: Path) -> None:
    model = find(Settings(home=tmp_path), "lite0-three-views")
    by_torch, by_openvino = both(model, tmp_path)
    prepared = [by_torch.prepare(field) for field in photographed(by_torch)]
    assert_agree(by_torch.classify(prepared), by_openvino.classify(prepared), model.configuration.threshold(UNCERTAIN))


@pytest.mark.parametrize("name", ["synthetic-smears", "lite0-three-views"])
def test_the_engines_agree_on_rendered_smears(tmp_path: Path, name: str) -> None:
    model = find(Settings(home=tmp_path), name)
    by_torch, by_openvino = both(model, tmp_path)
    prepared = [by_torch.prepare(field) for field in rendered()]
    first, second = by_torch.classify(prepared), by_openvino.classify(prepared)
    if name == "synthetic-smears":
        assert_agree(first, second, model.configuration.threshold(UNCERTAIN))
    else:  # what it says of them means nothing, but both must say that
        assert all("novel" in each.flags for each in (*first, *second))


def test_the_demos_model_knows_fresh_renderings(tmp_path: Path) -> None:
    classifier = Classifier.load(find(Settings(home=tmp_path), "synthetic-smears"), Settings(home=tmp_path))
    found = classifier.classify([classifier.prepare(field) for field in rendered()])
    right = [each.call == CLASSES[number % 4] for number, each in enumerate(found)]
    assert np.mean(right) >= 0.95


_WATCHED = """
import os, sys
seen = []
def watch(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo", "os.fork", "os.posix_spawn"}:
        seen.append(event)
    if event.startswith(("urllib.", "http.", "subprocess.")):
        seen.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append("write " + str(arguments[0]))
sys.addaudithook(watch)
from pathlib import Path
import numpy as np
from allq.settings import Settings
from models.artefact import find
from models.engines import start
settings = Settings(home=Path(sys.argv[1]), engine="openvino")
model = find(settings, "synthetic-smears")
sizes = model.configuration.input_sizes
views = [np.zeros((3, side, side, 3), np.uint8) for side in (sizes.cells, sizes.field)]
start(model, settings).run(*views)
print(seen, "torch" in sys.modules)
"""


def test_screening_with_openvino_calls_nobody_writes_nothing_and_needs_no_torch(tmp_path: Path) -> None:
    """OpenVINO's package reports its use on import unless kept from it. (-B keeps Python's own files away.)"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    shown = subprocess.run(
        [sys.executable, "-B", "-c", _WATCHED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert shown.stdout.strip() == "[] False"
    assert list(tmp_path.iterdir()) == []
