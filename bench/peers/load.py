"""Closed loops over HTTP/1.1, as lean as Python allows: the same for every server.

Each client has a connection of its own, sends a request that was put together beforehand, waits
for its answer, and sends the next. No HTTP library takes part: it would cost more than the servers.
What is left, about 100 us of CPU for a request, runs on the same processors as the servers and
is reported (`generator_cpu_us`): on a machine with few cores it is part of every figure.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import trio

from bench.measure import Figures, RunFailed, percentile
from bench.peers.processes import Servers

RequestMaker = Callable[[int], bytes]
"""The whole request for the key of that number."""

KEYS = 10_000
SOME = 1 << 16


class Client:
    """One connection."""

    def __init__(self, address: str, requests: Iterator[bytes]) -> None:
        self.samples: list[float] = []
        self._address = address
        self._requests = requests

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        host, _, port = self._address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        task_status.started()
        async with stream:
            while True:
                started = time.perf_counter()
                await stream.send_all(next(self._requests))
                await self._answer(stream)
                self.samples.append(time.perf_counter() - started)

    async def _answer(self, stream: trio.SocketStream) -> None:
        answer = await stream.receive_some(SOME)
        while (head := answer.find(b"\r\n\r\n")) < 0:
            answer += await self._more(stream)
        if answer[9:10] != b"2":
            raise RunFailed(f"{self._address} answered {bytes(answer[:300])!r}")
        size = 0
        if (place := answer[:head].lower().find(b"content-length:")) >= 0:
            size = int(answer[place + 15 : head].split(b"\r\n", 1)[0])
        elif answer[9:12] != b"204":
            raise RunFailed(f"{self._address} does not say how long its answer is")
        while len(answer) < head + 4 + size:
            answer += await self._more(stream)

    async def _more(self, stream: trio.SocketStream) -> bytes:
        more = await stream.receive_some(SOME)
        if not more:
            raise RunFailed(f"{self._address} closed the connection")
        return bytes(more)


async def load(servers: Servers, make: RequestMaker, clients: int, seconds: float, warmup: float) -> Figures:
    """Requests per second, their latencies, and the CPU of servers and generator for each."""
    everything = [make(number) for number in range(KEYS)]
    made = [
        Client(address, itertools.cycle(everything[number * 37 % KEYS :] + everything[: number * 37 % KEYS]))
        for number, address in zip(range(clients), itertools.cycle(servers.addresses), strict=False)
    ]
    async with trio.open_nursery() as nursery:
        for client in made:
            await nursery.start(client.run)
        await trio.sleep(warmup)
        for client in made:
            client.samples.clear()
        began, own, theirs = time.perf_counter(), time.process_time(), servers.cpu_s()
        await trio.sleep(seconds)
        took, own, theirs = (
            time.perf_counter() - began,
            time.process_time() - own,
            servers.cpu_s() - theirs,
        )
        samples = sorted(sample for client in made for sample in client.samples)
        nursery.cancel_scope.cancel()
    return figures(samples, took, theirs, own)


def figures(ascending_s: Sequence[float], seconds: float, cpu_s: float, generator_s: float) -> Figures:
    """What every system is asked for; latencies in seconds, ascending."""
    if not ascending_s:
        raise RunFailed("not one operation was done")
    count = len(ascending_s)
    return {
        "per_second": count / seconds,
        "p50_ms": percentile(ascending_s, 0.5) * 1000,
        "p99_ms": percentile(ascending_s, 0.99) * 1000,
        "server_cpu_us": cpu_s / count * 1e6,
        "generator_cpu_us": generator_s / count * 1e6,
    }
