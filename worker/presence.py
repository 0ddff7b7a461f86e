"""Which workers are there: each leaves its name in the broker for a few housekeeping rounds."""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from allq.errors import BrokerUnreachable
from allq.settings import Settings
from worker.app import KEY_PREFIX
from worker.identity import owner

_KEY = "worker:"


def announce(app: Celery, settings: Settings) -> None:
    """Say that this worker is there, for three housekeeping rounds."""
    with app.pool.acquire(block=True, timeout=10) as connection:
        connection.default_channel.client.set(
            _KEY + owner(), settings.operator, px=int(settings.housekeeping_seconds * 3000) + 1000
        )


def present(app: Celery) -> list[str]:
    """Names of the workers seen lately. Raises BrokerUnreachable."""
    try:
        with app.pool.acquire(block=True, timeout=10) as connection:
            client = connection.default_channel.client
            keys = client.scan_iter(match=f"{KEY_PREFIX}{_KEY}*", count=1000)
            return sorted(key.decode().removeprefix(KEY_PREFIX).removeprefix(_KEY) for key in keys)
    except (OperationalError, RedisError, OSError) as error:
        app.pool.force_close_all()
        raise BrokerUnreachable(f"The broker does not answer ({type(error).__name__}).") from error
