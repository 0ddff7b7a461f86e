"""How a worker waits for its broker."""

from kombu.exceptions import OperationalError

from worker import consumer
from worker.consumer import PatientConsumer


class Fleeting:
    """A connection to a broker that goes, so many times, just before it is made."""

    def __init__(self, times):
        self.left = times

    def ensure_connection(self, **_):
        if self.left:
            self.left -= 1
            raise OperationalError("refused")
        return self


def test_a_broker_that_goes_before_the_connection_is_made_is_looked_after_again(monkeypatch):
    looks = []
    mended = []
    monkeypatch.setattr(consumer, "_problem", lambda: looks.append(1))
    monkeypatch.setattr(consumer.transport, "mend", mended.append)
    waiting = PatientConsumer.__new__(PatientConsumer)
    fleeting = Fleeting(times=2)
    assert waiting.ensure_connected(fleeting) is fleeting
    assert len(looks) == len(mended) == 3
    assert not waiting.first_connection_attempt
