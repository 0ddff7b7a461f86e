"""What a worker process keeps between tasks: database, classifiers, reader threads; and how it does one chunk."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache
from time import perf_counter, sleep

from allq import faults
from allq.errors import AllqError, BrokerUnreachable, SchemaOutdated, StoreError
from allq.logging import logger
from allq.settings import Settings, current
from db import chunks, findings
from db.database import Database
from db.records import Claim, Failure, FieldOutcome, FieldRow, RecordResult, SlideCallRow
from models import artefact
from models.classifier import Classifier
from models.engines.choose import card_failed
from worker import broker
from worker.calling import call_due_slides, slide_call_of
from worker.introduction import introduce
from worker.lease import Lease, LeaseLost
from worker.pipeline import Pipeline, Threads, unforeseen

log = logger(__name__)

_KEPT_CLASSIFIERS = 2
"""A worker that serves batches of several models keeps the two it used last."""


class Station:
    """One process's means to screen. Made at its first task, after the pool has forked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database.open(settings)
        self.owner = introduce(self.database, settings)
        self._threads = Threads.start(settings)
        self._classifiers: dict[str, Classifier] = {}
        self._unusable: set[str] = set()

    def close(self) -> None:
        """Let go of threads and connections."""
        self._threads.close()
        self.database.close()

    def screen_chunk(self, chunk_id: int) -> RecordResult | None:
        """Claim, compute, record one chunk. None when there was nothing to do or it was taken from us meanwhile.

        What has nothing to do with its fields (a shutdown, a database that is away) gives the chunk back, to be claimed
        again without being held against them. An error that nobody foresaw gives it up, and is counted like a crash: if
        it comes again, halving finds the field that it comes with. A chunk of a model that can't be used here is left
        to workers where it can.
        """
        with self.database.ask() as connection:
            model_id = chunks.model_wanted(connection, chunk_id)
        if model_id is not None and not self._can_use(model_id):
            self._leave_to_others(chunk_id)
            return None
        faults.reach("claim.begin")
        with self.database.begin() as connection:
            claim = chunks.claim(connection, chunk_id, self.owner, self.settings.lease_seconds)
            faults.reach("claim.written")
        faults.reach("claim.committed")
        if claim is None:
            log.debug("chunk not claimed", chunk=chunk_id)
            call_due_slides(self.database, self.settings, worker=self.owner)
            return None
        started = perf_counter()
        try:
            with Lease(self.database, claim, self.settings) as lease:
                outcomes = self._compute(claim, lease)
                result = self._record(claim, outcomes)
        except LeaseLost:
            log.info("chunk dropped: it is no longer ours", chunk=chunk_id, attempt=claim.attempt)
            return None
        except AllqError:
            self._return(claim)
            raise
        except Exception as error:
            if not card_failed(error):  # then this process ends, and its chunk is taken for that of one that crashed
                self._return(claim, because_of=unforeseen(error))
            raise
        except BaseException:
            self._return(claim)
            raise
        if result is None:
            log.info("chunk fenced off: another worker owns it", chunk=chunk_id, attempt=claim.attempt)
            return None
        seconds = perf_counter() - started
        log.info(
            "chunk recorded",
            chunk=chunk_id,
            batch=claim.batch_id,
            screened=result.screened,
            failed=result.failed,
            seconds=round(seconds, 2),
            fields_per_second=round(len(claim.fields) / seconds, 1),
        )
        return result

    def classifier(self, model_id: str) -> Classifier:
        """The classifier of a model, loaded once. Raises ModelNotFound or ModelDamaged."""
        found = self._classifiers.pop(model_id, None)
        if found is None:
            started = perf_counter()
            found = Classifier.load(artefact.find(self.settings, model_id), self.settings)
            log.info("model loaded", model=found.model.name, engine=found.engine_name, seconds=perf_counter() - started)
        self._classifiers[model_id] = found
        while len(self._classifiers) > _KEPT_CLASSIFIERS:
            del self._classifiers[next(iter(self._classifiers))]
        return found

    def _can_use(self, model_id: str) -> bool:
        """Whether this process has the model and can run it; if not, say so once in the log, and to `allq doctor`."""
        try:
            self.classifier(model_id)
        except Exception as error:  # whatever a file or a driver throws: the fields are not to blame
            if card_failed(error):
                raise  # this process ends: another may find the card well
            problem = str(error) if isinstance(error, AllqError) else f"{type(error).__name__}: {error}"
            if model_id not in self._unusable:
                log.error("a model can't be used here: its chunks are left to others", model=model_id, problem=problem)
            self._unusable.add(model_id)
            with suppress(BrokerUnreachable):
                broker.announce_unusable(self.settings, model_id, problem)
            return False
        self._unusable.discard(model_id)
        return True

    def _leave_to_others(self, chunk_id: int) -> None:
        """Have a chunk published again, slowly enough that others, not we, empty the queue meanwhile."""
        sleep(self.settings.housekeeping_seconds)
        with self.database.begin() as connection:
            chunks.unpublish(connection, chunk_id)

    def _return(self, claim: Claim, because_of: Failure | None = None) -> None:
        """Give the chunk back, or up. Without the database wait for it: a lease left to run out looks like a crash."""
        told: str | None = None
        while True:
            try:
                faults.reach("return.begin")
                with self.database.begin() as connection:
                    if because_of is None:
                        returned = chunks.release(connection, claim)
                    else:
                        returned = chunks.give_up(connection, claim, because_of) is not None
                    faults.reach("return.written")
                faults.reach("return.committed")
                break
            except SchemaOutdated:
                return  # the upgrade has given it back
            except StoreError as error:
                if str(error) != told:
                    log.warning("chunk not given back yet", chunk=claim.chunk_id, problem=str(error))
                told = str(error)
                sleep(1)
        how = "chunk given back" if because_of is None else "chunk given up"
        log.warning(how, chunk=claim.chunk_id, attempt=claim.attempt, returned=returned)

    def _compute(self, claim: Claim, lease: Lease) -> list[FieldOutcome]:
        def known(digests: Collection[bytes]) -> Collection[bytes]:
            if not digests:
                return ()
            with self.database.ask() as connection:
                return findings.existing(connection, digests, claim.model_id)

        faults.reach("compute.begin")
        pipeline = Pipeline(self.classifier(claim.model_id), self.settings, self._threads)
        outcomes = list(pipeline.screen(claim, known=known, checkpoint=lease.check))
        faults.reach("compute.end")
        return outcomes

    def _record(self, claim: Claim, outcomes: Sequence[FieldOutcome]) -> RecordResult | None:
        configuration = self.classifier(claim.model_id).model.configuration

        def call_slide(rows: Iterable[FieldRow]) -> SlideCallRow:
            return slide_call_of(rows, configuration)

        faults.reach("record.begin")
        with self.database.begin() as connection:
            result = chunks.record(connection, claim, outcomes, call_slide=call_slide, worker=self.owner)
            faults.reach("record.written")
        faults.reach("record.committed")
        return result


@cache
def current_station() -> Station:
    """This process's station. The cache is per process: a forked child starts with its own."""
    os.register_at_fork(after_in_child=current_station.cache_clear)
    return Station(current())
