"""Files decoded together on a device, and colour as a card's decoder gives it; on the CPU, and on a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.io import ImageReadMode, decode_jpeg

from imaging.batched import chroma, decode, resize, transfer
from imaging.decode import decode as decode_alone
from imaging.decode import reduction
from imaging.jpeg import plain_jpeg

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
        ],
    ),
]
REDUCE_TO = 40
LIMIT = 10**6


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def coloured(size: tuple[int, int], sampling: str = "420", seed: int = 6) -> bytes:
    """A JPEG file full of edges of colour, none of it cut off at an end of a channel."""
    noise = np.random.default_rng(seed).normal(0, 90, (*size, 3))
    pixels = np.clip(128 + cv2.GaussianBlur(noise, (0, 0), 2.0), 60, 190).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling=sampling))


def repeating(images: list[torch.Tensor], *, mode: ImageReadMode, **options: object) -> list[torch.Tensor]:
    """Stands in for nvJPEG: the pixels with each sample of colour repeated."""
    if mode is ImageReadMode.GRAY:
        return decode_jpeg(images, mode=mode, **options)
    pixels = [simplejpeg.decode_jpeg(data.numpy(), colorspace="RGB", fastupsample=True) for data in images]
    return [torch.from_numpy(np.ascontiguousarray(np.moveaxis(each, 2, 0))) for each in pixels]


@pytest.mark.parametrize("sampling", ["420", "422", "440"])
@pytest.mark.parametrize("size", [(64, 96), (45, 53)])
def test_repeated_colour_is_interpolated_as_by_libjpeg_turbo_to_the_last_bit(
    device: torch.device, sampling: str, size: tuple[int, int]
) -> None:
    data = coloured(size, sampling)
    header = plain_jpeg(data, max_pixels=LIMIT)
    assert header is not None
    file = [torch.frombuffer(bytearray(data), dtype=torch.uint8)]
    expected = decode_alone(data, max_pixels=LIMIT).pixels
    (given,) = repeating(file, mode=ImageReadMode.RGB)
    (luma,) = decode_jpeg(file, mode=ImageReadMode.GRAY)
    mended = chroma.interpolated(given[None].to(device), luma[None].to(device), header.sampling)
    (found,) = transfer.fetched(mended.permute(0, 2, 3, 1))
    assert np.abs(given.permute(1, 2, 0).numpy().astype(int) - expected).mean() > 1
    assert np.array_equal(found[0], expected)


@pytest.mark.parametrize("sampling", [(2, 2), (2, 1), (1, 2)])
def test_colour_is_enlarged_to_odd_sizes(device: torch.device, sampling: tuple[int, int]) -> None:
    across, down = sampling
    random = np.random.default_rng(7)
    rows, columns = -(-45 // down), -(-53 // across)
    colour = cv2.GaussianBlur(random.normal(0, 60, (rows, columns, 2)), (0, 0), 1.0)
    smooth = cv2.resize(colour, (columns * across, rows * down), interpolation=cv2.INTER_LINEAR)[:45, :53]
    blue, red = np.moveaxis(smooth, 2, 0)
    wanted = np.dstack([128 + 1.402 * red, 128 - 0.344136 * blue - 0.714136 * red, 128 + 1.772 * blue])
    samples = torch.from_numpy(np.rint(np.moveaxis(colour, 2, 0)).astype(np.int32))[None].to(device)
    luma = torch.full((1, 45, 53), 128, dtype=torch.uint8, device=device)
    (found,) = transfer.fetched(chroma.together(luma, samples, sampling).permute(0, 2, 3, 1))
    assert np.abs(found[0] - np.clip(wanted, 0, 255)).max() <= 3.5


def test_colour_of_blocks_that_are_cut_off_is_near_what_it_was(device: torch.device) -> None:
    luma = torch.full((1, 1, 4, 4), 200, dtype=torch.uint8)
    for blue, red in ((-20, 50), (40, 10), (45, 60), (0, 0)):
        rgb = torch.tensor([200 + 1.402 * red, 200 - 0.344136 * blue - 0.714136 * red, 200 + 1.772 * blue])
        pixels = rgb.round().clamp(0, 255).to(torch.uint8)[None, :, None, None].expand(1, 3, 4, 4).contiguous()
        again = chroma.interpolated(pixels.to(device), luma.to(device), (2, 2))
        assert int((again.cpu().int() - pixels.int()).abs().max()) <= 3


@pytest.fixture
def untried() -> Iterator[None]:
    """What was found out of decoders is forgotten, before and after."""
    decode._tried.cache_clear()
    yield
    decode._tried.cache_clear()


@pytest.mark.usefixtures("untried")
def test_a_decoder_that_repeats_colour_is_noticed_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    data = coloured((64, 96))
    assert decode._tried(CPU) == decode._Decoder(usable=True, repeats=False)
    decode._tried.cache_clear()
    monkeypatch.setattr(decode, "decode_jpeg", repeating)
    assert decode._tried(CPU) == decode._Decoder(usable=True, repeats=True)
    (found,) = decode.decode_together([data], max_pixels=LIMIT, reduce_to=640, device=CPU)
    assert isinstance(found, decode.DecodedTensor)
    assert np.array_equal(found.pixels.permute(1, 2, 0).numpy(), decode_alone(data, max_pixels=LIMIT).pixels)


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("how", ["fails", "parts"])
def test_a_decoder_that_fails_or_parts_from_the_cpu_is_not_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(images: list[torch.Tensor], **options: object) -> list[torch.Tensor]:
        if how == "fails":
            raise RuntimeError("torchvision not compiled with nvJPEG support")
        return [pixels ^ 8 for pixels in decode_jpeg(images, **options)]

    monkeypatch.setattr(decode, "decode_jpeg", bad)
    data = coloured((64, 96))
    (found,) = decode.decode_together([data], max_pixels=LIMIT, reduce_to=640, device=CPU)
    assert isinstance(found, decode.DecodedTensor)
    expected = decode_alone(data, max_pixels=LIMIT).pixels
    assert np.array_equal(found.pixels.permute(1, 2, 0).numpy(), expected)


@pytest.fixture
def repeats(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder repeats colour."""
    monkeypatch.setattr(decode, "decode_jpeg", repeating)


def mixed() -> list[bytes]:
    """Files of several sizes and samplings, among each other; those from 80 pixels on are reduced."""
    sizes = [(40, 56), (45, 53), (56, 40), (61, 83), (85, 85), (166, 125)]
    kinds = [(size, sampling) for size in sizes for sampling in ("420", "444", "422", "440")]
    return [coloured(*kinds[place * 7 % len(kinds)], seed=place) for place in range(2 * len(kinds))]


def one_by_one(data: bytes) -> torch.Tensor:
    """A plain JPEG with its colour mended and reduced in a batch of its own."""
    header = plain_jpeg(data, max_pixels=LIMIT)
    assert header is not None
    file = [torch.frombuffer(bytearray(data), dtype=torch.uint8)]
    pixels, luma = (torch.stack(repeating(file, mode=mode)) for mode in (ImageReadMode.RGB, ImageReadMode.GRAY))
    if header.sampling != (1, 1):
        pixels = chroma.interpolated(pixels, luma, header.sampling)
    return resize.boxes(pixels, reduction((header.width, header.height), REDUCE_TO))[0]


def together(files: Sequence[bytes]) -> list[torch.Tensor]:
    found = decode.decode_together(files, max_pixels=LIMIT, reduce_to=REDUCE_TO, device=CPU)
    images = [image.pixels for image in found if isinstance(image, decode.DecodedTensor)]
    assert len(images) == len(files)
    return images


def equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.usefixtures("repeats")
@pytest.mark.parametrize("at_once", [8 << 20, 3 * 45 * 53, 1])
def test_files_in_any_company_have_the_pixels_they_have_alone(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_MOST_TOGETHER", at_once)
    files = mixed()
    assert equal(together(files), [one_by_one(data) for data in files])


def test_files_whose_colour_is_not_repeated_are_reduced_as_alone() -> None:
    files = mixed()
    expected = []
    for data in files:
        (pixels,) = decode_jpeg([torch.frombuffer(bytearray(data), dtype=torch.uint8)], mode=ImageReadMode.RGB)
        expected.append(resize.boxes(pixels[None], reduction((pixels.shape[2], pixels.shape[1]), REDUCE_TO))[0])
    assert equal(together(files), expected)


class Watched(TorchDispatchMode):
    """Counts torch's operations by name, and the most bytes that tensors made meanwhile took at once."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.most = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations[func.name()] += 1
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {place: entry for place, entry in self._alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return made


def watched(work: Callable[[], object]) -> Watched:
    with torch.inference_mode(), Watched() as watch:
        work()
    return watch


@pytest.mark.usefixtures("repeats")
def test_many_files_of_a_kind_take_no_more_operations_than_one() -> None:
    files = [coloured((90, 90), seed=seed) for seed in range(9)]
    together(files[:1])  # the decoder is tried
    one, many = (watched(lambda some=some: together(some)).operations for some in (files[:1], files))
    loading = {name for name in many if many[name] > one[name]}
    assert loading <= {"aten::empty.memory_format", "image::decode_jpeg"}
    assert one["aten::avg_pool2d"] == many["aten::avg_pool2d"] == 3


@pytest.mark.usefixtures("repeats")
def test_large_files_take_room_for_so_many_at_once_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 120
    files = [coloured((side, side), sampling, seed) for sampling in ("420", "422") for seed in range(6)]
    together(files[:1])
    monkeypatch.setattr(decode, "_MOST_TOGETHER", 2 * side**2)
    # What is held of each: its bytes, its pixels before and after, its brightness.
    held = sum(map(len, files)) + len(files) * side**2 * (3 + 3 + 1)
    assert watched(lambda: together(files)).most <= held + 79 * 2 * side**2
    monkeypatch.setattr(decode, "_MOST_TOGETHER", 6 * side**2)
    assert watched(lambda: together(files)).most > held + 79 * 2 * side**2


@pytest.mark.usefixtures("repeats")
@pytest.mark.parametrize("step", ["interpolated", "boxes"])
def test_what_lacks_room_together_is_done_in_halves_and_alone_by_the_cpu(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [coloured((90, 90), seed=seed) for seed in range(8)]
    expected = [one_by_one(data) for data in files]
    together(files[:1])
    work, tried, poor = getattr(decode, step), [], []

    def short(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
        tried.append(len(images))
        poor[:] = poor or [images[3]]
        if len(images) > 3 or any(torch.equal(image, poor[0]) for image in images):
            raise torch.OutOfMemoryError("so many don't fit")
        return work(images, *arguments)

    decoded: list[int] = []

    def counted(images: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
        decoded.append(len(images))
        return repeating(images, **options)

    monkeypatch.setattr(decode, step, short)
    monkeypatch.setattr(decode, "decode_jpeg", counted)
    found = together(files)
    assert tried == [8, 4, 2, 2, 1, 1, 4, 2, 2]
    assert decoded == [8, 8]
    by_cpu = torch.from_numpy(decode_alone(files[3], max_pixels=LIMIT, reduce_to=REDUCE_TO).pixels).permute(2, 0, 1)
    assert equal(found, [*expected[:3], by_cpu, *expected[4:]])


@pytest.mark.usefixtures("repeats")
@pytest.mark.parametrize("step", ["interpolated", "boxes"])
def test_an_error_within_many_is_looked_for_in_halves(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [coloured((90, 90), seed=seed) for seed in range(6)]
    expected = [one_by_one(data) for data in files]
    together(files[:1])
    work, poor = getattr(decode, step), []

    def failing(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
        poor[:] = poor or [images[2]]
        if any(torch.equal(image, poor[0]) for image in images):
            raise ValueError("nobody foresaw it")
        return work(images, *arguments)

    monkeypatch.setattr(decode, step, failing)

    def decoded(some: Sequence[bytes]) -> list[Any]:
        return decode.decode_together(some, max_pixels=LIMIT, reduce_to=REDUCE_TO, device=CPU)

    *before, bad, fourth, fifth, sixth = transfer.halving(decoded, files)
    assert isinstance(bad, ValueError)
    others = [image.pixels for image in (*before, fourth, fifth, sixth)]
    assert equal(others, [*expected[:2], *expected[3:]])
