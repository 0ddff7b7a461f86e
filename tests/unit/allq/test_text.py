import os

from hypothesis import given
from hypothesis import strategies as st

from allq.text import duration, plural, printable, storable


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


def test_durations_and_counts_read_naturally():
    assert [duration(value) for value in (None, 8.2, 200, 7500)] == ["-", "8 s", "3 min 20 s", "2 h 5 min"]
    assert [plural(1, "field"), plural(1204, "field"), plural(2, "entry", "entries")] == [
        "1 field",
        "1,204 fields",
        "2 entries",
    ]
