"""What throughput is measured with on a machine that has done with a folder too soon, and on how many processes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measuring, throughput
from benchmarks.multiplied import multiplied, noted
from imaging.batched.decode import plain_jpeg
from imaging.decode import decode
from models.engines import choose
from worker import cards


@pytest.fixture
def fields(tmp_path: Path) -> list[Path]:
    import cv2

    folder = tmp_path / "slides"
    folder.mkdir()
    for number, data in enumerate(measuring.rendered(2)):
        (folder / f"{number}.jpg").write_bytes(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    cv2.imwrite(str(folder / "2.png"), pixels)
    cv2.imwrite(str(folder / "3.tif"), pixels)
    return sorted(folder.iterdir())


def test_fields_are_multiplied_into_other_bytes_of_the_same_pixels(fields: list[Path], tmp_path: Path) -> None:
    first = multiplied(fields, 3, tmp_path / "once", per_slide=4)
    again = multiplied(measuring.images(first), 2, tmp_path / "twice")
    files = [path.read_bytes() for path in measuring.images(again)]
    assert len(files) == 2 * 3 * 3 + 1  # a TIFF is there once
    assert len({hashlib.sha256(data).digest() for data in files}) == len(files)
    wanted = {decode(path.read_bytes(), max_pixels=10**6).pixels.tobytes() for path in fields}
    assert {decode(data, max_pixels=10**6).pixels.tobytes() for data in files} == wanted


def test_a_jpeg_with_a_note_is_still_one_that_a_card_decodes(fields: list[Path]) -> None:
    data = noted(fields[0].read_bytes(), "3")
    assert data is not None
    assert plain_jpeg(data, max_pixels=10**6) is not None


@pytest.mark.parametrize(("seen", "usable", "expected"), [(2, True, 2), (2, False, 5), (0, False, 5)])
def test_there_are_as_many_processes_as_cards_that_models_run_on_else_as_cores(
    monkeypatch: pytest.MonkeyPatch, seen: int, usable: bool, expected: int
) -> None:
    monkeypatch.setattr(cards, "visible", lambda: [str(number) for number in range(seen)])
    monkeypatch.setattr(choose, "_has_cuda", lambda: usable)
    monkeypatch.setattr("worker.processes.cores", lambda: 5)
    assert measuring.processes() == expected
    assert len(measuring.cards()) == (expected if usable else 0)


def test_a_run_that_is_over_too_soon_is_made_again_with_more_fields(
    fields: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = throughput._parse([str(fields[0].parent), "--seconds", "3", "--repeat", "2"])
    counts = []

    def run(folder: Path, *_: object) -> throughput.Run:
        counts.append(len(measuring.images(folder)))
        return throughput.Run(
            fields=counts[-1], screened=0, failed=0, linked=0, start_seconds=0, seconds=counts[-1] / 4
        )

    monkeypatch.setattr(throughput, "whole_path", run)
    runs = throughput._runs(asked, fields[0].parent, None, tmp_path / "place")
    assert counts[0] == 4
    assert len(runs) == 2
    assert all(run.seconds >= 3 for run in runs)
