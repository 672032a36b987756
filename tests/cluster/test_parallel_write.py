"""The leader's own write goes in parallel with its followers' (thesis §10.2.1): the order of events, on
three processes whose disks can be held."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.cluster.processes import HostProcess, until
from tests.cluster.test_durability import assert_waits, gated_group, proposing, status

pytestmark = pytest.mark.slow


async def test_followers_append_and_answer_while_the_leaders_own_sync_is_under_way(tmp_path: Path) -> None:
    """One follower's answer is here before the leader's sync ends, and yet nothing is acknowledged:
    one durable copy of three. The second one's answer makes the majority, still without the leader."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (hosts, disks):
            leader, first, second = hosts

            async def match(host: HostProcess) -> int:
                found = (await status(leader))["progress"][str(host.number)]["match"]
                assert isinstance(found, int)
                return found

            async def answered_by_one() -> bool:
                return (await match(first), (await status(second))["last_index"]) == (index, index)

            async def committed() -> bool:
                return bool((await status(leader))["commit"] == index)

            index = (await status(leader))["last_index"] + 1
            await disks[0].hold()
            await disks[2].hold()
            async with proposing(leader) as acknowledged:
                await until(answered_by_one)
                assert await disks[0].waiting() == 1, "the leader's own sync is still under way"
                assert await match(leader) == index - 1, "so it does not count itself"
                assert await match(second) == index - 1, "written is not synced"
                await assert_waits(acknowledged)
                assert (await status(leader))["commit"] == index - 1
                await disks[2].let_go()
                await until(committed)
                assert await disks[0].waiting() == 1, "committed by the other two, durable there"
                # What this host answers comes from its own machine, which is not ahead of its log.
                assert not acknowledged()
                assert (await status(leader))["applied"] == index - 1
                await disks[0].let_go()
            assert acknowledged()


async def test_a_followers_write_needs_nothing_of_the_leaders_disk(tmp_path: Path) -> None:
    """Acknowledged on the follower that proposed it while the leader's sync is still under way."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (hosts, disks):
            await disks[0].hold()
            async with proposing(hosts[1]):
                pass
            assert await disks[0].waiting() == 1
            await disks[0].let_go()
