"""Fields prepared together against fields prepared one by one; on the CPU, and on a card where there is one."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from allq.classes import CLASSES
from allq.errors import FailureCode, FieldError
from allq.settings import Settings
from imaging.batched import decode as batched_decode
from imaging.decode import decode
from imaging.formats import ImageFormat
from imaging.synthetic import STYLES, render_field
from models import batched
from models.artefact import Model
from models.batched import BatchPreparer
from models.classifier import Classifier, PreparedField

LIMIT = 10_000_000


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def rendered(number: int, **options: Any) -> np.ndarray:
    styles = list(STYLES.values())
    random = np.random.default_rng(number)
    return render_field(random, klass=CLASSES[number % 4], style=styles[number % len(styles)], **options).pixels


@pytest.fixture(scope="module")
def classifier(untrained: Model, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.load(untrained, Settings(home=tmp_path_factory.mktemp("home"), engine="openvino"))


@pytest.fixture(
    scope="module",
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
            ],
        ),
    ],
)
def preparer(request: pytest.FixtureRequest, classifier: Classifier) -> Iterator[BatchPreparer]:
    configuration = classifier.model.configuration
    yield BatchPreparer(configuration, device=request.param, threads=2, decode_side=classifier.decode_side)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """JPEG fields of two sizes, one with a scale bar, and some that a card is not given."""
    barred = rendered(8)
    cv2.line(barred, (250, 228), (305, 228), (0, 0, 0), 2)
    return [
        *(encoded(rendered(number), quality=92) for number in range(6)),
        encoded(barred, quality=92),
        encoded(rendered(9, size=(240, 200)), quality=90, progressive=True),
        encoded(rendered(10), "PNG"),
        encoded(rendered(11).mean(axis=2).astype(np.uint8)),
        encoded(np.full((100, 100, 3), 240, np.uint8)),
    ]


def alone(classifier: Classifier, data: bytes) -> PreparedField:
    return classifier.prepare(decode(data, max_pixels=LIMIT, reduce_to=classifier.decode_side))


def prepared(results: Sequence[PreparedField | Exception]) -> list[PreparedField]:
    fields = [result for result in results if isinstance(result, PreparedField)]
    assert len(fields) == len(results)
    return fields


def dice(one: PreparedField, other: PreparedField) -> float:
    masks = [each.segmentation.nuclei > 0 for each in (one, other)]
    total = sum(int(mask.sum()) for mask in masks)
    return 2 * int((masks[0] & masks[1]).sum()) / total if total else 1.0


def test_fields_prepared_together_are_those_prepared_one_by_one(
    classifier: Classifier, preparer: BatchPreparer, files: list[bytes]
) -> None:
    together = prepared(preparer.prepare(files, max_pixels=LIMIT))
    assert sum(len(field.nuclei) for field in together) > 20
    for data, field in zip(files, together, strict=True):
        reference = alone(classifier, data)
        assert dice(field, reference) >= 0.99
        assert len(field.nuclei) == len(reference.nuclei)
        assert (field.width, field.height) == (reference.width, reference.height)
        assert field.quality.flags == reference.quality.flags
        for view, expected in ((field.cells, reference.cells), (field.field, reference.field)):
            assert view.shape == expected.shape
            assert np.abs(view.astype(int) - expected).mean() < 0.5


def test_a_large_field_is_reduced_to_the_same_size_and_has_the_same_leukocytes(
    classifier: Classifier, preparer: BatchPreparer
) -> None:
    large = cv2.resize(rendered(2), (2592, 1944), interpolation=cv2.INTER_CUBIC)
    data = encoded(large, quality=90)
    (field,) = prepared(preparer.prepare([data], max_pixels=LIMIT))
    reference = alone(classifier, data)
    assert field.segmentation.nuclei.shape == reference.segmentation.nuclei.shape
    assert dice(field, reference) >= 0.99
    assert (field.width, field.height) == (2592, 1944)


def test_what_cannot_be_screened_has_the_error_it_has_alone(preparer: BatchPreparer, files: list[bytes]) -> None:
    bad = [b"", b"GIF89a" + bytes(20), files[0][:2000], encoded(np.zeros((8, 8, 3), np.uint8))]
    mixed = [files[0], *bad, files[1]]
    first, *errors, last = preparer.prepare(mixed, max_pixels=LIMIT)
    assert isinstance(first, PreparedField)
    assert isinstance(last, PreparedField)
    for data, error in zip(bad, errors, strict=True):
        with pytest.raises(FieldError) as expected:
            decode(data, max_pixels=LIMIT)
        assert isinstance(error, FieldError)
        assert (error.code, str(error)) == (expected.value.code, str(expected.value))


def test_too_many_pixels_are_refused_before_anything_is_decoded(
    preparer: BatchPreparer, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(batched_decode, "decode_jpeg", lambda images, **_: given.append(len(images)))
    (found,) = preparer.prepare(files[:1], max_pixels=320 * 240 - 1)
    assert isinstance(found, FieldError)
    assert found.code is FailureCode.TOO_LARGE
    assert given == []


def test_files_that_the_card_fails_on_are_decoded_by_the_cpu(
    classifier: Classifier, preparer: BatchPreparer, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_jpeg = batched_decode.decode_jpeg
    bad = len(files[1])

    def fails(images: list[torch.Tensor], **options: Any) -> Any:
        if any(len(image) == bad for image in images):
            raise RuntimeError("Error while decoding JPEG images: 5")
        return [image[:, :-1] if len(image) == len(files[2]) else image for image in decode_jpeg(images, **options)]

    monkeypatch.setattr(batched_decode, "decode_jpeg", fails)
    for data, field in zip(files[:4], prepared(preparer.prepare(files[:4], max_pixels=LIMIT)), strict=True):
        assert dice(field, alone(classifier, data)) >= 0.99


def test_fields_that_do_not_fit_together_are_prepared_in_halves(
    classifier: Classifier, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = BatchPreparer._together

    def small(self: BatchPreparer, images: Sequence[Any]) -> list[PreparedField]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("so many don't fit")
        return whole(self, images)

    monkeypatch.setattr(BatchPreparer, "_together", small)
    configuration = classifier.model.configuration
    preparer = BatchPreparer(configuration, device="cpu", threads=1, decode_side=classifier.decode_side)
    assert len(prepared(preparer.prepare(files[:4], max_pixels=LIMIT))) == 4
    assert sizes == [4, 2, 2]


def test_a_field_that_fails_in_an_unforeseen_way_costs_no_other(
    classifier: Classifier, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = classifier.model.configuration
    preparer = BatchPreparer(configuration, device="cpu", threads=1, decode_side=classifier.decode_side)
    segmented = batched.segmented
    seen: list[Any] = []

    def noting(field: Any, *arguments: Any) -> Any:
        seen.append(field.green)
        return segmented(field, *arguments)

    def failing(field: Any, *arguments: Any) -> Any:
        if np.array_equal(field.green, seen[0]):
            raise ValueError("nobody foresaw it")
        return segmented(field, *arguments)

    monkeypatch.setattr(batched, "segmented", noting)
    prepared(preparer.prepare(files[2:3], max_pixels=LIMIT))
    monkeypatch.setattr(batched, "segmented", failing)
    found = preparer.prepare(files[:6], max_pixels=LIMIT)
    assert [place for place, field in enumerate(found) if isinstance(field, ValueError)] == [2]
    prepared([*found[:2], *found[3:]])


def test_only_the_field_that_the_card_has_no_room_for_is_left_to_the_host(
    classifier: Classifier, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BatchPreparer._together
    short = True

    def without_room_for_one(self: BatchPreparer, images: Sequence[Any]) -> list[PreparedField]:
        if short and any(torch.equal(image.pixels, large) for image in images):
            raise torch.OutOfMemoryError("not this one")
        return whole(self, images)

    decoded = decode(files[2], max_pixels=LIMIT, reduce_to=classifier.decode_side).pixels
    large = torch.from_numpy(decoded).permute(2, 0, 1)
    monkeypatch.setattr(BatchPreparer, "_together", without_room_for_one)
    configuration = classifier.model.configuration
    preparer = BatchPreparer(configuration, device="cpu", threads=1, decode_side=classifier.decode_side)
    alike = files[:6]
    found = preparer.prepare(alike, max_pixels=LIMIT)
    assert [place for place, field in enumerate(found) if isinstance(field, MemoryError)] == [2]
    prepared([*found[:2], *found[3:]])
    with pytest.raises(MemoryError, match="no room"):  # which makes the pipeline screen it alone, from the host
        preparer.submit([files[2]], max_pixels=LIMIT)[0].result(60)
    short = False
    prepared(preparer.prepare(alike, max_pixels=LIMIT))


def test_a_file_that_there_is_no_room_to_decode_does_not_keep_others_from_it(
    classifier: Classifier, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = batched_decode._uploaded

    def without_room_for_one(image: Any, device: torch.device) -> Any:
        if image.format is ImageFormat.PNG:
            raise torch.OutOfMemoryError("not this one")
        return upload(image, device)

    monkeypatch.setattr(batched_decode, "_uploaded", without_room_for_one)
    configuration = classifier.model.configuration
    preparer = BatchPreparer(configuration, device="cpu", threads=1, decode_side=classifier.decode_side)
    first, png, last = preparer.prepare([files[0], encoded(rendered(10), "PNG"), files[1]], max_pixels=LIMIT)
    assert isinstance(png, MemoryError)
    prepared([first, last])


def test_futures_end_with_fields_or_errors_and_can_be_cancelled(preparer: BatchPreparer, files: list[bytes]) -> None:
    one, other = preparer.submit([files[0], b"no image"], max_pixels=LIMIT)
    assert isinstance(one.result(60), PreparedField)
    with pytest.raises(FieldError):
        other.result(60)
    waiting = [preparer.submit(files[:2], max_pixels=LIMIT) for _ in range(6)]
    cancelled = [future.cancel() for futures in waiting for future in futures[:1]]
    assert any(cancelled)
    for futures in waiting:
        assert isinstance(futures[1].result(60), PreparedField)
        if futures[0].cancelled():
            with pytest.raises(CancelledError):
                futures[0].result(0)


def test_an_error_that_nobody_foresaw_reaches_every_field(
    preparer: BatchPreparer, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchPreparer, "_together", lambda *_: 1 / 0)
    for future in preparer.submit(files[:2], max_pixels=LIMIT):
        with pytest.raises(ZeroDivisionError):
            future.result(60)


def test_where_no_card_is_torch_is_not_imported_to_screen() -> None:
    code = "import sys, worker.pipeline, models.classifier; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
