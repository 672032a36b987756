"""The leader's own write goes in parallel with its followers' (thesis §10.2.1): the order of events."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from multiraft import Group
from tests.cluster.test_durability import gated_group, proposing
from tests.engine.helpers import leader_of, until

pytestmark = pytest.mark.slow


def match(leader: Group, member: Group) -> int:
    return leader.status().progress[member.member_id].match


async def test_followers_append_and_answer_while_the_leaders_own_sync_is_under_way(tmp_path: Path) -> None:
    """One follower's answer is here before the leader's sync ends, and yet nothing is acknowledged:
    one durable copy of three. The second one's answer makes the majority, still without the leader."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (groups, gates):
            place = groups.index(leader_of(groups))
            leader = groups[place]
            first, second = [each for each in range(3) if each != place]
            index = leader.status().last_index + 1
            gates[place].shut()
            gates[second].shut()
            async with proposing(leader) as acknowledged:
                await until(lambda: match(leader, groups[first]) == index)
                assert gates[place].waiting == 1, "the leader's own sync is still under way"
                assert match(leader, leader) == index - 1, "so it does not count itself"
                await until(lambda: groups[second].status().last_index == index)
                assert match(leader, groups[second]) == index - 1, "written is not synced"
                for _ in range(30):  # every task of every host has had many turns by then
                    await trio.sleep(0.01)
                    assert not acknowledged()
                assert leader.status().commit == index - 1
                gates[second].open()
                await until(lambda: leader.status().commit == index)
                assert gates[place].waiting == 1, "committed by the other two, durable there"
                # What this host answers comes from its own machine, which is not ahead of its log.
                assert not acknowledged()
                assert leader.status().applied == index - 1
                gates[place].open()
                await until(acknowledged)


async def test_a_followers_write_needs_nothing_of_the_leaders_disk(tmp_path: Path) -> None:
    """Acknowledged on the follower that proposed it while the leader's sync is still under way."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (groups, gates):
            place = groups.index(leader_of(groups))
            gates[place].shut()
            async with proposing(groups[(place + 1) % 3]) as acknowledged:
                await until(acknowledged)
                assert gates[place].waiting == 1
                gates[place].open()
