"""What goes into the database and what comes out of it, as values: no connection, no SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

Queue = Literal["routine", "stat"]
BatchState = Literal["registering", "waiting", "running", "done", "cancelled"]
FieldState = Literal["waiting", "screened", "failed", "cancelled"]
Probabilities = tuple[float, float, float, float]
"""One for each of `allq.classes.CLASSES`, in that order."""

DUPLICATE = "duplicate"
"""The flag that the database itself raises: identical bytes lie under two slides."""


# ---------------------------------------------------------------------------------------------- what is handed in


class NewField(NamedTuple):
    """One file, as `submit` saw it. A tuple rather than a dataclass: there are 200,000 of them in ten seconds.

    `path` is relative to the batch's root, `/`-separated, as text that any database takes; `raw_path` its bytes where
    the text can't give them back (`allq.text.storable`).
    """

    path: str
    raw_path: bytes | None
    size: int
    modified_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSlide:
    """A folder of fields. With `complete=False` more fields of a slide of this name come with a later call."""

    name: str
    raw_name: bytes | None = None
    fields: Sequence[NewField]
    complete: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A model as the database remembers it. `id` is its SHA-256 in hexadecimal."""

    id: str
    name: str
    architecture: str
    synthetic: bool
    configuration: Mapping[str, Any]
    code_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFinding:
    """What one model says of one file's bytes. Floats must be finite; `sha256` is 32 bytes.

    `quality` is any JSON-able mapping; `leukocyte_data` is opaque here (imaging.outlines packs it).
    """

    sha256: bytes
    call: str | None
    confidence: float
    probabilities: Probabilities
    suspicion: float
    novelty: float
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int
    width: int
    height: int
    quality: Mapping[str, Any]
    leukocyte_data: bytes
    engine: str
    code_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a field can't be screened: a stable `code` (allq.errors.FailureCode) and a sentence for the reader."""

    code: str
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldOutcome:
    """How the work on one field ended: failed, or screened with a new finding, or linked to the one that exists.

    `finding=None` without `failure` means: link to the existing finding of (sha256, model). `sha256` may be None only
    for a failure. A new finding for bytes that meanwhile have one is dropped, and the field linked to the older.
    """

    field_id: int
    sha256: bytes | None
    failure: Failure | None = None
    finding: NewFinding | None = None


# ------------------------------------------------------------------------------------------------- the worker's side


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimedField:
    """A field to screen. `path` and `raw_path` as in NewField, relative to the claim's root."""

    id: int
    slide_id: int
    path: str
    raw_path: bytes | None
    size: int
    modified_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A chunk that is ours until the lease ends. `owner` and `attempt` together are the fence of `record`."""

    chunk_id: int
    batch_id: int
    root: str
    raw_root: bytes | None
    model_id: str
    queue: Queue
    owner: str
    attempt: int
    fields: tuple[ClaimedField, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldRow:
    """A field of a slide whose call is to be made: screened, failed or cancelled.

    Unless it was screened, `call`, `probabilities` and `finding_id` are None and the numbers 0. Fields of the same
    bytes have the same finding.
    """

    id: int
    state: FieldState
    finding_id: int | None
    call: str | None
    probabilities: Probabilities | None
    suspicion: float
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int

    @property
    def failed(self) -> bool:
        """True when it could not be screened."""
        return self.state == "failed"

    @property
    def cancelled(self) -> bool:
        """True when it was called off before anybody looked at it."""
        return self.state == "cancelled"


UNJUDGED: Final = 0.5
"""The least suspicion of a slide whose call is `insufficient`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideCallRow:
    """The sum over a slide, as it is recorded."""

    call: str
    confidence: float
    probabilities: Probabilities
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int
    upper_bound: float | None

    @property
    def suspicion(self) -> float:
        """By which the worklist is ranked: the probability of anything but benign.

        Of a slide that could not be judged, a half at least: without a field that counts it would be 0, beneath all
        slides in which something was seen to be benign.
        """
        return max(min(1.0, sum(self.probabilities[1:])), UNJUDGED if self.call == "insufficient" else 0.0)


CallSlide = Callable[[Iterable[FieldRow]], SlideCallRow]
"""How `record` asks for the call of a slide whose last field it has just recorded. The fields come once."""

CallSlideOf = Callable[[str, Iterable[FieldRow]], "SlideCallRow | None"]
"""The same for any batch: (model id, fields). None when that model isn't at hand; the slide then stays due."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordResult:
    """What `record` wrote. `inferred` findings are new; `linked` fields point to a finding that existed."""

    screened: int
    failed: int
    inferred: int
    linked: int
    slides_called: tuple[int, ...]


# ----------------------------------------------------------------------------------------------- the operator's side


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryResult:
    """What `retry` set to waiting again, and in which new chunks."""

    fields: int
    chunk_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStatus:
    """A batch with its counters: `fields = waiting + screened + failed + cancelled` at any moment.

    `in_hand`: a worker holds some of it just now. Rate and time left are None when there is nothing to compute them
    from, and while fields wait that nobody works on.
    """

    batch: int
    state: BatchState
    queue: Queue
    root: str
    note: str | None
    operator: str
    model_id: str
    model_name: str
    synthetic: bool
    slides: int
    fields: int
    waiting: int
    screened: int
    failed: int
    cancelled: int
    findings_linked: int
    skipped: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    in_hand: bool
    fields_per_second: float | None
    seconds_left: float | None

    @property
    def ended(self) -> bool:
        """True when nothing more will happen by itself."""
        return self.state in {"done", "cancelled"}


class SlideResult(NamedTuple):
    """A slide with its latest call; `call` and what belongs to it are None (or empty, or 0) before there is one.

    `confidence` is also None where the call is `insufficient`: there is nothing to be confident of. A tuple rather than
    a dataclass: a batch has thousands, and a frozen dataclass takes longer to make than its row to read.
    """

    batch: int
    slide_id: int
    slide: str
    call: str | None
    confidence: float | None
    probabilities: Probabilities | None
    suspicion: float | None
    flags: tuple[str, ...]
    fields: int
    waiting: int
    screened: int
    failed: int
    cancelled: int
    leukocytes: int
    suspects: int
    upper_bound: float | None
    model: str
    synthetic: bool


class FieldResult(NamedTuple):
    """A field with its finding; everything of the finding is None (or empty, or 0) where there is none.

    `confidence` is also None where there is no call, as the field can't be assessed.

    A tuple rather than a dataclass: exports stream millions. `failure` is the code, `failure_sentence` its sentence.
    """

    batch: int
    slide: str
    field_id: int
    field: str
    sha256: str | None
    state: FieldState
    call: str | None
    confidence: float | None
    probabilities: Probabilities | None
    suspicion: float | None
    novelty: float | None
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int
    width: int | None
    height: int | None
    linked: bool
    model: str
    failure: str | None
    failure_sentence: str | None


class LeukocyteResult(NamedTuple):
    """The packed leukocytes of one screened field (`imaging.outlines.unpack(data)`)."""

    batch: int
    slide: str
    field_id: int
    field: str
    leukocytes: int
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldFailure:
    """A failed field and why."""

    batch: int
    slide: str
    field_id: int
    field: str
    code: str
    sentence: str


UNREAD: Final = "can't be read: "
"""What stands in the reason, before the system's words, why something was left out that could not be looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedItem:
    """Something under the submitted folder that is no field, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """Who made a model the active one, when and why. `model_id` is its SHA-256 in hexadecimal."""

    number: int
    model_id: str
    model_name: str
    activated_by: str
    reason: str
    activated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewRow:
    """What a person decided about a slide call. `latest`: it is the slide's latest, and about its latest call.

    A time is None where somebody wrote one that is none.
    """

    review: int
    reviewer: str
    call: str
    machine_call: str
    reason: str
    looked_at: datetime | None
    decided_at: datetime | None
    latest: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectField:
    """One of a slide's fields, for a person to begin with."""

    field: str
    call: str | None
    suspicion: float
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UncountedFields:
    """The screened fields of a slide that its call leaves out, as they can't be assessed, and the suspects in them.

    `flags`: how many of them carry each flag for which a field is left out.
    """

    fields: int
    suspects: int
    flags: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewedSlide:
    """A slide as a reviewer is shown it: its latest call, what was decided so far, its most suspicious fields."""

    slide_id: int
    batch: int
    slide: str
    root: str
    slide_call_id: int
    call: str
    confidence: float | None
    suspicion: float
    flags: tuple[str, ...]
    leukocytes: int
    suspects: int
    upper_bound: float | None
    fields: int
    screened: int
    failed: int
    cancelled: int
    called_at: datetime
    model: str
    synthetic: bool
    not_counted: UncountedFields
    reviews: tuple[ReviewRow, ...]
    most_suspicious: tuple[SuspectField, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryParameter:
    """A `:name` of a named query. `kind` is integer, real or text; without a default it must be given."""

    name: str
    kind: Literal["integer", "real", "text"]
    default: str | None
    required: bool
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryInfo:
    """A named query: what it answers and what it takes."""

    name: str
    description: str
    parameters: tuple[QueryParameter, ...]
