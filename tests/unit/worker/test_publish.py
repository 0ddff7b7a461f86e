"""Handing chunk ids to the broker, where there is none."""

import time

import pytest

from allq.errors import BrokerUnreachable
from worker.app import make_app
from worker.publish import send


def test_a_broker_that_is_away_is_said_at_once(settings):
    began = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="takes no messages"):
        send(make_app(settings), "routine", [1])
    assert time.monotonic() - began < 1.5, "housekeeping, which starts the embedded one, must not wait for it"
