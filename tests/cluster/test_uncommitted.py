"""Two of three processes are killed under load: proposals are taken up to the limits, by group and by
host, and refused above them; what is refused is never applied, and what is taken costs bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cluster.memory import peak_mib, start_peak
from tests.cluster.processes import (
    HostError,
    HostProcess,
    create_groups,
    host_processes,
    lead,
    until,
)

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
PAYLOAD_BYTES = 64 * KIB
LIMIT = 1 * MIB
FITTING = LIMIT // PAYLOAD_BYTES
AT_ONCE = 2 * FITTING
FLOOD = 1000
"""62 MiB that are refused."""
GROWTH_MIB_MAX = 16
ALONE = 11
"""A group that the leader's host has to itself."""


async def kill_others(hosts: Sequence[HostProcess]) -> None:
    for host in hosts[1:]:
        await host.kill()


async def refused(host: HostProcess, group: int, limit: str) -> None:
    """At once: long before anything else could be said of it."""
    with pytest.raises(HostError, match=f"ProposalDropped: .*{limit}"), trio.fail_after(5):
        await host.call("propose", group=group, data="x" * PAYLOAD_BYTES)


async def wait_done(host: HostProcess, numbers: set[int]) -> None:
    async def done() -> bool:
        return set((await host.call("told"))["done"]) == numbers

    await until(done)


async def applied(hosts: Sequence[HostProcess], groups: Sequence[int]) -> Counter[int]:
    """What the groups' machines have, once it is the same on all of `hosts`."""
    total: Counter[int] = Counter()
    for group in groups:

        async def same(group: int = group) -> bool:
            last = [await host.call("numbers", group=group) for host in hosts]
            return all(each == last[0] for each in last)

        for host in hosts:
            await host.call("query", group=group)
        await until(same)
        total.update(await hosts[0].call("numbers", group=group))
    return total


@pytest.mark.parametrize(
    ("limit", "groups"),
    [("max_uncommitted_bytes", [7]), ("max_host_uncommitted_bytes", [7, 8, 9, 10])],
    ids=["of a group", "of a host"],
)
async def test_without_a_quorum_proposals_are_taken_up_to_the_limit(
    tmp_path: Path, limit: str, groups: list[int]
) -> None:
    """With the quorum back those that were taken are applied, once; those that were dropped never are, nor
    after all processes were killed in the middle of it."""
    settings: dict[str, Any] = {"leader_wait_s": 30.0, limit: LIMIT}
    # A leader without a quorum goes on for an election timeout: on the first host, for long.
    async with host_processes(
        tmp_path, program="tests.cluster.work_host", first={"election_ticks": 1500}, **settings
    ) as hosts:
        leader = hosts[0]
        await create_groups(hosts, groups)
        for group in groups:
            await lead(leader, hosts, group)
        await leader.call("create", groups=[ALONE], members=[leader.address])
        await leader.call("write", group=ALONE, count=1, bytes=10)

        await kill_others(hosts)
        given = {"groups": groups, "bytes": PAYLOAD_BYTES}
        await leader.call("begin", first=0, count=AT_ONCE, **given)

        await until(lambda: has_refused(leader, AT_ONCE - FITTING))
        told = await leader.call("told")
        assert {name for name, _ in told["refused"].values()} == {"ProposalDropped"}
        assert all(limit in reason for _, reason in told["refused"].values())
        assert told["done"] == []
        assert (await leader.call("work"))["uncommitted_bytes"] == LIMIT
        dropped = {int(number) for number in told["refused"]}
        taken = set(range(AT_ONCE)) - dropped
        for group in groups:
            await refused(leader, group, limit)
        if len(groups) > 1:
            await refused(leader, ALONE, limit)
        before = start_peak(leader.pid)
        flood = {"group": groups[0], "first": 10_000, "count": FLOOD, "bytes": PAYLOAD_BYTES}
        assert await leader.call("flood", **flood) == [], "none of them is taken"
        assert peak_mib(leader.pid) - before < GROWTH_MIB_MAX

        for host in hosts[1:]:
            await host.start(**settings)
        await wait_done(leader, taken)
        assert (await leader.call("work"))["uncommitted_bytes"] == 0
        await leader.call("write", group=ALONE, count=1, bytes=PAYLOAD_BYTES)
        taken |= await one_more_each(leader, groups, 5000)
        assert await applied(hosts, groups) == Counter(taken), "each once, and nothing that was dropped"

        # Nobody was told what became of those that are on their way when all processes are killed.
        await kill_others(hosts)
        await leader.call("begin", first=100, count=AT_ONCE, **given)
        await until(lambda: has_refused(leader, 2 * (AT_ONCE - FITTING)))
        told = await leader.call("told")
        unknown = {*range(100, 100 + AT_ONCE)} - {int(number) for number in told["refused"]}
        assert len(unknown) == FITTING
        await leader.kill()
        for host in hosts:
            await host.start(**settings)
        taken |= await one_more_each(hosts[1], groups, 6000)
        after = await applied(hosts, groups)
        assert set(after) - unknown == taken, "nothing that was dropped, and nothing is lost"
        assert set(after.values()) == {1}, "nothing twice"


async def has_refused(host: HostProcess, count: int) -> bool:
    return len((await host.call("told"))["refused"]) == count


async def one_more_each(host: HostProcess, groups: Sequence[int], first: int) -> set[int]:
    """There is room again in every group; the numbers of what was written there."""
    written: set[int] = set()
    for number, group in enumerate(groups, first):
        more = {"group": group, "first": number, "count": 1, "bytes": PAYLOAD_BYTES}
        written.update(await host.call("flood", **more))
    assert len(written) == len(groups)
    return written
