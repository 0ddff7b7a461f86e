"""The table of bars: what counts as met, what the page shows, what takes the place of what."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from itertools import islice, pairwise

import numpy as np
import psutil
import pytest
from PIL import Image

from allq.settings import load
from benchmarks import bare, bars, large, measuring, urgent
from benchmarks.measuring import QUICK, Bench, Figure, Scale
from benchmarks.scaling import field_kinds
from imaging.decode import decode
from models.artefact import find
from models.batched import BatchPreparer
from models.classifier import Classifier

MACHINE = {"date": "2026-01-05", "processor": "abacus", "cores": "2"}


def figure(bar: str, value: float, database: str | None = "SQLite") -> Figure:
    return Figure(bar=bar, database=database, value=value, values=(value,), note="as it were")


@pytest.mark.parametrize(
    ("name", "value", "database", "met"),
    [
        ("bare", 0.9, "SQLite", True),
        ("bare", 0.8999, "SQLite", False),
        ("status", 100, "SQLite", True),
        ("status", 50.01, "PostgreSQL", False),
        ("reduced-calls", 99.9, None, True),
        ("stat", 1.001, "PostgreSQL", False),
    ],
)
def test_a_figure_meets_its_bar_from_the_very_value_on(name, value, database, met):
    assert bars.BARS[name].met(figure(name, value, database)) is met


def test_every_bar_is_measured_by_exactly_one_group():
    measured = [name for group in bars.GROUPS for name in group.BARS]
    assert sorted(measured) == sorted(bars.BARS)


def test_the_table_says_what_is_missed_and_what_was_not_measured():
    record = bars.kept([figure("paper", 34.25), figure("reduced", 3.5, None)], MACHINE, "fields", Scale(), {})
    lines = {line.split("|")[1].strip(): line for line in bars.table(record).splitlines() if line.startswith("| ")}
    assert "**34.2×, missed** | –" in lines[bars.BARS["paper"].what]
    assert "3.50× | 3.50×" in lines[bars.BARS["reduced"].what]
    assert lines[bars.BARS["stat"].what].endswith("| – | – |")


def test_what_is_measured_anew_takes_the_place_of_the_older_figure_and_the_rest_stays():
    before = bars.kept([figure("two", 1.5), figure("bare", 0.95)], MACHINE, "fields", Scale(), {})
    after = bars.kept([figure("two", 1.9)], MACHINE | {"date": "2026-01-06"}, "fields", QUICK, before)
    found = {each["bar"]: each for each in after["figures"]}
    assert (found["two"]["value"], found["two"]["met"]) == (1.9, True)
    assert "not at full scale" in found["two"]["measured"]
    assert found["bare"] == next(each for each in before["figures"] if each["bar"] == "bare")
    assert json.loads(json.dumps(after)) == after | {
        "figures": [{**each, "values": list(each["values"])} for each in after["figures"]]
    }


def test_behind_each_figure_stands_what_it_was_measured_on_and_of_which_commit():
    machine = MACHINE | {"commit": "commit 1a2b3c"}
    record = bars.kept([figure("status", 1), figure("two", 1.9)], machine, "fields of the folder", Scale(), {})
    two, status = (each["measured"] for each in record["figures"])
    assert two == "2026-01-05, abacus, 2 cores, commit 1a2b3c, fields of the folder"
    assert status == "2026-01-05, abacus, 2 cores, commit 1a2b3c, rows made by SQL"


def test_the_commit_is_that_of_the_program_where_there_is_a_repository(monkeypatch):
    assert re.fullmatch(r"(commit [0-9a-f]{10}( with changes)?)?", measuring.commit())
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert measuring.commit() == ""


def test_equal_calls_have_their_interval_beside_them_in_what_is_printed_and_on_the_page():
    made = large.Compared(equal=999, total=1000).figure
    assert made.value == 99.9
    # Exact, two-sided: 1 of 1,000 has 0.0025 to 0.5559 %.
    assert made.interval == pytest.approx((99.4441, 99.9975), abs=0.0001)
    assert bars.row(made)[2] == "99.90 % (99.44 to 100.00)"
    assert large.Compared(equal=50, total=50).figure.interval == pytest.approx((100 * 0.025 ** (1 / 50), 100))
    record = json.loads(json.dumps(bars.kept([made], MACHINE, "fields", Scale(), {})))
    assert "99.90 % (99.44 to 100.00) | 99.90 %" in bars.table(record)
    assert "999 of 1,000 fields, each made of another; 0 of the others without a flag" in bars.table(record)


def test_calls_are_compared_of_each_field_of_the_folder_and_of_no_other(tmp_path, monkeypatch):
    (tmp_path / "given").mkdir()
    for number, content in enumerate(measuring.rendered(3)):
        (tmp_path / "given" / f"{number}.jpg").write_bytes(content)
    folder = measuring.chosen(tmp_path / "given", tmp_path, 8)
    taken = measuring.given(folder)
    assert [path.read_bytes() for path in taken] == list(measuring.rendered(3))
    assert measuring.given(measuring.chosen(None, tmp_path / "none", 2)) == []
    monkeypatch.setattr(large, "camera_field", lambda source, number: source)
    bench = Bench(folder=folder, model=None, scale=Scale(), place=tmp_path, servers={})
    (made,) = large.measure(bench, {"reduced-calls"})
    assert made.note.startswith("3 of 3 fields")
    (kept,) = bars.kept([made], MACHINE, "a mixture", Scale(), {}, card=True)["figures"]
    assert kept["measured"].endswith("2 cores, fields of the folder given, on a card")


@pytest.mark.parametrize("number", [0, 7])
def test_a_camera_field_has_its_noise_in_every_row(monkeypatch, number):
    monkeypatch.setattr(field_kinds, "CAMERA", (130, 97))
    (source,) = measuring.rendered(1)
    made = []
    monkeypatch.setattr(field_kinds, "_jpeg", lambda pixels, quality: made.append(pixels) or b"")
    field_kinds.camera_field(source, number)
    smooth = field_kinds._enlarged(source).astype(float)
    noise = np.random.default_rng([2592, number]).normal(0, 3, (97, 130))[..., None]
    assert np.array_equal(made[0], np.clip(smooth + noise, 0, 255).astype(np.uint8))


def test_what_is_printed_has_a_line_a_row_what_stands_behind_it_and_each_doubt():
    figures = [figure("stat", 1.5, "PostgreSQL"), figure("csv", 60_000)]
    machine = MACHINE | {"commit": "commit 1a2b3c"}
    lines = bars.report(figures, machine, "rendered fields", QUICK, 0.34).splitlines()
    assert lines[0] == "2026-01-05, abacus, cores 2, commit 1a2b3c"
    assert "; 512 instead of 3,072 fields for the whole path and the bare loop" in lines[1]
    assert lines[2:4] == [
        "Doubtful: not at full scale.",
        "Doubtful: while other work kept 34% of the processors busy: to be measured again.",
    ]
    (csv,), (stat,) = ([line for line in lines if bars.BARS[name].what in line] for name in ("csv", "stat"))
    assert [cell.strip() for cell in csv.split("│")[3:6]] == ["60,000 rows/s", "≥ 50,000 rows/s", "met"]
    assert "missed" in stat and lines.index(csv) < lines.index(stat)
    assert "- `csv`, SQLite: 60,000 rows/s; as it were" in lines
    assert lines[-1].startswith("1 of 2 figures meet their bar, not at full scale, while other work kept 34%")


def test_what_is_printed_of_a_quiet_machine_at_full_scale_doubts_nothing():
    lines = bars.report([figure("two", 1.9)], MACHINE, "rendered fields", Scale(), 0.02).splitlines()
    assert lines[1] == "Screened: rendered fields."
    assert lines[-1] == "1 of 1 figures meet their bar."
    assert not [line for line in lines if "Doubtful" in line]


def test_a_bar_brings_along_what_belongs_to_it_and_no_other_of_a_like_name():
    assert bars._wanted("csv,stat") == {"csv", "csv-memory", "stat"}
    assert bars._wanted("") == set(bars.BARS)
    with pytest.raises(SystemExit, match="no bar 'speed'"):
        bars._wanted("speed")


def test_the_pages_show_the_figures_that_are_kept():
    page = measuring.PAGE.read_text(encoding="utf-8")
    record = json.loads(bars.RECORD.read_text(encoding="utf-8"))
    assert bars.table(record) in page
    assert bars.sizing(record) in bars.SIZING.read_text(encoding="utf-8")


def test_what_is_put_into_a_page_stands_between_its_marks_and_the_rest_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        measuring.put(page, "<!-- a -->", "<!-- b -->", "new")
        assert page.read_text(encoding="utf-8") == "before\n<!-- a -->\n\nnew\n\n<!-- b -->\nafter\n"
    with pytest.raises(SystemExit, match="lacks the marks"):
        measuring.put(page, "<!-- a -->", "<!-- c -->", "new")


@pytest.mark.parametrize("size", [(2592, 1944), (1000, 777), (640, 480)])
def test_the_benchmark_resizes_a_field_to_the_size_to_which_it_is_decoded(size):
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 200, np.uint8)).save(stream, "JPEG")
    reduced = decode(stream.getvalue(), max_pixels=10**8, reduce_to=640)
    assert large.reduced_size(*size, 640) == reduced.pixels.shape[1::-1]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9, 10, 25])
def test_fields_are_taken_evenly_from_the_first_class_to_the_last(count):
    items = list(range(10))
    taken = measuring.evenly(items, count)
    assert len(taken) == min(count, 10) and taken == sorted(set(taken))
    gaps = {later - earlier for earlier, later in pairwise([*taken, 10])}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_the_fields_chosen_are_of_every_class_whatever_their_number_and_no_two_of_the_same_bytes(tmp_path):
    pictures = list(measuring.rendered(5))
    folder = tmp_path / "given"
    for number, klass in enumerate(("a", "b", "c", "d", "e")):
        (folder / klass).mkdir(parents=True)
        for field in range(3):
            data = pictures[number] + (b"" if klass == "a" else b"%d" % field)  # all of `a` are the same
            (folder / klass / f"{field}.jpg").write_bytes(b"broken" if (klass, field) == ("b", 0) else data)
    for count in (5, 10, 12):
        (tmp_path / str(count)).mkdir()
        made = measuring.chosen(folder, tmp_path / str(count), count)
        contents = [path.read_bytes() for path in measuring.images(made)]
        assert len(contents) == len(set(contents)) == count
        classes = [max(range(5), key=lambda k: data.startswith(pictures[k])) for data in contents]
        assert classes == sorted(classes) and set(classes) == set(range(5))


def test_an_urgent_slide_is_taken_from_the_whole_folder(tmp_path):
    folder = measuring.chosen(None, tmp_path, 64)
    files = {path.read_bytes(): number for number, path in enumerate(measuring.images(folder))}
    bench = Bench(folder=folder, model=None, scale=QUICK, place=tmp_path, servers={})
    for slide in islice(urgent._urgent_slides(bench), 2):
        data = [path.read_bytes() for path in sorted(slide.iterdir())]
        numbers = [next(number for content, number in files.items() if each.startswith(content)) for each in data]
        assert len(set(numbers)) == urgent.FIELDS
        assert min(numbers) <= 1 and max(numbers) >= 60


@pytest.fixture
def groups(monkeypatch):
    """Three groups that measure a bar each on every database, the second of which breaks on PostgreSQL."""

    class Group:
        def __init__(self, bar: str, error: BaseException | None = None) -> None:
            self.BARS, self.error, self.__name__ = (bar,), error, f"benchmarks.{bar}"

        def measure(self, bench, wanted):
            for name in bench.servers:
                if self.error is not None and name == "PostgreSQL":
                    raise self.error
                yield figure(self.BARS[0], 1.0, name)

    def make(error: BaseException) -> None:
        monkeypatch.setattr(bars, "GROUPS", (Group("two"), Group("status", error), Group("bare")))
        monkeypatch.setattr(measuring, "postgresql", lambda given: nullcontext("url"))
        monkeypatch.setattr(measuring, "first_process", lambda url: 7)
        monkeypatch.setattr(bars, "others_busy", lambda servers: next(shares, 0.0))

    shares = iter(())

    def make_busy(error, *busy):
        nonlocal shares
        shares = iter(busy)
        make(error)

    return make_busy


@pytest.mark.parametrize("error", [ValueError("no such thing\nat all"), SystemExit("no such thing"), MemoryError()])
def test_what_breaks_off_is_said_and_the_others_are_measured_and_kept(groups, tmp_path, monkeypatch, capsys, error):
    groups(error)
    monkeypatch.setattr(bars, "RECORD", tmp_path / "bars.json")
    monkeypatch.setattr(bars, "write_pages", lambda record: None)
    assert bars.main(["--only", "two,status,bare", "--fields", "4", "--record"]) == 1
    said = capsys.readouterr().err
    assert f"benchmarks.status broke off: {str(error).split(chr(10))[0] or 'MemoryError'}\n" in said
    assert ("Traceback" in said) is not isinstance(error, SystemExit)
    assert "Not measured; again with --only status\n" in said
    record = json.loads(bars.RECORD.read_text(encoding="utf-8"))
    found = {(each["bar"], each["database"]) for each in record["figures"]}
    assert found == {(bar, name) for bar in ("two", "bare") for name in bars.DATABASES} | {("status", "SQLite")}


@pytest.mark.parametrize(("busy", "said"), [((0.02, 0.05), False), ((0.0, 0.0, 0.0, 0.3), True), ((0.4,), True)])
def test_figures_of_a_machine_that_did_other_things_say_so(groups, tmp_path, monkeypatch, busy, said):
    groups(SystemExit("no"), *busy)
    monkeypatch.setattr(bars, "RECORD", tmp_path / "bars.json")
    monkeypatch.setattr(bars, "write_pages", lambda record: None)
    bars.main(["--only", "two,status,bare", "--fields", "4", "--record"])
    for each in json.loads(bars.RECORD.read_text(encoding="utf-8"))["figures"]:
        assert (f"other work kept {max(busy):.0%} of the processors busy" in each["measured"]) is said


def test_a_folder_with_too_few_fields_is_said_to_be_filled_up_by_so_many_as_were_taken(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    for number, content in enumerate([*measuring.rendered(3), *measuring.rendered(1), b"no picture"]):
        (given / f"{number}.jpg").write_bytes(content)
    said = [measuring.mixture(measuring.chosen(given, tmp_path / str(count), count)) for count in (3, 10)]
    assert said == ["fields of the folder given", "fields (3 of the folder given, 7 rendered)"]
    assert measuring.mixture(measuring.chosen(None, tmp_path / "none", 2)) == "rendered fields"


def test_what_is_printed_says_of_what_fields_the_figures_are(groups, tmp_path, capsys):
    groups(SystemExit("no"))
    (tmp_path / "0.jpg").write_bytes(next(measuring.rendered(1)))
    bars.main([str(tmp_path), "--only", "bare", "--databases", "sqlite", "--fields", "4"])
    assert "Screened: fields (1 of the folder given, 3 rendered)" in capsys.readouterr().out


def test_what_is_measured_runs_on_the_processor_unless_a_card_is_asked_for(groups, tmp_path, monkeypatch):
    groups(SystemExit("no"))
    seen = []
    monkeypatch.setattr(measuring, "chosen", lambda *given: seen.append(load().device) or tmp_path)
    for options in ([], ["--device", "cuda"]):
        bars.main(["--only", "two", "--databases", "sqlite", *options])
    assert seen == ["cpu", "cuda"]


def test_the_bare_loop_says_the_same_field_by_field_and_by_batches_as_on_a_card(tmp_path):
    settings = load(home=tmp_path, inference_batch=4, device="cpu")
    classifier = Classifier.load(find(settings, None), settings)
    files = list(measuring.rendered(18))
    alone = bare.screened(classifier, files, settings)
    classifier.batches = BatchPreparer(
        classifier.model.configuration, device="cpu", threads=1, decode_side=classifier.decode_side
    )
    together = bare.screened(classifier, files, settings)
    assert [each.call for each in together] == [each.call for each in alone]
    assert len(alone) == len(files)


def test_the_memory_of_a_worker_is_the_most_that_one_of_its_processes_ever_had():
    had = bytearray(60_000_000)
    had[::4096] = b"x" * len(had[::4096])
    del had
    memory = urgent.Memory(worker=os.getpid())
    for screened in range(0, 101, 5):
        memory.look(screened)
    assert memory.most >= psutil.Process().memory_info().rss
    assert memory.most == measuring.most_resident(psutil.Process())
    assert (memory.processes, memory.main) == (1, 0)
    assert memory.whole == memory.single == memory.most
    assert 0 < memory.together <= psutil.Process().memory_info().rss + 60_000_000
    memory.sizes = [(done, 100 + done) for done in range(0, 101, 5)]
    assert memory.growth(100) == pytest.approx(95 - 12.5)
    assert memory.growth(10_000) is None


def test_the_memory_of_a_whole_worker_counts_its_first_process_and_what_its_processes_share_once():
    """The first process here has 100 MB, which two forks share; each of them has 30 MB of its own."""
    source = (
        "import os, sys\n"
        "held = bytearray(b'x') * 100_000_000\n"
        "for _ in range(2):\n"
        "    if not os.fork():\n"
        "        own = bytearray(b'x') * 30_000_000\n"
        "        touched = sum(held[::4096])\n"
        "        os.write(1, b'there\\n')\n"
        "        sys.stdin.read()\n"
        "        os._exit(0)\n"
        "sys.stdin.read()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", source, "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert [worker.stdout.readline() for _ in range(2)] == ["there\n"] * 2
        memory = urgent.Memory(worker=worker.pid)
        memory.look(1)
    finally:
        worker.communicate()
    assert memory.processes == 2
    assert 100e6 < memory.main < 200e6 and 130e6 < memory.most < 230e6
    assert memory.whole == memory.main + memory.most
    assert 370e6 < memory.single == pytest.approx(memory.main + 2 * memory.most, rel=0.05)
    assert 160e6 < memory.together < 230e6
    assert "all 3 processes of this worker had" in memory.whole_scope
    assert "the worker's first has" in memory.scope


def test_the_advice_on_memory_has_each_size_of_field_and_the_day():
    figures = [figure("memory", 380.2), figure("memory-whole", 510.4), figure("two", 1.9)]
    figures += [figure("memory-whole", 540.1, "PostgreSQL"), figure("memory-large", 450.6, "PostgreSQL")]
    lines = bars.sizing(bars.kept(figures, MACHINE, "fields", Scale(), {})).splitlines()
    assert lines[2:] == [
        "| 120×90 | SQLite | 380 MB | 130 MB | 2026-01-05 |",
        "| 2592×1944 | PostgreSQL | 451 MB | – | 2026-01-05 |",
    ]
