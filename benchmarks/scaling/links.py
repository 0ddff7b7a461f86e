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
        yield [stack.enter_context(_namespace(number, seat, mbit)) for number, seat in enumerate(here(count))]


@contextmanager
def _namespace(number: int, seat: Seat, mbit: float | None) -> Iterator[Seat]:
    name = f"allq-{os.getpid()}-{number}"
    outer, inner = f"aq{os.getpid() % 100000}o{number}", f"aq{os.getpid() % 100000}i{number}"
    # 198.18.0.0/15 is set aside for measuring networks (RFC 2544).
    host, guest = f"198.18.{number}.1", f"198.18.{number}.2"
    inside = ("ip", "netns", "exec", name)
    _do("ip", "netns", "add", name)
    try:
        _do("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _do("ip", "link", "set", inner, "netns", name)
        _do("ip", "address", "add", f"{host}/30", "dev", outer)
        _do("ip", "link", "set", outer, "up")
        _do(*inside, "ip", "address", "add", f"{guest}/30", "dev", inner)
        _do(*inside, "ip", "link", "set", inner, "up")
        _do(*inside, "ip", "link", "set", "lo", "up")
        if mbit is not None:
            shape = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "200ms")
            _do("tc", "qdisc", "add", "dev", outer, *shape)
            _do(*inside, "tc", "qdisc", "add", "dev", inner, *shape)
        yield Seat(core=seat.core, host=host, prefix=inside)
    finally:
        # With the namespace goes its end of the cable, and with that the other.
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", outer], capture_output=True, check=False)
