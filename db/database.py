"""The connection to the database: SQLite in a file, or PostgreSQL. Opening, transactions, and errors in plain words."""

from __future__ import annotations

import os
import selectors
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError

from allq.errors import (
    AllqError,
    DatabaseDamaged,
    DatabaseUnreachable,
    NoRight,
    ProgramOutdated,
    SchemaOutdated,
    SettingsError,
    StoreError,
)
from allq.settings import Settings
from db import migrate
from db.address import shown, without_secrets
from db.statements import COPIED_ROWS, MANY_ROWS

BUSY_SECONDS = 30
"""How long a SQLite writer waits for the one before it."""

OLDEST_POSTGRESQL = 14
"""The oldest major version that the tests have been run with; `docs/deployment.md` says what decides it."""

IDLE_SECONDS = 60
"""How long PostgreSQL waits for the next statement of a write transaction. A worker that stands still in one (stopped,
or swapped out) holds chunks and slides that nobody else can touch: the server ends it, and others go on."""

_FRESH_SECONDS: Final = 5.0
"""A connection that was used so lately is used again without asking the server first, which costs a distant worker a
round trip a transaction: a server that ended the session has said so by then, and a network that was cut has not."""

_BEGINS: Final = "allq_begins"
"""The execution option of a write transaction's first statement, which travels with its BEGIN (SQLite's is local)."""

_DEAD_NETWORK = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}
"""Seconds, seconds, times: after 25 s without a sign of life the other side is taken to be gone. A network that was cut
says nothing, and by default the wait for an answer, or for one who holds rows, would last for hours."""


class Database:
    """An open database. Thread-safe; open it after a fork, never before."""

    def __init__(self, url: str) -> None:
        self.url_as_given = url
        """With its password and options: for another process that connects as this one does, never for printing."""
        self.engine = engine = _engine(url)
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"
        if self.dialect == "sqlite":
            self._writing: Engine = engine.execution_options(allq_begin="BEGIN IMMEDIATE")
            self._reading: Engine = engine
            self._asking: Engine = engine
        else:
            # We say BEGIN ourselves: psycopg would ask it as a question of its own.
            self._writing = self._asking = engine.execution_options(isolation_level="AUTOCOMMIT")
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def url(self) -> str:
        """Where it is, with the password masked."""
        return shown(self.engine.url)

    def __repr__(self) -> str:
        return f"<Database {self.url}>"

    @classmethod
    def open(cls, settings: Settings, *, upgrade: bool | None = None) -> Database:
        """Connect, and see that the schema is the one this code is written for.

        A SQLite file (and its folder) is created when missing, and upgrades itself. A server's schema is upgraded only
        with `upgrade=True`; otherwise SchemaOutdated names the command. `upgrade=False` never upgrades.
        Raises DatabaseUnreachable, SchemaOutdated (ProgramOutdated where another program is needed), SettingsError;
        StoreError where the server is older than `OLDEST_POSTGRESQL`.
        """
        database = cls(settings.database)
        try:
            if database.dialect == "sqlite":
                database._create_file(upgrade=upgrade is not False, make_folder=settings.embedded_database)
            found = migrate.current(database)
            database._require_known_server()
            if found == migrate.HEAD:
                return database
            unlike = database._unlike(found)
            never = isinstance(unlike, ProgramOutdated) or upgrade is False
            if never or (upgrade is None and database.dialect == "postgresql"):
                raise unlike
            migrate.upgrade(database)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def at(cls, url: str) -> Database:
        """A database that is known to be there and up to date, by its URL: for a process started by one that knows."""
        return cls(url)

    @contextmanager
    def begin(self, *, any_schema: bool = False) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back by an exception.

        SchemaOutdated where the schema has become another since the database was opened, unless `any_schema`.
        """
        with self._writing.begin() as conn:
            self._begin(conn, any_schema=any_schema)
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction: everything read in the block is of one moment.

        SchemaOutdated where something can't be read and the schema has become another since the database was opened.
        """
        with self._connected(self._reading) as conn:
            yield conn

    @contextmanager
    def ask(self) -> Iterator[Connection]:
        """For single questions, each of which is of a moment of its own: on PostgreSQL one round trip each, not four.

        SchemaOutdated as with `read`.
        """
        with self._connected(self._asking) as conn:
            yield conn

    @contextmanager
    def _connected(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.connect() as conn:
                yield conn
        except (DBAPIError, NoRight):
            self._refuse_another_schema()
            raise

    def _begin(self, conn: Connection, *, any_schema: bool) -> None:
        """Look at the schema's revision, which stays as it is until the transaction ends, with no question of its own.

        On SQLite the transaction holds the only writer's lock; on PostgreSQL one of the table, which an upgrade wants
        for itself.
        """
        wanted = [] if any_schema else ["(SELECT version_num FROM alembic_version)"]
        if self.dialect == "postgresql":
            wanted.append(f"set_config('idle_in_transaction_session_timeout', '{IDLE_SECONDS * 1000:.0f}', true)")
        if not wanted:
            return
        try:
            statement = f"SELECT {', '.join(wanted)}"
            found = conn.exec_driver_sql(statement, execution_options={_BEGINS: True}).one()[0]
        except (DBAPIError, NoRight):
            self._refuse_another_schema()
            raise
        if not any_schema and found != migrate.HEAD:
            raise self._unlike(found)

    def _refuse_another_schema(self) -> None:
        """Raise SchemaOutdated where that is what is behind an error; nothing where it can't be told."""
        found: str | None = migrate.HEAD
        with suppress(DBAPIError, StoreError), self.engine.connect() as conn:
            found = migrate.revision_of(conn)
        if found != migrate.HEAD:
            raise self._unlike(found) from None

    def _require_known_server(self) -> None:
        version = self.engine.dialect.server_version_info  # known since the first connection
        if self.dialect == "postgresql" and version and int(version[0]) < OLDEST_POSTGRESQL:
            raise StoreError(
                f"The server of the database {self.url} is PostgreSQL {'.'.join(map(str, version))}, and allq needs "
                f"{OLDEST_POSTGRESQL} or later. Upgrade the server."
            )

    def _unlike(self, found: str | None) -> SchemaOutdated:
        """What is to be said of a schema of revision `found`."""
        if found is not None and found > migrate.HEAD:
            return ProgramOutdated(
                f"The database {self.url} was written by a newer allq (schema {found}, this one knows "
                f"{migrate.HEAD}). Update allq here, and start anew what runs of the older one."
            )
        state = f"has the schema {found} of an older allq" if found else "has no allq schema yet"
        return SchemaOutdated(f"The database {self.url} {state}. Run `allq db upgrade`.")

    def require_schema(self) -> None:
        """See once more that the schema is the one this code is written for. Raises as `open` does."""
        with self.ask() as conn:
            found = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if found != migrate.HEAD:
            raise self._unlike(found)

    def close(self) -> None:
        """Close every connection; whoever goes on to use it makes new ones."""
        self.engine.dispose()

    def _create_file(self, *, upgrade: bool, make_folder: bool) -> None:
        """Make the file, in WAL mode; and the folder if it is our own, not one of a mistyped URL.

        Under a file lock: several processes that switch the journal mode at once get "database is locked" without any
        waiting.
        """
        name = self.engine.url.database
        if not name or name == ":memory:":
            raise SettingsError("ALLQ_DATABASE_URL names no file: write sqlite:////path/to/allq.db.")
        path = Path(name)
        try:
            if path.exists() and path.stat().st_size > 0:
                if _has_no_log(path):
                    self._keep_a_log(path)
                return
            if not upgrade:
                raise SchemaOutdated(f"There is no database {path} yet. Run `allq db upgrade`.")
            if make_folder:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.with_name(path.name + ".lock").open("w") as lock:
                _lock_file(lock)
                with self.engine.connect() as conn:
                    driver: Any = conn.connection.driver_connection
                    driver.execute("PRAGMA page_size = 8192")
                    driver.execute("PRAGMA journal_mode = WAL")
                migrate.upgrade(self)
        except OSError as error:
            raise DatabaseUnreachable(
                f"The database {path} can't be created: {error.strerror}. "
                "Name a folder that exists and may be written to."
            ) from None

    def _keep_a_log(self, path: Path) -> None:
        """Switch a file that `VACUUM INTO` made, as a backup is, to WAL mode: else readers hold up writers."""
        with path.with_name(path.name + ".lock").open("w") as lock:
            _lock_file(lock)
            with self.engine.connect() as conn:
                driver: Any = conn.connection.driver_connection
                driver.execute("PRAGMA journal_mode = WAL")


def _has_no_log(path: Path) -> bool:
    """Whether a SQLite file that may be written is in another mode than WAL (its file format, section 1.3.3).

    One without a right to write it is left as it is, also by an account that needs none: it may be evidence.
    """
    with path.open("rb") as file:
        header = file.read(20)
        may_be_written = _mode(file) & _WRITE and os.access(path, os.W_OK)
    return bool(may_be_written) and header.startswith(b"SQLite format 3\0") and header[18:20] == b"\1\1"


_READ_ONLY: Final = "allq_read_only"
_WRITE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def _mode(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_mode


def _free_what_lies_beside(path: Path) -> None:
    """Let a database that may be written again be so: SQLite gives its log and the index of this the file's own rights
    when they are made, and whoever reads a read-only file makes them read-only; they stay so afterwards.
    """
    with suppress(OSError):  # not there, or another's: SQLite says what it can't do
        mode = path.stat().st_mode
        for beside in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            with suppress(FileNotFoundError):
                if mode & _WRITE & ~beside.stat().st_mode:
                    beside.chmod(stat.S_IMODE(mode))


def _lock_file(lock: Any) -> None:
    import fcntl  # noqa: PLC0415 - absent on Windows, where a first start by several processes at once may have to be repeated

    fcntl.flock(lock, fcntl.LOCK_EX)


def _engine(url_text: str) -> Engine:
    try:
        url = make_url(url_text)
    except (ArgumentError, ValueError):
        raise SettingsError(
            "ALLQ_DATABASE_URL is no database URL. Write postgresql://user:password@host/name or sqlite:////path/file."
        ) from None
    backend = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if backend == "sqlite":
        return _sqlite_engine(url.set(drivername="sqlite"))
    if backend == "postgresql":
        return _postgresql_engine(url.set(drivername="postgresql+psycopg"))
    raise SettingsError(f"ALLQ_DATABASE_URL names {backend}; allq keeps its data in PostgreSQL or SQLite.")


def _sqlite_engine(url: URL) -> Engine:
    # Parameters are names of slides and people: a traceback in a log must not carry them.
    engine = create_engine(
        url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: Any) -> None:
        # Python's driver would begin transactions by itself, deferred and too late: we say BEGIN ourselves
        connection.isolation_level = None
        if url.database:
            _free_what_lies_beside(Path(url.database))
            record.info[_READ_ONLY] = not os.access(url.database, os.W_OK)
        for pragma in (
            "foreign_keys = ON",
            "synchronous = FULL",  # docs/decisions/0003-sqlite-durability.md
            "cache_size = -32768",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "checkout")
    def on_checkout(_: Any, record: Any, __: Any) -> None:
        if record.info.get(_READ_ONLY) and os.access(url.database or "", os.W_OK):
            raise InvalidatePoolError("a connection stays read-only when its file no longer is")

    @event.listens_for(engine, "begin")
    def on_begin(conn: Connection) -> None:
        # IMMEDIATE: a writer that starts as a reader and finds another writer ahead can't wait, only fail
        conn.exec_driver_sql(conn.get_execution_options().get("allq_begin", "BEGIN"))

    event.listen(engine, "handle_error", _in_plain_words)
    return engine


def _postgresql_engine(url: URL) -> Engine:
    own = {"connect_timeout": "10", "application_name": "allq", "tcp_user_timeout": "25000", **_DEAD_NETWORK}
    arguments: dict[str, Any] = {name: value for name, value in own.items() if name not in url.query}
    theirs = "".join(f" -c tcp_{name}={value}" for name, value in _DEAD_NETWORK.items())
    theirs += " -c tcp_user_timeout=25000 -c timezone=UTC"
    arguments["options"] = f"{url.query.get('options', '')}{theirs}".strip()
    if "prepare_threshold" in url.query:
        arguments["prepare_threshold"] = _prepare_threshold(url)
    url = url.difference_update_query(["options", "prepare_threshold"])
    engine = create_engine(
        url, connect_args=arguments, isolation_level="READ COMMITTED", hide_parameters=True, use_native_hstore=False
    )
    _see_that_sessions_live(engine)

    @event.listens_for(engine, "before_cursor_execute")
    def on_execute(_conn: Connection, cursor: Any, _sql: str, _values: Any, context: Any, _many: bool) -> None:
        if context is not None and context.execution_options.get(MANY_ROWS):
            cursor.format = 1  # psycopg.pq.Format.BINARY, of this cursor alone

    @event.listens_for(engine, "do_execute")
    def on_ours(cursor: Any, statement: str, _values: Any, context: Any) -> bool:
        """Whether the statement was a COPY, or one that travels with its BEGIN, and is done."""
        if context is None:
            return False
        if _BEGINS in context.execution_options:
            cursor.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {statement}", prepare=False)
            cursor.nextset()
            return True
        if COPIED_ROWS not in context.execution_options:
            return False
        with cursor.copy(statement) as copy:
            for row in context.execution_options[COPIED_ROWS]:
                copy.write_row(row)
        return True

    event.listen(engine, "handle_error", _in_plain_words)
    return engine


def _see_that_sessions_live(engine: Engine) -> None:
    """Replace, before it is used, a session that the server has ended: SQLAlchemy's "pre ping", but without a question
    where it was used lately and its socket is silent: a session that was ended has said so.
    """
    driver: Any = engine.dialect.loaded_dbapi

    @event.listens_for(engine, "checkin")
    def on_checkin(connection: Any, record: Any) -> None:
        if connection is not None:
            record.info["allq_used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def on_checkout(connection: Any, record: Any, _: Any) -> None:
        used = record.info.get("allq_used")
        if used is None or (time.monotonic() - used < _FRESH_SECONDS and _is_silent(connection)):
            return
        try:
            engine.dialect.do_ping(connection)
        except driver.Error as error:
            raise InvalidatePoolError("the session is over") from error


def _is_silent(connection: Any) -> bool:
    if connection.closed:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)


def _prepare_threshold(url: URL) -> int | None:
    """After how many times a statement is prepared in its session; None for never.

    A URL's values are text, and psycopg wants a number. A pooler that gives each transaction another session has none
    of the statements that were prepared in the one before.
    """
    given = str(url.query["prepare_threshold"])
    if given == "none":
        return None
    if given.isdecimal():
        return int(given)
    raise SettingsError("ALLQ_DATABASE_URL says prepare_threshold: write prepare_threshold=none, or a number.")


_ROOM_TO_OPEN = 1 << 16
"""Bytes: SQLite's index of its log takes half of it before anything can be read."""

_SQLITE_SENTENCES: dict[str, tuple[type[AllqError], str]] = {
    "unable to open database file": (
        DatabaseUnreachable,
        "The database {url} can't be opened. Check that the file and its folder may be read and written.",
    ),
    "readonly database": (StoreError, "The database {url} is read-only. Make the file and its folder writable."),
    "database is locked": (
        StoreError,
        "The database {url} has been kept busy by another process for too long. Try again, or use PostgreSQL.",
    ),
    "disk is full": (StoreError, "The disk that holds the database {url} is full. Make room; nothing is lost."),
    "disk I/O error": (StoreError, "The disk that holds the database {url} does not answer as it should. Check it."),
    "not a database": (DatabaseUnreachable, "The file {url} is not a SQLite database. Set another path."),
    "malformed": (DatabaseDamaged, "The database {url} is damaged. Restore it from a backup."),
}


_POSTGRESQL_SENTENCES: dict[str, tuple[type[AllqError], str]] = {
    # what a server says that can be reached and doesn't let us in
    "28P01": (
        DatabaseUnreachable,
        "The database {where} refuses this user or password. Correct them in ALLQ_DATABASE_URL.",
    ),
    "28000": (
        DatabaseUnreachable,
        "The database {where} refuses this user from this machine. Correct ALLQ_DATABASE_URL, or the server's "
        "pg_hba.conf.",
    ),
    "3D000": (
        DatabaseUnreachable,
        "The database {where} does not exist on that server. Create it, or correct its name in ALLQ_DATABASE_URL.",
    ),
    "53300": (
        DatabaseUnreachable,
        "The database {where} has no connection left for us. Raise max_connections of the server, or run fewer "
        "workers.",
    ),
    "57P03": (DatabaseUnreachable, "The database {where} is starting up or shutting down. Wait a moment."),
    # and that lets us go
    "25P03": (
        DatabaseUnreachable,
        "The database {where} has ended this session, which stood still in a transaction. Nothing of it was kept; "
        "try again.",
    ),
    "57P01": (
        DatabaseUnreachable,
        "The database {where} has ended this session: somebody told it to, or it is shutting down. Wait a moment and "
        "try again.",
    ),
    "57P02": (
        DatabaseUnreachable,
        "The database {where} has ended this session: it met a failure and starts anew. Wait a moment and try again.",
    ),
    # nobody's fault, and it may go well the next time
    "40001": (
        StoreError,
        "The database {where} has given up this transaction, because of another at the same time. Nothing of it was "
        "kept; try again.",
    ),
    "40P01": (
        StoreError,
        "The database {where} has given up this transaction, because it and another waited for each other (a "
        "deadlock). Nothing of it was kept; try again.",
    ),
    "57014": (
        StoreError,
        "The database {where} has broken off a statement: somebody told it to, or it took longer than the server "
        "allows. Nothing of it was kept; try again.",
    ),
    # the server's machine
    "53100": (StoreError, "The server of the database {where} is out of disk. Make room and try again."),
    "53200": (StoreError, "The server of the database {where} is out of memory. Make room and try again."),
    "25006": (
        StoreError,
        "The database {where} is read-only just now. Check that it is the primary server, and that "
        "default_transaction_read_only is set neither for it nor for this login.",
    ),
    "42501": (
        NoRight,
        "The login of the database {where} may not do this ({reason}). deploy/postgres/roles.sql says which may.",
    ),
    "XX001": (DatabaseDamaged, "The database {where} is damaged ({reason}). Restore it from a backup."),
    "XX002": (
        DatabaseDamaged,
        "An index of the database {where} is damaged ({reason}). REINDEX it, then run `allq audit verify`.",
    ),
}
"""By PostgreSQL's code."""

_SESSION_OVER = frozenset({"25006", "25P03", "57P01", "57P02"})
"""After these a new session is begun: this one has ended, whether its socket says so yet or not, or it would stay
read-only when the server no longer is."""

_REFUSED_IN_WORDS = {
    "read-write mode during recovery": "25006",
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "pg_hba.conf": "28000",
    "database system is": "57P03",
    "sorry, too many clients": "53300",
}
"""What the server says of these: no code comes with an error of the login, and a standby's is one of many."""


def _state_of_refusal(message: str) -> str | None:
    if "database" in message and message.rstrip().endswith("does not exist"):
        return "3D000"
    return next((state for words, state in _REFUSED_IN_WORDS.items() if words in message), None)


def _is_full(file: str) -> bool:
    """Whether the file system of a SQLite file has no room; then SQLite's own words may be of anything but that."""
    try:
        return shutil.disk_usage(Path(file).parent).free < _ROOM_TO_OPEN
    except OSError:
        return False


def _in_plain_words(context: ExceptionContext) -> None:
    """Raise our own error for what an operator can mend; leave all else, which is a fault of ours, as it is."""
    if context.engine is None or not isinstance(context.original_exception, Exception):
        return  # the last: a signal, such as Ctrl-C, which came while the server was asked
    url = context.engine.url
    message = str(context.original_exception)
    if context.dialect.name == "sqlite":
        if getattr(context.original_exception, "sqlite_errorname", None) == "SQLITE_INTERRUPT":
            raise KeyboardInterrupt from None  # only `db.interruptible` breaks a statement off, for a signal
        _of_sqlite(message, url.database or "")
        return
    state = _state_of_refusal(message) or getattr(context.original_exception, "sqlstate", None)
    where = shown(url)
    if state in _SESSION_OVER:
        context.is_disconnect = True
    if state in _POSTGRESQL_SENTENCES:
        kind, sentence = _POSTGRESQL_SENTENCES[state]
        reason = without_secrets(message.partition("\n")[0], url)
        raise kind(sentence.format(where=where, reason=reason)) from None
    if context.connection is None or context.is_disconnect:
        reason = without_secrets(message, url) or type(context.original_exception).__name__
        raise DatabaseUnreachable(
            f"The database {where} can't be reached ({reason}). "
            "Check that the server runs and that ALLQ_DATABASE_URL is right."
        ) from None


def _of_sqlite(message: str, file: str) -> None:
    if ("disk I/O error" in message or "unable to open" in message) and _is_full(file):
        message = "disk is full"
    for part, (kind, sentence) in _SQLITE_SENTENCES.items():
        if part in message:
            raise kind(sentence.format(url=file)) from None
