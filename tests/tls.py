"""TLS for servers of the tests: a throw-away certificate authority, and a door before a server that has none itself.

The Valkey and the PostgreSQL that come as Python packages are built without TLS. The door speaks it in their place:
what a client sees (a certificate, its authority, the name in it, a refusal of plain text) is what a server with TLS
shows.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        return context

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
