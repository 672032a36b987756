"""Links to other hosts over HTTP/2: the dialing and the answering side together."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import attrs
import structlog
import trio

from multiraft.config import normalize_address
from multiraft.errors import AddressInUse
from multiraft.interfaces import Random, Receiver, SnapshotOffer
from multiraft.messages import Envelope, Hello, Lane
from multiraft.transport.asgi import HttpServer
from multiraft.transport.bounds import Bounds
from multiraft.transport.client import SOCKET_OPTIONS, Dialer
from multiraft.transport.link import Link, LinkStatistics
from multiraft.transport.server import Server
from multiraft.transport.snapshots import SnapshotReceiver, SnapshotSender
from multiraft.transport.tls import Tls

logger = structlog.get_logger(__name__)

BACKLOG = 1024


class HttpTransport:
    """`multiraft.interfaces.Transport` over HTTP/2. Made by `open_transport`."""

    def __init__(
        self,
        dialer: Dialer,
        server: Server,
        http: HttpServer,
        receiver: Receiver,
        random: Random,
        nursery: trio.Nursery,
    ) -> None:
        self.address = dialer.hello.address
        """What other hosts dial: with the real port, and without a scheme."""
        self._dialer = dialer
        self._http = http
        self._receiver = receiver
        self._random = random
        self._nursery = nursery
        self._links: dict[tuple[str, Lane], Link] = {}
        self._snapshots = SnapshotSender(dialer, nursery)
        SnapshotReceiver(server)

    def send(self, address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        """Queue one frame for the host at `address`; the first call starts dialing.

        Returns False when the frame was dropped: the lane is not open, or its outbox is full.
        A full outbox of the liveness lane also ends the lane's session.
        """
        link = self._links.get((address, lane))
        if link is None:
            link = self._start_link(address, lane)
        return link.send(items)

    def connect(self, address: str) -> None:
        """Start dialing, unless the lanes to `address` are open or being dialed."""
        for lane in Lane:
            if (address, lane) not in self._links:
                self._start_link(address, lane)

    def _start_link(self, address: str, lane: Lane) -> Link:
        plain = normalize_address(address)
        link = self._links.get((plain, lane))
        if link is None:
            link = Link(plain, lane, self._dialer, self._receiver, self._random)
            self._links[plain, lane] = link
            self._nursery.start_soon(link.run)
        return link

    def send_snapshot(
        self,
        address: str,
        offer: SnapshotOffer,
        chunks: Callable[[int], Iterator[bytes]],
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Stream a snapshot file; see `multiraft.interfaces.Transport`.

        `done` gets None, `SnapshotNotSent`, or `HostClosed`. A transfer is tried once; another
        call goes on where the first one broke, if the receiver kept what it had.
        """
        self._snapshots.start(normalize_address(address), offer, chunks, done)

    def release(self, address: str) -> None:
        """Close the lanes to `address` and give up transfers there. `peer_down` is not called."""
        plain = normalize_address(address)
        for lane in Lane:
            link = self._links.pop((plain, lane), None)
            if link is not None:
                link.stop()
        self._snapshots.release(plain)

    def refusal(self, address: str) -> str:
        """Why the host at `address` is none of ours, where that is known; else an empty string."""
        links = (self._links.get((address, lane)) for lane in Lane)
        return next((link.refusal for link in links if link is not None and link.refusal), "")

    @property
    def connections(self) -> int:
        """Connections that others hold to this host: two for each open lane."""
        return self._http.connections

    def statistics(self) -> list[LinkStatistics]:
        """One for each lane of each peer."""
        return [link.statistics() for link in self._links.values()]

    def stop_links(self) -> None:
        """Close all lanes and transfers; for closing."""
        for link in self._links.values():
            link.stop()
        self._snapshots.close()


@asynccontextmanager
async def open_transport(
    *,
    listen: str,
    hello: Hello,
    receiver: Receiver,
    random: Random,
    advertise: str | None = None,
    bounds: Bounds | None = None,
    tls: Tls | None = None,
) -> AsyncIterator[HttpTransport]:
    """Serve on `listen` and hold links to other hosts while the block runs.

    Args:
        listen: `host:port`, with or without a scheme; port 0 picks one.
        hello: Who this host is. Its `address` is replaced by what is really advertised.
        advertise: What other hosts dial. Default: `listen`. Its port 0 means the real port.
        tls: Default: cleartext.

    Raises:
        AddressInUse: The address cannot be bound.
        ConfigError: An address is not one.

    What `receiver` raises ends the block; no exception comes in an ExceptionGroup.
    """
    bounds = Bounds() if bounds is None else bounds
    where = normalize_address(listen, "listen")
    host, _, port = normalize_address(advertise or listen, "advertise").rpartition(":")
    listeners = await _bind(where, bounds)
    real_port = int(port) or listeners[0].socket.getsockname()[1]
    dialer = Dialer(
        attrs.evolve(hello, address=f"{host}:{real_port}"), bounds, tls.client if tls is not None else None
    )
    ours: BaseException | None = None
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:

            def crash(error: Exception) -> None:
                nursery.start_soon(_raise, error)

            server = Server(dialer.hello, receiver, bounds, crash)
            http = HttpServer(
                server.app,
                listeners,
                max_connections=bounds.max_connections,
                ssl_context=tls.server if tls is not None else None,
                handshake_timeout_s=bounds.handshake_timeout_s,
            )
            transport = HttpTransport(dialer, server, http, receiver, random, nursery)
            nursery.start_soon(http.serve)
            try:
                yield transport
            except BaseException as error:
                ours = error
                raise
            finally:
                transport.stop_links()
                with trio.move_on_after(bounds.close_timeout_s, shield=True):
                    await _say_goodbye(server, http)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = _bare(group, ours)
    finally:
        for listener in listeners:
            listener.socket.close()
    if failure is not None:
        raise failure


async def _say_goodbye(server: Server, http: HttpServer) -> None:
    server.close()
    await http.let_go()
    await server.drained()
    await http.wait_idle()


async def _raise(error: Exception) -> None:
    raise error


def _bare(group: BaseExceptionGroup[BaseException], ours: BaseException | None) -> BaseException:
    """The one exception that tells the story: the caller's, or the first that was no echo."""
    if ours is not None and not _is_cancellation(ours):
        return ours
    real = group.split(trio.Cancelled)[1]
    error: BaseException = group if real is None else real
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_cancellation(error: BaseException) -> bool:
    """An echo of something else; nurseries of the caller may have made a group of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


# --- listening ---------------------------------------------------------------------------------


async def _bind(address: str, bounds: Bounds) -> list[trio.SocketListener]:
    """Bind and listen now, so that a busy port is an error of the start."""
    host, _, port = address.rpartition(":")
    try:
        found = await trio.socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise AddressInUse(f"cannot listen on {address}: {error.strerror or error}") from None
    # With port 0 each address would get a port of its own; one is enough then.
    if not int(port):
        del found[1:]
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, sockaddr in found:
            sockets.append(_listening(family, sockaddr, bounds))
    except OSError as error:
        for each in sockets:
            each.close()
        raise AddressInUse(f"cannot listen on {address}: {error.strerror or error}") from None
    return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]


def _listening(family: int, sockaddr: tuple[object, ...], bounds: Bounds) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port whose last user's connections still linger is free; one in use is not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted connections inherit these (tcp(7)).
        for level, option, value in SOCKET_OPTIONS:
            sock.setsockopt(level, option, value)
        user_timeout_ms = math.ceil(bounds.stall_timeout_s * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
