"""How tables fit a terminal and a pipe."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from allq.text import command
from cli import console

COLUMNS = [console.name("slide"), console.fixed("call"), console.number("fields"), console.words("flags")]
LONG = "2024/haematology ward/S-2024-000123 left tibia second aspirate, May-Grünwald 7041"


def drawn(rows: list[tuple[object, ...]], *, terminal: bool, width: int = 80) -> list[str]:
    stream = io.StringIO()
    screen = Console(
        file=stream, force_terminal=terminal, width=width, color_system=None, highlight=False, markup=False, emoji=False
    )
    assert console.table(COLUMNS, rows, console=screen) == len(rows)
    return stream.getvalue().splitlines()


def test_on_a_terminal_a_table_fits_80_columns_and_a_long_name_keeps_its_beginning_and_its_end() -> None:
    lines = drawn([(LONG, "no-suspects-seen", 1204, ("novel", "uncertain", "badly-exposed"))], terminal=True)
    assert max(map(cell_len, lines)) <= 80
    assert lines[2].startswith("2024/…/S-2024-0")
    assert "ald 7041" in lines[2]


@pytest.mark.parametrize(
    ("path", "width", "shown"),
    [
        ("S-2024-00012/field 07.png", 40, "S-2024-00012/field 07.png"),
        ("S-2024-00012/haematology field 07.png", 26, "S-2024-00012/haem…d 07.png"),
        ("2024-11733-B/WBC-Malignant-Pre-014.jpg", 23, "2024-11733-B/W…-014.jpg"),
        ("Zeta ward/2024/S-2024-0000123/f1.png", 18, "Zeta ward/…/f1.png"),
        ("a slide with a name too long for any column/f1.png", 20, "a slide w…umn/f1.png"),
        ("f1.png", 3, "f…g"),
    ],
)
def test_of_a_path_the_slide_stays_whole_where_it_can(path: str, width: int, shown: str) -> None:
    assert console.elide(path, width) == shown


def test_an_accession_is_never_elided_while_it_is_short() -> None:
    lines = drawn(
        [("S-2024-00012", "no-suspects-seen", 1204, ("badly-exposed", "no-leukocytes"))], terminal=True, width=60
    )
    assert any("S-2024-00012" in line for line in lines)


def test_into_a_pipe_go_plain_columns_with_nothing_elided_and_one_line_a_row() -> None:
    lines = drawn([(LONG, "insufficient", 3, ("novel", "blurred")), ("b", "all-suspected", 12, ())], terminal=False)
    assert len(lines) == 3
    assert LONG in lines[1]
    assert "novel, blurred" in lines[1]
    assert not set("│─┃━┏┓") & set("".join(lines))
    assert lines[0].index("CALL") == lines[2].index("all-suspected")


def test_a_pipe_for_which_a_width_is_set_gets_a_table_of_that_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = drawn([(LONG, "insufficient", 3, ("novel", "blurred"))], terminal=False, width=60)
    assert max(map(cell_len, lines)) <= 60
    assert "…" in lines[2]


def test_columns_that_are_not_needed_are_left_out_by_name_before_a_slide_is_elided(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    screen = Console(file=stream, force_terminal=True, width=44, color_system=None)
    columns = [console.name("field"), console.fixed("call"), console.number("leukocytes"), console.words("engine")]
    rows = [("2024-11733-B/WBC-Malignant-Pre-014.jpg", "early-pre-b", 12, "openvino")]
    console.table(columns, rows, needed=2, console=screen)
    title, second, _, row = stream.getvalue().splitlines()
    assert (title.split(), second.split()) == (["leuko-"], ["field", "call", "cytes"])
    assert row.split() == ["2024-11733-B/W…-014.jpg", "early-pre-b", "12"]
    assert capsys.readouterr().err == "Not shown for want of width: engine. --json has them.\n"


def test_a_plain_no_is_no_alarm() -> None:
    assert "no" not in console.STYLES


def test_control_characters_in_names_are_escaped() -> None:
    for terminal in (True, False):
        shown = "\n".join(drawn([("a\x1b[2J\nb\u202e", "insufficient", 1, ())], terminal=terminal, width=120))
        assert "\x1b" not in shown
        assert "a\\x1b[2J\\nb\\u202e" in shown


def test_square_brackets_in_names_are_no_markup() -> None:
    assert any(
        "[bold]x[/bold] :smile:" in line for line in drawn([("[bold]x[/bold] :smile:", "", 1, ())], terminal=True)
    )


def test_a_long_table_is_streamed() -> None:
    stream = io.StringIO()
    plain = Console(file=stream, force_terminal=False, width=80)
    taken = itertools.count()
    seen: list[int] = []

    def rows() -> object:
        for _ in range(5 * console.SAMPLE_ROWS):
            seen.append(len(stream.getvalue()))
            yield ("s", "insufficient", next(taken), ())

    assert console.table(COLUMNS, rows(), console=plain) == 5 * console.SAMPLE_ROWS  # type: ignore[arg-type]
    assert seen[0] == 0 < seen[-1]


def test_later_pages_of_a_long_table_keep_the_columns_of_the_first() -> None:
    lines = drawn([(f"slide {n}", "insufficient", n, ()) for n in range(3 * console.SAMPLE_ROWS)], terminal=True)
    assert len({line.index("insufficient") for line in lines[2:]}) == 1
    assert sum("call" in line for line in lines) == 1


@given(st.text(min_size=0, max_size=60), st.integers(3, 40))
def test_an_elided_text_never_exceeds_its_width(text: str, width: int) -> None:
    shown = console.elide(console.cell(text), width)
    assert cell_len(shown) <= width
    if cell_len(console.cell(text)) <= width:
        assert shown == console.cell(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (1204, "1,204"),
        (True, "yes"),
        (0.98765, "0.988"),
        (1234.56, "1,234.6"),
        (("a", "b"), "a, b"),
        ((), "-"),
    ],
)
def test_values_are_shown_as_people_write_them(value: object, shown: str) -> None:
    assert console.cell(value) == shown


def test_a_confidence_is_rounded_down_and_an_upper_bound_up() -> None:
    assert console.percent(0.996) == "99 %"
    assert console.percent(1.0) == "100 %"
    assert console.percent(None) == "-"
    assert console.upper_percent(0.00712) == "0.8 %"
    assert console.upper_percent(0.007) == "0.7 %"
    assert console.upper_percent(1.0) == "100.0 %"


def test_a_command_to_be_copied_has_no_end_of_line_in_it_however_narrow_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    narrow = Console(file=stream, force_terminal=True, width=20, color_system=None)
    monkeypatch.setattr(console, "messages", lambda: narrow)
    console.offer("Sign it", command("allq", "review", "sign", "--reason", "…", "reboot now\x1b[2J\n"))
    assert stream.getvalue() == "Sign it:  allq review sign --reason '…' $'reboot now\\033[2J\\012'\n"


def test_a_models_card_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    console.markdown("# Card\n\nA fine\x1b[2J model\x9b1A.\u202e\n")
    assert capsys.readouterr().out == "# Card\n\nA fine\\x1b[2J model\\x9b1A.\\u202e\n"
