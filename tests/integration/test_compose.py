"""docker-compose.yml without an engine: it fits the specification, and its services work as plain processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml

from tests.compose import COMPOSE, ROOT, Machine, Missing, compose, dotenv, image, interpolate, wait_for

PASSWORDS = {f"{of.upper()}_PASSWORD": f"proof0of1{of}" for of in ("postgres", "worker", "sealer", "cli", "valkey")}
ALLQ_SERVICES = ("migrate", "worker", "worker-gpu", "cli")


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    return {**dotenv((ROOT / ".env.example").read_text()), **PASSWORDS}


@pytest.fixture(scope="module")
def services(variables: dict[str, str]) -> dict[str, Any]:
    return compose(variables)


def test_the_file_fits_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checker, str(COMPOSE)], check=True, capture_output=True)


def test_interpolation_follows_the_specification() -> None:
    values = {"A": "a", "EMPTY": ""}
    text = "$$A $A ${A} ${B} ${B:-d} ${EMPTY:-d} ${EMPTY-d} ${A:-d} ${B:-${A}x} ${A:+y} ${B:+y} }"
    assert interpolate(text, values) == "$A a a  d d  a ax y  }"


@pytest.mark.parametrize("name", PASSWORDS)
def test_nothing_starts_without_the_passwords(name: str, variables: dict[str, str]) -> None:
    with pytest.raises(Missing, match=rf"{name} is not set; copy \.env\.example"):
        compose({**variables, name: ""})


def test_no_service_publishes_a_port_or_reaches_out(services: dict[str, Any]) -> None:
    assert not [name for name, service in services.items() if service.get("ports")]
    assert all(service["networks"] == ["backend"] for service in services.values())
    assert yaml.safe_load(COMPOSE.read_text())["networks"]["backend"] == {"internal": True}


def test_every_service_is_an_ordinary_user_on_a_read_only_system(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"], name
        assert service["user"] in {"10001:10001", "valkey", "postgres"}, name


@pytest.mark.parametrize("name", [name for name in ALLQ_SERVICES if name != "migrate"])
def test_slides_can_be_read_but_not_written(name: str, services: dict[str, Any]) -> None:
    assert "./slides:/slides:ro" in services[name]["volumes"]
    assert services[name]["environment"]["ALLQ_ROOTS"] == "/slides"


def test_long_running_services_have_a_health_check(services: dict[str, Any]) -> None:
    for name in ("valkey", "postgres", "worker", "worker-gpu", "sealer"):
        assert services[name]["healthcheck"]["test"], name


def test_workers_wait_for_the_schema_and_can_be_scaled(services: dict[str, Any]) -> None:
    for name in ("worker", "worker-gpu", "cli"):
        assert services[name]["depends_on"] == {
            "roles": {"condition": "service_completed_successfully"},
            "postgres": {"condition": "service_healthy"},
            "valkey": {"condition": "service_healthy"},
        }
        assert "container_name" not in services[name], "a fixed name can't be scaled"


def test_no_container_but_those_that_need_it_knows_the_owners_password(services: dict[str, Any]) -> None:
    secrets = {name: value for name, value in PASSWORDS.items() if name != "VALKEY_PASSWORD"}
    knows = {
        name: {secret for secret, value in secrets.items() if value in json.dumps(service["environment"])}
        for name, service in services.items()
    }
    assert knows == {
        "valkey": set(),
        "postgres": {"POSTGRES_PASSWORD"},
        "migrate": {"POSTGRES_PASSWORD"},
        "roles": set(secrets),
        "sealer": {"SEALER_PASSWORD"},
        "worker": {"WORKER_PASSWORD"},
        "worker-gpu": {"WORKER_PASSWORD"},
        "cli": {"CLI_PASSWORD"},
    }
    for name in (*ALLQ_SERVICES, "sealer"):  # env_file gives each of them all of .env; `environment` has the last word
        assert services[name]["environment"].keys() >= secrets.keys()


def test_no_container_runs_or_reads_what_another_has_written(services: dict[str, Any]) -> None:
    assert not services["migrate"].get("volumes"), "it has the owner's password"
    for name, service in services.items():
        assert "working_dir" not in service
        check = service.get("healthcheck", {}).get("test", [])
        if "python" in check:
            assert check[check.index("python") + 1] == "-Ic", f"{name}: modules of the working directory"


def test_the_signing_key_is_in_the_sealers_container_alone(services: dict[str, Any]) -> None:
    sealer = services["sealer"]
    assert {volume.partition(":")[0] for volume in sealer["volumes"]} == {"key", "ledger"}, "no slides, nobody's home"
    assert sealer["environment"]["ALLQ_LEDGER_KEY"].startswith("/var/lib/allq-key/")
    assert "ALLQ_BROKER_URL" not in sealer["environment"]
    has_key = {name for name, service in services.items() if any("key:" in one for one in service.get("volumes", []))}
    assert has_key == {"sealer"}
    shown = {name: [one for one in service.get("volumes", []) if "ledger" in one] for name, service in services.items()}
    assert {name: mounted for name, mounted in shown.items() if mounted} == {
        "sealer": ["ledger:/var/lib/allq-ledger"],
        "cli": ["ledger:/var/lib/allq-ledger:ro"],
    }
    for target in ("cpu", "cuda"):
        owned = next(line for line in image(target)["RUN"] if "--owner=allq" in line)
        assert "/var/lib/allq-key /var/lib/allq-ledger" in owned, "a new volume belongs to the image's account"


def test_the_gpu_worker_reserves_a_card(services: dict[str, Any]) -> None:
    gpu = services["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["target"] == "cuda"
    devices = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_run_as_an_ordinary_user_and_keep_their_files_in_one_place(target: str) -> None:
    made = image(target)
    assert made["USER"] == "10001:10001"
    assert made["ENTRYPOINT"] == ["allq"]
    assert made["ENV"]["ALLQ_HOME"] == made["ENV"]["HOME"] == "/var/lib/allq"
    assert made["WORKDIR"] == "/", "a folder that others write to may hold an .env, or modules of Python"


def test_what_the_image_is_built_from_is_in_the_build_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in [*(package.rstrip("*") + "/" for package in packages), "pyproject.toml", "README.md", "LICENSE"]:
        assert f"!{name}" in ignored


def test_the_services_screen_a_batch_with_two_workers(variables: dict[str, str], tmp_path: Path) -> None:
    from imaging.synthetic import write_slides

    # Small chunks, so that there is work for both.
    variables = {**variables, "ALLQ_CHUNK_SIZE": "8", "ALLQ_HOUSEKEEPING_SECONDS": "1"}
    machine = Machine(compose(variables), variables, tmp_path)
    write_slides(tmp_path / "slides", slides=8, fields=16, seed=7)
    before = _contents(tmp_path / "slides")
    grace = _seconds(machine.services["worker"]["stop_grace_period"])
    with ExitStack() as stack:
        stack.enter_context(machine.postgres())
        stack.enter_context(machine.up("valkey"))
        wait_for("valkey", lambda: machine.healthy("valkey"))
        _assert_password_is_needed(machine)

        for _ in range(2):  # `docker compose up` runs them each time
            machine.run("migrate")
            machine.run("roles")
        _assert_logins_may_no_more_than_their_groups(machine)
        sealer = stack.enter_context(machine.up("sealer"))
        workers = [stack.enter_context(machine.up("worker", number)) for number in (1, 2)]
        wait_for("workers", lambda: len(_present(machine)) == 2)
        assert machine.healthy("worker")

        submitted = json.loads(machine.run("cli", ["submit", "/slides", "--model", "synthetic-smears", "--json"]))
        batch = str(submitted["batch"])

        def status() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(machine.run("cli", ["status", batch, "--json"]))
            return found

        wait_for("the batch", lambda: status()["state"] == "done", seconds=180)
        wait_for("the workers' checkpoints", (tmp_path / "home" / "ledger" / "checkpoints.jsonl").exists)

        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            assert worker.wait(grace) == 0, "a worker that is told to stop ends by itself, in the time it has"
        assert machine.healthy("sealer")
        sealer.send_signal(signal.SIGTERM)
        assert sealer.wait(grace) == 0
        verified = json.loads(machine.run("cli", ["audit", "verify", "--complete", "--json"]))
        assert verified["sound"]
        assert verified["checkpoints"] == verified["exported"] > 0
        _assert_workers_have_no_key_but_keep_checkpoints(tmp_path)

        counts = status()
        assert counts["waiting"] == counts["cancelled"] == 0
        assert counts["fields"] == counts["screened"] + counts["failed"] == _images(tmp_path / "slides")
        with psycopg.connect(machine.database_url()) as connection:
            states = dict(connection.execute("SELECT state, count(*) FROM field GROUP BY state").fetchall())
            assert states == {key: counts[key] for key in ("screened", "failed") if counts[key]}
            assert connection.execute("SELECT count(*) FROM slide WHERE slide_call_id IS NULL").fetchone() == (0,)
            (actors,) = connection.execute(_ACTORS).fetchone() or (0,)
            assert actors == 2, "both workers took part"
    assert _contents(tmp_path / "slides") == before


_ACTORS = "SELECT count(DISTINCT actor) FROM event WHERE kind = 'chunk-recorded'"


def _assert_logins_may_no_more_than_their_groups(machine: Machine) -> None:
    for name in ("worker", "sealer", "cli"):
        url = machine.environment(name)["ALLQ_DATABASE_URL"].replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_user, count(*) FROM event").fetchone() == (name, 0)
        appended = (
            "INSERT INTO finding SELECT * FROM finding" if name == "sealer" else "INSERT INTO leaf VALUES (9, 1, '')"
        )
        for forbidden in ("DELETE FROM event", "ALTER TABLE event DISABLE TRIGGER ALL", "SET ROLE allq", appended):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), psycopg.connect(url) as connection:
                connection.execute(forbidden)


def _assert_workers_have_no_key_but_keep_checkpoints(tmp_path: Path) -> None:
    """What workers seal themselves elsewhere is the sealer's here; their file of checkpoints stands all the same."""
    assert not list((tmp_path / "home").rglob("*.pem"))
    sealers = (tmp_path / "home-ledger" / "checkpoints.jsonl").read_bytes()
    workers = (tmp_path / "home" / "ledger" / "checkpoints.jsonl").read_bytes()
    assert sealers.startswith(workers)


def _assert_password_is_needed(machine: Machine) -> None:
    with redis.Redis(port=machine.valkey_port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with _valkey(machine) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    wrong = machine.database_url().replace(PASSWORDS["POSTGRES_PASSWORD"], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def _valkey(machine: Machine) -> redis.Redis:
    return redis.Redis(port=machine.valkey_port, password=PASSWORDS["VALKEY_PASSWORD"], decode_responses=True)


def _present(machine: Machine) -> list[str]:
    with _valkey(machine) as client:
        return list(client.scan_iter(match="allq:worker:*"))


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def _images(folder: Path) -> int:
    return sum(path.suffix in {".png", ".jpg", ".jpeg"} for path in folder.rglob("*"))


def _seconds(duration: str) -> float:
    parts = re.findall(r"(\d+)([hms])", duration)
    return float(sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts))
