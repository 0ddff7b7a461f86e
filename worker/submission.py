"""Submitting a folder: rows first, messages after."""

from __future__ import annotations

import fcntl
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from allq import faults
from allq.errors import BrokerUnreachable, StoreError, SubmissionError
from allq.logging import logger
from allq.settings import Settings
from allq.text import plural, printable, storable
from allq.version import __version__
from db import batches, reads
from db.artefacts import remember_model
from db.database import Database
from db.events import canonical
from db.records import NewField, NewSlide, Queue
from models.artefact import Model
from worker import broker, embedded
from worker.active import record_of
from worker.walk import FoundFile, FoundFolder, check_folder, walk

log = logger(__name__)

Progress = Callable[[int, int, int], None]
"""Called with the slides, fields and skipped files found so far."""

_SLICE_FIELDS: Final = 5_000
"""Fields registered in one transaction, about: few enough that workers on SQLite hardly wait and that little is begun
anew after an interruption, many enough to be fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """What a submission asks for. `queue` is `routine` or `stat`; None: `routine`, or that of the batch taken up."""

    model: Model
    operator: str
    queue: Queue | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was submitted. `fields` and `slides` are the batch's, `bytes` those of its files registered now.

    `unread`: so many of what was skipped could not be looked at.

    `resumed`: an unfinished batch was taken up; `added` fields of it are new, because they came in meanwhile or because
    its submission had been cut short.

    What is not `published` waits in SQL and is published by the next worker. That is as it should be where the embedded
    broker comes with the workers and none runs; `broker_problem` says why a broker that should be there took nothing.
    """

    batch: int
    resumed: bool
    added: int
    slides: int
    fields: int
    skipped: int
    unread: int
    bytes: int
    published: bool
    broker_problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """How many failed fields wait again; `published` and `broker_problem` as in Submission, of their chunks."""

    fields: int
    published: bool
    broker_problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Whether what waits was handed to the broker, and what was wrong with the broker if it should have been."""

    published: bool
    problem: str | None = None


@dataclass(slots=True)
class _Tally:
    slide: str | None = None
    """the one counted last: its parts follow each other"""
    slides: int = 0
    fields: int = 0
    skipped: int = 0
    bytes: int = 0


def submit(
    database: Database,
    settings: Settings,
    path: Path,
    options: SubmitOptions,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Submission:
    """Register every image below `path` as a batch and publish its chunks.

    Work becomes claimable slice by slice while the folder is still being walked; a slide is called when all of it is
    registered and has ended. A submission that was cut short is completed: what its batch has already is left as it
    is. With `resume`, the newest batch of the same
    folder and model that has not ended goes on, and files that came in meanwhile are added to it.

    Raises SubmissionError when the folder can't be used or holds no image, or when a batch to be taken up was submitted
    with another queue or note than is asked for now. A broker that is away is no error.
    """
    real, roots = check_folder(path, settings.roots)
    root, raw_root = storable(str(real))
    tally = _Tally()
    with _only_one(settings, root):
        batch = _to_take_up(database, root, raw_root, options, resume=resume)
        taken_up = batch is not None
        folders = walk(real, roots, at_once=_SLICE_FIELDS)
        known: Collection[str] = ()
        noted: Collection[str] = ()
        if batch is None:
            folders = _with_an_image(folders, path)
            faults.reach("submit.begin")
            batch = _create(database, settings, options, root, raw_root)
            faults.reach("submit.created")
        else:
            with database.read() as connection:
                known = batches.registered_paths(connection, batch)
                noted = batches.skipped_paths(connection, batch)
        for found, last in _with_last(_slices(folders)):
            piece = [_only_new(folder, known, noted) for folder in found]
            if any(folder.files or folder.skipped for folder in piece):
                with database.begin() as connection:
                    if taken_up:
                        batches.reopen(connection, batch, options.operator)
                    _register(connection, settings, batch, piece, last=last)
                    faults.reach("submit.written")
                faults.reach("submit.committed")
            _count(tally, piece)
            if progress is not None:
                progress(tally.slides, tally.fields, tally.skipped)
        with database.begin() as connection:
            batches.finish_registration(connection, batch)
            faults.reach("submit.finishing")
        faults.reach("submit.finished")
    return _submission(database, settings, batch, tally, resumed=taken_up)


def _to_take_up(
    database: Database, root: str, raw_root: bytes | None, options: SubmitOptions, *, resume: bool
) -> int | None:
    """The unfinished batch to go on with. Raises SubmissionError when something else is asked for than it has."""
    with database.read() as connection:
        batch = batches.open_batch(connection, root=root, raw_root=raw_root, model_id=options.model.id)
        if batch is None:
            return None
        status = reads.batch_status(connection, batch)
        queue, note = batches.asked_for(connection, batch)
    if status.state == "registering":
        # Another operator's unfinished submission is not ours to complete: it may be under way on another machine.
        if status.operator != options.operator:
            return None
    elif not resume:
        return None
    other = []
    if options.queue not in {None, queue}:
        other.append(f"in the queue {queue}, not {options.queue}")
    if options.note not in {None, note}:
        other.append(f"with the note {printable(note)!r}" if note else "without a note")
    if other:
        raise SubmissionError(
            f"Batch {batch} of this folder is unfinished and was submitted {' and '.join(other)}. Take it up without "
            f"--queue and --note, or stop it with `allq cancel {batch}` and begin anew."
        )
    return batch


def _only_new(folder: FoundFolder, known: Collection[str], noted: Collection[str]) -> FoundFolder:
    """The same folder without what its batch has already."""
    return FoundFolder(
        name=folder.name,
        files=[file for file in folder.files if file.path not in known],
        skipped=[(path, reason) for path, reason in folder.skipped if storable(path)[0] not in noted],
        complete=folder.complete,
    )


def retry(database: Database, settings: Settings, batch: int) -> Retried:
    """Let the failed fields of a batch, and only those, be screened again. Raises NotFound."""
    with database.begin() as connection:
        result = batches.retry(connection, batch, settings.operator, chunk_size=settings.chunk_size)
    delivery = publish(database, settings) if result.fields else Delivery(published=False)
    return Retried(fields=result.fields, published=delivery.published, broker_problem=delivery.problem)


def publish(database: Database, settings: Settings) -> Delivery:
    """Publish what was never published, or leave it to a worker's housekeeping.

    The embedded broker lives with the workers: when none runs, the first one that starts publishes.
    """
    if settings.embedded_broker and not embedded.is_running(settings):
        return Delivery(published=False)
    from worker.app import make_app  # noqa: PLC0415  # slow to import, and needed only with a broker
    from worker.publish import publish_all  # noqa: PLC0415

    try:
        broker.ping(settings)
        publish_all(make_app(settings), database)
    except BrokerUnreachable as error:
        return Delivery(published=False, problem=str(error))
    return Delivery(published=True)


@contextmanager
def _only_one(settings: Settings, root: str) -> Iterator[None]:
    """Hold off a second submission of the same folder on this machine until the first is registered."""
    locks = settings.make_home() / "locks"
    locks.mkdir(exist_ok=True)
    digest = hashlib.sha256(root.encode()).hexdigest()[:2]
    with (locks / f"submit-{digest}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create(database: Database, settings: Settings, options: SubmitOptions, root: str, raw_root: bytes | None) -> int:
    model = options.model
    with database.begin() as connection:
        remember_model(connection, record_of(model), actor=options.operator)
        return batches.create_batch(
            connection,
            root=root,
            raw_root=raw_root,
            queue=options.queue or "routine",
            note=options.note,
            model_id=model.id,
            operator=options.operator,
            settings_json=canonical({"version": __version__, **settings.recorded}),
        )


def _submission(database: Database, settings: Settings, batch: int, tally: _Tally, *, resumed: bool) -> Submission:
    try:
        delivery = publish(database, settings)
        with database.read() as connection:
            status = reads.batch_status(connection, batch)
            unread = reads.unread(connection, batch) if status.skipped else 0
    except StoreError as error:
        raise StoreError(
            f"Batch {batch} is submitted as a whole and will be screened: don't submit it again. "
            f"Only what it holds can't be told just now: {error}"
        ) from error
    log.info("batch submitted", batch=batch, slides=status.slides, fields=status.fields, resumed=resumed)
    return Submission(
        batch=batch,
        resumed=resumed,
        added=tally.fields,
        slides=status.slides,
        fields=status.fields,
        skipped=status.skipped,
        unread=unread,
        bytes=tally.bytes,
        published=delivery.published,
        broker_problem=delivery.problem,
    )


def _with_an_image(folders: Iterator[FoundFolder], path: Path) -> Iterator[FoundFolder]:
    """The same folders, once it is certain that one of them holds an image. Raises SubmissionError when none does."""
    seen: list[FoundFolder] = []
    for folder in folders:
        seen.append(folder)
        if folder.files:
            return chain(seen, folders)
    skipped = [reason for folder in seen for _, reason in folder.skipped]
    shown = printable(str(path))
    if not skipped:
        raise SubmissionError(f"{shown} is empty. Name a folder that holds images, or folders of images.")
    common = ", ".join(f"{count} {reason}" for reason, count in Counter(skipped).most_common(3))
    raise SubmissionError(
        f"There is no image in {shown} ({plural(len(skipped), 'entry', 'entries')} left out: {common})."
    )


def _slices(folders: Iterable[FoundFolder]) -> Iterator[list[FoundFolder]]:
    """Group folders, and parts of those with very many files, into slices of about `_SLICE_FIELDS` files."""
    piece: list[FoundFolder] = []
    size = 0
    for folder in folders:
        piece.append(folder)
        size += len(folder.files) + len(folder.skipped)
        if size >= _SLICE_FIELDS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _with_last(pieces: Iterable[list[FoundFolder]]) -> Iterator[tuple[list[FoundFolder], bool]]:
    """The same slices, each with whether it is the last."""
    before: list[FoundFolder] | None = None
    for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True


def _register(
    connection: Connection, settings: Settings, batch: int, piece: Sequence[FoundFolder], *, last: bool
) -> None:
    slides = []
    for folder in piece:
        fields = [_new_field(file) for file in folder.files]
        if fields:
            name, raw_name = storable(folder.name)
            slides.append(NewSlide(name=name, raw_name=raw_name, fields=fields, complete=folder.complete))
    if slides:
        batches.register(connection, batch, slides, chunk_size=settings.chunk_size, last=last)
    skipped = [(storable(path)[0], reason) for folder in piece for path, reason in folder.skipped]
    if skipped:
        batches.skip(connection, batch, skipped)


def _new_field(file: FoundFile) -> NewField:
    path, raw_path = storable(file.path)
    return NewField(path=path, raw_path=raw_path, size=file.size, modified_ns=file.modified_ns)


def _count(tally: _Tally, piece: Sequence[FoundFolder]) -> None:
    for folder in piece:
        if folder.files and folder.name != tally.slide:
            tally.slide = folder.name
            tally.slides += 1
    tally.fields += sum(len(folder.files) for folder in piece)
    tally.skipped += sum(len(folder.skipped) for folder in piece)
    tally.bytes += sum(file.size for folder in piece for file in folder.files)
