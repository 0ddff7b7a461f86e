"""Asking the broker, apart from Celery: does it answer, how long are the queues, which workers are there."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from allq.errors import BrokerUnreachable
from allq.settings import Settings
from worker import embedded
from worker.identity import owner

QUEUES: Final = ("stat", "routine")
"""In the order in which a worker empties them. A list each in Redis, under `KEY_PREFIX` and its name."""

KEY_PREFIX: Final = "allq:"
"""Every key that allq makes in Redis begins so; a Redis shared with others stays legible."""

_WORKER: Final = KEY_PREFIX + "worker:"
"""A key each worker, with the operator's name as its value, that expires unless the worker renews it."""

_UNUSABLE: Final = KEY_PREFIX + "unusable:"
"""A key each worker process and model that the process can't use, with the reason as its value; it expires, too."""

_UNUSABLE_SECONDS: Final = 60

_COUNTED: Final = KEY_PREFIX + "counted"
"""The worker that counted last what waits: of what is left of the key's time, each knows how long ago."""

_COUNTED_MS: Final = 3_600_000
"""For how long the broker remembers it: the same for all, so that rounds of any length can be compared."""

_COUNT_IN_TURN: Final = """
local left, whole, half = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if left >= 0 and left <= whole and whole - left < half then return nil end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local lengths = {}
for number = 2, #KEYS do lengths[number - 1] = redis.call('LLEN', KEYS[number]) end
return lengths
"""
"""In the broker, so that one wins of several that ask at the same moment, by one answer each."""

_NAMELESS: Final[dict[str, Any]] = (
    {"driver_info": None} if find_spec("redis.driver_info") else {"lib_name": None, "lib_version": None}
)
"""As newer and older versions of the library want it said."""


def url(settings: Settings) -> str:
    """The broker's URL as Celery wants it, its password included: the operator's, or the embedded one's."""
    return settings.broker_url.get_secret_value() if settings.broker_url else embedded.url(settings)


def tls(settings: Settings) -> dict[str, Any] | None:
    """How Celery checks the broker's certificate; None without TLS. The URL's own `ssl_…` options go before.

    Said aloud: for a `rediss://` URL without such options it would check nothing, and give the password to anyone.
    """
    if not url(settings).startswith("rediss://"):
        return None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def is_unverified(settings: Settings) -> bool:
    """True when the URL asks for TLS and also that the broker's certificate, or its name in it, go unchecked."""
    address = urlsplit(url(settings))
    options = {name: value.lower() for name, value in parse_qsl(address.query)}
    weak = options.get("ssl_cert_reqs", "required") not in {"required", "cert_required"}
    return address.scheme == "rediss" and (weak or options.get("ssl_check_hostname", "true") == "false")


def address(settings: Settings) -> str:
    """The same for people: without password, user and options."""
    return re.sub("//.*@", "//", url(settings)).partition("?")[0]


@contextmanager
def _client(settings: Settings) -> Iterator[redis.Redis]:
    """A connection for one question, asked once. Raises BrokerUnreachable for whatever goes wrong with it."""
    client = redis.Redis.from_url(
        url(settings).replace("redis+socket://", "unix://", 1),
        socket_timeout=10,
        socket_connect_timeout=5,
        # Without retries: the library's own would keep a person waiting for seconds at a socket nobody listens at.
        retry=Retry(NoBackoff(), 0),
        # Nor introduce itself, which takes four answers more than the one that is wanted.
        protocol=2,
        **_NAMELESS,
    )
    try:
        yield client
    except redis.AuthenticationError:
        raise BrokerUnreachable(
            f"The broker at {address(settings)} refuses the password. Correct it in ALLQ_BROKER_URL."
        ) from None
    except (redis.RedisError, OSError) as error:
        raise BrokerUnreachable(f"The broker at {address(settings)} does not answer ({_short(error)}).") from error
    finally:
        client.close()


def ping(settings: Settings) -> None:
    """Raise BrokerUnreachable unless the broker answers."""
    with _client(settings) as client:
        client.ping()


def queue_lengths(settings: Settings) -> Mapping[str, int]:
    """Messages waiting in each queue. Raises BrokerUnreachable."""
    with _client(settings) as client, client.pipeline(transaction=False) as together:
        for queue in QUEUES:
            together.llen(KEY_PREFIX + queue)
        return dict(zip(QUEUES, map(int, together.execute()), strict=True))


def queue_lengths_in_turn(settings: Settings) -> Mapping[str, int] | None:
    """The same where none of the workers has asked for half a round of housekeeping, else None. Raises
    BrokerUnreachable.

    Half a round of the one that asks: machines may have rounds of different lengths, and one by itself has the turn
    each time, however regular its rounds are. A key that lasts for longer than allq's, or for ever, is somebody else's:
    it keeps nobody from a turn, and whatever it holds is written over.
    """
    half = int(settings.housekeeping_seconds * 500)
    with _client(settings) as client:
        keys = [_COUNTED, *(KEY_PREFIX + queue for queue in QUEUES)]
        lengths: Any = client.eval(_COUNT_IN_TURN, len(keys), *keys, owner(), str(_COUNTED_MS), str(half))
    return None if lengths is None else dict(zip(QUEUES, map(int, lengths), strict=True))


def remove_of_other_kinds(settings: Settings, kinds: Mapping[str, str]) -> list[str]:
    """Delete allq's keys of which each is of another kind than it has to be. Returns which. Raises BrokerUnreachable.

    `kinds`: of each key, without its prefix, what Redis' TYPE says of it.
    """
    removed = []
    with _client(settings) as client:
        with client.pipeline(transaction=False) as together:
            for name in kinds:
                together.type(KEY_PREFIX + name)
            found = together.execute()
        for (name, kind), there in zip(kinds.items(), found, strict=True):
            if there.decode() not in {"none", kind}:
                # Another worker may have put it right since: its messages are published again, as all that get lost.
                client.delete(KEY_PREFIX + name)
                removed.append(name)
    return removed


def announce(settings: Settings) -> None:
    """Say that this worker is there, for three housekeeping rounds. Raises BrokerUnreachable."""
    with _client(settings) as client:
        client.set(_WORKER + owner(), settings.operator, px=int(settings.housekeeping_seconds * 3000) + 1000)


def leave(settings: Settings) -> None:
    """Say that this worker is there no longer. Raises BrokerUnreachable."""
    with _client(settings) as client:
        client.delete(_WORKER + owner())


@contextmanager
def announcing(settings: Settings) -> Iterator[None]:
    """Announce this worker from a thread while the block runs: for one whose event loop waits for each chunk."""
    ended = threading.Event()

    def announce_regularly() -> None:
        while not ended.is_set():
            with suppress(BrokerUnreachable):
                announce(settings)
            ended.wait(settings.housekeeping_seconds)

    thread = threading.Thread(target=announce_regularly, name="announce", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(BrokerUnreachable):
            leave(settings)


def present(settings: Settings) -> list[str]:
    """Names of the workers that announced themselves lately. Raises BrokerUnreachable."""
    with _client(settings) as client:
        return sorted(key.decode().removeprefix(_WORKER) for key in client.scan_iter(match=_WORKER + "*", count=1000))


def announce_unusable(settings: Settings, model_id: str, problem: str) -> None:
    """Say that this process has been asked for a model that it can't use. Raises BrokerUnreachable."""
    lifetime = _UNUSABLE_SECONDS + int(3 * settings.housekeeping_seconds)
    with _client(settings) as client:
        client.set(f"{_UNUSABLE}{owner()}/{model_id}", problem, ex=lifetime)


def unusable(settings: Settings) -> list[tuple[str, str, str]]:
    """What was said so lately: (host, model id, problem), each once. Raises BrokerUnreachable."""
    found = set()
    with _client(settings) as client:
        for key in client.scan_iter(match=_UNUSABLE + "*", count=1000):
            name = key.decode().removeprefix(_UNUSABLE)
            problem = client.get(key)
            if isinstance(problem, bytes):
                found.add((name.partition("/")[0], name.rpartition("/")[2], problem.decode(errors="replace")))
    return sorted(found)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
