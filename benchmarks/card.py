"""How far a card's path parts from the reference: masks, views, precision, decoding. No figure here is a speed.

    python benchmarks/card.py --images FOLDER --fields 512 [--device cuda] [--only masks|precision|chroma]

Without a card (`--device cpu`) the same torch operations run on the CPU, half precision is computed as a card computes
it (products and sums exact, one rounding), and a card's decoder is stood in for by one that repeats samples of colour,
as nvJPEG does (needs the package simplejpeg). Speed on a card: `benchmarks/throughput.py --device cuda`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from allq.classes import CLASSES
from allq.settings import Settings
from imaging.batched.chroma import interpolated
from imaging.decode import Decoded, decode
from imaging.formats import HEAD_BYTES, ImageFormat, sniff
from imaging.jpeg import plain_jpeg
from imaging.synthetic import STYLES, render_field
from models.architectures.eight_bit import EightBitConvolution
from models.architectures.network import Network
from models.artefact import Model, find
from models.batched import BatchPreparer
from models.classifier import Assessment, Classifier, PreparedField
from models.engines.base import NetworkOutput
from models.engines.half import halve
from models.engines.openvino import OpenVinoEngine
from models.engines.torch import TorchEngine, restore

_MAX_PIXELS = 200_000_000
_BAR = 0.99
"""Of Dice, between the masks of a field in two ways."""


def files(folder: Path | None, count: int) -> list[bytes]:
    """`count` JPEG files, evenly from `folder`, or rendered."""
    if folder is None:
        random = np.random.default_rng(0)
        styles = list(STYLES.values())
        rendered = [
            render_field(random, klass=CLASSES[number % 4], style=styles[number % len(styles)]).pixels
            for number in range(count)
        ]
        return [cv2.imencode(".jpg", cv2.cvtColor(each, cv2.COLOR_RGB2BGR))[1].tobytes() for each in rendered]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [path for path in paths if sniff(path.open("rb").read(HEAD_BYTES)) is ImageFormat.JPEG]
    step = max(1, len(found) // count)
    return [path.read_bytes() for path in found[::step][:count]]


def masks(classifier: Classifier, data: Sequence[bytes], device: str) -> None:
    """Prepared together on `device` against one by one with OpenCV."""
    preparer = BatchPreparer(
        classifier.model.configuration, device=device, threads=1, decode_side=classifier.decode_side
    )
    together: list[PreparedField | Exception] = []
    for start in range(0, len(data), 64):
        together += preparer.prepare(data[start : start + 64], max_pixels=_MAX_PIXELS)
    reference = [_alone(classifier, each) for each in data]
    found = [field for field in together if isinstance(field, PreparedField)]
    assert len(found) == len(reference)
    _compared(f"prepared together, {device}", classifier, reference, found)


def chroma(classifier: Classifier, data: Sequence[bytes]) -> None:
    """Fields whose chroma was repeated, not interpolated, against those as they are."""
    try:
        import simplejpeg
    except ImportError:
        print("chroma repeated: not measured, simplejpeg is not installed")
        return

    def coarse(file: bytes) -> Decoded:
        pixels = np.array(simplejpeg.decode_jpeg(file, colorspace="RGB", fastupsample=True))
        return Decoded(pixels=pixels, format=ImageFormat.JPEG, width=pixels.shape[1], height=pixels.shape[0])

    def mended(file: bytes) -> Decoded:
        header = plain_jpeg(file, max_pixels=_MAX_PIXELS)
        image = coarse(file)
        if header is None:
            return image
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].contiguous()
        bits = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        luma = decode_jpeg([bits], mode=ImageReadMode.GRAY)[0][None]
        smooth = interpolated(pixels, luma, header.sampling)[0].permute(1, 2, 0).contiguous().numpy()
        return replace(image, pixels=smooth)

    reference = [_alone(classifier, file) for file in data]
    for name, way in {"chroma repeated": coarse, "chroma repeated, then interpolated": mended}.items():
        _compared(name, classifier, reference, [classifier.prepare(way(file)) for file in data])


def _alone(classifier: Classifier, file: bytes) -> PreparedField:
    return classifier.prepare(decode(file, max_pixels=_MAX_PIXELS, reduce_to=classifier.decode_side))


def _compared(
    name: str, classifier: Classifier, reference: Sequence[PreparedField], found: Sequence[PreparedField]
) -> None:
    dice = [_dice(one, other) for one, other in zip(reference, found, strict=True)]
    counts = sum(len(one.nuclei) != len(other.nuclei) for one, other in zip(reference, found, strict=True))
    least = int(np.argmin(dice))
    before, after = len(reference[least].nuclei), len(found[least].nuclei)
    print(
        f"{name}: Dice mean {np.mean(dice):.5f}, least {dice[least]:.4f} (field {least}, {before} leukocytes, then ",
        end="",
    )
    print(f"{after}), below {_BAR} in {sum(each < _BAR for each in dice)}; ", end="")
    print(f"another number of leukocytes in {counts} of {len(found)} fields")
    _differences(f"{name}, calls", classifier.classify(reference), classifier.classify(found))


def _dice(one: PreparedField, other: PreparedField) -> float:
    nuclei = [each.segmentation.nuclei > 0 for each in (one, other)]
    total = sum(int(mask.sum()) for mask in nuclei)
    return 2 * int((nuclei[0] & nuclei[1]).sum()) / total if total else 1.0


def _differences(name: str, reference: Sequence[Assessment], found: Sequence[Assessment]) -> None:
    apart = np.array(
        [
            np.abs(np.subtract(one.probabilities, other.probabilities)).max()
            for one, other in zip(reference, found, strict=True)
        ]
    )
    calls = sum(one.call != other.call for one, other in zip(reference, found, strict=True))
    flags = sum(one.flags != other.flags for one, other in zip(reference, found, strict=True))
    novelty = max(abs(one.novelty - other.novelty) for one, other in zip(reference, found, strict=True))
    print(
        f"| {name} | {apart.max():.4f} | {np.quantile(apart, 0.99):.4f} | {apart.mean():.5f} "
        f"| {calls} | {flags} | {novelty:.3f} |",
        flush=True,
    )


class RoundedFirst(EightBitConvolution):
    """What autocast makes of a convolution on levels: values, and weights times their scale, are rounded first."""

    kind = torch.float16

    def summed(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the convolution that it replaces, computed in half precision."""
        scale = (self.weight.float() * self.scale[:, None, None, None]).to(self.kind).float()
        weight, whole = self.weight, self.scale
        self.weight, self.scale = scale, torch.ones_like(whole)
        try:
            return super().summed(pixels.to(self.kind).float()).to(self.kind).float()
        finally:
            self.weight, self.scale = weight, whole


def _rounded_first(network: Network, kind: torch.dtype) -> Network:
    for module in network.modules():
        if isinstance(module, EightBitConvolution):
            module.__class__ = RoundedFirst
            module.kind = kind  # type: ignore[assignment]  # torch takes any attribute for a tensor or a module
    return network


def precision(model: Model, classifier: Classifier, data: Sequence[bytes], device: str) -> None:
    """The same fields through the network in several precisions; the first is the reference."""
    prepared = [_alone(classifier, file) for file in data]
    cells, fields = (np.stack([getattr(each, view) for each in prepared]) for view in ("cells", "field"))

    def fresh() -> Network:
        network = restore(model.configuration, model.arrays())
        assert isinstance(network, Network)
        return network

    def through(network: Network) -> NetworkOutput:
        engine = TorchEngine(model, batch=16, threads=1)
        engine._network = network
        return engine.run(cells, fields)

    kinds: dict[str, Callable[[], NetworkOutput]] = {
        "half, whole numbers": lambda: through(halve(fresh())),
        "half, as autocast rounds": lambda: through(_rounded_first(fresh(), torch.float16)),
        "bfloat16, as autocast rounds": lambda: through(_rounded_first(fresh(), torch.bfloat16)),
        "openvino": lambda: OpenVinoEngine(model, batch=16, threads=1).run(cells, fields),
    }
    if device == "cuda":
        kinds["the card"] = lambda: TorchEngine(model, batch=64, threads=1, cuda=True).run(cells, fields)
    reference = classifier.assess(prepared, through(fresh()))
    for name, run in kinds.items():
        _differences(f"{name} against single", reference, classifier.assess(prepared, run()))


def main() -> None:
    """Print lines and rows of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--images", type=Path, help="a folder of JPEG fields; without it, synthetic ones are made")
    parser.add_argument("--fields", type=int, default=256)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=["masks", "precision", "chroma"])
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    model = find(Settings(), given.model)
    classifier = Classifier(model, OpenVinoEngine(model, batch=16, threads=1))
    data = files(given.images, given.fields)
    print(f"{model.name} {model.id[:12]}, {len(data)} fields, {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}\n")
    print("| what | max. difference of a probability | 99 % | mean | calls that differ | flags | max. of novelty |")
    print("|---|---|---|---|---|---|---|")
    if given.only in {None, "masks"}:
        masks(classifier, data, given.device)
    if given.only in {None, "chroma"}:
        chroma(classifier, data)
    if given.only in {None, "precision"}:
        precision(model, classifier, data, given.device)


if __name__ == "__main__":
    main()
