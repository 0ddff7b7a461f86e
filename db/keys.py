"""The keys that sign checkpoints: Ed25519, each in a file that nobody else may read, made at first use.

`key.pem` signs. While a key is replaced, its successor lies beside it as `key.pem.next` until the checkpoint that names
it is committed; then the old one is kept as `key.pem.retired-…`, for a backup that is older than the change. Whichever
of them the ledger expects is the one that is used.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from allq import faults
from allq.errors import LedgerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class NoKey(LedgerError):
    """This machine has not the key that the ledger expects: another one seals."""


class SigningKey:
    """A private key, and the 32 bytes of its public part."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature over `data`."""
        return self._private.sign(data)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key, nowhere written yet."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - for those who sign only

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """The key in a file. LedgerError when there is none, or others may read it."""
        # imported here: commands that sign nothing must not pay for it
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        try:
            if path.stat().st_mode & 0o077:
                raise LedgerError(f"The ledger's key {path} may be read by others. Run `chmod 600 {path}`.")
            key = load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            key = None
        except OSError as error:
            raise LedgerError(f"The ledger's key {path} can't be read ({error.strerror}).") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise LedgerError(f"The file {path} holds no Ed25519 key without a password. Restore it from a backup.")
        return cls(key)

    def write(self, path: Path) -> None:
        """Keep the key in a new file, whole or not at all. FileExistsError when there is one already."""
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - for those who sign or verify only

        text = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            unfinished.unlink()
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            faults.reach("key.written")
            os.link(unfinished, path)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()
        sync_folder(path.parent)


def verifies(public: bytes, signature: bytes, data: bytes) -> bool:
    """True when the signature over `data` is that of this public key."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - for those who sign or verify only
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_for(path: Path, expected: bytes | None) -> SigningKey:
    """The key that may sign: the one whose public part the ledger expects; for a new ledger one that is made now.

    NoKey when this machine has not that key, LedgerError when it has and can't read it.
    """
    if expected is None:
        with suppress(FileExistsError):
            if not is_there(path):
                SigningKey.generate().write(path)
                faults.reach("key.made")
    place, key = _found(path, expected)
    if place == successor(path):
        promote(path)
    return key


def held(path: Path, expected: bytes | None) -> SigningKey:
    """The same key, and none is made or given another name: for whoever asks whether it is there."""
    return _found(path, expected)[1]


def _found(path: Path, expected: bytes | None) -> tuple[Path, SigningKey]:
    if expected is None:
        return path, SigningKey.read(path)
    for candidate in (path, successor(path), _retired(path, expected)):
        if is_there(candidate):
            key = SigningKey.read(candidate)
            if key.public == expected:
                return candidate, key
    raise NoKey(
        f"This machine has not the ledger's key {short(expected)}: {path} is missing, out of this account's reach, or "
        "another key. Copy it from where the ledger is sealed, or set ALLQ_LEDGER_KEY; other machines go on sealing."
    )


def is_there(path: Path) -> bool:
    """Whether this account sees a file of a key; False also where a folder above keeps it from that."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def retired_signs(path: Path, expected: bytes) -> bool:
    """Whether what the ledger expects is a key that was replaced here: a backup from before the change was restored."""
    return is_there(_retired(path, expected)) and SigningKey.read(path).public != expected


def public_keys(path: Path) -> frozenset[bytes]:
    """The public parts of the keys that sign or have signed here, of those that this account may read."""
    found = set()
    retired: list[Path] = []
    with suppress(OSError):  # a folder of another account, which keeps the key from this one
        retired += path.parent.glob(f"{path.name}.retired-*")
    for candidate in (path, successor(path), *retired):
        with suppress(LedgerError):
            found.add(SigningKey.read(candidate).public)
    return frozenset(found)


def successor(path: Path) -> Path:
    """Where the next key lies while it is not yet the one that signs."""
    return path.with_name(path.name + ".next")


def next_key(path: Path) -> SigningKey:
    """The key to come: made now, or the one that an interrupted rotation has left."""
    with suppress(FileExistsError):
        if not successor(path).exists():
            SigningKey.generate().write(successor(path))
    return SigningKey.read(successor(path))


def promote(path: Path) -> None:
    """Let the next key take the place of the one so far, which is kept under another name."""
    if path.exists():
        path.replace(_retired(path, SigningKey.read(path).public))
        faults.reach("rotate.retired")
    successor(path).replace(path)
    sync_folder(path.parent)


def _retired(path: Path, public: bytes) -> Path:
    return path.with_name(f"{path.name}.retired-{short(public)}")


def short(public: bytes) -> str:
    """The first digits of a public key, as people compare them."""
    return public.hex()[:16]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
