"""Reading files only where the operator allows it.

A path is looked up once, to a descriptor that names the file without opening it (`O_PATH`). That descriptor is checked,
and the very file it names is then opened: whatever a symlink points at a moment later, the bytes that are read come
from a regular file whose real path lies under an allowed root, and nothing else is opened at all, not even a device.
Not `openat2` with RESOLVE_BENEATH: links from one allowed root into another are to be followed.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from allq.errors import FailureCode, FieldError

NAMES_ONLY = getattr(os, "O_PATH", None)
"""Linux has it. Elsewhere the file is opened, without waiting for anything, before it is checked."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Non-blocking, so that a FIFO put where an image was can't hold a worker."""

_REASONS = {
    errno.ENOENT: (FailureCode.VANISHED, "the file is no longer there"),
    errno.ENOTDIR: (FailureCode.VANISHED, "the file is no longer there"),
    errno.EACCES: (FailureCode.UNREADABLE, "this account may not read the file"),
    errno.EPERM: (FailureCode.UNREADABLE, "this account may not read the file"),
    errno.ELOOP: (FailureCode.OUTSIDE_ROOTS, "the path is a loop of symbolic links"),
    errno.ENXIO: (FailureCode.UNREADABLE, "this is a device or socket, not an image file"),
}


def within(path: str | bytes, roots: Sequence[Path]) -> bool:
    """True when the real path `path` is one of `roots` or lies below one."""
    real = os.fsencode(path)
    return any(
        real == root or real.startswith(root.rstrip(b"/") + b"/") for root in (os.fsencode(entry) for entry in roots)
    )


def real_path(descriptor: int) -> bytes:
    """The real path of an open file, as the kernel knows it."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  # not on every platform

        found: bytes = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return found.rstrip(b"\0")
    return os.fsencode(Path(f"/proc/self/fd/{descriptor}").readlink())


def read_file(path: bytes, roots: Sequence[Path], *, max_bytes: int) -> bytes:
    """Return the bytes of the regular file at `path`, provided that it really lies under one of `roots`.

    Raises FieldError with the reason: vanished, unreadable, outside-roots or too-large (more than `max_bytes`).
    """
    try:
        with _opened(path, os.O_CLOEXEC | NAMES_ONLY if NAMES_ONLY is not None else _FLAGS) as named:
            if not within(real_path(named), roots):
                raise FieldError(FailureCode.OUTSIDE_ROOTS, "the file lies outside the folders that may be read")
            status = os.fstat(named)
            if not stat.S_ISREG(status.st_mode):
                raise FieldError(FailureCode.UNREADABLE, "this is not a regular file")
            if status.st_size > max_bytes:
                raise FieldError(
                    FailureCode.TOO_LARGE,
                    f"the file has {status.st_size:,} bytes, more than ALLQ_MAX_FILE_BYTES={max_bytes:,}",
                )
            if NAMES_ONLY is None:
                return _read(named, status.st_size, max_bytes)
            with _opened(f"/proc/self/fd/{named}", _FLAGS) as descriptor:
                return _read(descriptor, status.st_size, max_bytes)
    except OSError as error:
        code, reason = _REASONS.get(
            error.errno or 0, (FailureCode.UNREADABLE, f"the file can't be read: {error.strerror or error}")
        )
        raise FieldError(code, reason) from error


@contextmanager
def _opened(path: str | bytes, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, expected: int, max_bytes: int) -> bytes:
    """Read to the end, in one call where the size is as expected; a file that grows past `max_bytes` is cut there."""
    parts = []
    wanted = expected + 1
    total = 0
    while total <= max_bytes and (part := os.read(descriptor, wanted)):
        parts.append(part)
        total += len(part)
        wanted = max(expected + 1 - total, 1 << 16)
    return b"".join(parts)
