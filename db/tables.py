"""The schema, typed. It documents, is compared with the migrations by a test, and is drawn in docs/schema.md.

Statements at run time are SQL text (`db.statements`): the ORM is not imported where a command must start quickly.
Principles: narrow rows, few indexes, counters kept per chunk and per slide in the transaction that changes a field, so
that no question about a batch counts rows. Times are UTC and the database's own. `flags` is text: names separated by
commas, empty for none. `raw_…` holds a file name's bytes where the text beside it can't give them back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine


class UtcTimestamp(TypeDecorator[datetime]):
    """Aware UTC datetimes: timestamptz on PostgreSQL, TEXT 'YYYY-MM-DD HH:MM:SS.mmm' (which sorts) on SQLite."""

    impl = TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else TIMESTAMP(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "milliseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return datetime.fromisoformat(value).replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


Id = BigInteger().with_variant(Integer(), "sqlite")
Key = Annotated[int, mapped_column(Id, Identity(), primary_key=True)]
Count = Annotated[int, mapped_column(Integer, server_default=text("0"))]
No = Annotated[bool, mapped_column(Boolean, server_default=text("false"))]
Share = Annotated[float, mapped_column(Double)]


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index over the few rows that `where` holds for."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Base(DeclarativeBase):
    """What all tables share: names of constraints, and how Python's types are stored."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        bytes: LargeBinary,
        datetime: UtcTimestamp,
        float: Double,
    }


class Model(Base):
    """A model that findings were made with: weights and configuration, named by their SHA-256. Append only."""

    __tablename__ = "model"

    id: Mapped[Key]
    sha256: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    architecture: Mapped[str]
    synthetic: Mapped[bool]
    configuration: Mapped[str]
    code_version: Mapped[str]
    added_at: Mapped[datetime]


class Activation(Base):
    """Who chose the model that screens where nobody asks for another, when and why. Append only: the latest holds.

    `activated_at`: PostgreSQL sets it, by a default that only the owner may overrule; and so `event.at`,
    `batch.created_at`, `model.added_at`, `slide_call.called_at` and `review.decided_at`.
    """

    __tablename__ = "activation"

    id: Mapped[Key]
    model_id: Mapped[int] = mapped_column(Id, ForeignKey("model.id"))
    activated_by: Mapped[str]
    reason: Mapped[str]
    activated_at: Mapped[datetime]


class Batch(Base):
    """One `submit`. Its state is derived: registering, waiting, running, done or cancelled (view batch_progress)."""

    __tablename__ = "batch"
    __table_args__ = (CheckConstraint("queue IN ('routine', 'stat')", name="queue"), Index("batch_root", "root"))

    id: Mapped[Key]
    root: Mapped[str]
    raw_root: Mapped[bytes | None]
    queue: Mapped[str]
    note: Mapped[str | None]
    model_id: Mapped[int] = mapped_column(Id, ForeignKey("model.id"))
    operator: Mapped[str]
    settings: Mapped[str]
    slides: Mapped[Count]
    fields: Mapped[Count]
    skipped: Mapped[Count]
    created_at: Mapped[datetime]
    registered_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]


class Slide(Base):
    """One folder of fields, named by its accession; with counters over its fields and its latest call.

    `duplicates` counts the fields whose bytes also lie in another slide's folder. `call_due`: it ended where no
    model was at hand, and its call is to be made. `slide_call_id` is the latest call (no foreign key: the two tables
    would refer to each other), and `suspicion` repeats that call's, to rank the worklist by.
    """

    __tablename__ = "slide"
    __table_args__ = (
        CheckConstraint("screened + failed + cancelled <= fields", name="sum"),
        Index("slide_batch_id", "batch_id"),
        Index("slide_name", "name"),
        _partial("slide_suspicion", "suspicion", "id", where="suspicion IS NOT NULL"),
        _partial("slide_call_due", "batch_id", where="call_due"),
    )

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(Id, ForeignKey("batch.id"))
    name: Mapped[str]
    raw_name: Mapped[bytes | None]
    complete: Mapped[bool]
    fields: Mapped[Count]
    screened: Mapped[Count]
    failed: Mapped[Count]
    cancelled: Mapped[Count]
    duplicates: Mapped[Count]
    call_due: Mapped[No]
    slide_call_id: Mapped[int | None] = mapped_column(Id)
    suspicion: Mapped[float | None]


class Chunk(Base):
    """The work unit: up to 256 fields of one batch. `owner` and `attempt` fence off workers that come late."""

    __tablename__ = "chunk"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'running', 'done', 'cancelled')", name="state"),
        CheckConstraint("fields = waiting + screened + failed + cancelled", name="sum"),
        CheckConstraint("(state IN ('pending', 'running')) = (waiting > 0)", name="waiting"),
        CheckConstraint("(state = 'running') = (owner IS NOT NULL)", name="owner"),
        Index("chunk_batch_id", "batch_id"),
        _partial("chunk_pending", "id", where="state = 'pending'"),
        _partial("chunk_unpublished", "id", where="state = 'pending' AND published_at IS NULL"),
        _partial("chunk_active", "batch_id", where="state IN ('pending', 'running')"),
        _partial("chunk_running", "lease_until", where="state = 'running'"),
    )

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(Id, ForeignKey("batch.id"))
    state: Mapped[str]
    fields: Mapped[int]
    waiting: Mapped[int]
    screened: Mapped[Count]
    failed: Mapped[Count]
    cancelled: Mapped[Count]
    linked: Mapped[Count]
    attempt: Mapped[Count]
    crashes: Mapped[Count]
    owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    published_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Field(Base):
    """One image file. Waiting, or ended in one state: screened (with a finding), failed (with a reason), cancelled.

    `sha256` is kept here only for failed fields that could be read; a screened field's stands in its finding.
    `linked`: the finding existed before. `duplicate`: the same bytes lie in another slide's folder.
    """

    __tablename__ = "field"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'screened', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'screened') = (finding_id IS NOT NULL)", name="finding"),
        CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failure"),
        Index("field_slide_id", "slide_id", "id"),
        Index("field_chunk_id", "chunk_id"),
        _partial("field_failed", "chunk_id", where="state = 'failed'"),
        _partial("field_finding_id", "finding_id", where="finding_id IS NOT NULL"),
    )

    id: Mapped[Key]
    slide_id: Mapped[int] = mapped_column(Id, ForeignKey("slide.id"))
    chunk_id: Mapped[int] = mapped_column(Id, ForeignKey("chunk.id"))
    size: Mapped[int] = mapped_column(BigInteger)
    modified_ns: Mapped[int] = mapped_column(BigInteger)
    finding_id: Mapped[int | None] = mapped_column(Id, ForeignKey("finding.id"))
    linked: Mapped[No]
    duplicate: Mapped[No]
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"))
    path: Mapped[str]
    raw_path: Mapped[bytes | None]
    sha256: Mapped[bytes | None]
    failure: Mapped[str | None]
    failure_sentence: Mapped[str | None]


class Finding(Base):
    """What one model says of one file's bytes. One per content and model; never changed.

    Where the field can't be assessed, `call` is null and `confidence` 0.
    """

    __tablename__ = "finding"
    __table_args__ = (UniqueConstraint("sha256", "model_id"),)

    id: Mapped[Key]
    model_id: Mapped[int] = mapped_column(Id, ForeignKey("model.id"))
    confidence: Mapped[Share]
    p_benign: Mapped[Share]
    p_early_pre_b: Mapped[Share]
    p_pre_b: Mapped[Share]
    p_pro_b: Mapped[Share]
    suspicion: Mapped[Share]
    novelty: Mapped[float]
    recorded_at: Mapped[datetime]
    leukocytes: Mapped[int]
    suspects: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    sha256: Mapped[bytes]
    call: Mapped[str | None]
    flags: Mapped[str]
    quality: Mapped[str]
    engine: Mapped[str]
    code_version: Mapped[str]


class FindingLeukocytes(Base):
    """The leukocytes of a finding, packed (imaging.outlines). Beside the finding, so that its rows stay narrow."""

    __tablename__ = "finding_leukocytes"

    finding_id: Mapped[int] = mapped_column(Id, ForeignKey("finding.id"), primary_key=True, autoincrement=False)
    count: Mapped[int]
    data: Mapped[bytes]


class SlideCall(Base):
    """The sum over a slide at the time when its last field ended. Never changed; a later one supersedes it.

    `confidence` is 0 where the call is `insufficient`, and `suspicion`, by which slides are ranked, a half at least.
    """

    __tablename__ = "slide_call"
    __table_args__ = (Index("slide_call_slide_id", "slide_id"),)

    id: Mapped[Key]
    slide_id: Mapped[int] = mapped_column(Id, ForeignKey("slide.id"))
    call: Mapped[str]
    confidence: Mapped[Share]
    p_benign: Mapped[Share]
    p_early_pre_b: Mapped[Share]
    p_pre_b: Mapped[Share]
    p_pro_b: Mapped[Share]
    suspicion: Mapped[Share]
    upper_bound: Mapped[float | None]
    flags: Mapped[str]
    leukocytes: Mapped[int]
    suspects: Mapped[int]
    fields: Mapped[int]
    screened: Mapped[int]
    failed: Mapped[int]
    cancelled: Mapped[int]
    called_at: Mapped[datetime]


class Review(Base):
    """What a named person decided about a slide call, and why. Append only: the slide's latest is what counts.

    `call` is the person's own, in the words of the machine's; where it differs from that one's, it overrules it.
    `looked_at`: when they were shown the slide; `decided_at`: when they signed.
    """

    __tablename__ = "review"
    __table_args__ = (
        CheckConstraint("call IN ('all-suspected', 'no-suspects-seen', 'insufficient')", name="call"),
        Index("review_slide_id", "slide_id"),
        Index("review_slide_call_id", "slide_call_id"),
    )

    id: Mapped[Key]
    slide_id: Mapped[int] = mapped_column(Id, ForeignKey("slide.id"))
    slide_call_id: Mapped[int] = mapped_column(Id, ForeignKey("slide_call.id"))
    reviewer: Mapped[str]
    call: Mapped[str]
    reason: Mapped[str]
    looked_at: Mapped[datetime]
    decided_at: Mapped[datetime]


class Skipped(Base):
    """Something under a submitted folder that is no field, and why."""

    __tablename__ = "skipped"
    __table_args__ = (Index("skipped_batch_id", "batch_id"),)

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(Id, ForeignKey("batch.id"))
    path: Mapped[str]
    reason: Mapped[str]


class Event(Base):
    """The ledger: what happened, in canonical JSON, written in the transaction of what it tells of. Append only.

    `at`: PostgreSQL sets it, by a default that only the owner may overrule.
    """

    __tablename__ = "event"
    __table_args__ = (
        _partial("event_batch_id", "batch_id", where="chunk_id IS NULL"),
        _partial("event_chunk_id", "chunk_id", where="chunk_id IS NOT NULL"),
    )

    id: Mapped[Key]
    at: Mapped[datetime]
    kind: Mapped[str]
    actor: Mapped[str]
    batch_id: Mapped[int | None] = mapped_column(Id)
    chunk_id: Mapped[int | None] = mapped_column(Id)
    body: Mapped[str]


class EventSlide(Base):
    """Which slides an event concerns. Append only, and not once it is sealed; on PostgreSQL with the event alone."""

    __tablename__ = "event_slide"
    __table_args__ = (Index("event_slide_event_id", "event_id", "slide_id"), {"sqlite_with_rowid": False})

    slide_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    event_id: Mapped[int] = mapped_column(Id, ForeignKey("event.id"), primary_key=True, autoincrement=False)


class Leaf(Base):
    """A sealed event: its place in the Merkle tree, and its leaf's hash (RFC 9162). Append only (docs/ledger.md)."""

    __tablename__ = "leaf"

    seq: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    event_id: Mapped[int] = mapped_column(Id, ForeignKey("event.id"), unique=True)
    hash: Mapped[bytes]


class Checkpoint(Base):
    """The signed root of the tree over the first `size` leaves, chained to the one before it. Append only.

    `settled`: no event up to that number comes later. `frontier`: the roots of the tree's perfect subtrees, from which
    it grows. `public_key` has signed; `next_key`, where it is set, signs from the next checkpoint on. `given_up`: what
    had been exported and a restored backup did not have.
    """

    __tablename__ = "checkpoint"

    number: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    origin: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes]
    previous: Mapped[bytes]
    sealed_at: Mapped[datetime]
    settled: Mapped[int] = mapped_column(BigInteger)
    given_up: Mapped[str | None]
    frontier: Mapped[bytes]
    public_key: Mapped[bytes]
    next_key: Mapped[bytes | None]
    signature: Mapped[bytes]
