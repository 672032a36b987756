"""What the demo does to the store, over HTTP, and the book it keeps about it.

Every write has a key of its own, so every acknowledged one can be looked up in the end: none is
hidden by a later write. A write whose outcome is unknown (its host was killed, say) may be there
or not; one that was certainly not applied is tried again.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from typing import Literal
from urllib.parse import quote_from_bytes

import cbor2
import httpx
import trio

from multiraft.cli.cluster import Cluster, ClusterHost

Pair = tuple[bytes, bytes]
Outcome = Literal["ok", "no", "maybe"]

LOAD_BATCH = 500
RUN_BATCH = 16
"""Neighbours, so in one group or two: a group without a leader holds up few others."""
WRITERS_PER_HOST = 8
READERS_PER_HOST = 2
RETRY_S = 0.05
CBOR = {"Content-Type": "application/cbor", "Accept": "application/cbor"}

ALGORITHMIC_NAMES = ("CJK UNIFIED IDEOGRAPH-", "CJK COMPATIBILITY IDEOGRAPH-", "HANGUL SYLLABLE ")
"""A hundred thousand names that are made of a number or a sound: they say nothing new."""


def unicode_names() -> list[Pair]:
    """The characters of Unicode by name: about 34,000, in the order of their names."""
    pairs = []
    for point in range(0x110000):
        name = unicodedata.name(chr(point), "")
        if name and not name.startswith(ALGORITHMIC_NAMES):
            pairs.append((name.encode(), f"U+{point:04X} {unicodedata.category(chr(point))}".encode()))
    return sorted(pairs)


class Ledger:
    """What the cluster has promised."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self.unknown: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        """Those of `acknowledged`, to choose from."""
        self.reads = 0
        self.complaints: list[str] = []

    def acknowledge(self, key: bytes, value: bytes) -> None:
        self.acknowledged[key] = value
        self.keys.append(key)


class Workload:
    """Writers and readers on all hosts that are up."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._stopping = False
        self._turn = cycle(cluster.hosts)

    async def load(self, pairs: Sequence[Pair]) -> None:
        """Write all of `pairs`, and return when every one is acknowledged.

        A write with an unknown outcome is simply made again: it is the same one.
        """
        batches = iter([list(pairs[at : at + LOAD_BATCH]) for at in range(0, len(pairs), LOAD_BATCH)])

        async def work() -> None:
            for batch in batches:  # shared: each batch is taken by one of the tasks
                left = batch
                while left := await self._write(left, unknown_too=True):  # noqa: ASYNC110 - a retry
                    await trio.sleep(RETRY_S)

        async with trio.open_nursery() as nursery:
            for _ in self._cluster.hosts:
                nursery.start_soon(work)

    async def run(self, names: Sequence[bytes], payload: int, seconds: float) -> None:
        """Write and read for `seconds`; requests that are under way then are waited for."""
        self._stopping = False
        numbers = count()
        async with trio.open_nursery() as nursery:
            for _ in self._cluster.hosts:
                for _ in range(WRITERS_PER_HOST):
                    nursery.start_soon(self._writer, names, payload, numbers)
                for _ in range(READERS_PER_HOST):
                    nursery.start_soon(self._reader)
            await trio.sleep(seconds)
            self._stopping = True

    async def _writer(self, names: Sequence[bytes], payload: int, numbers: Iterator[int]) -> None:
        while not self._stopping:
            place = random.randrange(len(names))
            keys = [b"%s/%08d" % (name, next(numbers)) for name in names[place : place + RUN_BATCH]]
            left = [(key, hashlib.shake_128(key).digest(payload)) for key in keys]
            while (left := await self._write(left)) and not self._stopping:  # noqa: ASYNC110 - a retry
                await trio.sleep(RETRY_S)

    async def _write(self, pairs: Sequence[Pair], *, unknown_too: bool = False) -> list[Pair]:
        """Write through one of the hosts; what is worth another try."""
        outcomes = await write(self._next_host(), pairs)
        again: list[Pair] = []
        for pair, outcome in zip(pairs, outcomes, strict=True):
            if outcome == "ok":
                self._ledger.acknowledge(*pair)
            elif outcome == "no" or unknown_too:
                again.append(pair)
            else:
                self._ledger.unknown[pair[0]] = pair[1]
        return again

    async def _reader(self) -> None:
        """Whoever reads after an acknowledgement sees the write, on any host."""
        ledger = self._ledger
        while not self._stopping:
            if not ledger.keys:
                await trio.sleep(RETRY_S)
                continue
            key = random.choice(ledger.keys)
            host = self._next_host()
            try:
                response = await host.client.get(f"/kv/{quote_from_bytes(key, safe='')}")
            except httpx.TransportError:
                await trio.sleep(RETRY_S)
                continue
            if response.status_code in {200, 404}:
                ledger.reads += 1
                if response.status_code == 404 or response.content != ledger.acknowledged[key]:
                    ledger.complaints.append(f"{host.name} answered {response.status_code} for {key!r}")
            else:
                await trio.sleep(RETRY_S)

    def _next_host(self) -> ClusterHost:
        return next(host for host in self._turn if host.child is not None)


async def write(host: ClusterHost, pairs: Sequence[Pair]) -> list[Outcome]:
    """One request with many writes, and what became of each."""
    body = cbor2.dumps([{"op": "put", "key": key, "value": value} for key, value in pairs])
    try:
        response = await host.client.post("/kv", content=body, headers=CBOR)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
        return ["no"] * len(pairs)
    except httpx.TransportError:
        return ["maybe"] * len(pairs)
    if response.status_code in {200, 207}:
        return [_outcome(each) for each in cbor2.loads(response.content)["results"]]
    return ["no" if b'"applied": "no"' in response.content else "maybe"] * len(pairs)


def _outcome(result: dict[str, object]) -> Outcome:
    if result["ok"]:
        return "ok"
    return "no" if result["applied"] == "no" else "maybe"
