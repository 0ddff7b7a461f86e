"""How many connections a worker opens to PostgreSQL; docs/deployment.md reckons with it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import create_engine, make_url

from db.database import Database
from imaging.synthetic import write_slides
from tests.databases import PostgresqlServer, settings_for
from tests.screening import status, submit_synthetic, wait_for, workers

_WORKER = "a worker that is watched"
_PROCESSES = 4


@contextmanager
def watched(url: str) -> Iterator[Counter[int]]:
    """How often so many connections of the worker were seen open at once, looked for every few milliseconds."""
    seen: Counter[int] = Counter()
    ended = threading.Event()

    def watch() -> None:
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        with engine.connect() as connection:
            while not ended.wait(0.005):
                seen[connection.exec_driver_sql(query, (_WORKER,)).scalar_one()] += 1
        engine.dispose()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_a_worker_opens_two_connections_a_process_and_one_besides(postgresql: PostgresqlServer, tmp_path: Path) -> None:
    """One process's chunk at work, its lease renewed meanwhile; and the housekeeping of the whole worker."""
    url = postgresql.create()
    named = make_url(url).update_query_dict({"application_name": _WORKER}).render_as_string(hide_password=False)
    # Leases renewed every 0.2 s, housekeeping every 0.3: they meet other work as seldom happens in an hour.
    often = {"lease_seconds": 0.6, "housekeeping_seconds": 0.3, "chunk_size": 8, "inference_batch": 2}
    settings = settings_for(tmp_path / "home", url).model_copy(update=often)
    settings.make_home()
    write_slides(tmp_path / "slides", slides=8, fields=24, seed=11)
    database = Database.open(settings)
    try:
        as_watched = settings.model_copy(update={"database_url": SecretStr(named)})
        with workers(as_watched, concurrency=_PROCESSES), watched(url) as seen:
            batch = submit_synthetic(database, settings, tmp_path / "slides").batch
            wait_for(lambda: status(database, batch).state == "done", what="the batch ends")
    finally:
        database.close()
        postgresql.drop(url)
    print(dict(sorted(seen.items())))
    assert _PROCESSES < max(seen) <= 2 * _PROCESSES + 1
