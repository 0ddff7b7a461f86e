"""Whatever a stranger puts into the broker, a worker lives on, and no row but those of real work changes."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis

from allq.settings import Settings
from db.database import Database
from imaging.synthetic import write_slides
from tests import store
from tests.screening import status, submit_synthetic, wait_for, workers
from worker import embedded
from worker.app import SCREEN_TASK
from worker.broker import KEY_PREFIX

NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def entry(body: bytes, *, task: str = SCREEN_TASK, content_type: str = "application/json", **headers: Any) -> bytes:
    """What kombu puts into a queue."""
    identity = str(uuid.uuid4())
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": identity, "root_id": identity, "argsrepr": "", **headers},
            "properties": {
                "correlation_id": identity,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "routine"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def body(*args: Any, **embedded: Any) -> bytes:
    return json.dumps([args, {}, {**NOTHING, **embedded}]).encode()


def forged(chunk: int, proof: Path) -> list[bytes]:
    again = {"task": SCREEN_TASK, "args": [chunk], "options": {"queue": "routine"}}
    return [
        b"no message at all",
        b"{}",
        b"[]",
        b"null",
        b'{"body": 7, "headers": {}, "properties": {}}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        entry(pickle.dumps(Bomb(proof)), content_type="application/x-python-serialize"),
        entry(pickle.dumps(Bomb(proof)), content_type="application/x-python-serialize", task="celery.ping"),
        entry(pickle.dumps(Bomb(proof))),
        entry(body("1; DROP TABLE field")),
        entry(body(10**30)),
        entry(body(2**62)),
        entry(body(-1)),
        entry(body(None)),
        entry(body(chunk), timelimit=[0.001, None]),
        entry(body(chunk), eta="9999-12-31T00:00:00"),
        entry(body(chunk), expires="1999-12-31T00:00:00"),
        entry(body(chunk, callbacks=[again], chain=[again])),
        entry(body([SCREEN_TASK, [[chunk]]]), task="celery.starmap"),
        entry(body(), task="os.system"),
        entry(body(), task="x\n2026-01-01 [info] chunk recorded \x1b[2J"),
        entry(body(chunk) + b" " * 500_000),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_forged_messages_change_nothing_and_stop_nobody(database: Database, settings: Settings, tmp_path: Path) -> None:
    write_slides(tmp_path / "slides", slides=1, fields=3, seed=5)
    proof = tmp_path / "unpickled"
    with workers(settings) as (worker,):
        wait_for(lambda: embedded.is_running(settings), what="the broker runs")
        client = redis.Redis(unix_socket_path=str(embedded.socket_path(settings)))
        try:
            sent = forged(1, proof)
            client.lpush(f"{KEY_PREFIX}routine", *sent)
            with pytest.raises(redis.RedisError):  # what is too long, the broker itself refuses
                client.lpush(f"{KEY_PREFIX}routine", entry(b" " * (2 << 20)))
            client.close()
            wait_for(lambda: client.llen(f"{KEY_PREFIX}routine") == 0, what="the worker has taken all of them")
            assert store.rows(database, "SELECT count(*) FROM event WHERE kind <> 'worker-started'") == [(0,)]
            assert store.rows(database, "SELECT count(*) FROM chunk") == [(0,)]

            submission = submit_synthetic(database, settings, tmp_path / "slides")
            wait_for(lambda: status(database, submission.batch).state == "done", what="real work is done")
            (chunk,) = (row[0] for row in store.rows(database, "SELECT id FROM chunk"))
            before = store.rows(database, "SELECT * FROM chunk")
            client.lpush(f"{KEY_PREFIX}routine", *forged(int(str(chunk)), proof), entry(body(chunk)))
            wait_for(lambda: client.llen(f"{KEY_PREFIX}routine") == 0, what="the worker has taken them, too")
            wait_for(lambda: client.hlen(f"{KEY_PREFIX}unacked") == 0, what="none is held back")
            assert store.rows(database, "SELECT * FROM chunk") == before
            assert worker.process.poll() is None
        finally:
            client.close()
        assert worker.stop() == 0
    assert not proof.exists()
    log = worker.log.read_text()
    assert "\x1b" not in log
    assert not any(line.startswith("2026-01-01 [info] chunk recorded") for line in log.splitlines())
    assert log.count("model loaded") == 1, "one process did all of it"
    found = status(database, submission.batch)
    assert found.fields == found.screened + found.failed == 3
    store.assert_sums_hold(database)
