"""Settings: from `ALLQ_…` variables, an `.env` file in the working directory, or defaults that need neither."""

from __future__ import annotations

import getpass
import os
import re
import socket
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import platformdirs
from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from allq.errors import SettingsError
from allq.text import printable

_PREFIX: Final = "ALLQ_"
_ENV_FILE: Final = ".env"
_FOR_TESTS: Final = "ALLQ_TEST_"
"""Variables that begin so are not settings of allq but of its tests."""

_LONGEST_OPERATOR: Final = 200
_RECORDED: Final = (
    "engine",
    "device",
    "threads",
    "inference_batch",
    "chunk_size",
    "task_seconds",
    "max_pixels",
    "max_file_bytes",
)
_WITHOUT_HOST: Final = ("sqlite", "redis+socket")
"""URLs with a path in place of host and password."""


def default_operator() -> str:
    """Who runs this: `login@host`, the identity that stands in the ledger."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container's bare user id has no name
        login = f"uid{os.getuid()}"
    return f"{login}@{socket.gethostname()}"


class Settings(BaseSettings):
    """Everything an operator can set. Without any of it, the embedded default in `home` is used."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_file=_ENV_FILE, extra="ignore", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("allq")),
        description="Folder of the embedded database, broker, caches and own models.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL, e.g. postgresql+psycopg://user@host/allq. Default: SQLite in home."
    )
    broker_url: SecretStr | None = Field(
        default=None, description="redis://, rediss:// or redis+socket:// URL. Default: a Valkey that allq runs itself."
    )
    roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Folders that may be read, separated by ':'. Default: just the folder that was submitted; with "
        "ALLQ_DATABASE_URL none, and no worker starts.",
    )
    operator: str = Field(default_factory=default_operator, description="Identity recorded in the ledger.")

    model: str | None = Field(
        default=None, description="Name or id of the model to screen with. Default: the active one."
    )
    models_dir: Path | None = Field(
        default=None, description="More models, one folder each, beside those that come with allq."
    )
    engine: Literal["auto", "openvino", "torch"] = Field(default="auto", description="What runs the network.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the network runs.")
    threads: int = Field(default=1, ge=1, le=256, description="Threads of the network in each worker process.")
    inference_batch: int = Field(default=32, ge=1, le=1024, description="Fields per network call.")
    readers: int = Field(
        default=2, ge=1, le=64, description="Threads per worker process that read and hash files ahead."
    )
    preparers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Threads per worker process that decode and segment. Default: 1; for a card its share of cores.",
    )

    chunk_size: int = Field(default=256, ge=1, le=256, description="Fields per unit of work.")
    lease_seconds: float = Field(
        default=60, gt=0, description="A chunk not renewed for so long is given to another worker."
    )
    housekeeping_seconds: float = Field(
        default=5, gt=0, description="How often workers look for lost or unpublished chunks."
    )
    republish_seconds: float = Field(
        default=30, gt=0, description="A chunk published so long ago that no queue holds any more is published again."
    )
    task_seconds: int = Field(default=1800, ge=10, description="Hard limit for one chunk.")

    max_pixels: int = Field(
        default=200_000_000, gt=0, description="Images with more pixels are refused before decoding."
    )
    max_file_bytes: int = Field(default=1 << 30, gt=0, description="Files larger than this are refused unread.")

    seal_seconds: float = Field(default=5, gt=0, description="How often new events are sealed into the ledger.")
    ledger_key: Path | None = Field(
        default=None, description="The key that signs the ledger's checkpoints. Default: ledger/key.pem in home."
    )
    ledger_file: Path | None = Field(
        default=None, description="Where checkpoints are written to. Default: ledger/checkpoints.jsonl in home."
    )
    ledger_hooks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        repr=False,  # a URL may hold a password
        description="Where checkpoints go as well, separated by spaces: syslog, a command's path, a URL.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @field_validator("operator", mode="after")
    @classmethod
    def _somebody(cls, value: str) -> str:
        name = value.strip()
        if not name or len(name) > _LONGEST_OPERATOR or printable(name) != name:
            raise PydanticCustomError("operator", "it must name somebody, in printable characters on one line")
        return name

    @field_validator("database_url", "broker_url", mode="after")
    @classmethod
    def _password_is_encoded(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        broken = "@;" if info.field_name == "database_url" else ";"
        if value is not None and _is_cut_short(value.get_secret_value(), broken):
            raise PydanticCustomError("password", "in its password write @ / ? # ; % as %40 %2F %3F %23 %3B %25")
        return value

    @field_validator("broker_url", mode="after")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("redis://", "rediss://", "redis+socket://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise PydanticCustomError("broker_scheme", "it must begin with redis://, rediss:// or redis+socket://")
        return value

    @field_validator("roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("roots", mode="after")
    @classmethod
    def _resolve_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.expanduser().resolve() for path in value)

    @field_validator("ledger_hooks", mode="before")
    @classmethod
    def _split_hooks(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("ledger_hooks", mode="after")
    @classmethod
    def _known_hooks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for hook in value:
            if hook != "syslog" and not hook.startswith("/") and not _is_place_for_objects(hook):
                raise PydanticCustomError(
                    "ledger_hooks", "each is syslog, the absolute path of a command, or an https:// URL without #"
                )
        return value

    @field_validator("home", "models_dir", "ledger_key", "ledger_file", mode="after")
    @classmethod
    def _resolve_folder(cls, value: Path | None) -> Path | None:
        return value.expanduser().resolve() if value is not None else None

    def make_home(self) -> Path:
        """Make the home folder, for this account alone: it holds names of slides. One that exists stays as it is."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.home

    @property
    def recorded(self) -> dict[str, Any]:
        """What of the settings may bear on a result, as the ledger keeps it; nothing secret, and no name."""
        return {name: getattr(self, name) for name in _RECORDED}

    @property
    def longest_wait(self) -> float:
        """Seconds within which a chunk that nobody works on is in a queue again, whatever happened to it.

        Its lease runs out; it is watched for two thirds of a lease more; what was published shortly before is not
        published again at once; and each of the three is noticed in the next round of housekeeping.
        """
        return self.lease_seconds * 5 / 3 + self.republish_seconds + 3 * self.housekeeping_seconds

    @property
    def embedded_database(self) -> bool:
        """True when the database is the SQLite file that allq keeps itself."""
        return self.database_url is None

    @property
    def embedded_broker(self) -> bool:
        """True when the broker is the Valkey that allq starts itself."""
        return self.broker_url is None

    @property
    def ledger_key_file(self) -> Path:
        """Where the key lies that signs the ledger's checkpoints."""
        return self.ledger_key or self.home / "ledger" / "key.pem"

    @property
    def checkpoint_file(self) -> Path:
        """Where the ledger's checkpoints are written to, outside the database."""
        return self.ledger_file or self.home / "ledger" / "checkpoints.jsonl"

    @property
    def database(self) -> str:
        """The database's URL with its password: for connecting, never for printing."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.home / 'allq.db'}"


def _is_place_for_objects(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        return False


def _is_cut_short(url: str, broken: str) -> bool:
    """Whether a password ends before it is over: at a character that ends it in a URL, or one of `broken`.

    What comes after would be taken for a host, a port or a database, and messages name these.
    """
    scheme, _, rest = url.partition("://")
    if scheme.startswith(_WITHOUT_HOST):
        return False
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    person, _, place = authority.rpartition("@")
    path, _, options = rest[len(authority) :].partition("?")
    port = place.rpartition(":")[2] if ":" in place.rpartition("]")[2] else ""
    stray = "@" in path or ("@" in options and bool(port) and not port.isdigit())
    return stray or any(character in person for character in broken)


def require_roots(settings: Settings) -> None:
    """Raise SettingsError where a worker would let the database say which files it may read.

    Without roots these are those of each batch's folder, which every login that submits names as it likes; and of each
    file that allq's account can read it would hear the SHA-256. The embedded database is written by that account alone.
    """
    if not settings.roots and not settings.embedded_database:
        raise SettingsError(
            "ALLQ_ROOTS must be set where ALLQ_DATABASE_URL is: else whoever may submit to that database says which "
            "files of this machine are read. Set it to the folders of your slides: ALLQ_ROOTS=/srv/slides."
        )


def load(**overrides: Any) -> Settings:
    """Read the settings, or raise SettingsError with one sentence that names the first wrong one."""
    if overrides.get("_env_file", _ENV_FILE) == _ENV_FILE:
        _trusted(Path(_ENV_FILE))
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = _PREFIX + "_".join(str(part) for part in first["loc"][:1]).upper()
        raise SettingsError(f"{name} can't be used: {first['msg']}. Correct it or unset it.") from None


def _trusted(path: Path) -> None:
    """Raise SettingsError for an `.env` that somebody else has put there, or may have changed.

    It is read from the working directory, which may be a folder of slides on a share that many can write to; and it
    says which database the results go into, and in whose name.
    """
    try:
        status = path.stat()
    except OSError:
        return
    if status.st_uid not in {os.getuid(), 0}:
        what, then = "belongs to somebody else", "start allq in another directory, or remove it"
    elif status.st_mode & 0o002:
        what, then = "may be written by anyone", f"`chmod o-w {path}` if it is yours, or remove it"
    else:
        return
    raise SettingsError(f"{printable(str(path.absolute()))} is not read, for it {what}: {then}.")


def unknown_variables() -> dict[str, str | None]:
    """Variables, set in the environment or in `.env`, that look like settings and are none; each with the nearest one.

    A slip in such a name is not seen otherwise: slides would be screened into another database than was meant.
    """
    known = [field.upper() for field in Settings.model_fields]
    names = (name.upper() for name in (*os.environ, *dotenv_values(_ENV_FILE)))
    unknown = sorted(
        {name for name in names if name.startswith(_PREFIX) and not name.startswith(_FOR_TESTS)}
        - {_PREFIX + name for name in known}
    )
    nearest = {name: get_close_matches(name.removeprefix(_PREFIX), known, 1) for name in unknown}
    return {name: _PREFIX + found[0] if found else None for name, found in nearest.items()}


@cache
def current() -> Settings:
    """The settings of this process, read once."""
    return load()
