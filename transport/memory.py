"""The transport within one process: for tests, and for a simulator that owns time.

No trio, no clock, no randomness here. What happens later is handed to `schedule`, and what
happens to each frame is asked of `fate`, so the same decisions give the same run. Frames are
really encoded and decoded, so whatever does not survive the wire does not survive this either.

A lane is a stream, as over HTTP/2: frames of one session arrive in the order they were sent,
and a frame that is lost on the liveness lane takes the session with it. The bulk lane can be
made worse than any stream (`in_order=False`, copies, losses), because raft does not care.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import attrs

from multiraft.config import normalize_address
from multiraft.errors import AddressInUse, HostClosed, MultiraftError
from multiraft.interfaces import Receiver, SnapshotOffer, SnapshotSink
from multiraft.messages import Envelope, Hello, Lane
from multiraft.transport import handshake
from multiraft.transport.bounds import Bounds
from multiraft.transport.frames import PREFIX_BYTES, WireError
from multiraft.transport.handshake import SnapshotNotSent
from multiraft.transport.outbox import Outbox
from multiraft.transport.wire import decode, encode_frames

Schedule = Callable[[float, Callable[[], None]], None]
"""`schedule(delay_s, callback)`. Callbacks for the same moment run in the order given."""


@attrs.frozen
class Passage:
    """A frame on its way, as a `Fate` sees it. `number` counts all frames of the network."""

    source: str
    target: str
    lane: Lane
    number: int
    frame_bytes: int


Fate = Callable[[Passage], Sequence[float]]
"""Delays in seconds, one for each copy that arrives; none: the frame is lost.

On the liveness lane only the first delay counts, and a loss breaks the session."""


def arrives_at_once(_: Passage) -> Sequence[float]:
    """The default fate."""
    return (0.0,)


class Pump:
    """Virtual time: a `schedule` for tests that need no simulator."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def schedule(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._order), callback))

    def run_for(self, seconds: float = 0.0) -> None:
        """Run all that is due within `seconds`, and what it makes due in turn."""
        end_s = self.now_s + seconds
        while self._due and self._due[0][0] <= end_s:
            self.now_s, _, callback = heapq.heappop(self._due)
            callback()
        self.now_s = end_s


class MemoryNetwork:
    """Hosts by address, and what is wrong between them.

    Args:
        schedule: Runs callbacks later; see `Schedule`.
        fate: Decides about each frame. Default: it arrives at once.
        in_order: False: frames of the bulk lane overtake each other as their delays say.
        connect_s: From dialing until a lane is open.
        retry_s: Before a lane that could not be opened, or broke, is dialed again.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        fate: Fate = arrives_at_once,
        in_order: bool = True,
        connect_s: float = 0.0,
        retry_s: float = 0.1,
        bounds: Bounds | None = None,
    ) -> None:
        self.schedule = schedule
        self.fate = fate
        self.in_order = in_order
        self.connect_s = connect_s
        self.retry_s = retry_s
        self.bounds = Bounds() if bounds is None else bounds
        self.frames = itertools.count()
        self._hosts: dict[str, MemoryTransport] = {}
        self._cut: set[tuple[str, str]] = set()
        self._stalled: set[tuple[str, str, Lane]] = set()

    def open(self, hello: Hello, receiver: Receiver) -> MemoryTransport:
        """A host at `hello.address`. Raises: AddressInUse."""
        address = normalize_address(hello.address)
        if address in self._hosts:
            raise AddressInUse(f"cannot listen on {address}: a host of this network does")
        transport = MemoryTransport(self, attrs.evolve(hello, address=address), receiver)
        self._hosts[address] = transport
        return transport

    def host(self, source: str, target: str) -> MemoryTransport | None:
        """The host at `target` if `source` can reach it now."""
        return None if (source, target) in self._cut else self._hosts.get(target)

    def is_stalled(self, source: str, target: str, lane: Lane) -> bool:
        return (source, target, lane) in self._stalled

    def forget(self, transport: MemoryTransport) -> None:
        """For `MemoryTransport.close`: break every lane to it."""
        del self._hosts[transport.address]
        for other in self._hosts.values():
            other.break_links(transport.address, f"{transport.address} closed the connection")

    # --- what tests and simulators do to it -------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """`source` cannot reach `target` (one direction): its lanes break, what is on its way is gone."""
        self._cut.add((source, target))
        if source in self._hosts:
            self._hosts[source].break_links(target, f"the connection to {target} broke")

    def heal(self, source: str, target: str) -> None:
        """Undo `cut`. The next try of each lane opens it."""
        self._cut.discard((source, target))

    def stall(self, source: str, target: str, lane: Lane) -> None:
        """Frames leave no more but wait in the outbox, up to its bound. Nothing breaks by itself."""
        self._stalled.add((source, target, lane))

    def resume(self, source: str, target: str, lane: Lane) -> None:
        """Undo `stall`; what waited leaves."""
        self._stalled.discard((source, target, lane))
        if source in self._hosts:
            self._hosts[source].resume(target, lane)


class _Lane:
    """One lane from one host to another."""

    __slots__ = ("address", "dialing", "flying", "lane", "outbox", "reason", "released", "target")

    def __init__(self, address: str, lane: Lane) -> None:
        self.address = address
        self.lane = lane
        self.target: MemoryTransport | None = None
        self.outbox: Outbox | None = None
        self.flying: deque[_Flight] = deque()
        self.dialing = False
        self.released = False
        self.reason = ""

    def end_session(self) -> None:
        """Nothing of it arrives any more: what is on its way belongs to another deque."""
        self.outbox = self.target = None
        self.flying = deque()


@attrs.define(eq=False)
class _Flight:
    """A frame on its way. It arrives when it is due and all before it have arrived."""

    frame: bytes
    due: bool = False


class MemoryTransport:
    """`multiraft.interfaces.Transport` within a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, hello: Hello, receiver: Receiver) -> None:
        self.address = hello.address
        self.hello = hello
        self.receiver = receiver
        self._network = network
        self._lanes: dict[tuple[str, Lane], _Lane] = {}
        self._transfers: list[_Transfer] = []
        self.closed = False

    def send(self, address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        """As `HttpTransport.send`."""
        link = self._lanes.get((address, lane))
        if link is None:
            self._start_lane(address, lane)
            return False
        if link.outbox is None:
            return False
        try:
            frames = encode_frames(items, self._network.bounds.max_frame_bytes)
        except WireError as error:
            if lane is Lane.LIVENESS:
                self._break(link, f"a frame could not be encoded: {error}")
            return False
        if not link.outbox.push(frames):
            if link.outbox.overflowed:
                self._break(link, "its outbox overflowed")
            return False
        self._flush(link)
        return True

    def connect(self, address: str) -> None:
        """As `HttpTransport.connect`."""
        for lane in Lane:
            if (address, lane) not in self._lanes:
                self._start_lane(address, lane)

    def _start_lane(self, address: str, lane: Lane) -> None:
        if not self.closed:
            link = self._lanes[address, lane] = _Lane(normalize_address(address), lane)
            self._dial_later(link, self._network.connect_s)

    def send_snapshot(
        self,
        address: str,
        offer: SnapshotOffer,
        chunks: Callable[[int], Iterator[bytes]],
        done: Callable[[BaseException | None], None],
    ) -> None:
        """As `HttpTransport.send_snapshot`, one chunk a callback, without a cap."""
        transfer = _Transfer(self, normalize_address(address), offer, chunks, done)
        self._transfers.append(transfer)
        self._network.schedule(self._network.connect_s, transfer.begin)

    def release(self, address: str) -> None:
        """As `HttpTransport.release`."""
        for lane in Lane:
            link = self._lanes.pop((address, lane), None)
            if link is not None:
                link.released = True
                link.end_session()
        for transfer in [t for t in self._transfers if t.address == address]:
            transfer.fail(SnapshotNotSent(address, "the link was released", retry=False))

    def close(self) -> None:
        """The host is gone, as if killed: nobody is called back but `done` of transfers."""
        for address in {address for address, _ in self._lanes}:
            self.release(address)
        self.closed = True
        for transfer in list(self._transfers):
            transfer.fail(HostClosed("the transport closed during a snapshot transfer"))
        self._network.forget(self)

    def break_links(self, address: str, reason: str) -> None:
        """Every session to `address` breaks now."""
        for (target, _), link in list(self._lanes.items()):
            if target == address and link.outbox is not None:
                self._break(link, reason)
        for transfer in [t for t in self._transfers if t.address == address]:
            transfer.fail(SnapshotNotSent(address, reason))

    def resume(self, address: str, lane: Lane) -> None:
        link = self._lanes.get((address, lane))
        if link is not None:
            self._flush(link)

    def finished(self, transfer: _Transfer) -> None:
        self._transfers.remove(transfer)

    @property
    def network(self) -> MemoryNetwork:
        return self._network

    # --- lanes --------------------------------------------------------------------------------

    def _dial_later(self, link: _Lane, delay_s: float) -> None:
        if not link.dialing:
            link.dialing = True
            self._network.schedule(delay_s, lambda: self._dial(link))

    def _dial(self, link: _Lane) -> None:
        link.dialing = False
        if link.released or self.closed:
            return
        target = self._network.host(self.address, link.address)
        reason = f"{link.address} cannot be reached" if target is None else None
        if target is not None:
            # The hello takes the same way as over HTTP.
            theirs, _ = handshake.read_lane_request(handshake.lane_request(self.hello, link.lane))
            reason = handshake.mismatch(target.hello, theirs)
        if reason is not None:
            if reason != link.reason:
                link.reason = reason
                self.receiver.peer_down(link.address, link.lane, reason)
            self._dial_later(link, self._network.retry_s)
            return
        assert target is not None
        bounds = self._network.bounds
        liveness = link.lane is Lane.LIVENESS
        limit = bounds.liveness_outbox_bytes if liveness else bounds.bulk_outbox_bytes
        link.target = target
        link.outbox = Outbox(link.lane, limit, bounds.outbox_frames)
        self.receiver.peer_up(attrs.evolve(target.hello, address=link.address), link.lane)

    def _break(self, link: _Lane, reason: str) -> None:
        """The session is over now; the receiver hears of it in a callback of its own."""
        link.end_session()
        link.reason = reason

        def tell() -> None:
            if not link.released and not self.closed:
                self.receiver.peer_down(link.address, link.lane, reason)
                self._dial_later(link, self._network.retry_s)

        self._network.schedule(0.0, tell)

    def _flush(self, link: _Lane) -> None:
        network = self._network
        while link.outbox is not None and len(link.outbox):
            if network.is_stalled(self.address, link.address, link.lane):
                return
            frame = link.outbox.take(1)
            passage = Passage(self.address, link.address, link.lane, next(network.frames), len(frame))
            delays = network.fate(passage)
            if link.lane is Lane.LIVENESS:
                if not delays:
                    self._break(link, f"the connection to {link.address} broke")
                    return
                delays = delays[:1]
            for delay_s in delays:
                self._carry(link, frame, delay_s)

    def _carry(self, link: _Lane, frame: bytes, delay_s: float) -> None:
        flight = _Flight(frame)
        flying = link.flying
        flying.append(flight)
        ordered = self._network.in_order or link.lane is Lane.LIVENESS

        def due() -> None:
            # A session that ended took its deque with it.
            if link.flying is not flying:
                return
            flight.due = True
            if not ordered:
                flying.remove(flight)
                self._arrive(link, flight.frame)
            while link.flying is flying and flying and flying[0].due:
                self._arrive(link, flying.popleft().frame)

        self._network.schedule(delay_s, due)

    def _arrive(self, link: _Lane, frame: bytes) -> None:
        assert link.target is not None
        link.target.receiver.receive(self.hello, link.lane, decode(frame[PREFIX_BYTES:]))


class _Transfer:
    """One snapshot on its way, a chunk a callback."""

    def __init__(
        self,
        sender: MemoryTransport,
        address: str,
        offer: SnapshotOffer,
        chunks: Callable[[int], Iterator[bytes]],
        done: Callable[[BaseException | None], None],
    ) -> None:
        self.address = address
        self._sender = sender
        self._offer = offer
        self._chunks = chunks
        self._done = done
        self._over = False
        self._target: MemoryTransport | None = None
        self._sink: SnapshotSink | None = None
        self._iterator: Iterator[bytes] = iter(())

    def begin(self) -> None:
        if self._over:
            return
        self._target = self._sender.network.host(self._sender.address, self.address)
        if self._target is None:
            self.fail(SnapshotNotSent(self.address, f"{self.address} cannot be reached"))
            return
        opening = handshake.snapshot_request(self._sender.hello, self._offer)
        hello, self._offer = handshake.read_snapshot_request(opening)
        reason = handshake.mismatch(self._target.hello, hello)
        if reason is not None:
            self.fail(SnapshotNotSent(self.address, reason, retry=False))
            return
        try:
            self._sink = self._target.receiver.snapshot_sink(hello, self._offer)
        except MultiraftError as error:
            self.fail(SnapshotNotSent(self.address, str(error)))
            return
        self._iterator = iter(self._chunks(self._sink.offset))
        self._sender.network.schedule(0.0, self._step)

    def _step(self) -> None:
        if self._over:
            return
        assert self._sink is not None
        assert self._target is not None
        chunk = next(self._iterator, None)
        try:
            if chunk is not None:
                self._sink.write(chunk)
            else:
                self._sink.finish()
        except MultiraftError as error:
            self.fail(SnapshotNotSent(self.address, str(error)))
            return
        if chunk is not None:
            self._sender.network.schedule(0.0, self._step)
            return
        self._over = True
        self._sender.finished(self)
        self._target.receiver.snapshot_received(self._sender.hello, self._offer, self._sink)
        self._done(None)

    def fail(self, error: MultiraftError) -> None:
        """Give it up; called once."""
        assert not self._over
        self._over = True
        self._sender.finished(self)
        if self._sink is not None:
            self._sink.abort()
        self._done(error)
