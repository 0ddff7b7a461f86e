"""Walking a folder of slides: which files are fields, which are left out and why."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from allq.errors import SubmissionError
from allq.text import printable
from db.records import UNREAD
from imaging.formats import named_as_image, sniff
from worker.files import NAMES_ONLY, real_path, within

_SYSTEM_FILES = frozenset(
    {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found", "system volume information", "$recycle.bin"}
)
_DIGITS = re.compile(r"(\d+)")
_HEAD_BYTES = 32
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_LINK_OUT = "a symbolic link out of the folders that may be read"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to screen. `path` is relative to the folder that was submitted; sizes in bytes, times in ns since 1970."""

    path: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class FoundFolder:
    """One folder with everything in it: its images in natural order, and what was left out, each with a reason.

    `name` is the path relative to the submitted folder, or the submitted folder's own name for images directly in it,
    "." where a folder in it has that name, since these are two slides. After one that is not `complete` comes another
    part of the same folder.
    """

    name: str
    files: list[FoundFile] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = True


def natural(name: str) -> tuple[int | str, ...]:
    """Sort key under which `field-2` comes before `field-10`: text and numbers in turn, the first a text, if empty."""
    return tuple(int(part) if part.isdecimal() else part.casefold() for part in _DIGITS.split(name))


def check_folder(path: Path, roots: Sequence[Path]) -> tuple[Path, tuple[Path, ...]]:
    """Return the real path of the folder to submit and the roots its files must lie under.

    Raises SubmissionError when it is absent, no folder, unreadable, or outside `roots`, if there are some.
    """
    shown = printable(str(path))
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        raise SubmissionError(f"There is no folder {shown}. Check the path.") from None
    except RuntimeError:
        raise SubmissionError(f"{shown} is a loop of symbolic links. Name the real folder.") from None
    except OSError as error:
        reason = "is a loop of symbolic links" if error.errno == errno.ELOOP else f"can't be opened ({error.strerror})"
        raise SubmissionError(f"{shown} {reason}. Name a folder that this account can read.") from None
    if not stat.S_ISDIR(mode):
        raise SubmissionError(f"{shown} is a file. Name the folder that it is in: {printable(str(path.parent))}")
    if roots and not within(str(real), roots):
        allowed = ", ".join(printable(str(root)) for root in roots)
        raise SubmissionError(f"{shown} lies outside the folders that may be read ({allowed}). See ALLQ_ROOTS.")
    try:
        os.scandir(real).close()
    except OSError as error:
        raise SubmissionError(
            f"The folder {shown} can't be read ({error.strerror}). Give this account permission to read it."
        ) from None
    return real, tuple(roots) or (real,)


def walk(root: Path, roots: Sequence[Path], *, at_once: int = sys.maxsize) -> Iterator[FoundFolder]:
    """Yield each folder below `root` (real path), depth first in natural order, with its images and what was left out.

    One with more than `at_once` of either, as a flat archive has, comes in parts, each as soon as it is looked through.

    Nothing is decoded: a file is an image when its first bytes say so, whatever its name, or when its name does. A
    picture that was lost on its way from the camera must not be passed over: as a field it ends as failed. Links are
    followed while they stay under `roots`; a folder reached twice is left out the second time. Each is opened before
    it is looked at: whatever is put in its place a moment later, what is listed lies under `roots`.
    """
    visited: set[tuple[int, int]] = set()
    of_root = "." if os.path.isdir(root / root.name) else root.name  # noqa: PTH112  `is_dir` raises where it may not look
    pending = [""]
    while pending:
        relative = pending.pop()
        name = relative or of_root
        absolute = root / relative
        subfolders: list[str] = []
        try:
            with _opened(absolute, _FOLDER) as descriptor:
                status = os.fstat(descriptor)
                if not within(real_path(descriptor), roots):
                    yield FoundFolder(name, skipped=[(relative, _LINK_OUT)])
                elif (status.st_dev, status.st_ino) in visited:
                    reason = "the folder was already visited through another path"
                    yield FoundFolder(name, skipped=[(relative, reason)])
                else:
                    visited.add((status.st_dev, status.st_ino))
                    outcomes = _list(descriptor, absolute, relative, roots)
                    yield from _parts(name, outcomes, subfolders, at_once)
        except OSError as error:
            yield FoundFolder(name, skipped=[(relative, f"the folder {UNREAD}{error.strerror}")])
        pending.extend(reversed(subfolders))


@contextmanager
def _opened(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _parts(
    name: str, outcomes: Iterable[tuple[str, FoundFile | str | None]], subfolders: list[str], at_once: int
) -> Iterator[FoundFolder]:
    """Gather what `_list` yields, at most `at_once` images a part, and add the folders in it to `subfolders`."""
    files: list[FoundFile] = []
    skipped: list[tuple[str, str]] = []
    for path, outcome in outcomes:
        if outcome is None:
            subfolders.append(path)
        elif isinstance(outcome, FoundFile):
            if len(files) == at_once:  # only now is it certain that another part with images comes
                yield FoundFolder(name, files, skipped, complete=False)
                files, skipped = [], []
            files.append(outcome)
        else:
            if len(skipped) == at_once:
                yield FoundFolder(name, skipped=skipped, complete=False)
                skipped = []
            skipped.append((path, outcome))
    yield FoundFolder(name, files, skipped)


def _list(
    descriptor: int, absolute: Path, relative: str, roots: Sequence[Path]
) -> Iterator[tuple[str, FoundFile | str | None]]:
    """The path of each entry of an open folder, in natural order, with what `_look` says of it."""
    with os.scandir(descriptor) as listing:
        entries = deque(sorted(listing, key=lambda entry: natural(entry.name)))
    while entries:
        entry = entries.popleft()  # an entry keeps what was asked of it: of very many files, half a kilobyte each
        path = f"{relative}/{entry.name}" if relative else entry.name
        yield path, _look(entry, descriptor, absolute, path, roots)


def _look(
    entry: os.DirEntry[str], descriptor: int, absolute: Path, path: str, roots: Sequence[Path]
) -> FoundFile | str | None:
    """An image, or the reason why not, or None for a folder to go into."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.name.casefold() in _SYSTEM_FILES:
        return "a file of the operating system, not an image"
    try:
        if entry.is_symlink():
            real = os.path.realpath(absolute / entry.name, strict=True)
            if not within(real, roots):
                return _LINK_OUT
        if entry.is_dir():
            return None
        if not entry.is_file():
            return "not a regular file"
        if named_as_image(entry.name):
            status = entry.stat()
            return FoundFile(path, status.st_size, status.st_mtime_ns)
        return _look_inside(entry.name, descriptor, path, roots)
    except FileNotFoundError:
        return "a symbolic link to nothing" if entry.is_symlink() else "vanished while the folder was read"
    except OSError as error:
        return "a loop of symbolic links" if error.errno == errno.ELOOP else f"{UNREAD}{error.strerror}"


def _look_inside(name: str, folder: int, path: str, roots: Sequence[Path]) -> FoundFile | str:
    # As worker.files does: what is no file, or lies outside, is not even opened, whenever it was put there.
    with _opened(name, _OPEN if NAMES_ONLY is None else NAMES_ONLY | os.O_CLOEXEC, folder) as named:
        if not within(real_path(named), roots):
            return _LINK_OUT
        status = os.fstat(named)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if NAMES_ONLY is None:
            head = os.read(named, _HEAD_BYTES)
        else:
            with _opened(f"/proc/self/fd/{named}", _OPEN) as descriptor:
                head = os.read(descriptor, _HEAD_BYTES)
    if not head:
        return "empty file"
    if sniff(head) is None:
        return "not an image"
    return FoundFile(path, status.st_size, status.st_mtime_ns)
