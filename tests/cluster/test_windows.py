"""A follower that takes nothing costs its leader a window, not its memory."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cluster.memory import peak_mib, start_peak
from tests.cluster.processes import (
    HostProcess,
    create_groups,
    host_processes,
    leader_first,
    proxied_processes,
    until,
)
from tests.cluster.proxy import Proxy

pytestmark = pytest.mark.slow

MIB = 1 << 20
BOUNDED: dict[str, Any] = {
    "max_inflight_bytes": 4 * MIB,
    "cache_bytes": 2 * MIB,
    "segment_bytes": 4 * MIB,
    "max_log_bytes": 512 * MIB,
    "snapshot_interval_bytes": 1024 * MIB,
}
GROWTH_MIB_MAX = 48
"""The outbox may hold 16 MiB, the window 4 MiB more, and a pass has its 16 MiB of proposals."""
ROUNDS = 64
"""Of 2 MiB each."""

PROGRAM = "tests.cluster.work_host"
GROUP = 7
PAYLOAD_BYTES = 900
MESSAGE_BYTES = 1024
"""Each entry goes in an append of its own."""


async def slowed(
    hosts: Sequence[HostProcess], proxies: Sequence[Proxy]
) -> tuple[HostProcess, HostProcess, str, Proxy]:
    """A group's leader, a follower that has all there is, its member, and the proxy before it."""
    await create_groups(hosts, [GROUP])
    leader, follower, _ = await leader_first(hosts, GROUP)
    member = str(follower.number)
    await leader.call("propose", group=GROUP, data="settled")

    async def has_all() -> bool:
        told = await leader.call("status", group=GROUP)
        return bool(told["progress"][member]["match"] == told["last_index"])

    await until(has_all)
    return leader, follower, member, proxies[hosts.index(follower)]


@pytest.mark.parametrize(
    ("limits", "under_way"),
    [
        ({"max_inflight_messages": 20}, 20),
        # A message is sent as long as fewer bytes than the limit are under way.
        ({"max_inflight_bytes": 16 << 10}, -(-(16 << 10) // PAYLOAD_BYTES)),
    ],
    ids=["by count", "by bytes"],
)
async def test_no_more_is_under_way_than_the_window_takes(
    tmp_path: Path, limits: dict[str, int], under_way: int
) -> None:
    """One entry an append, so that `next - match` counts appends; the window fills, and stays so."""
    settings: dict[str, Any] = {"max_message_bytes": MESSAGE_BYTES, "election_ticks": 100, **limits}
    async with proxied_processes(tmp_path, program=PROGRAM, **settings) as (hosts, proxies):
        leader, follower, member, proxy = await slowed(hosts, proxies)
        proxy.pause()
        most = 0
        for _ in range(3 * under_way):
            await leader.call("write", group=GROUP, count=1, bytes=PAYLOAD_BYTES)
            progress = (await leader.call("status", group=GROUP))["progress"][member]
            assert progress["state"] == "replicate"
            most = max(most, progress["next"] - progress["match"] - 1)
        assert under_way - 1 <= most <= under_way
        applied = (await leader.call("status", group=GROUP))["applied"]
        assert (await follower.call("status", group=GROUP))["applied"] < applied - under_way
        proxy.go_on()

        async def caught_up() -> bool:
            return bool((await follower.call("status", group=GROUP))["applied"] == applied)

        await until(caught_up)


async def test_a_host_that_stands_still_costs_bounded_memory_and_catches_up(tmp_path: Path) -> None:
    """128 MiB are written while one of three processes is stopped: what the leader's process takes
    stays below its window, outbox and cache. Afterwards the third gets all of it, as entries."""
    with trio.fail_after(90):
        async with host_processes(tmp_path, program="tests.cluster.state_host", **BOUNDED) as hosts:
            await create_groups(hosts, [GROUP])
            leader, stopped, _ = await leader_first(hosts, GROUP)
            await leader.call("write", group=GROUP, count=8, bytes=64 << 10)
            stopped.signal(signal.SIGSTOP)
            before = start_peak(leader.pid)
            for _ in range(ROUNDS):
                await leader.call("write", group=GROUP, count=32, bytes=64 << 10)
            grown = peak_mib(leader.pid) - before
            status = await leader.call("status", group=GROUP)
            assert min(status["match"].values()) < status["last_index"] - 32 * ROUNDS + 64
            stopped.signal(signal.SIGCONT)
            assert await stopped.call("query", group=GROUP) == [0, 8 + 32 * ROUNDS]
            assert status["first_index"] < 8, "no snapshot was taken meanwhile"
    assert grown < GROWTH_MIB_MAX


async def test_the_window_of_one_follower_is_not_the_others(tmp_path: Path) -> None:
    """With one stuck the other two go on at once, and reads with them."""
    async with proxied_processes(tmp_path, program=PROGRAM, max_inflight_messages=4) as (hosts, proxies):
        leader, _, _, proxy = await slowed(hosts, proxies)
        proxy.pause()
        with trio.fail_after(5):
            for _ in range(50):
                await leader.call("propose", group=GROUP, data="x")
            seen = await leader.call("query", group=GROUP)
        assert len(seen) == 51
