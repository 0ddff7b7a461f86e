"""Whatever a stranger puts into the broker, a worker lives on, and no row but those of real work changes."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import uuid
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from allq.settings import Settings
from db.database import Database
from imaging.synthetic import write_slides
from tests import store
from tests.brokers import KillableValkey
from tests.screening import WorkerProcess, status, submit_synthetic, wait_for, workers
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
        entry(zlib.compress(body(chunk) + b" " * (64 << 20)), compression="zlib"),
    ]


ODD = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "",
    "\x1b[2J\ud800",
    [],
    [[]],
    {},
    {"a": None},
    {"__type__": "decimal", "__value__": "x"},
    {"__type__": "nothing", "__value__": 1},
)
"""What a part of a message may be replaced with. The last two kombu takes for something to be made of its value."""

HEADERS = (
    "compression",
    "eta",
    "expires",
    "group",
    "ignore_result",
    "kwargsrepr",
    "origin",
    "parent_id",
    "replaced_task_nesting",
    "retries",
    "shadow",
    "stamped_headers",
    "stamps",
    "timelimit",
)
"""What else stands in the headers of Celery's messages."""


def twisted(chunk: int) -> Iterator[bytes]:
    """A message of ours with each of its parts left out, and with each replaced by whatever is odd."""
    whole = json.loads(entry(body(chunk), **dict.fromkeys(HEADERS)))
    for *outer, name in paths(whole):
        for odd in (..., *ODD):
            changed = copy.deepcopy(whole)
            changed["properties"]["delivery_tag"] = str(uuid.uuid4())
            part = changed
            for step in outer:
                part = part[step]
            if odd is ...:
                del part[name]
            else:
                part[name] = odd
            yield json.dumps(changed).encode()


def paths(part: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    for name, value in part.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths(value, *above, name)


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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whatever_a_part_of_a_message_is_replaced_with_a_worker_screens_on(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    write_slides(tmp_path / "slides", slides=1, fields=3, seed=5)
    with closing(KillableValkey()) as valkey, closing(client_of(valkey)) as client:
        settings = settings.model_copy(update={"broker_url": SecretStr(valkey.url())})
        with workers(settings) as (worker,):
            client.lpush(f"{KEY_PREFIX}routine", *twisted(1))
            screened_by(worker, database, settings, tmp_path / "slides", client)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_forged_among_the_messages_in_hand_ends_no_worker_and_changes_no_result(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    write_slides(tmp_path / "slides", slides=1, fields=3, seed=5)
    proof = tmp_path / "unpickled"
    with closing(KillableValkey()) as valkey, closing(client_of(valkey)) as client:
        settings = settings.model_copy(update={"broker_url": SecretStr(valkey.url())})
        # Given back to their queue at once, for they seem to have been in hand since 1970.
        held = in_hand([*forged(1, proof), *twisted(1)])
        client.hset(f"{KEY_PREFIX}unacked", mapping=held)
        client.zadd(f"{KEY_PREFIX}unacked_index", {**dict.fromkeys(held, 1.0), b"of nothing": 2.0, b"\xff": 3.0})
        with workers(settings) as (worker,):
            screened_by(worker, database, settings, tmp_path / "slides", client)
    assert not proof.exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_keys_of_another_kind_in_the_broker_end_no_worker_and_nothing_is_lost(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    write_slides(tmp_path / "slides", slides=1, fields=3, seed=5)
    with closing(KillableValkey()) as valkey, closing(client_of(valkey)) as client:
        settings = settings.model_copy(
            update={"broker_url": SecretStr(valkey.url()), "housekeeping_seconds": 1.0, "republish_seconds": 1.0}
        )
        kept = f"{KEY_PREFIX}kept"
        client.set(kept, "of the right kind, for all that allq knows")
        submission = submit_synthetic(database, settings, tmp_path / "slides")
        put_in_place_of_keys(client)
        with workers(settings) as (worker,):
            wait_for(lambda: status(database, submission.batch).state == "done", what="all is screened")
            put_in_place_of_keys(client)  # beneath a worker that waits for messages
            submission = submit_synthetic(database, settings, tmp_path / "slides")
            wait_for(lambda: status(database, submission.batch).state == "done", what="all is screened again")
            assert worker.process.poll() is None
            assert "in the place of one of the broker's keys was deleted" in worker.log.read_text()
        assert client.get(kept)


def put_in_place_of_keys(client: redis.Redis) -> None:
    """What is of another kind than kombu's keys."""
    bindings = ("_kombu.binding.routine", "_kombu.binding_permanent.routine")
    for name in ("routine", "routine\x06\x163", "stat", *bindings, "unacked", "unacked_index"):
        client.delete(f"{KEY_PREFIX}{name}")
        client.set(f"{KEY_PREFIX}{name}", "of another kind")
    client.delete(f"{KEY_PREFIX}unacked_mutex")
    client.rpush(f"{KEY_PREFIX}unacked_mutex", "of another kind")


def client_of(valkey: KillableValkey) -> redis.Redis:
    return redis.Redis(port=valkey.port)


def in_hand(messages: list[bytes]) -> dict[bytes, bytes]:
    """Entries of kombu's list of the messages in hand, by their tags: with these messages, and none that is one."""
    whole = json.loads(entry(body(1)))
    others = [
        *messages,
        *(json.dumps(other).encode() for other in (None, 7, "", [], {}, [whole], [whole, "", "routine", 1])),
        *(json.dumps([whole, exchange, "routine"]).encode() for exchange in ("routine", "other", None, [], {}, 7)),
        *(json.dumps([whole, "", key]).encode() for key in ("unacked", "unacked_index", "", None, [], {}, 7)),
        *(json.dumps([odd, "", "routine"]).encode() for odd in ODD),
        *(b"[" + message + b', "", "routine"]' for message in messages),
    ]
    return {b"forged-%d" % number: other for number, other in enumerate(others)}


def screened_by(
    worker: WorkerProcess, database: Database, settings: Settings, slides: Path, client: redis.Redis
) -> None:
    """One process screens the slides, and at the end the broker holds nothing."""
    submission = submit_synthetic(database, settings, slides)
    wait_for(lambda: status(database, submission.batch).state == "done", what="real work is done")
    wait_for(lambda: client.llen(f"{KEY_PREFIX}routine") == 0, what="the worker has taken all that was there")
    for key in ("unacked", "unacked_index"):
        wait_for(lambda key=f"{KEY_PREFIX}{key}": not client.exists(key), what=f"{key} is empty")
    assert worker.process.poll() is None
    assert worker.stop() == 0
    log = worker.log.read_text()
    assert log.count("model loaded") == 1, "one process did all of it"
    assert "\x1b" not in log
    found = status(database, submission.batch)
    assert found.fields == found.screened + found.failed == 3
    store.assert_sums_hold(database)
