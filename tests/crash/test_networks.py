"""Two cables at once: each carries what was sent over it. With one address for both, one of them carried nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from benchmarks.scaling.links import NamespacesMissing, namespaces
from tests import networks
from tests.networks import Cable, NoNamespaces


def _reaches(cable: Cable, server: socket.socket) -> bool:
    networks.enter(cable.namespace)  # of this thread alone
    try:
        socket.create_connection((cable.here, server.getsockname()[1]), timeout=2).close()
    except OSError:
        return False
    return True


def _all_reach(cables: list[Cable], servers: list[socket.socket]) -> list[bool]:
    with ThreadPoolExecutor(len(cables)) as threads:
        return list(threads.map(_reaches, cables, servers))


def test_of_two_cables_each_reaches_its_own_servers_and_is_pulled_alone():
    with ExitStack() as stack:
        cables = []
        for _ in range(2):
            try:
                cables.append(Cable())
            except NoNamespaces as error:
                pytest.skip(str(error))
            stack.callback(cables[-1].close)
        servers = [stack.enter_context(socket.create_server((cable.here, 0))) for cable in cables]
        assert _all_reach(cables, servers) == [True, True]
        cables[0].pull()
        assert _all_reach(cables, servers) == [False, True]
        cables[0].plug_in()
        assert _all_reach(cables, servers) == [True, True]
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout.split()
    assert not {cable.namespace.name for cable in cables} & set(listed)


@pytest.mark.parametrize("mbit", [None, 100])
def test_two_checks_of_scaling_at_once_have_each_a_network_of_their_own(mbit: float | None):
    with ExitStack() as stack:
        try:
            seats = [seat for _ in range(2) for seat in stack.enter_context(namespaces(2, mbit))]
        except NamespacesMissing as missing:
            pytest.skip(str(missing))
        assert len({seat.host for seat in seats}) == len(seats)
        for seat in seats:
            server = stack.enter_context(socket.create_server((seat.host, 0)))
            asked = f"import socket; socket.create_connection({server.getsockname()!r}, timeout=5)"
            subprocess.run([*seat.prefix, sys.executable, "-c", asked], check=True)
