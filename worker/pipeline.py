"""The life of a chunk inside a worker: read, hash, look up, decode, segment, classify.

Threads read and hash a batch ahead while the one before it is decoded, segmented and classified. Bytes the model has
already seen are linked to their finding without being decoded. What is held in memory is bounded by bytes, not by the
number of fields. A field for which memory runs out all the same is screened again when the others are done, alone; only
one that needs too much by itself is failed.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Final, ParamSpec, TypeVar

from allq import faults
from allq.errors import FailureCode, FieldError, WorkerClosing
from allq.logging import logger
from allq.memory import ran_out_of_memory
from allq.settings import Settings
from allq.version import __version__
from db.records import Claim, ClaimedField, Failure, FieldOutcome, NewFinding, Probabilities
from imaging.decode import decode
from imaging.outlines import pack
from models.classifier import Assessment, Classifier, PreparedField
from models.engines.choose import card_failed
from worker.files import read_file

log = logger(__name__)

_GROUP_BYTES: Final = 32 << 20
"""Files of one group are in memory together; two groups are at a time, with a card four."""

_GROWN_BYTES: Final = 1 << 20
"""A file larger than this and than it was when it was submitted is read alone, lest a group outgrow its bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    field: ClaimedField
    sha256: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preparing:
    """A field whose pixels are being made ready; its file's bytes are let go when they are."""

    field: ClaimedField
    sha256: bytes
    future: Future[PreparedField]


_Later = tuple[ClaimedField, bytes | None]
"""A field that is come back to, and the SHA-256 of its bytes if they were read. The bytes themselves are let go."""

Lookup = Callable[[Collection[bytes]], Collection[bytes]]

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class Pool(ThreadPoolExecutor):
    """Threads that may be let go of while somebody has work for them."""

    def __init__(self, threads: int, name: str, closing: Event) -> None:
        """`closing` is set before `shutdown` is called."""
        super().__init__(threads, thread_name_prefix=name)
        self._closing = closing

    def submit(
        self, task: Callable[_Given, _Made], /, *arguments: _Given.args, **named: _Given.kwargs
    ) -> Future[_Made]:
        """Have the task done by a thread. Raises WorkerClosing when they are being let go of."""
        try:
            return super().submit(task, *arguments, **named)
        except RuntimeError:
            if self._closing.is_set():
                raise _closing() from None
            raise


@dataclass(frozen=True, slots=True)
class Threads:
    """One process's threads: `readers` wait for files, `preparers` decode and segment.

    They are apart because the latter contend for the interpreter: where processes fill the cores, a second preparer
    costs a process 5 to 10 % (docs/benchmarks.md), while a second reader hides the latency of a network's files.
    """

    readers: Pool
    preparers: Pool
    closing: Event

    @classmethod
    def start(cls, settings: Settings) -> Threads:
        """As many as the settings say; a thread begins when it first has something to do."""
        closing = Event()
        return cls(
            readers=Pool(settings.readers, "reader", closing),
            preparers=Pool(_preparers(settings), "preparer", closing),
            closing=closing,
        )

    def close(self) -> None:
        """Let them end what they are at; what waits its turn, or comes later, ends with WorkerClosing."""
        self.closing.set()
        # Not by cancelling what waits: `wait` would never see it, nor a share's fields that their share was dropped.
        for pool in (self.readers, self.preparers):
            pool.shutdown(wait=True)

    def require_open(self) -> None:
        """Raise WorkerClosing when they are being closed."""
        if self.closing.is_set():
            raise _closing()


def _closing() -> WorkerClosing:
    return WorkerClosing("This process of the worker ends: its chunk is given back and screened by another.")


class Pipeline:
    """Screens chunks with one model on one process's threads."""

    def __init__(self, classifier: Classifier, settings: Settings, threads: Threads) -> None:
        self._classifier = classifier
        self._settings = settings
        self._threads = threads

    def screen(self, claim: Claim, *, known: Lookup, checkpoint: Callable[[], None]) -> Iterator[FieldOutcome]:
        """Yield one outcome for each field of `claim`, in no particular order.

        `known` tells which of some SHA-256 digests the model has findings of; `checkpoint` is called between groups and
        may raise to stop. A field that can't be screened yields its failure; nothing about a field is raised.
        """
        # Without roots of its own no worker starts but on the embedded database, which this account alone can write.
        roots = self._settings.roots or (Path(os.fsdecode(_root(claim))),)
        groups = self._groups(claim.fields)
        # Cores are full with one batch; a card prepares some while the network runs on the one before them.
        batches = self._classifier.batches
        enough = self._settings.inference_batch * (1 if batches is None else 1 + batches.under_way)
        reading: deque[list[tuple[ClaimedField, Future[_Loaded]]]] = deque()
        preparing: deque[_Preparing] = deque()
        seen: set[bytes] = set()
        twins: list[_Later] = []
        failures: dict[bytes, Failure] = {}
        starved: list[_Later] = []
        begun: deque[Collection[Future[PreparedField]]] = deque()
        at_once = 1 if batches is None else 1 + batches.under_way

        def read_ahead() -> None:
            if group := next(groups, None):
                reading.append(
                    [(field, self._threads.readers.submit(self._load_in_group, claim, field, roots)) for field in group]
                )

        try:
            read_ahead()
            while reading:
                checkpoint()
                loaded, unread = _gather(reading.popleft(), starved)
                faults.reach("compute.read")
                yield from unread
                # Groups of large files are small: many would be in memory until a batch is full.
                while len(begun) >= at_once:
                    wait(begun.popleft())
                read_ahead()
                ready = len(preparing)
                yield from self._sorted(loaded, known, seen, twins, preparing)
                begun.append([entry.future for entry in islice(preparing, ready, None)])
                del loaded
                while len(preparing) >= enough:
                    yield from self._classify(preparing, failures, starved)
            while preparing:
                checkpoint()
                yield from self._classify(preparing, failures, starved)
            begun.clear()  # an error's future holds the pixels of the attempt that had no room
            again = self._again(claim, starved, twins, known=known, roots=roots, failures=failures)
            for outcome in again:
                checkpoint()
                yield outcome
        finally:
            for group in reading:
                for _, reading_future in group:
                    reading_future.cancel()
            for waiting in preparing:
                waiting.future.cancel()

    def _sorted(
        self,
        loaded: Sequence[_Loaded],
        known: Lookup,
        seen: set[bytes],
        twins: list[_Later],
        preparing: deque[_Preparing],
    ) -> Iterator[FieldOutcome]:
        """Link what the model has seen, put twins aside, and begin to make ready what is new."""
        old = known({entry.sha256 for entry in loaded} - seen)
        new: list[_Loaded] = []
        for entry in loaded:
            if entry.sha256 in seen:
                twins.append((entry.field, entry.sha256))
            elif entry.sha256 in old:
                yield FieldOutcome(field_id=entry.field.id, sha256=entry.sha256)
            else:
                seen.add(entry.sha256)
                new.append(entry)
        for entry, future in zip(new, self._begin(new), strict=True):
            preparing.append(_Preparing(field=entry.field, sha256=entry.sha256, future=future))

    def _groups(self, fields: Sequence[ClaimedField]) -> Iterator[list[ClaimedField]]:
        """Cut the fields into groups of at most one network batch and, where files are large, `_GROUP_BYTES`."""
        group: list[ClaimedField] = []
        size = 0
        for field in fields:
            if group and (len(group) == self._settings.inference_batch or size + field.size > _GROUP_BYTES):
                yield group
                group, size = [], 0
            group.append(field)
            size += field.size
        if group:
            yield group

    def _load_in_group(self, claim: Claim, field: ClaimedField, roots: Sequence[Path]) -> _Loaded:
        most = max(field.size, _GROWN_BYTES)
        if most >= self._settings.max_file_bytes:
            return self._load(claim, field, roots, self._settings.max_file_bytes)
        try:
            return self._load(claim, field, roots, most)
        except FieldError as error:
            if error.code is FailureCode.TOO_LARGE:
                raise MemoryError("the file has grown since it was submitted") from None
            raise

    def _load(self, claim: Claim, field: ClaimedField, roots: Sequence[Path], max_bytes: int) -> _Loaded:
        self._threads.require_open()
        name = field.raw_path if field.raw_path is not None else os.fsencode(field.path)
        data = read_file(_root(claim) + b"/" + name, roots, max_bytes=max_bytes)
        return _Loaded(field=field, sha256=hashlib.sha256(data).digest(), data=data)

    def _begin(self, loaded: Sequence[_Loaded]) -> list[Future[PreparedField]]:
        """Begin to make the pixels of a group ready: together on a card, else each thread its share, one by one."""
        if self._classifier.batches is not None:
            self._threads.require_open()
            files = [entry.data for entry in loaded]
            return self._classifier.batches.submit(files, max_pixels=self._settings.max_pixels)
        futures: list[Future[PreparedField]] = [Future() for _ in loaded]
        threads = _preparers(self._settings)
        # Not a task a field: to hand over one and to wait for the next costs a hundredth of what is done in between.
        for share in range(min(threads, len(loaded))):
            entries = deque(zip(loaded[share::threads], futures[share::threads], strict=True))
            self._threads.preparers.submit(self._prepare_share, entries)
        return futures

    def _prepare_share(self, entries: deque[tuple[_Loaded, Future[PreparedField]]]) -> None:
        while entries:
            self._prepare_for(*entries.popleft())

    def _prepare_for(self, loaded: _Loaded, future: Future[PreparedField]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(self._prepare(loaded))
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it, whatever it is
            future.set_exception(error)
            # The error has this frame: with these in it they would hold each other, bytes and all, until the collector
            # comes round.
            del loaded, future

    def _prepare(self, loaded: _Loaded) -> PreparedField:
        self._threads.require_open()
        side = self._classifier.decode_side
        return self._classifier.prepare(decode(loaded.data, max_pixels=self._settings.max_pixels, reduce_to=side))

    def _classify(
        self, preparing: deque[_Preparing], failures: dict[bytes, Failure], starved: list[_Later]
    ) -> Iterator[FieldOutcome]:
        """Classify the first batch of `preparing`.

        Add to `failures` what could not be decoded, to `starved` what memory ran out for.
        """
        batch: list[_Preparing] = []
        prepared: list[PreparedField] = []
        count = min(len(preparing), self._settings.inference_batch)
        # For all at once: awakened by each, this thread would contend with the one that prepares the next.
        wait([entry.future for entry in islice(preparing, count)])
        for _ in range(count):
            entry = preparing.popleft()
            error = entry.future.exception()
            if error is None:
                prepared.append(entry.future.result())
                batch.append(entry)
            elif ran_out_of_memory(error):
                starved.append((entry.field, entry.sha256))
            else:
                failures[entry.sha256] = _reason(entry.field, error)
                yield FieldOutcome(field_id=entry.field.id, sha256=entry.sha256, failure=failures[entry.sha256])
        if not batch:
            return
        try:
            assessments = self._classifier.classify(prepared)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            starved += [(entry.field, entry.sha256) for entry in batch]
            return
        faults.reach("compute.classified")
        for entry, ready, assessment in zip(batch, prepared, assessments, strict=True):
            finding = finding_of(entry.sha256, ready, assessment, engine=self._classifier.engine_name)
            yield FieldOutcome(field_id=entry.field.id, sha256=entry.sha256, finding=finding)

    def _again(
        self,
        claim: Claim,
        starved: Sequence[_Later],
        twins: Sequence[_Later],
        *,
        known: Lookup,
        roots: Sequence[Path],
        failures: dict[bytes, Failure],
    ) -> Iterator[FieldOutcome]:
        """What waited until nothing else is in hand: fields that memory ran out for, and twins."""
        changed: set[bytes | None] = set()
        for field, sha256 in starved:
            outcome = self._alone(claim, field, roots, failures, known=None if sha256 else known)
            if outcome.sha256 != sha256:
                changed.add(sha256)  # the file is another, or gone, since it was first read
            yield outcome
        # A twin shares the fate of the field whose bytes it has.
        for field, sha256 in twins:
            if sha256 in changed:
                yield self._alone(claim, field, roots, failures)
            else:
                yield FieldOutcome(field_id=field.id, sha256=sha256, failure=failures.get(sha256) if sha256 else None)

    def _alone(
        self,
        claim: Claim,
        field: ClaimedField,
        roots: Sequence[Path],
        failures: dict[bytes, Failure],
        *,
        known: Lookup | None = None,
    ) -> FieldOutcome:
        """Screen a field with nothing else in hand, or say that it needs too much memory by itself.

        With `known`, as its bytes have not been looked up: unless the model has a finding of them.
        """
        reading = self._threads.readers.submit(self._load, claim, field, roots, self._settings.max_file_bytes)
        if (error := reading.exception()) is not None:
            return FieldOutcome(field_id=field.id, sha256=None, failure=_reason(field, error))
        loaded = reading.result()
        if known is not None and known({loaded.sha256}):
            return FieldOutcome(field_id=field.id, sha256=loaded.sha256)
        preparing = self._threads.preparers.submit(self._prepare, loaded)
        error = preparing.exception()
        if error is None:
            try:
                (assessment,) = self._classifier.classify([preparing.result()])
            except (MemoryError, RuntimeError) as met:
                if not ran_out_of_memory(met):
                    raise
                error = met
            else:
                finding = finding_of(loaded.sha256, preparing.result(), assessment, engine=self._classifier.engine_name)
                return FieldOutcome(field_id=field.id, sha256=loaded.sha256, finding=finding)
        failures[loaded.sha256] = _reason(field, error)
        return FieldOutcome(field_id=field.id, sha256=loaded.sha256, failure=failures[loaded.sha256])


def finding_of(sha256: bytes, prepared: PreparedField, assessment: Assessment, *, engine: str) -> NewFinding:
    """What the database keeps of one assessment."""
    leukocytes = prepared.segmentation.leukocytes
    return NewFinding(
        sha256=sha256,
        call=assessment.call,
        confidence=assessment.confidence,
        probabilities=probabilities_of(assessment),
        suspicion=assessment.suspicion,
        novelty=assessment.novelty,
        flags=assessment.flags,
        leukocytes=len(leukocytes),
        suspects=assessment.suspects,
        width=prepared.width,
        height=prepared.height,
        quality=asdict(prepared.quality),
        leukocyte_data=pack(leukocytes, assessment.suspicions),
        engine=engine,
        code_version=__version__,
    )


def probabilities_of(assessment: Assessment) -> Probabilities:
    """The four probabilities that the database has columns for."""
    benign, early_pre_b, pre_b, pro_b = assessment.probabilities
    return benign, early_pre_b, pre_b, pro_b


def _preparers(settings: Settings) -> int:
    return settings.preparers or 1


def _root(claim: Claim) -> bytes:
    return claim.raw_root if claim.raw_root is not None else os.fsencode(claim.root)


def _gather(
    group: Sequence[tuple[ClaimedField, Future[_Loaded]]], starved: list[_Later]
) -> tuple[list[_Loaded], list[FieldOutcome]]:
    loaded: list[_Loaded] = []
    unread: list[FieldOutcome] = []
    wait([future for _, future in group])
    for field, future in group:
        error = future.exception()
        if error is None:
            loaded.append(future.result())
        elif ran_out_of_memory(error):
            starved.append((field, None))
        else:
            unread.append(FieldOutcome(field_id=field.id, sha256=None, failure=_reason(field, error)))
    return loaded, unread


def _reason(field: ClaimedField, error: BaseException) -> Failure:
    """The failure's code and sentence; what is no FieldError was not foreseen and is logged whole.

    `error` is what such a thread met. What is raised in the thread that waits for it is nobody's failure, nor is a card
    that answers no more, nor that this process ends: those end the chunk.
    """
    if isinstance(error, FieldError):
        return Failure(code=error.code.value, sentence=str(error))
    if ran_out_of_memory(error):
        return Failure(
            code=FailureCode.OUT_OF_MEMORY.value,
            sentence="it needs more memory than this machine gives, even alone: give it more and use `allq retry`",
        )
    if not isinstance(error, Exception) or isinstance(error, WorkerClosing) or card_failed(error):
        raise error
    log.error("field failed in an unforeseen way", field=field.id, exc_info=error)
    return unforeseen(error)


def unforeseen(error: Exception) -> Failure:
    """What stands with a field whose screening met an error that nobody foresaw."""
    return Failure(
        code=FailureCode.INTERNAL.value,
        sentence=f"an error that allq did not foresee ({type(error).__name__}); the worker's log has the details",
    )
