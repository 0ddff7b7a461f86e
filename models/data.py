"""Labelled fields: read from a folder, split so that nothing leaks."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from allq.classes import CLASSES, DATA_FOLDERS
from allq.errors import FieldError, UsageError
from imaging.decode import Decoded, decode
from imaging.formats import sniff

MAX_PIXELS = 200_000_000

WITHOUT: Final = "without "
"""Before the stream that a fold leaves out, in the fold's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledField:
    """One image file whose class is known."""

    path: Path
    file: str
    """relative to the data folder, `/`-separated"""
    label: int
    """index into CLASSES"""
    group: str
    """fields of one group are never on both sides of a split"""
    stream: str
    """one look of stain, camera and scale bar; "" where nobody said"""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Indices of the fields to train on and of those held out."""

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def read_pixels(field: LabelledField, reduce_to: int) -> Decoded:
    """The field's picture, at a reduced scale of at least `reduce_to` pixels. Raises UsageError naming the file."""
    try:
        return decode(field.path.read_bytes(), max_pixels=MAX_PIXELS, reduce_to=reduce_to)
    except (FieldError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{field.path} can't be used: {why} Remove it from the data.") from error


def read_labelled(data: Path, groups: Path | None = None) -> list[LabelledField]:
    """The images in `data`'s subfolders that are named after classes, in the order of their names.

    A subfolder is named as in CLASSES or as in the Taleqani dataset. `groups` (default: `groups.csv` in `data`) has
    columns file, group and, if wanted, stream; a file it doesn't name, and every file without it, is a group of its
    own. Groups that share a byte-identical file become one. Raises UsageError when there is nothing to read.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder: give one whose subfolders are named {', '.join(CLASSES)}.")
    known = _read_groups(groups or data / "groups.csv", required=groups is not None)
    fields: list[LabelledField] = []
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        name = DATA_FOLDERS.get(folder.name, folder.name)
        if name not in CLASSES:
            continue
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            content = path.read_bytes()
            if sniff(content[:16]) is None:
                continue
            file = path.relative_to(data).as_posix()
            group, stream = known.get(file) or known.get(path.name) or (file, "")
            fields.append(
                LabelledField(
                    path=path,
                    file=file,
                    label=CLASSES.index(name),
                    group=group,
                    stream=stream,
                    sha256=hashlib.sha256(content).hexdigest(),
                )
            )
    if not fields:
        raise UsageError(
            f"{data} has no images in subfolders named {', '.join(CLASSES)} (or {', '.join(DATA_FOLDERS)})."
        )
    return _join_identical(fields)


def _read_groups(path: Path, *, required: bool) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        if required:
            raise UsageError(f"{path} is not a file: give a CSV with columns file and group.")
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        if not {"file", "group"} <= set(rows.fieldnames or ()):
            raise UsageError(f"{path} lacks a column: file and group are needed, stream is welcome.")
        return {row["file"]: (row["group"], row.get("stream") or "") for row in rows}


def _join_identical(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """Give groups that share a file's bytes one name (the first in order), through chains of sharing too."""
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    first: dict[str, str] = {}
    for field in fields:
        here, there = root(field.group), root(first.setdefault(field.sha256, field.group))
        if here != there:
            parent[max(here, there)] = min(here, there)
    return [
        LabelledField(
            path=field.path,
            file=field.file,
            label=field.label,
            group=root(field.group),
            stream=field.stream,
            sha256=field.sha256,
        )
        for field in fields
    ]


def fingerprint(fields: Sequence[LabelledField]) -> str:
    """SHA-256 (hex) over the sorted lines `class sha256`: the same images with the same labels, wherever they lie."""
    lines = sorted(f"{CLASSES[field.label]} {field.sha256}\n" for field in fields)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def split_folds(fields: Sequence[LabelledField], *, protocol: str, folds: int, seed: int) -> list[Fold]:
    """Folds of whole units: byte-identical files for `random`, groups for `group`, streams for `stream`.

    For `random` and `group` each class is dealt out by itself, the largest units first, to the fold that has least of
    it, so that folds hold like shares. Raises UsageError when the data can't be split so.
    """
    labels = np.array([field.label for field in fields])
    if protocol == "stream":
        streams = sorted({field.stream for field in fields})
        if len(streams) < 2 or "" in streams:
            raise UsageError("Leaving a stream out needs a groups CSV whose column stream names at least two streams.")
        assigned = np.array([streams.index(field.stream) for field in fields])
        return [_fold(f"{WITHOUT}{stream}", assigned, number) for number, stream in enumerate(streams)]
    units: dict[str, list[int]] = defaultdict(list)
    for index, field in enumerate(fields):
        units[field.sha256 if protocol == "random" else field.group].append(index)
    if len(units) < folds:
        raise UsageError(f"{folds} folds need at least {folds} groups; the data has {len(units)}.")
    random = np.random.default_rng(seed)
    order = [list(units)[number] for number in random.permutation(len(units))]
    order.sort(key=lambda unit: -len(units[unit]))
    counts = np.zeros((folds, len(CLASSES)))
    assigned = np.zeros(len(fields), dtype=int)
    for unit in order:
        members = units[unit]
        common = Counter(labels[members].tolist()).most_common(1)[0][0]
        fold = int(np.lexsort((counts.sum(1), counts[:, common]))[0])
        assigned[members] = fold
        counts[fold] += np.bincount(labels[members], minlength=len(CLASSES))
    return [_fold(f"{number + 1} of {folds}", assigned, number) for number in range(folds)]


def _fold(name: str, assigned: NDArray[np.int_], number: int) -> Fold:
    return Fold(name=name, train=np.flatnonzero(assigned != number), test=np.flatnonzero(assigned == number))
