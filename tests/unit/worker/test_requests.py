"""An acknowledgement is asked for now and sent a little later; only what never comes is a failure."""

from dataclasses import dataclass

from worker.requests import Acknowledgements


@dataclass
class Message:
    acknowledged: bool = False


def test_an_acknowledgement_that_is_sent_a_little_later_has_not_failed():
    acknowledgements = Acknowledgements()
    message = Message()
    acknowledgements.ask(message)
    assert not acknowledgements.failed()
    message.acknowledged = True
    assert not acknowledgements.failed()


def test_an_acknowledgement_that_never_comes_has_failed_and_is_told_once():
    acknowledgements = Acknowledgements()
    acknowledgements.ask(Message())
    assert not acknowledgements.failed()
    assert acknowledgements.failed()
    assert not acknowledgements.failed()
