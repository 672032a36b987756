"""What the demo measures and proves: time without leaders, catching up, every write still there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote_from_bytes

import attrs
import cbor2
import httpx
import trio

from multiraft.cli.cluster import POLL_S, Cluster, ClusterHost
from multiraft.cli.workload import Ledger

CHUNK_KEYS = 1_000
CHUNKS_AT_ONCE_PER_HOST = 3
RETRY_S = 0.2


async def busiest_leader(cluster: Cluster) -> tuple[ClusterHost, list[int]]:
    """The host that leads most groups, and which those are."""
    led: list[tuple[ClusterHost, list[int]]] = []
    for host in cluster.up:
        status = await cluster.status(host)
        rows = [] if status is None else status["groups"]
        led.append((host, [row["id"] for row in rows if row["role"] == "leader"]))
    return max(led, key=lambda each: len(each[1]))


async def measure_failover(cluster: Cluster, groups: Sequence[int], killed_at: float) -> list[float]:
    """How many seconds each of `groups` was without a leader since `killed_at`.

    That is until one of the hosts that are up says that it leads the group; it is asked every
    few hundredths of a second.
    """
    missing = set(groups)
    gaps: list[float] = []

    async def ask(host: ClusterHost) -> None:
        status = await cluster.status(host)
        found = {row["id"] for row in _rows(status) if row["role"] == "leader"} & missing
        missing.difference_update(found)
        gaps.extend([trio.current_time() - killed_at] * len(found))

    while missing:
        async with trio.open_nursery() as nursery:
            for host in cluster.up:
                nursery.start_soon(ask, host)
        await trio.sleep(POLL_S)
    return gaps


async def wait_caught_up(cluster: Cluster, host: ClusterHost) -> None:
    """Return when `host` has applied what the other hosts knew to be committed at the call."""
    commits: dict[int, int] = {}
    for other in cluster.up:
        if other is not host:
            for row in _rows(await cluster.status(other)):
                commits[row["id"]] = max(row["commit"], commits.get(row["id"], 0))
    while True:
        applied = {row["id"]: row["applied"] for row in _rows(await cluster.status(host))}
        if all(applied.get(group, 0) >= commit for group, commit in commits.items()):
            return
        await trio.sleep(POLL_S)


async def verify(cluster: Cluster, ledger: Ledger, say: Callable[[int], None]) -> int:
    """Read everything back through all hosts, linearizably; how many acknowledged writes are there.

    What is missing, different, or was never written goes to `ledger.complaints`.

    Args:
        say: Called with the number that was verified so far.
    """
    chunks = _chunks(sorted(ledger.acknowledged))
    verified = 0

    async def work(host: ClusterHost) -> None:
        nonlocal verified
        for chunk in chunks:  # shared: each chunk is taken by one of the tasks
            found = await read_range(host, chunk.start, chunk.end)
            verified += _compare(found, chunk, ledger, host.name)
            say(verified)

    async with trio.open_nursery() as nursery:
        for host in cluster.up:
            for _ in range(CHUNKS_AT_ONCE_PER_HOST):
                nursery.start_soon(work, host)
    return verified


@attrs.frozen
class _Chunk:
    """A range, and the acknowledged keys that must be in it."""

    start: bytes
    end: bytes | None
    keys: Sequence[bytes]


def _chunks(keys: Sequence[bytes]) -> Iterator[_Chunk]:
    """Ranges that together hold every key there can be, each with about CHUNK_KEYS of `keys`."""
    cuts = [b"", *keys[CHUNK_KEYS::CHUNK_KEYS]]
    for place, (start, end) in enumerate(zip(cuts, [*cuts[1:], None], strict=True)):
        yield _Chunk(start, end, keys[place * CHUNK_KEYS : (place + 1) * CHUNK_KEYS])


def _compare(found: Mapping[bytes, bytes], chunk: _Chunk, ledger: Ledger, name: str) -> int:
    good = 0
    for key in chunk.keys:
        if found.get(key) == ledger.acknowledged[key]:
            good += 1
        else:
            what = "is different" if key in found else "is missing"
            ledger.complaints.append(f"{name}: the acknowledged write of {key!r} {what}")
    for key in found.keys() - ledger.acknowledged.keys():
        if ledger.unknown.get(key) != found[key]:
            ledger.complaints.append(f"{name}: {key!r} has a value that nobody wrote")
    return good


async def read_range(host: ClusterHost, start: bytes, end: bytes | None) -> dict[bytes, bytes]:
    """All keys from `start`, included, to `end`, excluded, page by page."""
    found: dict[bytes, bytes] = {}
    following: bytes | None = start
    while following is not None:
        query = f"/kv?limit=10000&start={quote_from_bytes(following, safe='')}"
        if end is not None:
            query += f"&end={quote_from_bytes(end, safe='')}"
        try:
            response = await host.client.get(query, headers={"Accept": "application/cbor"})
        except httpx.TransportError:
            await trio.sleep(RETRY_S)
            continue
        if response.status_code != 200:
            await trio.sleep(RETRY_S)
            continue
        page = cbor2.loads(response.content)
        found.update((item["key"], item["value"]) for item in page["items"])
        following = page["next"]
    return found


def _rows(status: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return [] if status is None else status["groups"]
