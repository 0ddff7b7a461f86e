"""A relay for TCP connections that makes the way longer and narrower, and counts what goes by.

It stands between a worker and its database or broker. What it adds is what a distant machine would: each message
arrives `delay` seconds later, and no faster than `rate` bytes a second each way. It needs no privilege and no kernel
module.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_READ = 1 << 16


@dataclass(slots=True)
class Traffic:
    """What went by. A round trip: the client spoke after the server had."""

    sent: int = 0
    received: int = 0
    round_trips: int = 0
    connections: int = 0
    open: int = 0
    most_open: int = 0

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.sent + self.received


@dataclass(kw_only=True, slots=True)
class Relay:
    """A running relay. `port`: where it listens."""

    port: int = 0
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is behind the relay: a unix socket, or a host and port."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0


class _Lane:
    """One direction of one connection."""

    def __init__(self, delay: float, rate: float | None) -> None:
        self._delay, self._rate = delay, rate
        self._free = 0.0
        # Bounded, as a line's buffers are: a sender that is too fast has to wait.
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)

    async def put(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self._free = max(now, self._free) + (len(data) / self._rate if self._rate else 0.0)
        await self._queue.put((self._free + self._delay, data))

    async def deliver(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self._queue.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not data:
                with suppress(OSError, RuntimeError):
                    writer.close()
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def relay(target: Target, *, delay: float = 0.0, rate: float | None = None, host: str = "127.0.0.1") -> Iterator[Relay]:
    """Relay connections to `host` (a port of its own) to `target` while the block runs.

    `delay` in seconds, each way; `rate` in bytes per second, each way and connection, None for no limit.
    """
    running = Relay()
    loop = asyncio.new_event_loop()
    listening = threading.Event()
    problem: list[OSError] = []
    stop = asyncio.Event()

    async def serve() -> None:
        try:
            server = await asyncio.start_server(lambda r, w: _connection(r, w, target, delay, rate, running), host, 0)
        except OSError as error:
            problem.append(error)
            listening.set()
            return
        running.port = server.sockets[0].getsockname()[1]
        listening.set()
        await stop.wait()
        server.close()
        ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="relay", daemon=True)
    thread.start()
    listening.wait()
    try:
        if problem:
            raise problem[0]
        yield running
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _connection(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: Target,
    delay: float,
    rate: float | None,
    running: Relay,
) -> None:
    traffic = running.traffic
    try:
        if target.socket is not None:
            up_reader, up_writer = await asyncio.open_unix_connection(str(target.socket))
        else:
            up_reader, up_writer = await asyncio.open_connection(target.host, target.port)
    except OSError:
        writer.close()
        return
    traffic.connections += 1
    traffic.open += 1
    traffic.most_open = max(traffic.most_open, traffic.open)
    theirs = True  # the server's turn counts as over at the beginning, so that the first question is a round trip

    async def pump(source: asyncio.StreamReader, lane: _Lane, *, up: bool) -> None:
        nonlocal theirs
        while True:
            data = await source.read(_READ)
            if up:
                traffic.sent += len(data)
                traffic.round_trips += bool(data) and theirs
            else:
                traffic.received += len(data)
            theirs = not up
            await lane.put(data)
            if not data:
                return

    up_lane, down_lane = _Lane(delay, rate), _Lane(delay, rate)
    tasks = [
        asyncio.ensure_future(each)
        for each in (
            pump(reader, up_lane, up=True),
            pump(up_reader, down_lane, up=False),
            up_lane.deliver(up_writer),
            down_lane.deliver(writer),
        )
    ]
    try:
        # Whoever ends first, an end of file or an error, has the others finish what is under way.
        await asyncio.gather(*tasks)
    except OSError:
        pass
    finally:
        traffic.open -= 1
        for task in tasks:
            task.cancel()
        for each in (writer, up_writer):
            with suppress(OSError, RuntimeError):
                each.close()
