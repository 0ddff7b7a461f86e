import json
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allq.text import command, duration, operand, plural, printable, printable_json, storable


def test_control_characters_bidirectional_overrides_and_surrogates_are_escaped():
    assert printable("a\nb\x1b[2Jc\u202ed\udcff") == r"a\nb\x1b[2Jc\u202ed\udcff"


def test_emoji_and_accents_are_kept():
    assert printable("Frottis né 🩸👩\u200d🔬") == "Frottis né 🩸👩\u200d🔬"


@given(st.text())
def test_what_is_printed_never_breaks_a_line(text):
    assert len(printable(text).splitlines()) <= 1


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_any_file_name_is_stored_as_text_from_which_its_bytes_come_back(raw):
    text, exact = storable(os.fsdecode(raw))
    text.encode("utf-8")
    assert (exact if exact is not None else os.fsencode(text)) == raw


NAMES = st.lists(
    st.sampled_from([b"\xff", b"\\", b"\\xff", b"\\x5c", b"x5c", b"ff", b"/", b"a", "é".encode(), b"\xc3"]), min_size=1
).map(b"".join)


@given(NAMES, NAMES)
def test_two_file_names_are_never_stored_as_the_same_text(one, other):
    assert (storable(os.fsdecode(one))[0] == storable(os.fsdecode(other))[0]) == (one == other)


@given(NAMES, NAMES)
def test_the_text_of_a_field_begins_with_the_text_of_its_slide(slide, file):
    text = storable(os.fsdecode(slide + b"/" + file))[0]
    assert text == f"{storable(os.fsdecode(slide))[0]}/{storable(os.fsdecode(file))[0]}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"S-1/f\\1.png", r"S-1/f\1.png"),
        (b"S-1/\xff.png", r"S-1/\xff.png"),
        (rb"S-1/\xff.png", r"S-1/\x5cxff.png"),
        (b"a\\b/\xff\\.png", r"a\b/\xff\x5c.png"),
    ],
)
def test_only_names_that_need_it_are_escaped(name, text):
    assert storable(os.fsdecode(name))[0] == text


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_command_that_is_shown_gives_a_shell_the_very_words_and_nothing_to_run():
    words = [
        "H26-0102",
        "",
        "May-Grünwald 7041",
        "it's",
        "A; touch ${HOME}pwned; echo",
        "x`id`$(id)!!",
        "a\\b\tc\nd",
        "'\x1b[31m\\x1b1\u202e'; id; '",
        "\u200d👩\u200d🔬",
        os.fsdecode(b"\xff\xfe;id"),
        "*",
        "~root",
        "#x",
        "…",
    ]
    line = command("printf", r"%s\0", *words)
    assert printable(line) == line
    done = subprocess.run(["bash", "-c", os.fsencode(line)], capture_output=True, check=True)
    assert (done.stdout.split(b"\0")[:-1], done.stderr) == ([os.fsencode(word) for word in words], b"")
    elsewhere = subprocess.run(["sh", "-c", os.fsencode(line)], capture_output=True, check=True)
    assert (elsewhere.stdout.count(b"\0"), elsewhere.stderr) == (len(words), b"")
    assert command("echo", "=ls", "a=b") == "echo '=ls' a=b", "zsh takes =ls for a path"
    assert command("allq", "audit", "show", *operand("A-1")) == "allq audit show A-1"
    assert command("allq", "audit", "show", *operand("--json")) == "allq audit show -- --json"


def test_durations_and_counts_read_naturally():
    assert [duration(value) for value in (None, 8.2, 200, 7500)] == ["-", "8 s", "3 min 20 s", "2 h 5 min"]
    assert [plural(1, "field"), plural(1204, "field"), plural(2, "entry", "entries")] == [
        "1 field",
        "1,204 fields",
        "2 entries",
    ]


@given(st.dictionaries(st.text(), st.text()))
def test_json_without_control_characters_is_the_same_json(value):
    for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=1)):
        safe = printable_json(text)
        assert json.loads(safe) == value
        assert all(printable(line) == line for line in safe.split("\n"))
