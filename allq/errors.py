"""The one tree of errors.

    AllqError                     an operator can act on it; its text is one sentence that says what to do
    ├── UsageError                the command line asks for something that makes no sense
    ├── SettingsError             a setting can't be used as it stands
    ├── SubmissionError           a folder can't be submitted
    ├── StoreError                the database can't do what is asked
    │   ├── DatabaseUnreachable   the database does not answer, or refuses us
    │   ├── SchemaOutdated        the schema is not the one this code was written for
    │   │   └── ProgramOutdated   … but that of a newer one
    │   └── NotFound              no such batch, slide or chunk
    ├── LedgerError               the ledger can't be sealed, exported or verified as it stands
    ├── BrokerUnreachable         Redis/Valkey does not answer; work waits in SQL
    ├── WorkerClosing             a process of a worker lets go of its threads; its chunk is given back
    ├── ModelError
    │   ├── ModelNotFound         no model by that name or id
    │   └── ModelDamaged          weights or configuration don't match the model's id
    └── FieldError                one field can't be screened; recorded as its failure, the batch goes on

A `FieldError` carries a `code`: the stable name under which the failure is counted, and a sentence for the reader.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class AllqError(Exception):
    """Something an operator can act on. The message says what happened, to what, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(AllqError):
    """The command line asks for something that makes no sense."""

    exit_code: ClassVar[int] = 2


class SettingsError(AllqError):
    """A setting can't be used as it stands."""


class SubmissionError(AllqError):
    """A folder can't be submitted."""


class StoreError(AllqError):
    """The database can't do what is asked."""


class DatabaseDamaged(StoreError):
    """The database finds damage in its own files."""


class NoRight(StoreError):
    """The database's login may not do what was asked."""


class DatabaseUnreachable(StoreError):
    """The database does not answer, or refuses us."""


class SchemaOutdated(StoreError):
    """The database's schema is not the one this code was written for."""


class ProgramOutdated(SchemaOutdated):
    """The database's schema is that of a newer allq: only another program can go on."""


class NotFound(StoreError):
    """There is no such batch, slide or chunk."""


class LedgerError(AllqError):
    """The ledger can't be sealed, exported or verified as it stands."""


class BrokerUnreachable(AllqError):
    """Redis/Valkey does not answer. Submitted work waits in SQL and is published when it is back."""


class WorkerClosing(AllqError):
    """A process of a worker lets go of its threads. The chunk that it has in hand is given back."""


class ModelError(AllqError):
    """A model can't be used."""


class ModelNotFound(ModelError):
    """There is no model by that name or id."""


class ModelDamaged(ModelError):
    """A model's weights or configuration don't match its id, or can't be read."""


class FailureCode(StrEnum):
    """Why a field ended as failed. Stable names: they stand in the database and in reports."""

    VANISHED = "vanished"
    UNREADABLE = "unreadable"
    OUTSIDE_ROOTS = "outside-roots"
    NOT_AN_IMAGE = "not-an-image"
    CORRUPT = "corrupt"
    TOO_LARGE = "too-large"
    TOO_SMALL = "too-small"
    UNSUPPORTED = "unsupported"
    CRASHED_WORKER = "crashed-the-worker"
    TIME_LIMIT = "time-limit"
    OUT_OF_MEMORY = "out-of-memory"
    INTERNAL = "internal"


class FieldError(AllqError):
    """One field can't be screened. `code` names the kind, the message is a sentence for the reader."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[FieldError], tuple[FailureCode, str]]:
        return type(self), (self.code, str(self))
