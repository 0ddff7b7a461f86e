"""TLS for servers of the tests: a throw-away certificate authority, and a door before a server that has none itself.

The Valkey and the PostgreSQL that come as Python packages are built without TLS. The door speaks it in their place:
what a client sees (a certificate, its authority, the name in it, a refusal of plain text) is what a server with TLS
shows.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.compose import free_port

Address = tuple[str, int] | str

_ASKS_FOR_TLS = struct.pack("!ii", 8, 80877103)
_ASKS_FOR_KERBEROS = struct.pack("!ii", 8, 80877104)
"""What a PostgreSQL client says first (SSLRequest, GSSENCRequest)."""


class Authority:
    """Signs certificates; `certificate` is the file by which clients know it."""

    def __init__(self, folder: Path, name: str = "throw-away") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        made = made.add_extension(_USAGE, True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server shows that goes by these names or addresses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file(*names))
        return context

    def server_file(self, *names: str) -> Path:
        """The same as a file: key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        made = self._builder(subject, key).add_extension(
            x509.SubjectAlternativeName([_name(one) for one in names]), False
        )
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        signed = made.sign(self._key, hashes.SHA256())
        both = self._folder / f"server-{signed.serial_number}.pem"
        both.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + signed.public_bytes(serialization.Encoding.PEM)
        )
        return both

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@contextmanager
def door(context: ssl.SSLContext, server: Address, *, postgresql: bool = False) -> Iterator[int]:
    """Listen on a port of this machine, speak TLS there, and hand on to `server`; yields the port.

    With `postgresql` the client first asks for TLS in PostgreSQL's words; who doesn't is turned away.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        guests: list[socket.socket] = []
        stack.callback(_close, guests)
        thread = threading.Thread(target=_welcome, args=(listening, context, server, postgresql, guests), daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _close(guests: list[socket.socket]) -> None:
    for guest in guests:
        with suppress(OSError):
            guest.shutdown(socket.SHUT_RDWR)
        guest.close()


def _welcome(
    listening: socket.socket, context: ssl.SSLContext, server: Address, postgresql: bool, guests: list[socket.socket]
) -> None:
    while True:
        try:
            guest, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(guest, context, server, postgresql, guests), daemon=True).start()


def _serve(
    guest: socket.socket, context: ssl.SSLContext, server: Address, postgresql: bool, guests: list[socket.socket]
) -> None:
    host = socket.socket(socket.AF_UNIX if isinstance(server, str) else socket.AF_INET)
    inside: socket.socket = guest
    try:
        if postgresql and not _asked_for_tls(guest):
            return
        inside = context.wrap_socket(guest, server_side=True)
        host.connect(server)
        guests += [inside, host]
        back = threading.Thread(target=_pump, args=(host, inside), daemon=True)
        back.start()
        _pump(inside, host)
        back.join()
    except OSError:  # a client that does not trust us hangs up
        pass
    finally:
        inside.close()
        host.close()


def _asked_for_tls(guest: socket.socket) -> bool:
    while (asked := guest.recv(8)) == _ASKS_FOR_KERBEROS:
        guest.sendall(b"N")
    if asked == _ASKS_FOR_TLS:
        guest.sendall(b"S")
    return asked == _ASKS_FOR_TLS


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def unix_or_tcp(url: Any) -> Address:
    """Where the PostgreSQL of an SQLAlchemy URL listens: a socket's path, or host and port."""
    host = str(url.query.get("host") or url.host or "localhost")
    port = url.port or int(url.query.get("port", 5432))
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


class NoServer(Exception):
    """There is no PostgreSQL with TLS on this machine."""


@contextmanager
def postgresql_with_tls(authority: Authority, password: str) -> Iterator[int]:
    """The machine's own PostgreSQL, where it is built with TLS, as a server that takes nothing else; yields its port.

    Raises NoServer.
    """
    programs = _programs_with_tls()
    data = Path(tempfile.mkdtemp(prefix="allq-postgresql-tls-"))
    account: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
    (data / "password").write_text(password)
    shutil.copyfile(authority.server_file("localhost"), data / "server.pem")
    for path in (data, data / "password", data / "server.pem"):
        if os.geteuid() == 0:
            shutil.chown(path, "nobody", "nogroup")
        path.chmod(0o700 if path.is_dir() else 0o600)
    cluster = data / "cluster"
    port = free_port()
    options = ["--pgdata", cluster, "--username", "allq", "--pwfile", data / "password", "--auth", "scram-sha-256"]
    settings = {"ssl": "on", "ssl_cert_file": data / "server.pem", "ssl_key_file": data / "server.pem", "fsync": "off"}
    try:
        subprocess.run(
            [programs / "initdb", *options, "--encoding=UTF8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            **account,
        )
        (cluster / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        command = [programs / "postgres", "-D", cluster, "-h", "127.0.0.1", "-p", str(port), "-k", data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account)
        try:
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _programs_with_tls() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config"))
    beside = shutil.which("pg_config")
    for program in (*reversed(found), *([Path(beside)] if beside else ())):
        said = subprocess.run([program, "--configure", "--bindir"], capture_output=True, text=True, check=False).stdout
        folder = Path(said.strip().rpartition("\n")[2])
        if re.search("--with-(openssl|ssl=openssl)", said) and (folder / "initdb").exists():
            return folder
    raise NoServer("no PostgreSQL that is built with TLS is installed here")
