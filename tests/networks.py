"""A network of two, in a namespace of its own, whose cable a test can pull: packets are lost, nobody is told."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from ctypes import CDLL, get_errno
from pathlib import Path
from typing import Final

HERE: Final = "10.213.77.1"
"""The servers' address; the other side has the next one."""
_THERE: Final = "10.213.77.2"
_CLONE_NEWNET: Final = 0x40000000


class NoNamespaces(Exception):
    """This machine or account may make no network namespace; says why."""


class Cable:
    """Between this side and `namespace`. Raises NoNamespaces."""

    def __init__(self) -> None:
        self._name = f"allq{os.getpid()}"
        self.namespace = Path("/run/netns") / self._name
        try:
            _ip("netns", "add", self._name)
            _ip("link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name)
            _ip("address", "add", f"{HERE}/30", "dev", self._name)
            _ip("link", "set", self._name, "up")
            for arguments in (("address", "add", f"{_THERE}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
                _ip("-netns", self._name, *arguments)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            said = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise NoNamespaces(said) from None

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


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
