"""Snapshot transfers over real sockets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import attrs
import pytest
import trio
import trio.testing

from multiraft.errors import HostClosed, MultiraftError
from multiraft.interfaces import SnapshotOffer
from multiraft.messages import Hello
from multiraft.transport.bounds import Bounds
from multiraft.transport.handshake import SnapshotNotSent
from multiraft.transport.http import HttpTransport
from tests.transport.helpers import (
    BULK,
    QUICK,
    Proxy,
    Recorder,
    Sink,
    append,
    hello,
    offer,
    open_lane,
    serve,
)

BLOCK = 64 << 10


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Source:
    """A file in memory, and what came of sending it."""

    def __init__(self, data: bytes, group: int = 3) -> None:
        self.data = data
        self.offer = offer(group, data, digest_of(data))
        self.offsets: list[int] = []
        self.closed = 0
        self.gate: threading.Event | None = None
        self.outcome: list[BaseException | None] = []
        self._done = trio.Event()

    def chunks(self, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        try:
            for at in range(offset, len(self.data), BLOCK):
                if self.gate is not None:
                    self.gate.wait(10)
                yield self.data[at : at + BLOCK]
        finally:
            self.closed += 1

    def send(self, transport: HttpTransport, address: str) -> None:
        self._done = trio.Event()
        transport.send_snapshot(address, self.offer, self.chunks, self._finish)

    def _finish(self, error: BaseException | None) -> None:
        self.outcome.append(error)
        self._done.set()

    async def done(self) -> BaseException | None:
        with trio.fail_after(20):
            await self._done.wait()
        return self.outcome[-1]


class Store(Recorder):
    """A receiver that keeps unfinished snapshots, by digest."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks: dict[bytes, Sink] = {}
        self.make_sink = self.sink_for

    def sink_for(self, _: Hello, head: SnapshotOffer) -> Sink:
        sink = self.sinks.setdefault(head.digest, Sink(head.digest, digest_of))
        sink.offset = len(sink.data)
        return sink


def some_bytes(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


async def test_a_snapshot_arrives_and_is_verified_before_done() -> None:
    store, source = Store(), Source(some_bytes(1 << 20))
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        source.send(one, two.address)
        assert source.outcome == [], "never before the call returns"
        assert await source.done() is None
        sink = store.sinks[source.offer.digest]
        assert sink.finished
        assert bytes(sink.data) == source.data
        assert store.snapshots == [source.offer]
        assert source.closed == 1
        assert sink.aborted == 0


async def test_an_empty_rest_needs_no_bytes() -> None:
    """All of the file is there from an earlier try; only the verdict is missing."""
    store, source = Store(), Source(some_bytes(1 << 16))
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        store.sinks[source.offer.digest] = Sink(source.offer.digest, digest_of, bytearray(source.data))
        source.send(one, two.address)
        assert await source.done() is None
        assert source.offsets == [1 << 16]


async def test_a_broken_transfer_goes_on_where_it_broke() -> None:
    store, source = Store(), Source(some_bytes(4 << 20))
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two, trio.open_nursery() as n:
        proxy = await Proxy(two.address, n).start()
        proxy.break_after(2 << 20)
        source.send(one, proxy.address)
        error = await source.done()
        assert isinstance(error, SnapshotNotSent)
        assert error.retry
        sink = store.sinks[source.offer.digest]
        while not sink.aborted:
            await trio.testing.wait_all_tasks_blocked(0.001)
        there = len(sink.data)
        assert 0 < there < 4 << 20
        source.send(one, proxy.address)
        assert await source.done() is None
        assert source.offsets == [0, there]
        assert bytes(sink.data) == source.data
        n.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_large_snapshot_survives_many_breaks_in_bounded_memory() -> None:
    """64 MiB over a connection that breaks every 9 MiB; whatever had arrived is never sent again."""
    store, source = Store(), Source(some_bytes(64 << 20))
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two, trio.open_nursery() as n:
        proxy = await Proxy(two.address, n).start()
        while True:
            proxy.break_after(9 << 20)
            source.send(one, proxy.address)
            if await source.done() is None:
                break
        assert digest_of(bytes(store.sinks[source.offer.digest].data)) == source.offer.digest
        assert len(source.offsets) > 5
        assert source.offsets == sorted(source.offsets)
        n.cancel_scope.cancel()


async def test_a_damaged_snapshot_is_refused_and_not_announced() -> None:
    store, source = Store(), Source(some_bytes(1 << 16))
    source.offer = attrs.evolve(source.offer, digest=b"other")
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        source.send(one, two.address)
        error = await source.done()
        assert "digest does not fit" in str(error)
        assert two.address in str(error)
        assert store.snapshots == []
        assert store.sinks[b"other"].aborted == 1


@pytest.mark.parametrize(("claimed", "what"), [(-1000, "more than"), (1000, "1000 of")])
async def test_a_file_of_another_size_is_refused(claimed: int, what: str) -> None:
    store, source = Store(), Source(some_bytes(1 << 16))
    source.offer = attrs.evolve(source.offer, file_bytes=len(source.data) + claimed)
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        source.send(one, two.address)
        assert what in str(await source.done())
        assert store.snapshots == []


async def test_a_host_that_will_not_take_it_says_why() -> None:
    source = Source(some_bytes(1 << 16))
    async with serve(hello(1), Recorder()) as one, serve(hello(2), Recorder()) as two:
        source.send(one, two.address)
        error = await source.done()
        assert isinstance(error, SnapshotNotSent)
        assert error.reason == "group 3 is not here"
        assert source.offsets == []


async def test_another_cluster_is_refused() -> None:
    source = Source(some_bytes(1 << 16))
    async with serve(hello(1), Recorder()) as one, serve(hello(2, cluster="billing"), Store()) as two:
        source.send(one, two.address)
        error = await source.done()
        assert isinstance(error, SnapshotNotSent)
        assert not error.retry
        assert "'billing'" in error.reason


async def test_nobody_there_fails_the_transfer() -> None:
    source = Source(some_bytes(1 << 16))
    async with serve(hello(2), Recorder()) as two:
        address = two.address
    async with serve(hello(1), Recorder()) as one:
        source.send(one, address)
        assert "cannot be reached" in str(await source.done())


@pytest.mark.slow
async def test_a_file_that_cannot_be_read_fails_the_transfer() -> None:
    store, source = Store(), Source(some_bytes(1 << 20))

    def broken(offset: int) -> Iterator[bytes]:
        yield source.data[offset : offset + BLOCK]
        raise OSError("bad sector")

    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        one.send_snapshot(two.address, source.offer, broken, source._finish)
        assert "bad sector" in str(await source.done())
        assert store.snapshots == []


async def test_a_disk_that_is_full_there_is_reported_here() -> None:
    store, source = Store(), Source(some_bytes(1 << 20))

    def full(_: bytearray) -> None:
        raise OSError(28, "No space left on device")

    store.make_sink = lambda _hello, head: Sink(head.digest, digest_of, on_write=full)
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        source.send(one, two.address)
        assert "No space left" in str(await source.done())


async def test_transfers_beyond_the_cap_wait_their_turn() -> None:
    sources = [Source(some_bytes(1 << 17), group) for group in range(5)]
    gate = threading.Event()
    store = Store()
    bounds = attrs.evolve(QUICK, max_snapshots_out=2, max_snapshots_in=9)
    async with (
        serve(hello(1), Recorder(), bounds=bounds) as one,
        serve(hello(2), store, bounds=bounds) as two,
    ):
        for source in sources:
            source.gate = gate
            source.offer = attrs.evolve(source.offer, digest=b"%d" % source.offer.group)
            source.send(one, two.address)
        store.make_sink = lambda _hello, head: Sink(head.digest, lambda _: head.digest)
        with trio.fail_after(5):
            while sum(len(s.offsets) for s in sources) < 2:
                await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sum(len(s.offsets) for s in sources) == 2
        gate.set()
        assert [await source.done() for source in sources] == [None] * 5
        assert {got.group for got in store.snapshots} == set(range(5))


async def test_snapshots_beyond_the_inbound_cap_are_told_to_come_later() -> None:
    store = Store()
    first, second = Source(some_bytes(1 << 17), 1), Source(some_bytes(1 << 18), 2)
    first.gate = threading.Event()
    bounds = attrs.evolve(QUICK, max_snapshots_in=1)
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store, bounds=bounds) as two:
        first.send(one, two.address)
        with trio.fail_after(5):
            while not first.offsets:
                await trio.testing.wait_all_tasks_blocked(0.001)
        second.send(one, two.address)
        error = await second.done()
        assert isinstance(error, SnapshotNotSent)
        assert error.retry
        assert "try again later" in error.reason
        first.gate.set()
        assert await first.done() is None
        second.send(one, two.address)
        assert await second.done() is None


async def test_two_hosts_do_not_send_the_same_group_at_once() -> None:
    store = Store()
    first, second = Source(some_bytes(1 << 17)), Source(some_bytes(1 << 18))
    first.gate = threading.Event()
    async with (
        serve(hello(1), Recorder()) as one,
        serve(hello(2), store) as two,
        serve(hello(3), Recorder()) as three,
    ):
        first.send(one, two.address)
        with trio.fail_after(5):
            while not first.offsets:
                await trio.testing.wait_all_tasks_blocked(0.001)
        second.send(three, two.address)
        assert f"is coming from {one.address}" in str(await second.done())
        first.gate.set()
        assert await first.done() is None


async def test_the_same_host_may_begin_again() -> None:
    """The older try is stopped and put away before the newer one begins to write."""
    store = Store()
    first, second = Source(some_bytes(1 << 17)), Source(some_bytes(1 << 17))
    first.gate = threading.Event()
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        first.send(one, two.address)
        with trio.fail_after(5):
            while not first.offsets:
                await trio.testing.wait_all_tasks_blocked(0.001)
        second.send(one, two.address)
        while store.sinks[first.offer.digest].aborted == 0:
            await trio.testing.wait_all_tasks_blocked(0.001)
        first.gate.set()
        assert "began again" in str(await first.done())
        assert await second.done() is None
        assert bytes(store.sinks[first.offer.digest].data) == first.data


async def test_a_sender_that_stalls_is_given_up() -> None:
    store, source = Store(), Source(some_bytes(1 << 17))
    source.gate = threading.Event()
    bounds: Bounds = attrs.evolve(QUICK, stall_timeout_s=0.05)
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store, bounds=bounds) as two:
        source.send(one, two.address)
        with trio.fail_after(5):
            while not store.sinks or not store.sinks[source.offer.digest].aborted:
                await trio.testing.wait_all_tasks_blocked(0.001)
        source.gate.set()
        assert "nothing came for 0.05 s" in str(await source.done())


async def test_closing_fails_what_is_under_way() -> None:
    store, source = Store(), Source(some_bytes(1 << 17))
    source.gate = threading.Event()
    waiting = Source(some_bytes(1 << 17), 4)
    async with serve(hello(2), store) as two:
        bounds = attrs.evolve(QUICK, max_snapshots_out=1)
        async with serve(hello(1), Recorder(), bounds=bounds) as one:
            source.send(one, two.address)
            with trio.fail_after(5):
                while not source.offsets:
                    await trio.testing.wait_all_tasks_blocked(0.001)
            waiting.send(one, two.address)
            # A read that blocks holds up the close: a thread cannot be abandoned with the file open.
            threading.Timer(0.05, source.gate.set).start()
        assert isinstance(source.outcome[0], HostClosed)
        assert isinstance(waiting.outcome[0], HostClosed)
        assert source.closed == 1


async def test_release_gives_transfers_up() -> None:
    store, source = Store(), Source(some_bytes(1 << 17))
    source.gate = threading.Event()
    async with serve(hello(1), Recorder()) as one, serve(hello(2), store) as two:
        source.send(one, two.address)
        with trio.fail_after(5):
            while not source.offsets:
                await trio.testing.wait_all_tasks_blocked(0.001)
        one.release(two.address)
        source.gate.set()
        assert isinstance(await source.done(), MultiraftError)
        with trio.fail_after(5):
            while two.connections:
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_lanes_pass_while_a_snapshot_is_under_way() -> None:
    a, store, source = Recorder(), Store(), Source(some_bytes(1 << 20))
    source.gate = threading.Event()
    async with serve(hello(1), a) as one, serve(hello(2), store) as two:
        source.send(one, two.address)
        await open_lane(one, a, two.address, BULK)
        assert one.send(two.address, BULK, [append(1, [b"x"])])
        await store.until(lambda r: r.count(BULK) == 1)
        source.gate.set()
        assert await source.done() is None
