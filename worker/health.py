"""`allq doctor`: does this installation have what it needs, and if not, what to do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError

from allq.errors import (
    AllqError,
    BrokerUnreachable,
    LedgerError,
    ModelError,
    NoRight,
    SchemaOutdated,
    SettingsError,
    StoreError,
)
from allq.settings import Settings, require_roots, unknown_variables
from allq.text import plural
from db import activations, hooks, schema, sealing
from db import health as store
from db.database import Database
from db.records import Activation
from db.witness import Witness
from models import artefact
from models.artefact import Model
from worker import broker, embedded
from worker.active import activated

_DISK_WANTED = 1 << 30
CLOCK_TOLERANCE: Final = 5.0
"""Seconds"""

CLOCK_ADVICE: Final = (
    "Leases go by the database's clock and stay right; set both clocks by NTP so that times can be read."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. `ok` is None where there is nothing to judge; `advice` says what to do when it is False."""

    name: str
    ok: bool | None
    detail: str
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Active:
    """What the database says of the active model. `known`: it did say something."""

    known: bool = False
    activation: Activation | None = None

    def model(self, settings: Settings) -> Model:
        """The model that screens by default here; allq's own where the database said nothing."""
        if settings.model or self.activation is None:
            return artefact.find(settings)
        return activated(settings, self.activation)


def checks(settings: Settings) -> Iterator[Check]:
    """Look at everything the work needs, in the order in which it is needed."""
    yield _guarded("settings", _settings)
    yield _guarded("home", lambda: _home(settings))
    yield _guarded("disk", lambda: _disk(settings))
    active = _Active()
    try:
        database = Database.open(settings, upgrade=False if not settings.embedded_database else None)
    except AllqError as error:
        yield Check(name="database", ok=False, detail=str(error), advice=_database_advice(error))
    else:
        try:
            yield _guarded("database", lambda: _database(database))
            yield _guarded("schema", lambda: _schema(database))
            yield _guarded("ledger", lambda: _ledger(database, settings))
            if settings.ledger_hooks:
                yield _guarded("hooks", lambda: _hooks(database, settings))
            yield _guarded("clock", lambda: _clock(database))
            with suppress(AllqError, DBAPIError):
                active = _active(database)
        finally:
            database.close()
    yield _guarded("broker", lambda: _broker(settings))
    yield _guarded("workers", lambda: _workers(settings))
    yield _guarded("roots", lambda: _roots(settings))
    yield _guarded("model", lambda: _model(settings, active))
    yield _guarded("engine", lambda: _engine(settings, active))


def _database_advice(error: AllqError) -> str:
    if isinstance(error, SchemaOutdated):
        return "Update allq, or run `allq db upgrade`, as the message says."
    return "Do what the message says; workers that run take up their work again by themselves."


def _database(database: Database) -> Check:
    may_write = True
    try:
        store.require_writable(database)
    except NoRight:  # of those that only read, decide or seal
        may_write = False
    with database.read() as connection:
        forgetful = store.forgetful(connection)
    if forgetful:
        return Check(
            name="database",
            ok=False,
            detail=f"{database.url}: a crash loses what was recorded ({', '.join(forgetful)} = off)",
            advice="Set them to on in postgresql.conf and reload the server.",
        )
    if not may_write:
        return Check(
            name="database",
            ok=None,
            detail=f"{database.dialect}, {database.url}; this login may not see whether it can be written",
            advice="Where it matters, look with a worker's login.",
        )
    return Check(name="database", ok=True, detail=f"{database.dialect}, {database.url}")


_NAMED = 5
"""So many differences are named; the ledger's `verify` names them all."""


def _schema(database: Database) -> Check:
    with database.read() as connection:
        compared = schema.compare(connection)
    found = compared.differences
    if not found and compared.unread:
        unread = ", ".join(compared.unread)
        return Check(
            name="schema",
            ok=None,
            detail=f"triggers, columns and keys are those that allq makes; views and conditions can't be compared by "
            f"this login, which may not read {unread}",
            advice=schema.what_to_do(),
        )
    if not found:
        detail = "tables, constraints, triggers, views and indexes are those that allq makes"
        return Check(name="schema", ok=True, detail=detail)
    more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return Check(
        name="schema",
        ok=False,
        detail="; ".join(str(one) for one in found[:_NAMED]) + more,
        advice="Ask who owns the database who did this and why, run `allq audit verify`, and put back what is named: "
        "docs/backup.md says how.",
    )


SEALED_WITHIN: Final = 600.0
"""Seconds. What seals does it every few; so long after an event nobody does."""


def _ledger(database: Database, settings: Settings) -> Check:
    with database.read() as connection:
        waits = sealing.waiting_seconds(connection)
        hindrance = None
        try:
            sealing.require_way_open(connection, settings)
        except sealing.LeftToOthers:
            pass  # whether they do it shows in what waits
        except LedgerError as error:
            hindrance = str(error)
    detail = "everything is sealed"
    if waits is not None:
        detail = f"the oldest event that is not sealed has waited for {waits:,.0f} s"
    if hindrance is not None:
        detail = f"{detail}; nothing more can be sealed: {hindrance}"
        return Check(name="ledger", ok=False, detail=detail, advice="Do what the message says, before workers start.")
    if waits is None:
        return Check(name="ledger", ok=True, detail=detail)
    if waits <= SEALED_WITHIN:
        return Check(name="ledger", ok=True, detail=detail)
    if settings.embedded_broker and not embedded.is_running(settings):
        return Check(name="ledger", ok=None, detail=detail, advice="A worker seals it; so does `allq audit seal`.")
    return Check(
        name="ledger",
        ok=False,
        detail=detail,
        advice="Start what seals: `allq audit seal --watch`, or a worker, where ALLQ_LEDGER_KEY is the ledger's key "
        "and the login is in the group allq_sealer. Its log says what keeps it from it.",
    )


def _hooks(database: Database, settings: Settings) -> Check:
    file, given = settings.checkpoint_file, settings.ledger_hooks
    last = Witness(file).last()
    newest = last.number if last else 0
    with database.read() as connection:
        found = list(hooks.shortcomings(connection, file, given, newest=newest, seconds=SEALED_WITHIN))
    if not found:
        count = plural(len(given), "hook has", "hooks have")
        return Check(name="hooks", ok=True, detail=f"{count} had the checkpoints that are in this machine's file")
    return Check(
        name="hooks",
        ok=False,
        detail="; ".join(found),
        advice="Put ALLQ_LEDGER_HOOKS right: the log of what seals or works here says what keeps them from it, and "
        "tries again in each round. One that was added to an old ledger catches up by and by.",
    )


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that can't be made is a failed check, with its error as the detail."""
    try:
        return look()
    except BrokerUnreachable as error:
        return Check(name=name, ok=False, detail=str(error), advice="Start the broker, or correct ALLQ_BROKER_URL.")
    except ModelError as error:
        return Check(
            name=name, ok=False, detail=str(error), advice="Choose another with ALLQ_MODEL: `allq models list`."
        )
    except NoRight:
        advice = "Look with a worker's or a reviewer's login; where this is one, run deploy/postgres/roles.sql again."
        return Check(name=name, ok=None, detail="this login may not see it", advice=advice)
    except StoreError as error:
        return Check(name=name, ok=False, detail=str(error), advice=_database_advice(error))
    except DBAPIError as error:
        return Check(
            name=name,
            ok=False,
            detail=f"the database can't answer what is asked ({str(error.orig).partition(chr(10))[0]})",
            advice="Put back the tables or columns that the check of the schema names: docs/backup.md says how.",
        )
    except (AllqError, OSError) as error:
        return Check(name=name, ok=False, detail=str(error), advice="Mend what the message names.")


def _settings() -> Check:
    unknown = unknown_variables()
    if not unknown:
        return Check(name="settings", ok=True, detail="every ALLQ_… variable is known")
    meant = [nearest for nearest in unknown.values() if nearest]
    advice = f"Did you mean {', '.join(meant)}? Correct or unset what is wrong." if meant else "Unset what is wrong."
    return Check(name="settings", ok=False, detail=f"no such setting: {', '.join(unknown)}", advice=advice)


def _home(settings: Settings) -> Check:
    settings.make_home()
    writable = os.access(settings.home, os.W_OK)
    advice = None if writable else "Give this account write permission, or set ALLQ_HOME to a folder of its own."
    return Check(name="home", ok=writable, detail=str(settings.home), advice=advice)


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(settings.home).free
    advice = None if free >= _DISK_WANTED else "Free some space: the database and the broker's log need room."
    detail = f"{free / (1 << 30):.1f} GiB free in home"
    return Check(name="disk", ok=free >= _DISK_WANTED, detail=detail, advice=advice)


def _clock(database: Database) -> Check:
    off = clock_skew(database)
    ok = abs(off) <= CLOCK_TOLERANCE
    return Check(
        name="clock",
        ok=ok,
        detail=f"{abs(off):.1f} s apart from the database's",
        advice=None if ok else CLOCK_ADVICE,
    )


def clock_skew(database: Database) -> float:
    """Seconds by which the database's clock is ahead of this machine's."""
    before = time.time()
    with database.read() as connection:
        theirs = store.now(connection).timestamp()
    return theirs - (before + time.time()) / 2


def _broker(settings: Settings) -> Check:
    if settings.embedded_broker and not embedded.is_running(settings):
        with embedded.in_use(settings):
            return Check(
                name="broker", ok=True, detail="embedded Valkey: starts with the first worker (tried: it does)"
            )
    lengths = broker.queue_lengths(settings)
    waiting = ", ".join(f"{name} {count}" for name, count in lengths.items())
    if broker.is_unverified(settings):
        return Check(
            name="broker",
            ok=False,
            detail="answers, but nobody checks that it is the broker: its certificate goes unverified",
            advice="In ALLQ_BROKER_URL take out ssl_cert_reqs and ssl_check_hostname; name its CA by ssl_ca_certs.",
        )
    kind = "embedded Valkey" if settings.embedded_broker else "answers"
    return Check(name="broker", ok=True, detail=f"{kind}; messages waiting: {waiting}")


def _workers(settings: Settings) -> Check:
    if settings.embedded_broker and not embedded.is_running(settings):
        found: list[str] = []
    else:
        found = broker.present(settings)
    if not found:
        return Check(name="workers", ok=None, detail="none running", advice="Start one with `allq worker`.")
    unusable = broker.unusable(settings)
    if unusable:
        host, model_id, problem = unusable[0]
        return Check(
            name="workers",
            ok=False,
            detail=f"{host} was sent work for model {model_id[:12]} and can't use it: {problem}",
            advice="Install that model there (ALLQ_MODELS_DIR), or stop that worker; others take its work meanwhile.",
        )
    return Check(
        name="workers", ok=True, detail=f"{len(found)} running: " + ", ".join(name.split("/")[0] for name in found)
    )


def _roots(settings: Settings) -> Check:
    try:
        require_roots(settings)
    except SettingsError as error:
        # no failure of a machine on which people only look, decide or seal
        return Check(name="roots", ok=None, detail="ALLQ_ROOTS is not set: no worker starts here", advice=str(error))
    if not settings.roots:
        return Check(
            name="roots", ok=None, detail="ALLQ_ROOTS is not set: each batch may read the folder that was submitted"
        )
    for root in settings.roots:
        if not os.access(root, os.R_OK | os.X_OK):
            return Check(
                name="roots",
                ok=False,
                detail=f"{root} can't be read",
                advice="Mount it, or give this account permission.",
            )
    return Check(name="roots", ok=True, detail=", ".join(str(root) for root in settings.roots))


def _active(database: Database) -> _Active:
    with database.read() as connection:
        return _Active(known=True, activation=activations.latest(connection))


def _model(settings: Settings, active: _Active) -> Check:
    if not active.known and not settings.model:
        return Check(
            name="model",
            ok=None,
            detail="which one is active stands in the database",
            advice="Do what the check of the database says.",
        )
    model = active.model(settings)
    note = "; knows synthetic smears only" if model.configuration.synthetic else ""
    return Check(
        name="model", ok=True, detail=f"{model.name} ({model.id[:12]}), {_why_that_model(settings, active)}{note}"
    )


def _why_that_model(settings: Settings, active: _Active) -> str:
    holds = active.activation
    if settings.model:
        instead = f" instead of the active {holds.model_name} ({holds.model_id[:12]})" if holds else ""
        return f"named by ALLQ_MODEL{instead}"
    if holds is None:
        return "allq's default: none was activated"
    return f"activated by {holds.activated_by} on {holds.activated_at:%Y-%m-%d}"


def _engine(settings: Settings, active: _Active) -> Check:
    import numpy as np  # noqa: PLC0415  # the checks above must work where these can't be loaded

    from imaging.decode import Decoded  # noqa: PLC0415
    from imaging.formats import ImageFormat  # noqa: PLC0415
    from models.classifier import Classifier  # noqa: PLC0415

    try:
        started = time.perf_counter()
        classifier = Classifier.load(active.model(settings), settings)
        side = classifier.decode_side
        empty = Decoded(pixels=np.full((side, side, 3), 230, np.uint8), format=ImageFormat.PNG, width=side, height=side)
        classifier.classify([classifier.prepare(empty)])
        seconds = time.perf_counter() - started
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a driver throws is the answer
        return Check(
            name="engine",
            ok=False,
            detail=f"{settings.engine}: {type(error).__name__}: {error}"[:200],
            advice="Try ALLQ_ENGINE=torch or ALLQ_DEVICE=cpu.",
        )
    return Check(name="engine", ok=True, detail=f"{classifier.engine_name}, loaded and tried in {seconds:.1f} s")
