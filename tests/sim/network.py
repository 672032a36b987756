"""The network on virtual time: two lanes between each two hosts, and snapshot transfers.

A lane is a stream: in order, whole, until it breaks; then what was in it is gone, and both ends
hear of it in their own time. A *lossy* network treats single frames worse than any stream could.
Frames are really encoded and decoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from multiraft.errors import MultiraftError, SnapshotInvalid
from multiraft.interfaces import SnapshotOffer, SnapshotSink
from multiraft.messages import Envelope, Lane, Message, MessageType
from multiraft.transport.wire import decode, encode
from tests.sim.plan import Plan
from tests.sim.world import World, between

if TYPE_CHECKING:
    from tests.sim.host import SimHost

OUTBOX_FRAMES = 200
"""Frames in a lane, sent or not; above it the sender is refused."""

Chunks = Callable[[int], Iterator[bytes]]
Done = Callable[[BaseException | None], None]


class TransferBroken(MultiraftError):
    """A snapshot did not get through."""


@attrs.define(eq=False)
class LinkState:
    """One lane in one direction."""

    source: SimHost
    target: SimHost
    lane: Lane
    wanted: bool = False
    """The source has asked for it."""
    up: bool = False
    session: int = 0
    frames: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    """In the stream: when each arrives at the earliest, and its bytes."""
    pumping: bool = False
    telling: bool = False
    """The source has not heard yet that it went down."""

    @property
    def name(self) -> str:
        return f"{self.source.name}>{self.target.name}.{self.lane.name[0]}"


class Network:
    """All links of a cluster, and who cannot reach whom."""

    def __init__(self, world: World, plan: Plan, check_sent: Callable[[SimHost, Envelope], None]) -> None:
        self._world = world
        self._plan = plan
        self._random = world.random("network")
        self._check_sent = check_sent
        self._hosts: dict[str, SimHost] = {}
        self._links: dict[tuple[str, str, Lane], LinkState] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._transfers: dict[tuple[str, int], Transfer] = {}
        self.lossy = plan.lossy
        self.calm = False
        self.frames = 0

    # --- hosts come and go -----------------------------------------------------------------------

    def add(self, host: SimHost) -> None:
        for other in self._hosts.values():
            for source, target in ((host, other), (other, host)):
                for lane in Lane:
                    key = (source.address, target.address, lane)
                    self._links[key] = LinkState(source, target, lane)
        self._hosts[host.address] = host

    def host_up(self, host: SimHost) -> None:
        for link in self._links_of(host):
            if link.source is host:
                link.telling = False
            if not link.up:
                self._dial(link)

    def host_down(self, host: SimHost) -> None:
        for link in self._links_of(host):
            link.wanted = link.wanted and link.source is not host
            self._break(link, "the host went down")
        for transfer in [t for t in self._transfers.values() if host in (t.source, t.target)]:
            transfer.fail("a host went down")

    def _links_of(self, host: SimHost) -> list[LinkState]:
        return [link for link in self._links.values() if host in (link.source, link.target)]

    def connect(self, source: SimHost, address: str) -> None:
        for lane in Lane:
            link = self._links[source.address, address, lane]
            link.wanted = True
            if not link.up:
                self._dial(link)

    # --- faults ----------------------------------------------------------------------------------

    def blocked(self, source: SimHost, target: SimHost) -> bool:
        return (source.address, target.address) in self._blocked

    def block(self, pairs: Sequence[tuple[SimHost, SimHost]]) -> None:
        """Nothing gets from the first to the second of each pair; streams stall, then break."""
        for source, target in pairs:
            if not self.blocked(source, target):
                self._blocked.add((source.address, target.address))
                for lane in Lane:
                    link = self._links[source.address, target.address, lane]
                    delay = between(self._random, 0.0, 3.0)
                    self._world.after(delay, partial(self._give_up, link, link.session))

    def unblock_all(self) -> None:
        self._blocked.clear()
        for link in self._links.values():
            self._pump(link)
            if not link.up:
                self._dial(link)

    def break_some(self, count: int) -> None:
        up = [link for link in self._links.values() if link.up]
        for link in self._random.sample(up, min(count, len(up))):
            self._break(link, "reset")

    def heal(self) -> None:
        """The network is whole, orderly and quick from now on."""
        self.lossy = False
        self.calm = True
        self.unblock_all()
        for link in self._links.values():
            if self._plan.lossy:
                # What was lost from a stream without its breaking is nobody's to send again.
                self._break(link, "healed")

    # --- lanes -----------------------------------------------------------------------------------

    def send(self, source: SimHost, address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        for item in items:
            self._check_sent(source, item)
        link = self._links[source.address, address, lane]
        if not link.up:
            return False
        if len(link.frames) >= OUTBOX_FRAMES:
            if lane is Lane.LIVENESS:
                self._break(link, "overflow")
            return False
        body = encode(items)
        self.frames += 1
        self._world.log(link.name, f"send {len(items)} {crc32(body):08x} {_kinds(items)}")
        if self.lossy and self._mistreat(link, items, body):
            return True
        self._put(link, body)
        return True

    def _put(self, link: LinkState, body: bytes) -> None:
        link.frames.append((self._world.now + self._latency(), body))
        self._pump(link)

    def _mistreat(self, link: LinkState, items: Sequence[Envelope], body: bytes) -> bool:
        """Lose a frame, have it overtaken, or double it. True: it does not go the normal way."""
        fate = self._random.random()
        if fate < 0.05:
            return True
        if fate < 0.10:
            self._stray(link, body)
            return True
        if fate < 0.15:
            # No transport sends a forwarded proposal twice on its own account, so the engine
            # may count on that; what it sends again itself is another matter.
            again = [item for item in items if not _is_proposal(item)]
            if again:
                self._stray(link, encode(again))
        return False

    def _stray(self, link: LinkState, body: bytes) -> None:
        """A frame that goes its own way and arrives whenever it likes."""
        delay = self._latency() * between(self._random, 1, 20)
        self._world.after(delay, lambda: self._arrive(link, body))

    def _pump(self, link: LinkState) -> None:
        if link.pumping or not link.frames:
            return
        link.pumping = True
        self._world.at(link.frames[0][0], lambda: self._next(link))

    def _next(self, link: LinkState) -> None:
        link.pumping = False
        if not link.frames or self.blocked(link.source, link.target):
            return
        if link.target.paused:
            link.target.when_running(lambda: self._pump(link))
            return
        if link.frames[0][0] <= self._world.now:
            _, body = link.frames.popleft()
            self._arrive(link, body)
        self._pump(link)

    def _arrive(self, link: LinkState, body: bytes) -> None:
        target = link.target
        if self.blocked(link.source, target) or target.scheduler is None:
            return
        if target.paused:
            target.when_running(lambda: self._arrive(link, body))
            return
        self._world.log(link.name, f"recv {crc32(body):08x}")
        target.scheduler.receive(link.source.hello, link.lane, decode(body))

    def _latency(self) -> float:
        if self.calm:
            return 0.001
        plan = self._plan
        return plan.latency_s + plan.jitter_s * self._random.random() ** 4

    # --- sessions --------------------------------------------------------------------------------

    def _give_up(self, link: LinkState, session: int) -> None:
        if link.session == session and self.blocked(link.source, link.target):
            self._break(link, "silence")

    def _break(self, link: LinkState, reason: str) -> None:
        if not link.up:
            return
        link.up = False
        link.session += 1
        # Some of what was sent had arrived; the rest is gone.
        link.frames.clear()
        self._world.log(link.name, f"down {reason}")
        source = link.source
        link.telling = True

        def tell() -> None:
            link.telling = False
            if source.scheduler is not None:
                source.scheduler.peer_down(link.target.address, link.lane, reason)

        self._world.after(0.0, lambda: source.when_running(tell))
        self._dial(link)

    def _dial(self, link: LinkState) -> None:
        session = link.session
        delay = between(self._random, 0.01, 0.05 if self.calm else 0.4)
        self._world.after(delay, lambda: self._try(link, session))

    def _try(self, link: LinkState, session: int) -> None:
        source, target = link.source, link.target
        if link.up or not link.wanted or link.session != session:
            return
        if source.scheduler is None or target.scheduler is None:
            return  # whoever is down dials, and is dialled, when it is up
        if source.paused or target.paused or link.telling or self._parted(source, target):
            self._dial(link)
            return
        link.up = True
        self._world.log(link.name, "up")
        source.scheduler.peer_up(target.hello, link.lane)

    def _parted(self, source: SimHost, target: SimHost) -> bool:
        return self.blocked(source, target) or self.blocked(target, source)

    # --- snapshots -------------------------------------------------------------------------------

    def send_snapshot(
        self, source: SimHost, address: str, offer: SnapshotOffer, chunks: Chunks, done: Done
    ) -> None:
        target = self._hosts[address]
        transfer = Transfer(self._world, source, target, offer, chunks, done)
        key = (address, offer.group)
        if key in self._transfers:
            self._transfers[key].fail("superseded")
        self._transfers[key] = transfer
        transfer.ended = lambda: self._forget(key, transfer)
        self._world.log(source.name, f"snapshot {offer.group} at {offer.snapshot.index} for {target.name}")
        self._step(transfer)

    def _forget(self, key: tuple[str, int], transfer: Transfer) -> None:
        if self._transfers.get(key) is transfer:
            del self._transfers[key]

    def _step(self, transfer: Transfer) -> None:
        if transfer.over:
            return
        unlucky = not self.calm and self._random.random() < 0.03
        if unlucky or self._parted(transfer.source, transfer.target) or transfer.target.scheduler is None:
            transfer.fail("the connection broke")
            return
        if not (transfer.source.paused or transfer.target.paused):
            piece = self._random.choice((64, 4096, 1 << 20))
            if transfer.move(piece):
                return
        self._world.after(self._latency(), lambda: self._step(transfer))


class Transfer:
    """One snapshot on its way."""

    def __init__(
        self,
        world: World,
        source: SimHost,
        target: SimHost,
        offer: SnapshotOffer,
        chunks: Chunks,
        done: Done,
    ) -> None:
        self.source = source
        self.target = target
        self.over = False
        self.ended: Callable[[], None] = lambda: None
        self._world = world
        self._incarnation = source.incarnation
        self._offer = offer
        self._chunks = chunks
        self._done = done
        self._sink: SnapshotSink | None = None
        self._reader: Iterator[bytes] = iter(())
        self._buffer = b""

    def move(self, size: int) -> bool:
        """Take the next step, of up to `size` bytes. True: it was the last."""
        try:
            return self._move(size)
        except (MultiraftError, OSError) as error:
            self.fail(repr(error))
            return True

    def _move(self, size: int) -> bool:
        scheduler = self.target.scheduler
        assert scheduler is not None, "the network looks before each step"
        if self._sink is None:
            self._sink = scheduler.snapshot_sink(self.source.hello, self._offer)
            self._reader = self._chunks(self._sink.offset)
            return False
        if not self._buffer:
            self._buffer = next(self._reader, b"")
        if self._buffer:
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            self._sink.write(piece)
            return False
        sink, self._sink = self._sink, None
        sink.finish()
        scheduler.snapshot_received(self.source.hello, self._offer, sink)
        self._end(None)
        return True

    def fail(self, reason: str) -> None:
        if not self.over:
            if self._sink is not None and self.target.scheduler is not None:
                self._sink.abort()
            self._end(TransferBroken(reason))

    def _end(self, error: SnapshotInvalid | TransferBroken | None) -> None:
        self.over = True
        self.ended()
        outcome = "arrived" if error is None else f"failed: {error}"
        self._world.log(self.source.name, f"snapshot for {self.target.name} {outcome}")
        source = self.source

        def tell() -> None:
            if source.incarnation == self._incarnation:
                self._done(error)

        self._world.after(0.001, lambda: source.when_running(tell))


def _is_proposal(item: Envelope) -> bool:
    message = item[2]
    return type(message) is Message and message.type is MessageType.PROP


def _kinds(items: Sequence[Envelope]) -> str:
    return " ".join(
        f"{group}:{message.type.name.lower()}/{message.term}/{message.index}"
        if type(message) is Message
        else f"{group}:{type(message).__name__}"
        for group, _, message in items
    )
