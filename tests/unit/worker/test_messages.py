"""A worker takes its own messages and no other."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import kombu.message
import pytest
from kombu.transport.virtual import Message

from allq.settings import Settings
from worker import transport
from worker.app import SCREEN_TASK, make_app
from worker.messages import chunk_of, without_built_in_tasks
from worker.requests import NoticingRequest, ScreeningTask


class _Channel:
    """What kombu's message wants of a channel."""

    body_encoding = "base64"

    def message_to_python(self, raw: dict[str, Any]) -> Message:
        return Message(raw, channel=self)

    def decode_body(self, body: str, encoding: str | None) -> bytes:
        return base64.b64decode(body) if encoding == "base64" else body.encode()


EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def message(content: Any = ([7], {}, EMBEDDED), *, body: bytes | None = None, **changed: Any) -> Message:
    """A message as Celery makes it for chunk 7, but for what is changed."""
    properties = {"delivery_tag": "t", "delivery_info": {}, "body_encoding": "base64"}
    return _Channel().message_to_python(
        {
            "body": base64.b64encode(json.dumps(content).encode() if body is None else body).decode(),
            "content-type": changed.pop("content_type", "application/json"),
            "content-encoding": changed.pop("content_encoding", "utf-8"),
            "properties": properties,
            "headers": {"task": SCREEN_TASK, "id": "x", "timelimit": [None, None], "retries": 0, **changed},
        }
    )


def test_what_allq_sends_is_taken(settings: Settings) -> None:
    sent: list[Any] = []
    app = make_app(settings.model_copy(update={"broker_url": None}))
    made = app.amqp.as_task_v2("an-id", SCREEN_TASK, args=[7])
    content_type, encoding, body = (*_encoded(made.body),)
    sent.append(message(body=body, content_type=content_type, content_encoding=encoding, **made.headers))
    assert chunk_of(sent[0]) == 7
    assert chunk_of(message()) == 7


def _encoded(body: Any) -> tuple[str, str, bytes]:
    from kombu.serialization import dumps

    content_type, encoding, text = dumps(body, serializer="json")
    return content_type, encoding, text.encode() if isinstance(text, str) else text


@pytest.mark.parametrize(
    "forged",
    [
        message(body=pickle.dumps(([7], {}, EMBEDDED)), content_type="application/x-python-serialize"),
        message(body=pickle.dumps(([7], {}, EMBEDDED))),
        message(content_type="application/x-yaml"),
        message(([0], {}, EMBEDDED)),
        message(([-7], {}, EMBEDDED)),
        message(([2**63], {}, EMBEDDED)),
        message(body=b"[[1" + b"0" * 900 + b"], {}, {}]"),
        message(([True], {}, EMBEDDED)),
        message((["7"], {}, EMBEDDED)),
        message(([7.0], {}, EMBEDDED)),
        message(([None], {}, EMBEDDED)),
        message(([[7]], {}, EMBEDDED)),
        message(([], {}, EMBEDDED)),
        message(([7, 8], {}, EMBEDDED)),
        message(([], {"chunk_id": 7}, EMBEDDED)),
        message(([7], {}, {**EMBEDDED, "callbacks": [{"task": "celery.starmap"}]})),
        message(([7], {}, {**EMBEDDED, "chain": [{"task": SCREEN_TASK, "args": [8]}]})),
        message(([7], {}, EMBEDDED), eta="9999-01-01T00:00:00"),
        message(([7], {}, EMBEDDED), expires="2000-01-01T00:00:00"),
        message(([7], {}, EMBEDDED), retries=10**9),
        message([7]),
        message({"args": [7]}),
        message(body=b"[" * 999),
        message(body=b"\xff\xfe"),
        message(([7], {}, EMBEDDED), body=json.dumps([[7], {}, {"pad": ""}]).encode() + b" " * 2_000),
    ],
    ids=lambda forged: f"{forged.content_type} {bytes(forged.body)[:40]!r}",
)
def test_any_other_message_names_no_chunk(forged: Message) -> None:
    assert chunk_of(forged) is None


@pytest.mark.parametrize("limits", [[1830, None], [0.001, None], [None, 0.001], (1.0, 1.0)])
def test_a_workers_own_message_is_taken_and_no_messages_time_limits_are_heeded(
    settings: Settings, limits: list[float | None]
) -> None:
    sent = message(timelimit=limits)
    assert chunk_of(sent) == 7
    app = make_app(settings)

    @app.task(name=SCREEN_TASK, base=ScreeningTask, shared=False)  # type: ignore[untyped-decorator]
    def screen(chunk_id: int) -> None: ...

    request = NoticingRequest(sent, app=app, task=app.tasks[SCREEN_TASK], headers=sent.headers, decoded=False)
    assert request.time_limits == (None, None)


def test_a_message_that_a_worker_itself_publishes_is_taken(settings: Settings) -> None:
    app = make_app(settings)

    @app.task(name=SCREEN_TASK, base=ScreeningTask, shared=False)  # type: ignore[untyped-decorator]
    def screen(chunk_id: int) -> None: ...

    app.finalize()
    made: list[Any] = []
    app.amqp.send_task_message = lambda _producer, _name, made_of, **_: made.append(made_of)
    app.send_task(SCREEN_TASK, args=[7], queue="routine", producer=MagicMock())
    content_type, encoding, body = _encoded(made[0].body)
    assert made[0].headers["timelimit"] == [settings.task_seconds + 30, None]
    assert chunk_of(message(body=body, content_type=content_type, content_encoding=encoding, **made[0].headers)) == 7


def test_a_worker_has_no_task_but_its_own(settings: Settings) -> None:
    app = make_app(settings)

    @app.task(name=SCREEN_TASK, shared=False)  # type: ignore[untyped-decorator]
    def screen(chunk_id: int) -> None: ...

    app.finalize()
    assert any(name.startswith("celery.") for name in app.tasks)
    assert list(without_built_in_tasks(app).tasks) == [SCREEN_TASK]


def test_only_json_is_ever_decoded(settings: Settings) -> None:
    app = make_app(settings)
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert not app.conf.worker_enable_remote_control
    assert app.conf.result_backend is None


@pytest.mark.parametrize("packer", ["zlib", "bzip2", "unknown", 1])
def test_a_packed_message_is_refused_without_unpacking_it(monkeypatch: pytest.MonkeyPatch, packer: object) -> None:
    unpacked: list[Any] = []
    monkeypatch.setattr(kombu.message, "decompress", lambda *arguments: unpacked.append(arguments))
    raw = message(body=zlib.compress(b"[[7], {}, {}]"))._raw
    transport.Message(raw, channel=_Channel())
    raw["headers"]["compression"] = packer
    with pytest.raises(ValueError, match="packed"):
        transport.Message(raw, channel=_Channel())
    assert unpacked == []


def test_a_message_of_another_kind_of_body_is_looked_at_all_the_same() -> None:
    raw = SimpleNamespace(
        body=json.dumps(([7], {}, EMBEDDED)), content_type="application/json", content_encoding="utf-8", headers={}
    )
    assert chunk_of(raw) == 7
