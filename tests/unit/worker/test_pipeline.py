"""The pipeline alone: files on disk, a classifier that only counts, no database."""

import gc
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from typing import ClassVar

import cv2
import numpy as np
import pytest

from allq.errors import FieldError, WorkerClosing
from allq.memory import ran_out_of_memory
from allq.settings import Settings
from db.records import Claim, ClaimedField
from imaging.decode import decode
from imaging.quality import assess
from imaging.segment import segment
from models.classifier import Assessment, PreparedField
from models.leukocytes import lay_out
from worker.files import read_file
from worker.pipeline import Pipeline, Threads, _Loaded


class Counting:
    """Stands in for a classifier: notes what it was given, and calls everything benign."""

    decode_side = 256
    engine_name = "counting"
    batches = None

    def __init__(self):
        self.sizes: list[int] = []

    def prepare(self, decoded):
        segmentation = segment(decoded.pixels)
        return PreparedField(
            cells=cv2.resize(decoded.pixels, (32, 32)),
            field=cv2.resize(decoded.pixels, (32, 32)),
            segmentation=segmentation,
            nuclei=lay_out(segmentation),
            quality=assess(decoded.pixels),
            width=decoded.width,
            height=decoded.height,
        )

    def classify(self, prepared):
        self.sizes.append(len(prepared))
        return [
            Assessment(
                call="benign",
                confidence=1.0,
                probabilities=(1.0, 0.0, 0.0, 0.0),
                suspicion=0.0,
                novelty=0.0,
                flags=(),
                suspicions=(0.0,) * len(field.segmentation.leukocytes),
                suspects=0,
            )
            for field in prepared
        ]


@pytest.fixture
def threads(settings):
    threads = Threads.start(settings)
    yield threads
    threads.close()


def picture(path, seed):
    rng = np.random.default_rng(seed)
    cv2.imwrite(str(path), rng.integers(0, 255, (64, 64, 3), np.uint8))


def claim_of(folder, names):
    fields = tuple(
        ClaimedField(id=number, slide_id=1, path=name, raw_path=None, size=1000, modified_ns=0)
        for number, name in enumerate(names)
    )
    return Claim(
        chunk_id=1,
        batch_id=1,
        root=str(folder),
        raw_root=None,
        model_id="m",
        queue="routine",
        owner="o",
        attempt=1,
        fields=fields,
    )


def screen(settings, threads, claim, *, known=frozenset(), classifier=None, checkpoint=lambda: None):
    pipeline = Pipeline(classifier or Counting(), settings, threads)
    outcomes = list(pipeline.screen(claim, known=lambda digests: digests & known, checkpoint=checkpoint))
    return {claim.fields[outcome.field_id].path: outcome for outcome in outcomes}


def test_every_field_has_one_outcome_and_the_network_sees_full_batches(settings, threads, tmp_path):
    names = [f"{number}.png" for number in range(11)]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    classifier = Counting()
    settings = settings.model_copy(update={"inference_batch": 4})
    outcomes = screen(settings, threads, claim_of(tmp_path, names), classifier=classifier)
    assert sorted(outcomes) == sorted(names)
    assert all(outcome.finding is not None for outcome in outcomes.values())
    assert classifier.sizes == [4, 4, 3]


def test_twins_are_inferred_once_and_known_bytes_not_at_all(settings, threads, tmp_path):
    picture(tmp_path / "a.png", 1)
    shutil.copy(tmp_path / "a.png", tmp_path / "twin.png")
    picture(tmp_path / "known.png", 2)
    first = screen(settings, threads, claim_of(tmp_path, ["known.png"]))
    classifier = Counting()
    claim = claim_of(tmp_path, ["a.png", "twin.png", "known.png"])
    outcomes = screen(settings, threads, claim, known={first["known.png"].sha256}, classifier=classifier)
    assert classifier.sizes == [1]
    assert outcomes["a.png"].finding is not None
    assert outcomes["twin.png"].finding is outcomes["twin.png"].failure is None
    assert outcomes["known.png"].finding is outcomes["known.png"].failure is None


def test_a_field_that_fails_is_named_and_its_neighbours_go_on(settings, threads, tmp_path):
    picture(tmp_path / "good.png", 1)
    whole = (tmp_path / "good.png").read_bytes()
    for name in ("cut.png", "cut-twin.png"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    outcomes = screen(
        settings, threads, claim_of(tmp_path, ["cut.png", "good.png", "text.png", "gone.png", "cut-twin.png"])
    )
    codes = {name: outcome.failure.code if outcome.failure else None for name, outcome in outcomes.items()}
    assert codes == {
        "cut.png": "corrupt",
        "cut-twin.png": "corrupt",
        "good.png": None,
        "text.png": "not-an-image",
        "gone.png": "vanished",
    }


def test_an_unforeseen_error_fails_one_field_and_is_logged(settings, threads, tmp_path, monkeypatch):
    for number, name in enumerate(["a.png", "b.png"]):
        picture(tmp_path / name, number)

    class Failing(Counting):
        def prepare(self, decoded):
            if not self.sizes:
                self.sizes.append(0)
                raise ZeroDivisionError
            return super().prepare(decoded)

    outcomes = screen(settings, threads, claim_of(tmp_path, ["a.png", "b.png"]), classifier=Failing())
    assert outcomes["a.png"].failure.code == "internal"
    assert "ZeroDivisionError" in outcomes["a.png"].failure.sentence
    assert outcomes["b.png"].finding is not None


def test_a_stop_between_groups_ends_the_work(settings, threads, tmp_path):
    names = [f"{number}.png" for number in range(8)]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    calls = []

    def checkpoint():
        calls.append(None)
        if len(calls) == 2:
            raise InterruptedError

    classifier = Counting()
    with pytest.raises(InterruptedError):
        screen(
            settings.model_copy(update={"inference_batch": 2}),
            threads,
            claim_of(tmp_path, names),
            classifier=classifier,
            checkpoint=checkpoint,
        )
    assert sum(classifier.sizes) < len(names)


@pytest.mark.parametrize("stage", ["read", "prepare"])
def test_what_interrupts_the_waiting_ends_the_chunk_and_fails_no_field(settings, threads, tmp_path, monkeypatch, stage):
    picture(tmp_path / "sound.png", 1)

    class Stopped(Exception):
        pass

    def stop(_number, _frame):
        raise Stopped

    class Slow(Counting):
        def prepare(self, decoded):
            time.sleep(0.6 if stage == "prepare" else 0)
            return super().prepare(decoded)

    load = Pipeline._load

    def slow_load(*arguments):
        time.sleep(0.6 if stage == "read" else 0)
        return load(*arguments)

    monkeypatch.setattr(Pipeline, "_load", slow_load)
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Stopped):
            screen(settings, threads, claim_of(tmp_path, ["sound.png"]), classifier=Slow())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("which", ["readers", "preparers"])
def test_who_waits_for_threads_that_are_let_go_of_is_told_and_no_field_is_failed(settings, tmp_path, which):
    names = [f"{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    threads = Threads.start(settings)
    pool = getattr(threads, which)
    released = threading.Event()
    for _ in range(pool._max_workers):
        pool.submit(released.wait, 60)
    met = []

    def work():
        with pytest.raises(WorkerClosing) as raised:
            screen(settings, threads, claim_of(tmp_path, names))
        met.append(raised.type)

    screening, closing = (threading.Thread(target=target, daemon=True) for target in (work, threads.close))
    screening.start()
    deadline = time.monotonic() + 30
    while pool._work_queue.empty() and time.monotonic() < deadline:
        time.sleep(0.01)
    closing.start()
    while not pool._shutdown and time.monotonic() < deadline:
        time.sleep(0.01)
    released.set()
    closing.join(30)
    screening.join(10)
    assert not screening.is_alive(), "it waits for what nobody does any more"
    assert met == [WorkerClosing]


class Together:
    """Stands in for what prepares whole batches on a card: notes what it was given, and fails on what is no image."""

    under_way = 2

    def __init__(self, prepare):
        self.prepare = prepare
        self.given: list[int] = []

    def submit(self, files, *, max_pixels):
        self.given.append(len(files))
        return [self._future(data, max_pixels) for data in files]

    def _future(self, data, max_pixels):
        future = Future()
        try:
            future.set_result(self.prepare(decode(data, max_pixels=max_pixels, reduce_to=256)))
        except FieldError as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("when", ["before the chunk", "between reading and preparing"])
def test_a_chunk_that_comes_to_threads_that_were_let_go_of_is_told_so(settings, tmp_path, when, card):
    picture(tmp_path / "a.png", 1)
    classifier = Counting()
    if card:
        classifier.batches = Together(classifier.prepare)
    threads = Threads.start(settings)
    if when == "before the chunk":
        threads.close()
    pipeline = Pipeline(classifier, settings, threads)
    with pytest.raises(WorkerClosing):
        list(pipeline.screen(claim_of(tmp_path, ["a.png"]), known=lambda _: threads.close() or (), checkpoint=int))


def test_a_machine_that_gives_no_more_threads_is_not_taken_for_a_worker_that_ends(settings, tmp_path, monkeypatch):
    def refused(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        screen(settings, Threads.start(settings), claim_of(tmp_path, ["a.png"]))


def test_on_a_card_groups_are_prepared_together_and_ahead_of_the_network(tmp_path, threads):
    classifier = Counting()
    classifier.batches = Together(classifier.prepare)
    names = [f"{number}.png" for number in range(11)]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    (tmp_path / names[5]).write_bytes(b"no image")
    begun: list[int] = []
    outcomes = []
    pipeline = Pipeline(classifier, Settings(home=tmp_path, inference_batch=2), threads)
    for outcome in pipeline.screen(claim_of(tmp_path, names), known=lambda _: (), checkpoint=lambda: None):
        begun.append(sum(classifier.batches.given))
        outcomes.append(outcome)
    assert sorted(outcome.field_id for outcome in outcomes) == list(range(11))
    assert [outcome.field_id for outcome in outcomes if outcome.failure is not None] == [5]
    assert classifier.batches.given == [2, 2, 2, 2, 2, 1]
    assert begun[0] == 6  # two batches wait, prepared, while the first is classified


TORCH = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})
OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    TORCH("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223: std::bad_alloc"),
]


def test_the_words_that_each_library_has_for_no_memory_are_known():
    assert all(ran_out_of_memory(error) for error in OUT_OF_MEMORY)
    assert not ran_out_of_memory(RuntimeError("shape mismatch"))
    assert not ran_out_of_memory(None)


def test_opencvs_own_words_for_no_memory_are_known():
    # In a process that may not have more than a little: asking for too much must not trouble the machine.
    code = (
        "import resource, cv2, numpy as np\n"
        "from allq.memory import ran_out_of_memory\n"
        "small = np.zeros((1000, 1000), np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try:\n"
        "    cv2.resize(small, (100_000, 100_000))\n"
        "except cv2.error as error:\n"
        "    print(ran_out_of_memory(error))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


class Starving(Counting):
    """Has memory for so many fields at a time, and for none of the forbidden size."""

    def __init__(self, *, forbidden=0, hungry=0):
        super().__init__()
        self.forbidden = forbidden
        self.hungry = hungry

    def prepare(self, decoded):
        if decoded.width == self.forbidden:
            raise MemoryError
        if decoded.width == self.hungry and not self.sizes:
            raise cv2_no_memory()
        return super().prepare(decoded)


def cv2_no_memory():
    error = cv2.error("(-4:Insufficient memory) Failed to allocate 8000000000 bytes in function 'OutOfMemoryError'")
    error.code = -4
    return error


def wide(path, side):
    cv2.imwrite(str(path), np.random.default_rng(side).integers(0, 255, (64, side, 3), np.uint8))


def test_a_field_for_which_memory_runs_out_is_screened_alone_when_the_others_are_done(settings, threads, tmp_path):
    for name, side in (("hungry.png", 80), ("a.png", 64), ("twin-of-hungry.png", 80)):
        wide(tmp_path / name, side)
    classifier = Starving(hungry=80)
    outcomes = screen(
        settings, threads, claim_of(tmp_path, ["hungry.png", "a.png", "twin-of-hungry.png"]), classifier=classifier
    )
    assert classifier.sizes == [1, 1]
    assert outcomes["hungry.png"].finding is not None and outcomes["a.png"].finding is not None
    assert outcomes["twin-of-hungry.png"].failure is None
    assert outcomes["twin-of-hungry.png"].sha256 == outcomes["hungry.png"].sha256


def test_what_had_no_room_is_let_go_before_it_is_tried_alone(settings, threads, tmp_path):
    attempts: list[weakref.ref] = []
    alive: list[bool] = []

    class Once(Counting):
        def prepare(self, decoded):
            alive.extend(attempt() is not None for attempt in attempts)
            attempts.append(weakref.ref(decoded.pixels))
            if len(attempts) == 1:
                raise MemoryError
            return super().prepare(decoded)

    picture(tmp_path / "a.png", 1)
    gc.disable()
    try:
        outcomes = screen(settings, threads, claim_of(tmp_path, ["a.png"]), classifier=Once())
    finally:
        gc.enable()
    assert outcomes["a.png"].finding is not None
    assert alive == [False]


class Card:
    """Prepares files together as a card does, and has no room for pictures of one width."""

    under_way = 2

    def __init__(self, *, without_room_for):
        self._without = without_room_for
        self._prepare = Counting().prepare

    def submit(self, files, *, max_pixels):
        futures = [Future() for _ in files]
        for data, future in zip(files, futures, strict=True):
            image = decode(data, max_pixels=max_pixels)
            if image.width == self._without:
                future.set_exception(MemoryError("the device has no room for it, even by itself"))
            else:
                future.set_result(self._prepare(image))
        return futures


def test_a_field_that_a_card_has_no_room_for_is_prepared_by_the_host_and_the_others_are_not(
    settings, threads, tmp_path
):
    names = ["a.png", "large.png", "b.png"]
    for name, side in zip(names, (64, 90, 65), strict=True):
        wide(tmp_path / name, side)
    by_host = []

    class WithCard(Counting):
        batches = Card(without_room_for=90)

        def prepare(self, decoded):
            by_host.append(decoded.width)
            return super().prepare(decoded)

    outcomes = screen(settings, threads, claim_of(tmp_path, names), classifier=WithCard())
    assert all(outcome.finding is not None for outcome in outcomes.values())
    assert by_host == [90]


def test_a_field_that_needs_too_much_memory_even_alone_fails_with_that_reason(settings, threads, tmp_path):
    for name, side in (("huge.png", 90), ("a.png", 64), ("twin.png", 90)):
        wide(tmp_path / name, side)
    claim = claim_of(tmp_path, ["huge.png", "a.png", "twin.png"])
    outcomes = screen(settings, threads, claim, classifier=Starving(forbidden=90))
    assert outcomes["a.png"].finding is not None
    for name in ("huge.png", "twin.png"):
        assert outcomes[name].failure.code == "out-of-memory"
        assert "allq retry" in outcomes[name].failure.sentence


def test_a_twin_is_screened_itself_when_the_field_it_waited_for_has_changed(settings, threads, tmp_path):
    for name in ("hungry.png", "twin.png"):
        wide(tmp_path / name, 80)
    wide(tmp_path / "a.png", 64)

    def change():
        if classifier.sizes:
            wide(tmp_path / "hungry.png", 70)

    classifier = Starving(hungry=80)
    claim = claim_of(tmp_path, ["hungry.png", "a.png", "twin.png"])
    pipeline = Pipeline(classifier, settings, threads)
    outcomes = {}
    for outcome in pipeline.screen(claim, known=lambda _: (), checkpoint=lambda: None):
        change()
        outcomes[claim.fields[outcome.field_id].path] = outcome
    assert outcomes["hungry.png"].sha256 != outcomes["twin.png"].sha256
    assert all(outcome.finding is not None for outcome in outcomes.values())


def test_a_finding_is_of_the_very_bytes_that_its_digest_is_of_whatever_the_file_becomes(
    settings, threads, tmp_path, monkeypatch
):
    wide(tmp_path / "a.png", 80)
    widths = {}

    def read_and_change(path, roots, *, max_bytes):
        data = read_file(path, roots, max_bytes=max_bytes)
        widths[hashlib.sha256(data).digest()] = 80 + len(widths)
        wide(tmp_path / "a.png", 80 + len(widths))
        return data

    monkeypatch.setattr("worker.pipeline.read_file", read_and_change)
    for classifier, reads in ((Counting(), 1), (Starving(hungry=81), 3)):  # of the latter the second has no memory
        outcome = screen(settings, threads, claim_of(tmp_path, ["a.png"]), classifier=classifier)["a.png"]
        assert len(widths) == reads
        assert outcome.sha256 == outcome.finding.sha256
        assert outcome.finding.width == widths[outcome.sha256] == 79 + reads


def test_a_file_that_grew_since_it_was_submitted_is_read_alone(settings, threads, tmp_path, monkeypatch):
    wide(tmp_path / "a.png", 64)
    wide(tmp_path / "grown.png", 80)
    with (tmp_path / "grown.png").open("ab") as file:
        file.write(bytes(2 << 20))
    asked = []
    load = Pipeline._load

    def noting(self, claim, field, roots, max_bytes):
        asked.append((field.path, max_bytes))
        return load(self, claim, field, roots, max_bytes)

    monkeypatch.setattr(Pipeline, "_load", noting)
    outcomes = screen(settings, threads, claim_of(tmp_path, ["grown.png", "a.png"]))
    assert all(outcome.finding is not None for outcome in outcomes.values())
    assert sorted(asked[:2]) == [("a.png", 1 << 20), ("grown.png", 1 << 20)]
    assert asked[2:] == [("grown.png", settings.max_file_bytes)]


def test_a_file_that_grew_and_is_known_is_linked(settings, threads, tmp_path):
    wide(tmp_path / "grown.png", 80)
    with (tmp_path / "grown.png").open("ab") as file:
        file.write(bytes(2 << 20))
    asked = []

    def known(digests):
        asked.extend(digests)
        return digests

    claim = claim_of(tmp_path, ["grown.png"])
    (outcome,) = Pipeline(Counting(), settings, threads).screen(claim, known=known, checkpoint=lambda: None)
    assert (outcome.finding, outcome.failure) == (None, None)
    assert asked == [outcome.sha256]


def test_what_waits_for_its_twin_holds_no_bytes(settings, threads, tmp_path):
    names = [f"{number}.png" for number in range(12)]
    for name in names:
        wide(tmp_path / name, 80)
    pipeline = Pipeline(Counting(), settings.model_copy(update={"inference_batch": 2}), threads)
    held = []
    for _ in pipeline.screen(claim_of(tmp_path, names), known=lambda _: (), checkpoint=lambda: None):
        held.append(sum(type(each) is _Loaded for each in gc.get_objects()))
    assert max(held) <= 4


def test_a_field_that_fails_keeps_nothing_of_its_group_in_memory(settings, threads, tmp_path):
    names = [f"{number}.png" for number in range(12)]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    for name in names[1::4]:
        (tmp_path / name).write_bytes(b"no picture")
    pipeline = Pipeline(Counting(), settings.model_copy(update={"inference_batch": 4}), threads)
    gc.collect()
    before = [each for each in gc.get_objects() if type(each) in {_Loaded, PreparedField}]  # of other tests
    gc.disable()
    try:
        outcomes = list(pipeline.screen(claim_of(tmp_path, names), known=lambda _: (), checkpoint=lambda: None))
        threads.preparers.submit(int).result()  # the thread has let go of its last task
        here = [each for each in gc.get_objects() if type(each) in {_Loaded, PreparedField}]
    finally:
        gc.enable()
    assert sum(outcome.failure is not None for outcome in outcomes) == 3
    assert len(here) == len(before)


def test_of_large_files_no_more_than_two_groups_are_in_memory(settings, threads, tmp_path, monkeypatch):
    names = [f"{number}.png" for number in range(12)]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    monkeypatch.setattr("worker.pipeline._GROUP_BYTES", 2000)  # two fields, as their claim says

    class Slow(Counting):
        held: ClassVar[list[int]] = []
        before = sum(type(each) is _Loaded for each in gc.get_objects())

        def prepare(self, decoded):
            time.sleep(0.02)  # the readers are far ahead, if they may
            self.held.append(sum(type(each) is _Loaded for each in gc.get_objects()) - self.before)
            return super().prepare(decoded)

    classifier = Slow()
    outcomes = screen(settings, threads, claim_of(tmp_path, names), classifier=classifier)
    assert classifier.sizes == [12]
    assert all(outcome.finding is not None for outcome in outcomes.values())
    assert max(classifier.held) <= 4


@pytest.mark.parametrize("where", ["prepare", "classify"])
def test_a_card_that_answers_no_more_is_no_fields_fault(settings, threads, tmp_path, where):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, 1)

    class Broken(Counting):
        def prepare(self, decoded):
            return self.fail() if where == "prepare" else super().prepare(decoded)

        def classify(self, prepared):
            return self.fail()

        def fail(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        screen(settings, threads, claim_of(tmp_path, ["a.png", "b.png"]), classifier=Broken())
