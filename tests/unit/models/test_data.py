from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allq.classes import CLASSES
from allq.errors import UsageError
from models.data import LabelledField, fingerprint, read_labelled, split_folds


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(shade).integers(shade, shade + 20, (40, 60, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for number, folder in enumerate(("Benign", "Early", "Pre", "pro-b")):
        for index in range(4):
            picture(tmp_path / folder / f"{folder}-{index}.png", 50 * number + index)
    (tmp_path / "Benign" / "notes.txt").write_text("not an image")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_subfolders_are_classes_by_their_own_or_the_datasets_name(labelled: Path) -> None:
    fields = read_labelled(labelled)
    assert [CLASSES[field.label] for field in fields] == [name for name in CLASSES for _ in range(4)]
    assert fields[0].file == "Benign/Benign-0.png"


def test_groups_and_streams_come_from_the_csv_by_path_or_by_bare_name(labelled: Path) -> None:
    (labelled / "groups.csv").write_text("file,group,stream\nBenign-0.png,g,s\nEarly/Early-0.png,h,t\n")
    fields = {field.file: field for field in read_labelled(labelled)}
    assert (fields["Benign/Benign-0.png"].group, fields["Benign/Benign-0.png"].stream) == ("g", "s")
    assert (fields["Early/Early-0.png"].group, fields["Early/Early-0.png"].stream) == ("h", "t")
    assert fields["Pre/Pre-0.png"].group == "Pre/Pre-0.png"


def test_groups_that_share_a_byte_identical_file_become_one_through_chains_too(labelled: Path) -> None:
    content = (labelled / "Benign" / "Benign-0.png").read_bytes()
    (labelled / "Early" / "twin.png").write_bytes(content)
    (labelled / "groups.csv").write_text("file,group\nBenign-0.png,b\ntwin.png,a\nEarly-0.png,a\nPre-0.png,c\n")
    fields = {field.file: field for field in read_labelled(labelled)}
    joined = {fields[name].group for name in ("Benign/Benign-0.png", "Early/twin.png", "Early/Early-0.png")}
    assert joined == {"a"}
    assert fields["Pre/Pre-0.png"].group == "c"


def test_the_fingerprint_follows_contents_and_classes_and_not_names(labelled: Path) -> None:
    before = fingerprint(read_labelled(labelled))
    (labelled / "Benign" / "Benign-0.png").rename(labelled / "Benign" / "renamed.png")
    assert fingerprint(read_labelled(labelled)) == before
    (labelled / "Benign" / "renamed.png").rename(labelled / "Pre" / "renamed.png")
    assert fingerprint(read_labelled(labelled)) != before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere", "is not a folder"),
        (lambda folder: folder / "elsewhere", "has no images"),
    ],
)
def test_a_folder_that_cannot_be_read_as_labelled_says_why(
    labelled: Path, make: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_labelled(make(labelled))


def test_a_groups_csv_without_its_columns_is_refused(labelled: Path) -> None:
    (labelled / "groups.csv").write_text("name,block\n")
    with pytest.raises(UsageError, match="lacks a column"):
        read_labelled(labelled)


def field(index: int, label: int, group: str, sha256: str, stream: str = "s") -> LabelledField:
    return LabelledField(path=Path(str(index)), file=str(index), label=label, group=group, stream=stream, sha256=sha256)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14), st.integers(0, 60)), min_size=60, max_size=200),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_no_group_and_no_identical_file_is_on_both_sides_of_a_split(
    drawn: list[tuple[int, int, int]], folds: int, seed: int
) -> None:
    fields = [field(n, label, f"g{group}", f"sha{sha}") for n, (label, group, sha) in enumerate(drawn)]
    for protocol, key in (("group", "group"), ("random", "sha256")):
        if len({getattr(each, key) for each in fields}) < folds:
            continue
        seen: list[int] = []
        for fold in split_folds(fields, protocol=protocol, folds=folds, seed=seed):
            inside = {getattr(fields[index], key) for index in fold.test}
            outside = {getattr(fields[index], key) for index in fold.train}
            assert not inside & outside
            assert sorted([*fold.train, *fold.test]) == list(range(len(fields)))
            seen += fold.test.tolist()
        assert sorted(seen) == list(range(len(fields)))


def test_folds_hold_like_shares_of_every_class() -> None:
    fields = [field(n, n % 4, f"{n % 4}-{n // 20}", str(n)) for n in range(800)]
    for fold in split_folds(fields, protocol="group", folds=5, seed=0):
        counts: dict[int, int] = defaultdict(int)
        for index in fold.test:
            counts[fields[index].label] += 1
        assert set(counts.values()) == {40}


def test_each_stream_is_left_out_once() -> None:
    fields = [field(n, 0, str(n), str(n), stream="ab"[n % 2]) for n in range(10)]
    folds = split_folds(fields, protocol="stream", folds=5, seed=0)
    assert [fold.name for fold in folds] == ["without a", "without b"]
    assert {fields[index].stream for index in folds[0].test} == {"a"}
    with pytest.raises(UsageError, match="stream"):
        split_folds([field(0, 0, "g", "x", stream="")], protocol="stream", folds=2, seed=0)


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 5 groups"):
        split_folds([field(n, 0, "one", str(n)) for n in range(9)], protocol="group", folds=5, seed=0)
