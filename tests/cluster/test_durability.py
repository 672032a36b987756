"""A write is acknowledged when a majority has it on disk, and not before: on three processes whose
disks can be held, one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cluster.processes import POLL_S, HostProcess, create_groups, host_processes, lead, until

pytestmark = pytest.mark.slow

GROUP = 3
LOOKS = 50
"""10 ms each: what would be acknowledged too early would be by then."""


class Disk:
    """Of one host process: every sync passes, unless it is held."""

    def __init__(self, host: HostProcess) -> None:
        self._host = host

    async def hold(self) -> None:
        await self._host.call("disk", syncs="hold")

    async def let_go(self) -> None:
        await self._host.call("disk", syncs="let go")

    async def waiting(self) -> int:
        """Syncs that are held now."""
        found = await self._host.call("disk", syncs="look")
        assert isinstance(found, int)
        return found


async def status(host: HostProcess) -> dict[str, Any]:
    found = await host.call("status", group=GROUP)
    assert isinstance(found, dict)
    return found


@asynccontextmanager
async def gated_group(folder: Path) -> AsyncIterator[tuple[list[HostProcess], list[Disk]]]:
    """A group on three processes, the one that leads first, and their disks."""
    # A leader whose disk hangs steps down after an election timeout, and should: so that timeout
    # is longer than the test on the host that leads.
    async with host_processes(
        folder, program="tests.cluster.work_host", first={"election_ticks": 1000}
    ) as hosts:
        await create_groups(hosts, [GROUP])
        await lead(hosts[0], hosts, GROUP)
        disks = [Disk(host) for host in hosts]
        await hosts[0].call("propose", group=GROUP, data="settled")

        async def settled() -> bool:
            told = [await status(host) for host in hosts]
            at = {index for each in told for index in (each["applied"], each["last_index"])}
            return len(at) == 1 and not any([await disk.waiting() for disk in disks])

        await until(settled)
        yield hosts, disks


@asynccontextmanager
async def proposing(host: HostProcess) -> AsyncIterator[Callable[[], bool]]:
    """Propose in the background; says whether it was acknowledged."""
    done: list[object] = []

    async def propose() -> None:
        done.append(await host.call("propose", group=GROUP, data="held"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(propose)
        yield lambda: bool(done)


async def assert_waits(acknowledged: Callable[[], bool]) -> None:
    """What would be acknowledged too early would be meanwhile."""
    for _ in range(LOOKS):
        await trio.sleep(0.01)
        assert not acknowledged()


@pytest.mark.parametrize("released", ["leader", "follower"])
async def test_write_waits_for_syncs_of_a_majority(tmp_path: Path, released: str) -> None:
    """One of three disks has it: not acknowledged. A second one, whichever it is: acknowledged."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (hosts, disks):
            leader, first, second = range(3)
            free, held, last = (first, leader, second) if released == "leader" else (leader, first, second)
            index = (await status(hosts[leader]))["last_index"]
            await disks[held].hold()
            await disks[last].hold()

            async def everywhere() -> bool:
                """All three have written it; the free one has synced it, and said so long ago."""
                waiting = [await disks[place].waiting() for place in (held, last)]
                return waiting == [1, 1] and (await status(hosts[free]))["last_index"] > index

            async with proposing(hosts[leader]) as acknowledged:
                await until(everywhere)
                await assert_waits(acknowledged)
                assert (await status(hosts[leader]))["commit"] == index
                await disks[held].let_go()
                while not acknowledged():  # noqa: ASYNC110 - the answer of another process
                    await trio.sleep(POLL_S)
                assert await disks[last].waiting() == 1


async def test_write_waits_while_only_the_leader_has_synced(tmp_path: Path) -> None:
    """Both followers' disks hang: no acknowledgement, however long, and none is lost later."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (hosts, disks):
            for disk in disks[1:]:
                await disk.hold()

            async def held() -> bool:
                return [await disk.waiting() for disk in disks] == [0, 1, 1]

            async with proposing(hosts[0]) as acknowledged:
                await until(held)
                await assert_waits(acknowledged)
                for disk in disks[1:]:
                    await disk.let_go()
            assert acknowledged()
            assert await hosts[0].call("query", group=GROUP) == ["settled", "held"]
