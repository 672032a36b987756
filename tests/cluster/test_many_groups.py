"""What three processes do for few groups, and for ten times as many: frames and syncs are for passes and
for intervals, not for groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.cluster.durable_host import BROKEN, machines_folder
from tests.cluster.processes import HostProcess, create_groups, host_processes, leader_first, until

pytestmark = pytest.mark.slow

FEW, MANY = 30, 300
WAVES = 4
TICK_S = 0.05
IDLE_S = 0.5
FRAMES_PER_TICK = 4
"""Of a host: to each of two others a beat of its own and an answer to theirs."""


@attrs.frozen
class Work:
    """What a host did within a while."""

    seconds: float
    syncs: int
    frames: int

    @property
    def idle_frames(self) -> float:
        """What it may have sent in that time without any writes."""
        return FRAMES_PER_TICK * (self.seconds / TICK_S + 2)


async def counted(hosts: Sequence[HostProcess]) -> list[dict[str, Any]]:
    return [await host.call("work") for host in hosts]


async def since(hosts: Sequence[HostProcess], before: Sequence[dict[str, Any]]) -> list[Work]:
    return [
        Work(now["at_s"] - then["at_s"], now["syncs"] - then["syncs"], now["frames"] - then["frames"])
        for now, then in zip(await counted(hosts), before, strict=True)
    ]


async def waves(hosts: Sequence[HostProcess], count: int) -> int:
    """Each host writes to all groups that it leads at once, `count` times; how many writes that were."""
    writes: list[int] = []

    async def one(host: HostProcess) -> None:
        writes.append((await host.call("waves", count=count))["writes"])

    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(one, host)
    return sum(writes)


async def measured(hosts: Sequence[HostProcess], groups: int) -> tuple[list[Work], list[Work]]:
    """With so many groups: what each host does for waves of writes to all of them, and when idle."""
    await create_groups(hosts, range(1, groups + 1))
    await waves(hosts, 1)
    before = await counted(hosts)
    assert await waves(hosts, WAVES) == WAVES * groups
    busy = await since(hosts, before)

    async def at_rest() -> bool:
        return [each["at_rest"] for each in await counted(hosts)] == [groups] * len(hosts)

    await until(at_rest)
    before = await counted(hosts)
    await trio.sleep(IDLE_S)
    return busy, await since(hosts, before)


async def test_ten_times_the_groups_need_no_more_syncs_and_frames(tmp_path: Path) -> None:
    """All groups are written to at once: syncs and frames are a small part of the writes, and stay
    what they were. At rest there are beats between hosts, and nothing for groups."""
    async with host_processes(tmp_path, program="tests.cluster.work_host", tick_interval_s=TICK_S) as hosts:
        few, few_idle = await measured(hosts, FEW)
        many, many_idle = await measured(hosts, MANY)
    writes = WAVES * MANY
    assert max(each.syncs for each in many) < writes / 20, many
    assert all(each.frames - each.idle_frames < writes / 10 for each in many), many
    assert sum(each.syncs for each in many) < 5 * sum(each.syncs for each in few), (few, many)
    for each in (*few_idle, *many_idle):
        assert each.frames <= each.idle_frames, "for each group there is none"
        assert each.syncs == 0


async def test_an_answer_to_a_beat_speaks_for_no_group_that_is_not_there(tmp_path: Path) -> None:
    """A group stops on two of three processes. Their hosts go on answering its leader's host for others,
    and yet the leader notices that nobody follows it; of the others it is the leader still."""
    stopped, other = 7, 8
    async with host_processes(
        tmp_path, program="tests.cluster.durable_host", tick_interval_s=TICK_S, leader_wait_s=30.0
    ) as hosts:
        await create_groups(hosts, [stopped, other])
        leader, *followers = await leader_first(hosts, stopped)
        for host in hosts:
            await host.call("propose", group=other, data=f"of {host.number}")

        async def all_applied() -> bool:
            told = [await host.call("query", group=other) for host in hosts]
            return all(len(each) == len(hosts) for each in told)

        await until(all_applied)
        before = [await host.call("status", group=other) for host in hosts]
        broken = [machines_folder(host.data_dir) / BROKEN for host in followers]
        for path in broken:
            path.touch()
        await leader.call("propose", group=stopped, data="what breaks them")

        async def are_stopped() -> bool:
            told = [await host.call("status", group=stopped) for host in followers]
            return all(each["failed"] is not None for each in told)

        async def has_noticed() -> bool:
            return (await leader.call("leaders"))[str(stopped)] is None

        await until(are_stopped)
        for path in broken:
            path.unlink()
        await until(has_noticed)
        for host in hosts:
            await host.call("propose", group=other, data=f"still of {host.number}")
        after = [await host.call("status", group=other) for host in hosts]
        assert {each["term"] for each in (*before, *after)} == {before[0]["term"]}, "nobody was elected"
