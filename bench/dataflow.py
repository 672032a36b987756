"""One of the three processes of the bare data flow; bench_dataflow.py starts them.

The same road as a proposal's, with the same libraries: closed loops propose; a pass encodes each
group's payloads once, sends one CBOR frame to each peer over a long-lived HTTP/2 request (httpx
out, hypercorn in), hands one batch to a writer thread (one write, one fdatasync), counts a
majority of copies on disk, and wakes the loops. The rest is missing: terms, votes, recovery, flow
control, checks, membership, reads.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import resource
import socket
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import cbor2
import httpx
import hypercorn.config
import hypercorn.trio
import trio

HOSTS = 3
BATCHES_MAX = 2
"""At the writer, before proposals wait: one being synced, one filling up behind it."""
FILE_BYTES = 64 << 20
SAMPLE_EVERY = 16
APPEND, ACK = 0, 1

Batch = tuple[list[bytes], list[tuple["Group", int]], list[tuple[int, int, int]]]
"""What to write; how far each group led here is then; what to acknowledge: (host, group, index)."""


class Group:
    """One group where it is led: how far each of the three has it, and who waits."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.last = self.committed = 0
        self.copies = [0] * HOSTS
        self.payloads: list[bytes] = []
        self.tasks: deque[trio.lowlevel.Task] = deque()


class Writer(threading.Thread):
    """Joins the batches that wait into one write and one fdatasync, over and over in one file."""

    def __init__(self, path: str, done: Callable[[list[Batch]], None]) -> None:
        super().__init__(daemon=True)
        self.queue: SimpleQueue[Batch] = SimpleQueue()
        self._done = done
        self._deliver = trio.lowlevel.current_trio_token().run_sync_soon
        self._file = os.open(path, os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(self._file, 0, FILE_BYTES)
        os.fsync(self._file)

    def run(self) -> None:
        offset = 0
        while True:
            batches = [self.queue.get()]
            with suppress(Empty):
                while True:
                    batches.append(self.queue.get_nowait())
            data = b"".join(blob for blobs, _, _ in batches for blob in blobs)
            if offset + len(data) > FILE_BYTES - 8:
                offset = 0
            os.pwrite(self._file, zlib.crc32(data).to_bytes(8, "little") + data, offset)
            offset += len(data) + 8
            os.fdatasync(self._file)
            self._deliver(self._done, batches)


async def parked() -> None:
    """Until rescheduled. Nothing here is ever cancelled."""
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


class Host:
    """A process: it leads every third group, and follows in the others."""

    def __init__(self, number: int, groups: int, path: str) -> None:
        self.number = number
        self.led = {n: Group(n) for n in range(groups) if n % HOSTS == number}
        self.writer = Writer(path, self._synced)
        self.inbox: deque[list[Any]] = deque()
        self.dirty: dict[Group, None] = {}
        self.synced: list[Batch] = []
        self.batches = 0
        self.out = {peer: deque[bytes]() for peer in range(HOSTS) if peer != number}
        self.room = {peer: trio.Event() for peer in self.out}
        self._parked: trio.lowlevel.Task | None = None

    def wake(self) -> None:
        if (task := self._parked) is not None:
            self._parked = None
            trio.lowlevel.reschedule(task)

    def _synced(self, batches: list[Batch]) -> None:
        self.synced += batches
        self.wake()

    async def propose(self, group: Group, data: bytes) -> None:
        group.payloads.append(data)
        group.tasks.append(trio.lowlevel.current_task())
        self.dirty[group] = None
        self.wake()
        await parked()

    async def run(self) -> None:
        while True:
            self._pass()
            if self.inbox or self.synced or (self.dirty and self.batches < BATCHES_MAX):
                await trio.lowlevel.checkpoint()
            else:
                self._parked = trio.lowlevel.current_task()
                await parked()

    def _pass(self) -> None:
        frames: dict[int, list[Any]] = {peer: [] for peer in self.out}
        batch: Batch = ([], [], [])
        synced, self.synced = self.synced, []
        for _, groups, acknowledgements in synced:
            self.batches -= 1
            for group, last in groups:
                self._copied(group, self.number, last)
            for peer, number, last in acknowledgements:
                frames[peer].append((ACK, number, last))
        while self.inbox:
            peer, *messages = self.inbox.popleft()
            for kind, number, last, *blob in messages:
                if kind == ACK:
                    self._copied(self.led[number], peer, last)
                else:
                    batch[0].append(blob[0])
                    batch[2].append((peer, number, last))
        if self.batches < BATCHES_MAX:
            self._gather(frames, batch)
        for peer, messages in frames.items():
            if messages:
                body = cbor2.dumps([self.number, *messages])
                self.out[peer].append(len(body).to_bytes(4, "little") + body)
                self.room[peer].set()
        if batch[0]:
            self.batches += 1
            self.writer.queue.put(batch)

    def _gather(self, frames: dict[int, list[Any]], batch: Batch) -> None:
        dirty, self.dirty = self.dirty, {}
        for group in dirty:
            blob = cbor2.dumps(group.payloads)
            group.last += len(group.payloads)
            group.payloads = []
            batch[0].append(blob)
            batch[1].append((group, group.last))
            for messages in frames.values():
                messages.append((APPEND, group.number, group.last, blob))

    @staticmethod
    def _copied(group: Group, host: int, last: int) -> None:
        group.copies[host] = max(group.copies[host], last)
        committed = sorted(group.copies)[HOSTS // 2]
        while group.committed < committed:
            group.committed += 1
            trio.lowlevel.reschedule(group.tasks.popleft())

    async def stream(self, peer: int) -> AsyncIterator[bytes]:
        frames = self.out[peer]
        while True:
            while frames:
                chunk = b"".join(frames)
                frames.clear()
                yield chunk
            self.room[peer] = trio.Event()
            await self.room[peer].wait()

    async def serve(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """The ASGI application: whatever arrives in a request's body is frames, until it ends."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await trio.sleep_forever()
        held = bytearray()
        while (event := await receive())["type"] == "http.request":
            held += event["body"]
            while len(held) >= 4 and len(held) >= (end := 4 + int.from_bytes(held[:4], "little")):
                self.inbox.append(cbor2.loads(bytes(held[4:end])))
                del held[:end]
            self.wake()


class Load:
    """Closed loops over the groups in turn."""

    def __init__(self, host: Host, payload: int) -> None:
        self.operations = 0
        self.samples: list[float] = []
        self._host = host
        self._turn = itertools.cycle(host.led.values())
        self._data = os.urandom(payload)

    async def one(self, number: int) -> None:
        while True:
            number += 1
            started = time.perf_counter()
            await self._host.propose(next(self._turn), self._data)
            self.operations += 1
            if number % SAMPLE_EVERY == 0:
                self.samples.append(time.perf_counter() - started)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def child(options: argparse.Namespace) -> None:
    """One of the three: the parent passes the listening sockets and says which it is."""
    sys.setswitchinterval(0.0005)
    gc.disable()  # there are no cycles
    descriptors, number = options.sockets, options.host
    host = Host(number, options.groups, os.path.join(options.folder, f"log{number}"))
    load = Load(host, options.payload)
    config = hypercorn.config.Config()
    config.bind, config.errorlog = [f"fd://{descriptors[number]}"], None
    ports = [socket.socket(fileno=os.dup(each)).getsockname()[1] for each in descriptors]

    async def send(peer: int) -> None:
        async with httpx.AsyncClient(http1=False, http2=True, timeout=None) as client:
            await client.post(f"http://127.0.0.1:{ports[peer]}/", content=host.stream(peer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hypercorn.trio.serve, host.serve, config)
        for peer in host.out:
            nursery.start_soon(send, peer)
        host.writer.start()
        nursery.start_soon(host.run)
        before = sum(len(range(n, options.groups, HOSTS)) for n in range(number))
        loops = options.inflight * (before + len(host.led)) // options.groups
        for loop in range(options.inflight * before // options.groups, loops):
            nursery.start_soon(load.one, loop)
        await trio.sleep(options.warmup)
        started, operations, cpu = time.perf_counter(), load.operations, cpu_s()
        load.samples.clear()
        await trio.sleep(options.seconds)
        seconds = time.perf_counter() - started
        result = {
            "per_second": (load.operations - operations) / seconds,
            "cpu_s_per_s": (cpu_s() - cpu) / seconds,
            "samples": [round(sample * 1e6) for sample in load.samples],
        }
        print(json.dumps(result), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)  # the others measure until their own end
        os._exit(0)  # with streams and a thread in full swing


if __name__ == "__main__":
    trio.run(child, argparse.Namespace(**json.loads(sys.argv[1])))
