import os
from pathlib import Path

import pytest

from allq.errors import SubmissionError
from worker import walk as walking
from worker.walk import check_folder, natural, walk

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00" + bytes(32)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(32)


def image(path: Path, content: bytes = JPEG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def walked(folder: Path, *roots: Path):
    return list(walk(folder.resolve(), roots or (folder.resolve(),)))


def reasons(folder: Path, *roots: Path) -> dict[str, str]:
    return {path: reason for found in walked(folder, *roots) for path, reason in found.skipped}


def test_subfolders_are_slides_and_loose_images_form_one_named_after_the_folder(tmp_path):
    image(tmp_path / "batch" / "loose.jpg")
    image(tmp_path / "batch" / "S-1" / "a.jpg")
    image(tmp_path / "batch" / "patient" / "S-2" / "b.jpg")
    slides = {found.name: [file.path for file in found.files] for found in walked(tmp_path / "batch") if found.files}
    assert slides == {
        "batch": ["loose.jpg"],
        "S-1": ["S-1/a.jpg"],
        "patient/S-2": ["patient/S-2/b.jpg"],
    }


def test_loose_images_are_another_slide_than_a_folder_of_the_same_name(tmp_path):
    image(tmp_path / "batch" / "loose.jpg")
    image(tmp_path / "batch" / "batch" / "a.jpg")
    slides = [(found.name, [file.path for file in found.files]) for found in walked(tmp_path / "batch")]
    assert slides == [(".", ["loose.jpg"]), ("batch", ["batch/a.jpg"])]


def test_an_image_is_known_by_its_content_whatever_its_name(tmp_path):
    image(tmp_path / "photo.dat", PNG)
    image(tmp_path / "notes.txt", b"just text")
    image(tmp_path / "empty", b"")
    assert [file.path for file in walked(tmp_path)[0].files] == ["photo.dat"]
    assert reasons(tmp_path) == {"notes.txt": "not an image", "empty": "empty file"}


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "Tif", "tiff", "bmp", "webp"])
def test_a_file_named_as_an_image_is_a_field_whatever_its_content(tmp_path, suffix):
    image(tmp_path / f"text.{suffix}", b"just text")
    image(tmp_path / f"empty.{suffix}", b"")
    image(tmp_path / f"._hidden.{suffix}", b"")
    (found,) = walked(tmp_path)
    assert [(file.path, file.size) for file in found.files] == [(f"empty.{suffix}", 0), (f"text.{suffix}", 9)]
    assert found.skipped == [(f"._hidden.{suffix}", "hidden")]


def test_a_picture_that_may_not_be_read_is_a_field_and_other_such_files_are_left_out(tmp_path, monkeypatch):
    image(tmp_path / "a.jpg")
    image(tmp_path / "notes.txt")

    def refusing(path, flags, **where):
        if flags & os.O_DIRECTORY:
            return real_open(path, flags, **where)
        raise PermissionError(13, "Permission denied", path)

    real_open = os.open
    monkeypatch.setattr(os, "open", refusing)
    (found,) = walked(tmp_path)
    assert [file.path for file in found.files] == ["a.jpg"]
    assert found.skipped == [("notes.txt", "can't be read: Permission denied")]


def test_names_with_spaces_newlines_emoji_and_invalid_utf8_are_found(tmp_path):
    names = [b"a b.jpg", b"a\nb.jpg", "🩸.jpg".encode(), b"\xff\xfe.jpg"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(JPEG)
    assert sorted(os.fsencode(file.path) for file in walked(tmp_path)[0].files) == sorted(names)


def test_hidden_and_system_files_are_left_out_with_a_reason(tmp_path):
    for name in (".DS_Store", "Thumbs.db", ".hidden/a.jpg", "lost+found/a.jpg"):
        image(tmp_path / name)
    assert reasons(tmp_path) == {
        ".DS_Store": "hidden",
        ".hidden": "hidden",
        "Thumbs.db": "a file of the operating system, not an image",
        "lost+found": "a file of the operating system, not an image",
    }


def test_links_are_followed_inside_the_roots_and_refused_outside(tmp_path):
    image(tmp_path / "elsewhere" / "a.jpg")
    inside = tmp_path / "slides" / "S-1"
    image(inside / "a.jpg")
    (tmp_path / "slides" / "out").symlink_to(tmp_path / "elsewhere")
    (inside / "out.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (inside / "in.jpg").symlink_to(inside / "a.jpg")
    (inside / "nothing.jpg").symlink_to(inside / "gone")
    link_out = "a symbolic link out of the folders that may be read"
    assert reasons(tmp_path / "slides") == {
        "out": link_out,
        "S-1/out.jpg": link_out,
        "S-1/nothing.jpg": "a symbolic link to nothing",
    }
    found = [file.path for slide in walked(tmp_path / "slides", tmp_path) for file in slide.files]
    assert sorted(found) == ["S-1/a.jpg", "S-1/in.jpg", "S-1/out.jpg", "out/a.jpg"]


def test_a_loop_of_folders_ends(tmp_path):
    image(tmp_path / "S-1" / "a.jpg")
    (tmp_path / "S-1" / "again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert reasons(tmp_path) == {
        "S-1/again": "the folder was already visited through another path",
        "self": "a loop of symbolic links",
    }


def test_a_folder_swapped_for_a_link_while_slides_are_walked_shows_nothing_from_outside(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "slides"
    image(outside / "secret.jpg")
    image(outside / "deeper" / "secret.jpg")
    for name in ("S-1", "S-2"):
        image(root / name / "a.jpg")
    found = walk(root, (root,))
    assert next(found).skipped == []  # the folder itself was looked at; its subfolders are due
    (root / "S-1").rename(tmp_path / "away")
    (root / "S-1").symlink_to(outside)
    rest = list(found)
    assert [file.path for folder in rest for file in folder.files] == ["S-2/a.jpg"]
    assert [item for folder in rest for item in folder.skipped] == [
        ("S-1", "a symbolic link out of the folders that may be read")
    ]


def test_a_file_swapped_for_a_link_after_the_look_is_not_taken_for_an_image(tmp_path, monkeypatch):
    outside, root = tmp_path / "outside.jpg", tmp_path / "slides"
    image(outside)
    image(root / "photo.dat")

    def swapped(name, *how, **where):
        if name == "photo.dat":
            (root / name).unlink()
            (root / name).symlink_to(outside)
        return real_open(name, *how, **where)

    real_open = os.open
    monkeypatch.setattr(os, "open", swapped)
    assert reasons(root) == {"photo.dat": "a symbolic link out of the folders that may be read"}


def test_what_is_put_in_a_files_place_after_the_look_is_not_even_opened(tmp_path, monkeypatch):
    image(tmp_path / "photo.dat")
    opened = []

    def swapped(name, flags, **where):
        if name == "photo.dat":
            (tmp_path / name).unlink()
            os.mkfifo(tmp_path / name)
        opened.append(flags)
        return real_open(name, flags, **where)

    real_open = os.open
    monkeypatch.setattr(os, "open", swapped)
    assert reasons(tmp_path) == {"photo.dat": "not a regular file"}
    assert all(flags & (os.O_PATH | os.O_DIRECTORY) for flags in opened)


def test_fifos_and_sockets_are_left_out_unopened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert reasons(tmp_path) == {"fifo": "not a regular file"}


def test_an_unreadable_folder_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    image(tmp_path / "closed" / "a.jpg")
    image(tmp_path / "open" / "a.jpg")
    real_open = os.open

    def refusing(path, *how, **where):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *how, **where)

    monkeypatch.setattr(os, "open", refusing)
    found = walked(tmp_path)
    assert [file.path for slide in found for file in slide.files] == ["open/a.jpg"]
    skipped = [item for slide in found for item in slide.skipped]
    assert skipped == [("closed", "the folder can't be read: Permission denied")]


def test_fields_are_in_natural_order():
    assert sorted(["f10", "f2", "F1", "f2b"], key=natural) == ["F1", "f2", "f2b", "f10"]
    assert sorted(["a", "1a", "10", "a1b", ".a", "2", "a1"], key=natural) == ["1a", "2", "10", ".a", "a", "a1", "a1b"]


def test_a_folder_with_very_many_files_comes_in_parts_each_before_the_next_is_looked_at(tmp_path, monkeypatch):
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg", "S-1/a.jpg"):
        image(tmp_path / name)
    for name in ("0.txt", "5.txt", "6.txt", "7.txt"):
        (tmp_path / name).write_text("no image")
    looked = []

    def watched(entry, *where):
        looked.append(entry.name)
        return look(entry, *where)

    look = walking._look
    monkeypatch.setattr(walking, "_look", watched)
    parts = walk(tmp_path, (tmp_path,), at_once=2)
    first = next(parts)
    assert looked == ["0.txt", "1.jpg", "2.jpg", "3.jpg"]
    seen = [
        ([file.path for file in part.files], [path for path, _ in part.skipped], part.complete)
        for part in (first, *parts)
    ]
    assert seen == [
        (["1.jpg", "2.jpg"], ["0.txt"], False),
        ([], ["5.txt", "6.txt"], False),
        (["3.jpg", "4.jpg"], ["7.txt"], True),
        (["S-1/a.jpg"], [], True),
    ]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "absent", "There is no folder"),
        (lambda folder: image(folder / "file.jpg"), "is a file. Name the folder that it is in"),
    ],
)
def test_what_is_no_folder_is_refused_with_one_sentence(tmp_path, make, sentence):
    with pytest.raises(SubmissionError, match=sentence):
        check_folder(make(tmp_path), ())


def test_a_folder_outside_the_roots_is_refused(tmp_path):
    with pytest.raises(SubmissionError, match="outside the folders that may be read"):
        check_folder(tmp_path, [tmp_path / "other"])


def test_a_link_to_a_folder_outside_the_roots_is_refused(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "slides" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(SubmissionError, match="outside the folders that may be read"):
        check_folder(tmp_path / "slides" / "link", [tmp_path / "slides"])
