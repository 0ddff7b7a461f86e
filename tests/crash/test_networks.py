"""Two cables at once: each carries what was sent over it. With one address for both, one of them carried nothing."""

from __future__ import annotations

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

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
