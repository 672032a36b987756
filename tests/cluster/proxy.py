"""A TCP proxy in front of a host: it delays, stands still, cuts connections, and counts.

A host listens on one port and advertises the proxy's, so whatever other hosts send it goes through
here, over real sockets at both ends. Its own sending goes through the proxies of the others.
"""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from multiraft import Host, open_host
from multiraft.cli.ports import free_ports
from multiraft.interfaces import MachineFactory
from tests.engine.helpers import config, journals

CHUNK_BYTES = 64 << 10
LARGE_BYTES = 256 << 10
GOODBYE_BYTES = 1 << 10


@attrs.define(eq=False)
class Connection:
    """One connection through the proxy, as long as it lasts and afterwards."""

    scope: trio.CancelScope
    bytes_in: int = 0
    """Carried towards the host."""
    large_from: float = math.inf
    """When it had carried `LARGE_BYTES`."""
    large_until: float = -math.inf
    """When it carried the last chunk since that was more than a word of goodbye."""


class Proxy:
    """What dials `address` reaches the host at `target`. Made by `open_proxy`."""

    def __init__(self, address: str, target: str, delay_s: float) -> None:
        self.address = address
        self.target = target
        self.delay_s = delay_s
        """How much later each byte arrives, in either direction."""
        self.connections: list[Connection] = []
        """All there ever were, the oldest first."""
        self.cut_above: int | None = None
        """The first connection that has carried this many bytes to the host is cut; once."""
        self.damage: Callable[[bytes], bytes | None] | None = None
        """Offered every chunk to the host until it returns one to carry in its place; once."""
        self._moving = trio.Event()
        self._moving.set()

    @property
    def bytes_in(self) -> int:
        return sum(each.bytes_in for each in self.connections)

    @property
    def large_at_once(self) -> int:
        """The most connections that carried something together after each had carried `LARGE_BYTES`.

        One that is done may stay open for a moment beside the next one.
        """
        return max(
            (
                sum(each.large_from <= one.large_from <= each.large_until for each in self.connections)
                for one in self.connections
                if one.large_from <= one.large_until
            ),
            default=0,
        )

    def pause(self) -> None:
        """Carry nothing any more, read nothing, and keep all connections."""
        self._moving = trio.Event()

    def go_on(self) -> None:
        self._moving.set()

    def cut(self) -> None:
        """End all connections."""
        for each in self.connections:
            each.scope.cancel()

    async def serve(self, outer: trio.SocketStream) -> None:
        """The handler of one accepted connection."""
        host, _, port = self.target.rpartition(":")
        with trio.CancelScope() as scope:
            connection = Connection(scope)
            self.connections.append(connection)
            try:
                inner = await trio.open_tcp_stream(host, int(port))
            except OSError:
                await trio.aclose_forcefully(outer)
                return
            async with outer, inner, trio.open_nursery() as nursery:
                for source, sink, inward in ((outer, inner, True), (inner, outer, False)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    # What is delayed has to be somewhere; otherwise nothing stays here.
                    room = math.inf if self.delay_s else 0
                    to, queue = trio.open_memory_channel[tuple[float, bytes]](room)
                    nursery.start_soon(self._read, connection, source, to, inward)
                    nursery.start_soon(self._write, connection, queue, sink)

    async def _read(
        self,
        connection: Connection,
        source: trio.SocketStream,
        to: trio.MemorySendChannel[tuple[float, bytes]],
        inward: bool,
    ) -> None:
        try:
            while True:
                await self._moving.wait()
                chunk = await source.receive_some(CHUNK_BYTES)
                await self._moving.wait()  # it may have been waiting for a chunk when it was told to pause
                if not chunk:
                    break
                if inward:
                    self._count(connection, len(chunk))
                    if self.cut_above is not None and connection.bytes_in >= self.cut_above:
                        self.cut_above = None
                        break
                    if self.damage is not None and (damaged := self.damage(chunk)) is not None:
                        self.damage, chunk = None, damaged
                await to.send((trio.current_time() + self.delay_s, chunk))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        connection.scope.cancel()

    def _count(self, connection: Connection, size: int) -> None:
        connection.bytes_in += size
        if connection.bytes_in >= LARGE_BYTES:
            now = trio.current_time()
            connection.large_from = min(connection.large_from, now)
            if size >= GOODBYE_BYTES:
                connection.large_until = now

    async def _write(
        self,
        connection: Connection,
        queue: trio.MemoryReceiveChannel[tuple[float, bytes]],
        sink: trio.SocketStream,
    ) -> None:
        try:
            async for due, chunk in queue:
                await trio.sleep_until(due)
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.scope.cancel()


@asynccontextmanager
async def open_proxy(target: str, delay_s: float = 0.0) -> AsyncIterator[Proxy]:
    """A proxy on a free port of loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = Proxy(f"127.0.0.1:{listener.socket.getsockname()[1]}", target, delay_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(
    folder: Path, count: int = 3, machines: MachineFactory = journals, *, delay_s: float = 0.0, **changes: Any
) -> AsyncIterator[tuple[list[Host], list[Proxy]]]:
    """Hosts in this process, each behind a proxy."""
    async with AsyncExitStack() as stack:
        hosts, proxies = [], []
        for place, port in enumerate(free_ports(count)):
            proxy = await stack.enter_async_context(open_proxy(f"127.0.0.1:{port}", delay_s))
            given = config(
                folder / str(place), **{"listen": proxy.target, "advertise": proxy.address, **changes}
            )
            hosts.append(await stack.enter_async_context(open_host(given, machines)))
            proxies.append(proxy)
        yield hosts, proxies
