"""What do messages cost as bytes, and what does a link carry?

    python bench/bench_wire.py [--seconds 1] [--runs 3] [--record]

The codec alone, per message, the best of seven tries; round trips over two lanes between two
processes; and a flood of append frames one way. Loopback, cleartext. CPU is user and system time
of both processes.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import sys
import time
import timeit
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import structlog
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, Row, arguments, percentile
from multiraft.interfaces import SnapshotOffer, SnapshotSink
from multiraft.messages import Envelope, Hello, Lane, Message, MessageType, Run
from multiraft.transport.http import HttpTransport, open_transport
from multiraft.transport.wire import decode, encode

WARMUP_S = 0.3
M = MessageType


class Peer:
    """A receiver that answers liveness frames and counts bulk ones."""

    def __init__(self) -> None:
        self.transport: HttpTransport | None = None
        self.up = 0
        self.got = 0
        self.sender = ""
        self.on_frame: Callable[[Hello, Lane, list[Envelope]], None] = self.answer

    def answer(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        """On the other host: send liveness frames back, and a word after the last of a flood."""
        assert self.transport is not None
        if self.sender != peer.address:
            self.sender = peer.address
            self.transport.connect(peer.address)
        if lane is Lane.LIVENESS or items[0][0] == 0:
            self.transport.send(peer.address, Lane.LIVENESS, items[:1])

    def receive(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        self.on_frame(peer, lane, items)

    async def wait_room(self) -> None:
        pass

    def peer_up(self, _peer: Hello, _lane: Lane) -> None:
        self.up += 1

    def peer_down(self, _address: str, _lane: Lane, _reason: str) -> None:
        pass

    def snapshot_sink(self, _peer: Hello, _offer: SnapshotOffer) -> SnapshotSink:
        raise NotImplementedError

    def snapshot_received(self, _peer: Hello, _offer: SnapshotOffer, _sink: SnapshotSink) -> None:
        raise NotImplementedError


def open_host(host_id: int, peer: Peer):  # type: ignore[no-untyped-def]  # the type is open_transport's
    return open_transport(
        listen="127.0.0.1:0",
        hello=Hello("bench", host_id, 1, ""),
        receiver=peer,
        random=random.Random(1).randrange,
    )


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def other_host(pipe: Connection) -> None:
    """The second process: says its address, then its CPU time whenever asked."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))

    async def main() -> None:
        peer = Peer()
        async with open_host(2, peer) as peer.transport:
            pipe.send(peer.transport.address)
            while await trio.to_thread.run_sync(pipe.recv):
                pipe.send(cpu_s())

    trio.run(main)


# --- the codec -----------------------------------------------------------------------------------


def messages() -> dict[str, Message]:
    run = Run.of([b"x" * 16], first=101, term=5)
    hundred = Run.of([b"x" * 16] * 100, first=101, term=5)
    return {
        "APP_RESP": Message(M.APP_RESP, 1, 2, 5, 0, 12345, 12000),
        "COMMIT": Message(M.COMMIT, 1, 2, 5, commit=12345),
        "HEARTBEAT": Message(M.HEARTBEAT, 1, 2, 5, commit=12345, context=b"12345678"),
        "HEARTBEAT_RESP": Message(M.HEARTBEAT_RESP, 1, 2, 5, context=b"12345678"),
        "VOTE": Message(M.VOTE, 1, 2, 5, 4, 100),
        "PROP, 1 x 16 B": Message(M.PROP, 1, 2, runs=[Run.of([b"x" * 16], origin=3, sequence=9)]),
        "APP, 1 x 16 B": Message(M.APP, 1, 2, 5, 5, 100, 99, [run]),
        "APP, 100 x 16 B": Message(M.APP, 1, 2, 5, 5, 100, 99, [hundred]),
    }


def codec(message: Message) -> Figures:
    """A hundred of them to a frame; bytes and time of one."""
    items: list[Envelope] = [(1000 + group, 1, message) for group in range(100)]
    body = encode(items)
    into = min(timeit.repeat(lambda: encode(items), number=50, repeat=7)) / 50 / 100
    back = min(timeit.repeat(lambda: decode(body), number=50, repeat=7)) / 50 / 100
    return {"bytes": len(body) / 100, "encode_us": into * 1e6, "decode_us": back * 1e6}


# --- the link ------------------------------------------------------------------------------------


class Link:
    """Our side of the two processes."""

    def __init__(self, transport: HttpTransport, peer: Peer, address: str, pipe: Connection) -> None:
        self.transport = transport
        self.peer = peer
        self.address = address
        self._pipe = pipe
        self._arrived = trio.Event()
        peer.on_frame = self._receive

    def _receive(self, _peer: Hello, _lane: Lane, _items: list[Envelope]) -> None:
        self._arrived.set()

    async def send(self, lane: Lane, items: list[Envelope]) -> None:
        # Nobody says when an outbox has room again: raft does not wait for it either.
        while not self.transport.send(self.address, lane, items):  # noqa: ASYNC110
            await trio.sleep(0.001)

    async def answered(self) -> None:
        await self._arrived.wait()
        self._arrived = trio.Event()

    async def cpu_s(self) -> float:
        self._pipe.send(True)
        other: float = await trio.to_thread.run_sync(self._pipe.recv)
        return cpu_s() + other

    async def round_trips(self, seconds: float) -> list[float]:
        item: list[Envelope] = [(1, 1, Message(M.HEARTBEAT, 1, 2, 5, commit=7))]
        took: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            await self.send(Lane.LIVENESS, item)
            await self.answered()
            took.append(time.perf_counter() - start)
        return sorted(took)

    async def flood(self, seconds: float, messages: int, payload: int, entries: int) -> tuple[float, int]:
        """Seconds until all has arrived, and how many frames that was."""
        run = Run.of([b"x" * payload] * entries, first=101, term=5)
        items: list[Envelope] = [
            (n + 1, 1, Message(M.APP, 1, 2, 5, 5, 100, 99, [run])) for n in range(messages)
        ]
        start = time.perf_counter()
        frames = 0
        while time.perf_counter() - start < seconds:
            await self.send(Lane.BULK, items)
            frames += 1
            if frames % 8 == 0:
                await trio.lowlevel.checkpoint()
        # Group 0 asks for an answer; it comes after everything else.
        await self.send(Lane.BULK, [(0, 1, Message(M.COMMIT, 1, 2, 5))])
        await self.answered()
        return time.perf_counter() - start, frames


async def answering(link: Link) -> None:
    """Until the other host has dialed back, as it does when it first hears of us."""
    answered = False
    while not answered:
        await link.send(Lane.LIVENESS, [(1, 1, Message(M.HEARTBEAT, 1, 2, 5))])
        with trio.move_on_after(0.1):
            await link.answered()
            answered = True
    await link.round_trips(WARMUP_S)


async def round_trips(link: Link, seconds: float) -> Figures:
    took = await link.round_trips(seconds)
    return {"p50_us": percentile(took, 0.5) * 1e6, "p99_us": percentile(took, 0.99) * 1e6}


async def flood(link: Link, seconds: float, messages: int, payload: int, entries: int) -> Figures:
    before = await link.cpu_s()
    took, frames = await link.flood(seconds, messages, payload, entries)
    used = await link.cpu_s() - before
    rate = frames * messages / took
    return {
        "frames_per_second": frames / took,
        "messages_per_second": rate,
        "megabytes_per_second": rate * payload * entries / 1e6,
        "cpu_us_per_message": used / (frames * messages) * 1e6,
    }


def over_link(question: Callable[[Link], Awaitable[Figures]]) -> Figures:
    """Ask it of a fresh link to a fresh process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=other_host, args=(theirs,), daemon=True)
    process.start()
    address: str = ours.recv()

    async def run() -> Figures:
        peer = Peer()
        async with open_host(1, peer) as transport:
            transport.connect(address)
            link = Link(transport, peer, address, ours)
            await answering(link)
            return await question(link)

    figures: Figures = trio.run(run)
    ours.send(False)
    process.join()
    return figures


FLOODS = ((1, 16, 1), (30, 16, 1), (300, 16, 1), (30, 16, 100), (4, 65536, 4))
"""Messages to a frame, bytes of an entry, entries to a message."""


def main() -> None:
    options = arguments(__doc__, seconds=1).parse_args()
    seconds: float = options.seconds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    bench = Bench("wire", options)
    rows: list[tuple[Row, Callable[[], Figures]]] = [
        ({"codec": name}, partial(codec, message)) for name, message in messages().items()
    ]
    bench.measure(rows)
    rows = [
        ({"link": "a small frame there and back"}, lambda: over_link(partial(round_trips, seconds=seconds)))
    ]
    for number, payload, entries in FLOODS:
        question = partial(flood, seconds=seconds, messages=number, payload=payload, entries=entries)
        row = {"link": f"one way, {number} x APP of {entries} x {payload} B"}
        rows.append((row, partial(over_link, question)))
    bench.measure(rows, warmup=False)


if __name__ == "__main__":
    main()
