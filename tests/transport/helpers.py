"""A receiver that records, and a few values that many tests need."""

from __future__ import annotations

import random as stdlib_random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import attrs
import trio

from multiraft.errors import MultiraftError, SnapshotInvalid
from multiraft.interfaces import Receiver, SnapshotFile, SnapshotOffer, SnapshotSink
from multiraft.messages import ConfState, Envelope, Hello, Lane, Message, MessageType, Run, Snapshot
from multiraft.transport.bounds import Bounds
from multiraft.transport.http import HttpTransport, open_transport
from multiraft.transport.tls import Tls

LIVENESS, BULK = Lane.LIVENESS, Lane.BULK

QUICK = Bounds(
    handshake_timeout_s=5, stall_timeout_s=5, retry_min_s=0.01, retry_max_s=0.05, retry_refused_s=0.05
)


def hello(host_id: int, *, cluster: str = "orders", epoch: int = 1) -> Hello:
    return Hello(cluster, host_id, epoch, "127.0.0.1:1")


def beat(group: int, *, term: int = 5, context: bytes = b"") -> Envelope:
    """A small message."""
    return group, 1, Message(MessageType.HEARTBEAT, 2, 1, term, commit=7, context=context)


def append(group: int, payloads: list[bytes], *, index: int = 10) -> Envelope:
    run = Run.of(payloads, first=index + 1, term=5)
    return group, 1, Message(MessageType.APP, 2, 1, 5, 5, index, 9, [run])


@attrs.define
class Sink:
    """A snapshot in memory."""

    digest: bytes
    digest_of: Callable[[bytes], bytes]
    data: bytearray = attrs.Factory(bytearray)
    offset: int = 0
    finished: bool = False
    aborted: int = 0
    file: SnapshotFile | None = None
    on_write: Callable[[bytearray], None] = lambda _: None

    def write(self, chunk: bytes) -> None:
        self.data += chunk
        self.on_write(self.data)

    def finish(self) -> None:
        if self.digest_of(bytes(self.data)) != self.digest:
            self.data.clear()
            raise SnapshotInvalid("the digest does not fit")
        self.finished = True

    def abort(self) -> None:
        self.aborted += 1


class Recorder:
    """Keeps what a transport told it; waits for it to be told something."""

    def __init__(self) -> None:
        self.frames: list[tuple[Hello, Lane, list[Envelope]]] = []
        self.ups: list[tuple[Hello, Lane]] = []
        self.downs: list[tuple[str, Lane, str]] = []
        self.snapshots: list[SnapshotOffer] = []
        self.make_sink: Callable[[Hello, SnapshotOffer], SnapshotSink] | None = None
        self.room: trio.Event | None = None
        self.broken: Exception | None = None
        self._news = trio.Event()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def receive(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        if self.broken is not None:
            raise self.broken
        self.frames.append((peer, lane, items))
        self._wake()

    async def wait_room(self) -> None:
        if self.room is not None:
            await self.room.wait()

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        self.ups.append((peer, lane))
        self._wake()

    def peer_down(self, address: str, lane: Lane, reason: str) -> None:
        self.downs.append((address, lane, reason))
        self._wake()

    def snapshot_sink(self, peer: Hello, offer: SnapshotOffer) -> SnapshotSink:
        if self.make_sink is None:
            raise MultiraftError(f"group {offer.group} is not here")
        return self.make_sink(peer, offer)

    def snapshot_received(self, _peer: Hello, offer: SnapshotOffer, _sink: SnapshotSink) -> None:
        self.snapshots.append(offer)
        self._wake()

    async def until(self, condition: Callable[[Recorder], bool], *, within_s: float = 10) -> None:
        """Return once `condition` holds; it is looked at after every call the transport makes."""
        with trio.fail_after(within_s):
            while not condition(self):
                await self._news.wait()

    def messages(self, lane: Lane) -> Iterator[Envelope]:
        for _, on, items in self.frames:
            if on is lane:
                yield from items

    def count(self, lane: Lane) -> int:
        return sum(1 for _ in self.messages(lane))


def serve(
    me: Hello,
    receiver: Receiver,
    *,
    listen: str = "127.0.0.1:0",
    bounds: Bounds = QUICK,
    advertise: str | None = None,
    tls: Tls | None = None,
) -> AbstractAsyncContextManager[HttpTransport]:
    return open_transport(
        listen=listen,
        hello=me,
        receiver=receiver,
        random=stdlib_random.Random(1).randrange,
        bounds=bounds,
        advertise=advertise,
        tls=tls,
    )


async def open_lane(transport: HttpTransport, recorder: Recorder, address: str, lane: Lane) -> None:
    """Have `transport` dial `address` and wait until the lane is open."""
    before = len([1 for peer, on in recorder.ups if (peer.address, on) == (address, lane)])
    assert not transport.send(address, lane, [beat(1)]), "nothing is sent before the lane is open"
    await recorder.until(
        lambda r: len([1 for peer, on in r.ups if (peer.address, on) == (address, lane)]) > before
    )


def offer(group: int, data: bytes, digest: bytes) -> SnapshotOffer:
    place = Snapshot(90, 4, ConfState((1, 2, 3)), b"members")
    return SnapshotOffer(group, 1, 1, 2, 5, place, len(data), digest)


class Proxy:
    """A TCP connection in between that a test can freeze, or break."""

    def __init__(self, target: str, nursery: trio.Nursery) -> None:
        self.address = ""
        self.target = target
        self._nursery = nursery
        self._streams: set[trio.SocketStream] = set()
        self._open = trio.Event()
        self._open.set()
        self._byte_limit: int | None = None

    async def start(self) -> Proxy:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._nursery.start_soon(trio.serve_listeners, self._serve, listeners)
        return self

    def freeze(self) -> None:
        """Carry nothing more, but keep connections open."""
        self._open = trio.Event()

    def thaw(self) -> None:
        self._open.set()

    def break_after(self, size: int) -> None:
        """Break all connections when one of them has carried another `size` bytes to the target."""
        self._byte_limit = size

    def break_all(self) -> None:
        for stream in list(self._streams):
            stream.socket.close()

    async def _serve(self, client: trio.SocketStream) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            server = await trio.open_tcp_stream(host, int(port))
        except OSError:
            await client.aclose()
            return
        self._streams |= {client, server}
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server, nursery.cancel_scope, True)
            nursery.start_soon(self._pump, server, client, nursery.cancel_scope, False)
        self._streams -= {client, server}

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, counted: bool
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                await self._open.wait()
                await sink.send_all(data)
                if counted and self._byte_limit is not None:
                    self._byte_limit -= len(data)
                    if self._byte_limit < 0:
                        self._byte_limit = None
                        self.break_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
