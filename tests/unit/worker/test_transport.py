"""What becomes of the broker's errors on the way to Redis."""

import pytest
import redis

from allq.errors import BrokerUnreachable
from worker import transport

WRONG_KIND = redis.ResponseError("Command # 1 of pipeline caused error: WRONGTYPE Operation against a key holding ...")


def test_an_error_that_is_not_of_a_keys_kind_deletes_nothing(monkeypatch):
    looked = []
    monkeypatch.setattr(transport, "mend", looked.append)
    with pytest.raises(redis.ResponseError, match="OOM"):
        transport._mend_after(redis.ResponseError("OOM command not allowed"))
    assert looked == []


def test_after_a_key_of_another_kind_was_deleted_work_goes_on(monkeypatch):
    monkeypatch.setattr(transport, "mend", lambda _: True)
    transport._mend_after(WRONG_KIND)


@pytest.mark.parametrize("reachable", [True, False])
def test_where_deleting_does_not_help_the_worker_connects_anew(monkeypatch, reachable):
    def mend(_):
        if not reachable:
            raise BrokerUnreachable("it went")
        return False

    monkeypatch.setattr(transport, "mend", mend)
    with pytest.raises(redis.ConnectionError, match="not of the right kind"):
        transport._mend_after(WRONG_KIND)
