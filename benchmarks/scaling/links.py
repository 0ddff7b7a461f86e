"""Where a worker of a check runs: on this machine, or in a network namespace of its own behind a shaped link.

A namespace has nothing but its end of a pair of virtual cables (veth); what leaves either end is held to a rate by a
token bucket (tc tbf). The delay is the relay's (`benchmarks.scaling.relay`), since not every kernel has netem. Without
the right to make namespaces (root, CAP_NET_ADMIN) the relay holds to the rate as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.networks import Cable, NoNamespaces


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A worker's place. `host` is where it finds the relays, `prefix` what its command begins with."""

    core: int
    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class NamespacesMissing(Exception):
    """Network namespaces can't be made here; says why."""


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NamespacesMissing(f"`{' '.join(command)}`: {(done.stderr or done.stdout).strip()}")


def here(count: int) -> list[Seat]:
    """`count` places on this machine, each on a core of its own as long as there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    return [Seat(core=cores[number % len(cores)]) for number in range(count)]


@contextmanager
def namespaces(count: int, mbit: float | None) -> Iterator[list[Seat]]:
    """`count` places, each in its own network namespace behind a link of `mbit` (None: as fast as it goes).

    Raises NamespacesMissing. Everything is removed at the end of the block.
    """
    if shutil.which("ip") is None or (mbit is not None and shutil.which("tc") is None):
        raise NamespacesMissing("`ip` and `tc` (iproute2) are not installed")
    with ExitStack() as stack:
        yield [stack.enter_context(_namespace(seat, mbit)) for seat in here(count)]


@contextmanager
def _namespace(seat: Seat, mbit: float | None) -> Iterator[Seat]:
    try:
        cable = Cable()
    except NoNamespaces as missing:
        raise NamespacesMissing(str(missing)) from None
    outer = cable.namespace.name
    inside = ("ip", "netns", "exec", outer)
    try:
        _do(*inside, "ip", "link", "set", "lo", "up")
        if mbit is not None:
            shape = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "200ms")
            _do("tc", "qdisc", "add", "dev", outer, *shape)
            _do(*inside, "tc", "qdisc", "add", "dev", "eth0", *shape)
        yield Seat(core=seat.core, host=cable.here, prefix=inside)
    finally:
        cable.close()
