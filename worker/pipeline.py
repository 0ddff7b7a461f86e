"""The life of a chunk inside a worker: read, hash, look up, decode, segment, classify.

Reader threads work ahead of the network: while one batch is classified, the next is decoded and segmented, and the one
after that is read and hashed. Bytes the model has already seen are linked to their finding without being decoded.
What is held in memory is bounded by bytes, not by the number of fields.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from allq import faults
from allq.errors import FailureCode, FieldError
from allq.logging import logger
from allq.settings import Settings
from allq.version import __version__
from db.records import Claim, ClaimedField, Failure, FieldOutcome, NewFinding, Probabilities
from imaging.decode import decode
from imaging.outlines import pack
from models.classifier import Assessment, Classifier, PreparedField
from worker.files import read_file

log = logger(__name__)

_GROUP_BYTES: Final = 32 << 20
"""Files of one group are in memory together; two groups are at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    field: ClaimedField
    sha256: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preparing:
    """A field whose pixels are being made ready; its file's bytes are let go as soon as they are decoded."""

    field: ClaimedField
    sha256: bytes
    future: Future[PreparedField]


Lookup = Callable[[Collection[bytes]], Collection[bytes]]


class Pipeline:
    """Screens chunks with one model on one process's threads."""

    def __init__(self, classifier: Classifier, settings: Settings, readers: ThreadPoolExecutor) -> None:
        self._classifier = classifier
        self._settings = settings
        self._readers = readers

    def screen(self, claim: Claim, *, known: Lookup, checkpoint: Callable[[], None]) -> Iterator[FieldOutcome]:
        """Yield one outcome for each field of `claim`, in no particular order.

        `known` tells which of some SHA-256 digests the model has findings of; `checkpoint` is called between groups and
        may raise to stop. A field that can't be screened yields its failure; nothing about a field is raised.
        """
        roots = self._settings.roots or (Path(os.fsdecode(_root(claim))),)
        groups = self._groups(claim.fields)
        reading: deque[list[tuple[ClaimedField, Future[_Loaded]]]] = deque()
        preparing: deque[_Preparing] = deque()
        seen: set[bytes] = set()
        twins: list[_Loaded] = []
        failures: dict[bytes, Failure] = {}

        def read_ahead() -> None:
            if group := next(groups, None):
                reading.append([(field, self._readers.submit(self._load, claim, field, roots)) for field in group])

        try:
            read_ahead()
            while reading:
                checkpoint()
                loaded, unread = _gather(reading.popleft())
                faults.reach("compute.read")
                yield from unread
                read_ahead()
                old = known({entry.sha256 for entry in loaded} - seen)
                for entry in loaded:
                    if entry.sha256 in seen:
                        twins.append(entry)
                    elif entry.sha256 in old:
                        yield FieldOutcome(field_id=entry.field.id, sha256=entry.sha256)
                    else:
                        seen.add(entry.sha256)
                        future = self._readers.submit(self._prepare, entry)
                        preparing.append(_Preparing(field=entry.field, sha256=entry.sha256, future=future))
                del loaded
                while len(preparing) >= self._settings.inference_batch:
                    yield from self._classify(preparing, failures)
            while preparing:
                checkpoint()
                yield from self._classify(preparing, failures)
            # A twin shares the fate of the field whose bytes it has.
            for twin in twins:
                yield FieldOutcome(field_id=twin.field.id, sha256=twin.sha256, failure=failures.get(twin.sha256))
        finally:
            for group in reading:
                for _, reading_future in group:
                    reading_future.cancel()
            for waiting in preparing:
                waiting.future.cancel()

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

    def _load(self, claim: Claim, field: ClaimedField, roots: Sequence[Path]) -> _Loaded:
        name = field.raw_path if field.raw_path is not None else os.fsencode(field.path)
        data = read_file(_root(claim) + b"/" + name, roots, max_bytes=self._settings.max_file_bytes)
        return _Loaded(field=field, sha256=hashlib.sha256(data).digest(), data=data)

    def _prepare(self, loaded: _Loaded) -> PreparedField:
        side = self._classifier.decode_side
        return self._classifier.prepare(decode(loaded.data, max_pixels=self._settings.max_pixels, reduce_to=side))

    def _classify(self, preparing: deque[_Preparing], failures: dict[bytes, Failure]) -> Iterator[FieldOutcome]:
        """Classify the first batch of `preparing`; add to `failures` what could not be decoded."""
        batch: list[_Preparing] = []
        prepared: list[PreparedField] = []
        for _ in range(min(len(preparing), self._settings.inference_batch)):
            entry = preparing.popleft()
            error = entry.future.exception()
            if error is None:
                prepared.append(entry.future.result())
                batch.append(entry)
            else:
                failures[entry.sha256] = _reason(entry.field, error)
                yield FieldOutcome(field_id=entry.field.id, sha256=entry.sha256, failure=failures[entry.sha256])
        if not batch:
            return
        assessments = self._classifier.classify(prepared)
        faults.reach("compute.classified")
        for entry, ready, assessment in zip(batch, prepared, assessments, strict=True):
            finding = finding_of(entry.sha256, ready, assessment, engine=self._classifier.engine_name)
            yield FieldOutcome(field_id=entry.field.id, sha256=entry.sha256, finding=finding)


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


def _root(claim: Claim) -> bytes:
    return claim.raw_root if claim.raw_root is not None else os.fsencode(claim.root)


def _gather(
    group: Sequence[tuple[ClaimedField, Future[_Loaded]]],
) -> tuple[list[_Loaded], list[FieldOutcome]]:
    loaded: list[_Loaded] = []
    unread: list[FieldOutcome] = []
    for field, future in group:
        error = future.exception()
        if error is None:
            loaded.append(future.result())
        else:
            unread.append(FieldOutcome(field_id=field.id, sha256=None, failure=_reason(field, error)))
    return loaded, unread


def _reason(field: ClaimedField, error: BaseException) -> Failure:
    """The failure's code and sentence; what is no FieldError was not foreseen and is logged whole.

    `error` is what a reader thread met. What is raised in the thread that waits for it is nobody's failure: it ends the
    chunk.
    """
    if isinstance(error, FieldError):
        return Failure(code=error.code.value, sentence=str(error))
    if not isinstance(error, Exception):
        raise error
    log.error("field failed in an unforeseen way", field=field.id, exc_info=error)
    return unforeseen(error)


def unforeseen(error: Exception) -> Failure:
    """What stands with a field whose screening met an error that nobody foresaw."""
    return Failure(
        code=FailureCode.INTERNAL.value,
        sentence=f"an error that allq did not foresee ({type(error).__name__}); the worker's log has the details",
    )
