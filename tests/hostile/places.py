"""Hostile places: what else than a file of pixels can lie in a folder of slides, and what can become of it.

`lay_out` makes a folder as a sender might; `spoil` does to it what can happen between `submit` and the work. Each says
how every path has to end: `screened`, a failure's code, or `skipped` for what never becomes a field.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.hostile.cases import Case
from tests.hostile.pictures import encoded, smear

Expected = dict[bytes, frozenset[str]]

SCREENED = frozenset({"screened"})
SKIPPED = frozenset({"skipped"})

_NAMES = (
    b"a\nb.png",
    b"tab\tand\rreturn.png",
    b"\x1b[31mred\x1b[2J.png",
    b"\xff\xfe\x80.png",
    b"half \xed\xa0\x80 surrogate.png",
    "\u202egnp.slide.png".encode(),
    "🩸 π ß.png".encode(),
    "é.png".encode(),
    b"e\xcc\x81.png",
    b"=cmd|'calc'!A1.png",
    b"<script>.png",
    b"'; DROP TABLE field; --.png",
    b"%s%n{0}$(reboot)`id`.png",
    b"back\\xffslash.png",
    b" leading and trailing .png ",
    b"-rf.png",
    b"CON.png",
    b"x" * 251 + b".png",
    "ä".encode() * 125 + b".png",
)


def numbered(number: int) -> bytes:
    """A sound picture unlike every other."""
    return encoded(smear(100 + number, (48, 48)), "png")


def lay_out(folder: Path, cases: tuple[Case, ...]) -> Expected:
    """Write the cases, 64 a slide, and everything else that is hostile by its name, its kind or its place."""
    expected: Expected = {}
    for number, case in enumerate(cases):
        slide = folder / f"slide-{number // 64:02}"
        slide.mkdir(parents=True, exist_ok=True)
        (slide / case.name).write_bytes(case.data)
        expected[_relative(folder, slide / case.name)] = case.expected
    root = os.fsencode(folder)
    os.mkdir(root + b"/names \xff\n")
    for number, name in enumerate(_NAMES):
        path = root + b"/names \xff\n/" + name
        with open(path, "wb") as file:
            file.write(numbered(number))
        # With a blank behind its suffix it isn't called an image, but it is one.
        expected[path.removeprefix(root + b"/")] = SCREENED
    expected |= _things(folder) | _depths(folder)
    return expected


def _relative(folder: Path, path: Path) -> bytes:
    return os.fsencode(path.relative_to(folder))


def _things(folder: Path) -> Expected:
    """What is no regular file, and links."""
    here = folder / "things"
    here.mkdir()
    outside = folder.with_name("outside")
    outside.mkdir()
    (outside / "secret.png").write_bytes(numbered(50))
    (here / "sound.png").write_bytes(numbered(51))
    os.mkfifo(here / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listener:
        # Its address must be short, whatever the folder's is.
        descriptor = os.open(here, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/socket.png")
        finally:
            os.close(descriptor)
    (here / "folder.png").mkdir()
    (here / "inside.png").symlink_to("sound.png")
    (here / "outside.png").symlink_to(outside / "secret.png")
    (here / "climbs.png").symlink_to("../../outside/secret.png")
    (here / "nothing.png").symlink_to("gone")
    (here / "itself.png").symlink_to("itself.png")
    (here / "round").symlink_to("..")
    (here / "zero.png").symlink_to("/dev/zero")
    (here / "memory.png").symlink_to("/proc/self/mem")
    (here / "outside-folder").symlink_to(outside)
    os.link(here / "sound.png", here / "another-name.png")
    with (here / "sparse.png").open("wb") as file:
        file.write(numbered(52)[:64])
        file.truncate(3 << 30)
    with (here / "sparse-within-the-limit.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0")
        file.truncate(80 << 20)
    expected = {
        "fifo.png": SKIPPED,
        "socket.png": SKIPPED,
        "inside.png": SCREENED,
        "outside.png": SKIPPED,
        "climbs.png": SKIPPED,
        "nothing.png": SKIPPED,
        "itself.png": SKIPPED,
        "round": SKIPPED,
        "zero.png": SKIPPED,
        "memory.png": SKIPPED,
        "outside-folder": SKIPPED,
        "sound.png": SCREENED,
        "another-name.png": SCREENED,
        "sparse.png": frozenset({"too-large"}),
        "sparse-within-the-limit.jpg": frozenset({"corrupt"}),
    }
    with suppress(PermissionError):  # only root may make devices
        os.mknod(here / "device.png", stat.S_IFCHR | 0o644, os.makedev(1, 5))
        expected["device.png"] = SKIPPED
    return {b"things/" + name.encode(): result for name, result in expected.items()}


def _depths(folder: Path) -> Expected:
    """Folders in folders, down to where paths are too long for the system: that far they are screened."""
    expected: Expected = {}
    descriptor = os.open(folder, os.O_RDONLY)
    path = b""
    try:
        for level in range(30):
            name = b"%03d-" % level + b"d" * 196
            os.mkdir(name, dir_fd=descriptor)
            below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
            path += name + b"/"
            if level in {5, 14}:
                file = os.open("deep.png", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=descriptor)
                os.write(file, numbered(60 + level))
                os.close(file)
                expected[path + b"deep.png"] = SCREENED
            if len(os.fsencode(folder)) + len(path) > 4096:
                expected[path.rstrip(b"/")] = SKIPPED
                break
    finally:
        os.close(descriptor)
    return expected


def _vanish(path: Path) -> None:
    path.unlink()


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_socket(path: Path) -> None:
    path.unlink()
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{descriptor}/{path.name}")
    finally:
        os.close(descriptor)


def _become_link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parents[2] / "outside" / "secret.png")


def _become_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _become_endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _be_emptied(path: Path) -> None:
    path.write_bytes(b"")


def _be_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _be_another(path: Path) -> None:
    path.write_bytes(encoded(smear(190, (64, 48)), "png"))


def _grow(path: Path) -> None:
    os.truncate(path, 48 << 20)


def _grow_past_the_limit(path: Path) -> None:
    os.truncate(path, 3 << 30)


def _turn_to_text(path: Path) -> None:
    path.write_text("moved to the archive\n")


def _folder_vanish(path: Path) -> None:
    shutil.rmtree(path.parent)


def _folder_become_link_out(path: Path) -> None:
    outside = path.parents[2] / "outside" / path.name
    path.rename(outside)
    path.parent.rmdir()
    path.parent.symlink_to(outside.parent)


def _be_forbidden(path: Path) -> None:
    path.chmod(0)


FATES: dict[str, tuple[Callable[[Path], None], frozenset[str]]] = {
    "vanishes": (_vanish, frozenset({"vanished"})),
    "becomes-a-folder": (_become_folder, frozenset({"unreadable"})),
    "becomes-a-fifo": (_become_fifo, frozenset({"unreadable"})),
    "becomes-a-socket": (_become_socket, frozenset({"unreadable"})),
    "becomes-a-link-out": (_become_link_out, frozenset({"outside-roots"})),
    "becomes-a-link-to-itself": (_become_link_to_itself, frozenset({"outside-roots"})),
    "becomes-endless": (_become_endless, frozenset({"outside-roots"})),
    "is-emptied": (_be_emptied, frozenset({"not-an-image"})),
    "is-cut": (_be_cut, frozenset({"corrupt"})),
    "becomes-another": (_be_another, SCREENED),
    "grows": (_grow, SCREENED),
    "grows-past-the-limit": (_grow_past_the_limit, frozenset({"too-large"})),
    "turns-to-text": (_turn_to_text, frozenset({"not-an-image"})),
    "loses-its-folder": (_folder_vanish, frozenset({"vanished"})),
    "has-its-folder-moved-out": (_folder_become_link_out, frozenset({"outside-roots"})),
    # Root may read what is forbidden.
    "is-forbidden": (_be_forbidden, SCREENED if os.geteuid() == 0 else frozenset({"unreadable"})),
}
"""What becomes of a file once it is submitted, and how it ends."""


def lay_out_fates(folder: Path) -> Expected:
    """A slide for each fate, with one sound picture."""
    expected: Expected = {}
    for number, (name, (_, result)) in enumerate(FATES.items()):
        path = folder / name / f"{name}.png"
        path.parent.mkdir()
        path.write_bytes(numbered(200 + number))
        expected[_relative(folder, path)] = result
    return expected


def spoil(folder: Path) -> None:
    """Let the fates come."""
    for name, (act, _) in FATES.items():
        act(folder / name / f"{name}.png")
