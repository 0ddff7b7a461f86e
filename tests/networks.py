"""A network of two, in a namespace of its own, whose cable a test can pull: packets are lost, nobody is told."""

from __future__ import annotations

import random
import subprocess
from contextlib import suppress
from ctypes import CDLL, get_errno
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

_FIRST: Final = IPv4Address("10.213.0.0")
_NETWORKS: Final = 1 << 14
"""of four addresses each, from the first on"""
_TRIES: Final = 20
_CLONE_NEWNET: Final = 0x40000000


class NoNamespaces(Exception):
    """This machine or account may make no network namespace; says why."""


class Cable:
    """Between this side, at the address `here`, and `namespace`. Raises NoNamespaces."""

    def __init__(self) -> None:
        try:
            number = _new_namespace()
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoNamespaces(_said(error)) from None
        self._name = _name(number)
        self.namespace = _path(self._name)
        self.here, there = (str(_FIRST + 4 * number + host) for host in (1, 2))
        try:
            _ip("link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name)
            _ip("address", "add", f"{self.here}/30", "dev", self._name)
            _ip("link", "set", self._name, "up")
            for arguments in (("address", "add", f"{there}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
                _ip("-netns", self._name, *arguments)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise NoNamespaces(_said(error)) from None

    def pull(self) -> None:
        """Cut the network."""
        _ip("link", "set", self._name, "down")

    def plug_in(self) -> None:
        """Mend it."""
        _ip("link", "set", self._name, "up")

    def close(self) -> None:
        with suppress(OSError, subprocess.CalledProcessError):
            _ip("netns", "delete", self._name)
        with suppress(OSError, subprocess.CalledProcessError):
            _ip("link", "delete", self._name)


def enter(namespace: Path) -> None:
    """Move this process into a network namespace."""
    with namespace.open("rb") as file:
        if CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(get_errno(), "this process can't enter the namespace")


def _new_namespace() -> int:
    """Make one, and return the number of its network: whoever else runs here is kept from its addresses by its name.

    Two cables of one address would each get the answers to the other's questions.
    """
    for number in random.SystemRandom().sample(range(_NETWORKS), _TRIES):
        try:
            _ip("netns", "add", _name(number))
        except subprocess.CalledProcessError:
            if not _path(_name(number)).exists():  # not that somebody has it
                raise
        else:
            return number
    raise OSError(f"{_TRIES} names of namespaces are taken already")


def _name(number: int) -> str:
    return f"allq{number}"


def _path(name: str) -> Path:
    return Path("/run/netns") / name


def _said(error: OSError | subprocess.CalledProcessError) -> str:
    return error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
