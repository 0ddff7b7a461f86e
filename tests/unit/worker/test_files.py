import os
import threading

import pytest

from allq.errors import FailureCode, FieldError
from worker.files import read_file, within


def read(path, *roots, max_bytes=1 << 20):
    return read_file(os.fsencode(path), roots, max_bytes=max_bytes)


def failure(path, *roots, **options):
    with pytest.raises(FieldError) as caught:
        read(path, *roots, **options)
    return caught.value.code


def test_a_file_under_the_root_is_read_whole(tmp_path):
    (tmp_path / "a b\n🩸").write_bytes(b"x" * 100_000)
    assert read(tmp_path / "a b\n🩸", tmp_path) == b"x" * 100_000


def test_a_name_that_is_no_utf8_is_read(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.jpg")
    with open(path, "wb") as file:
        file.write(b"bytes")
    assert read_file(path, [tmp_path], max_bytes=10) == b"bytes"


def test_a_link_that_leaves_the_root_is_refused_even_through_a_folder(tmp_path):
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    assert failure(root / "file", root) is FailureCode.OUTSIDE_ROOTS
    assert failure(root / "folder" / "secret", root) is FailureCode.OUTSIDE_ROOTS
    assert failure(root / ".." / "outside" / "secret", root) is FailureCode.OUTSIDE_ROOTS
    assert read(root / "file", root, outside) == b"secret"


def test_a_root_is_no_prefix_of_its_neighbours_name(tmp_path):
    assert not within("/srv/slides-private/a", [tmp_path.__class__("/srv/slides")])
    assert within("/srv/slides/a", [tmp_path.__class__("/srv/slides")])
    assert within("/anything", [tmp_path.__class__("/")])


def test_what_is_gone_is_said_to_have_vanished(tmp_path):
    assert failure(tmp_path / "gone", tmp_path) is FailureCode.VANISHED
    (tmp_path / "file").touch()
    assert failure(tmp_path / "file" / "below", tmp_path) is FailureCode.VANISHED


def test_a_fifo_a_device_or_a_folder_does_not_hold_the_reader(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert failure(tmp_path / "fifo", tmp_path) is FailureCode.UNREADABLE
    assert failure("/dev/zero", tmp_path.__class__("/dev")) is FailureCode.UNREADABLE
    assert failure(tmp_path, tmp_path) is FailureCode.UNREADABLE


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * 1001)
    assert failure(tmp_path / "large", tmp_path, max_bytes=1000) is FailureCode.TOO_LARGE


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert failure(tmp_path / "a", tmp_path) is FailureCode.OUTSIDE_ROOTS


def test_links_swapped_while_files_are_read_never_let_a_byte_from_outside_in(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder, content in ((root / "own", b"own"), (outside, b"secret")):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(content)
    stop = threading.Event()

    def swap():
        names = [os.fspath(root / name) for name in ("folder", "next")]
        while not stop.is_set():
            for target in (outside, root / "own"):
                os.symlink(target, names[1])
                os.replace(names[1], names[0])

    os.symlink(root / "own", root / "folder")
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        seen = set()
        for _ in range(2_000):
            try:
                seen.add(read(root / "folder" / "file", root))
            except FieldError as error:
                seen.add(error.code)
    finally:
        stop.set()
        swapping.join()
    assert seen <= {b"own", FailureCode.OUTSIDE_ROOTS}


def test_a_link_swapped_between_the_look_and_the_reading_changes_nothing(tmp_path, monkeypatch):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    (root / "own").write_bytes(b"own")
    outside.write_bytes(b"secret")
    (root / "file").symlink_to(root / "own")

    def look_then_swap(descriptor):
        found = os.fsencode(os.readlink(f"/proc/self/fd/{descriptor}"))
        (root / "file").unlink()
        (root / "file").symlink_to(outside)
        return found

    monkeypatch.setattr("worker.files.real_path", look_then_swap)
    assert read(root / "file", root) == b"own"


def test_what_lies_outside_is_not_even_opened(tmp_path, monkeypatch):
    opened = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(flags) or real_open(path, flags))
    assert failure("/dev/null", tmp_path) is FailureCode.OUTSIDE_ROOTS
    assert opened
    assert all(flags & os.O_PATH for flags in opened)


def test_a_file_that_may_not_be_read_is_told_as_such(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    real_open = os.open

    def refuse(path, flags):
        if not flags & os.O_PATH:
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    assert failure(tmp_path / "file", tmp_path) is FailureCode.UNREADABLE
