"""What benchmarks ask of a server."""

import os
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url

from benchmarks import measuring


def test_a_servers_first_process_is_the_one_in_its_pid_file(postgresql):
    if "ALLQ_TEST_POSTGRES_URL" in os.environ:
        pytest.skip("the server may be of another machine")
    engine = create_engine(make_url(postgresql.url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        folder = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
    engine.dispose()
    pid = int((folder / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    assert measuring.first_process(postgresql.url) == pid
