"""Whatever lies in a folder of slides ends screened or failed with the right reason, and no worker dies of it."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile.cases import cases
from tests.hostile.places import FATES, lay_out, lay_out_fates, numbered

pytestmark = pytest.mark.timeout(900)  # seconds of work, but all of it in one fixture

MOST_MEMORY = 700 << 20
"""Bytes above those that the model takes. The largest picture here has 20 million pixels, 80 MB as Pillow keeps it."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What became of all of them, in a process of its own, and what was expected."""
    place = tmp_path_factory.mktemp("hostile")
    folder = place / "slides"
    (place / "warm").mkdir()
    (place / "warm" / "first.png").write_bytes(numbered(0))
    expected = lay_out(folder, cases()) | lay_out_fates(folder)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-m", "tests.hostile.screening", str(place / "home"), str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return expected, json.loads(run.stdout.splitlines()[-1]), run.stdout + run.stderr, folder


def test_there_are_more_than_two_thousand_hostile_files_and_no_two_alike_by_accident():
    assert len({case.data for case in cases()}) > 3_000
    ends = Counter(word for case in cases() for word in case.expected)
    assert ends["corrupt"] > 1_500 and ends["too-large"] and ends["too-small"] and ends["unsupported"]


def test_each_ends_screened_or_failed_with_the_right_reason(outcome):
    expected, found, log, _ = outcome
    ends = {bytes.fromhex(path): result for path, (result, *_) in found["fields"].items()}
    wrong = {
        path: (ends.get(path, "skipped"), sorted(words))
        for path, words in expected.items()
        if ends.get(path, "skipped") not in words
    }
    assert not wrong, wrong
    assert ends.keys() <= expected.keys()
    assert "unforeseen" not in log


def test_what_is_told_of_a_file_is_of_the_very_bytes_that_were_read(outcome):
    """Of those that lay there when the worker came, not of those that were submitted."""
    _, found, _, folder = outcome
    told = {bytes.fromhex(path): entry for path, entry in found["fields"].items()}
    of_nothing = {end for end, *_, sha256 in told.values() if sha256 is None}
    assert of_nothing == {"vanished", "unreadable", "outside-roots", "too-large"}
    for path, (*_, sha256) in told.items():
        if sha256 is not None:
            with open(os.path.join(os.fsencode(folder), path), "rb") as file:
                assert sha256 == hashlib.file_digest(file, "sha256").hexdigest(), path
    changed = [told[os.fsencode(f"{name}/{name}.png")] for name in ("becomes-another", "grows", "is-cut")]
    assert [(end, width) for end, _, width, *_ in changed] == [("screened", 64), ("screened", 48), ("corrupt", None)]
    submitted = {hashlib.sha256(numbered(200 + number)).hexdigest() for number in range(len(FATES))}
    assert not {sha256 for *_, sha256 in changed} & submitted


def test_no_chunk_was_given_up_or_came_twice(outcome):
    _, found, *_ = outcome
    assert found["attempts"] == [["done", 1]]


def test_each_reason_is_one_printable_sentence(outcome):
    _, found, *_ = outcome
    sentences = [sentence for _, sentence, *_ in found["fields"].values() if sentence is not None]
    assert len(sentences) > 1_500
    assert all(sentence.isprintable() and 10 < len(sentence) < 400 for sentence in sentences)


def test_what_is_left_out_is_told_with_its_reason(outcome):
    expected, found, *_ = outcome
    wanted = {path for path, words in expected.items() if words == {"skipped"}}
    assert wanted <= {os.fsencode(path) for path in found["skipped"]}
    assert "a symbolic link out of the folders that may be read" in found["skipped"].values()


def test_findings_have_the_upright_size_of_the_first_picture(outcome):
    _, found, *_ = outcome
    sizes = {
        os.fsdecode(bytes.fromhex(path)).rpartition("/")[2]: (w, h) for path, (_, _, w, h, _) in found["fields"].items()
    }
    wanted = {case.name: case.size for case in cases() if case.size is not None}
    assert len(wanted) > 100
    assert {name: sizes[name] for name in wanted} == wanted


def test_memory_stays_within_bounds(outcome):
    _, found, *_ = outcome
    before, most = found["memory"]
    assert most - before < MOST_MEMORY, f"{most - before >> 20} MB more than before"
