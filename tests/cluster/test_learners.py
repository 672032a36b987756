"""Learners and staging members, on hosts in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cluster.fleet import (
    FleetHost,
    Refused,
    fleet,
    join,
    leader_first,
    predefined,
    until,
    wait_leader,
    wait_ready,
    wait_same,
)

pytestmark = pytest.mark.slow

LEADER_WAIT_S = 2.0
"""Two of the longest election timeouts."""


async def refused_without_leader(host: FleetHost) -> None:
    """A write that waits for a leader as long as it may: nobody was elected meanwhile."""
    with pytest.raises(Refused) as refused:
        await host.put("key", "late")
    assert (refused.value.error, refused.value.applied) == ("no_leader", "no")


async def write(host: FleetHost, count: int) -> None:
    """That many entries."""
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(host.put, f"key{number}", "value")


async def test_a_learner_gets_everything_and_votes_on_nothing(tmp_path: Path) -> None:
    """It reads and proposes as all do; with the voters killed one by one it makes up for none of them."""
    async with fleet(tmp_path, 3, f"leader_wait_s={LEADER_WAIT_S}") as hosts:
        await predefined(hosts[:2])
        leader, voter = await leader_first(hosts[:2])
        learner = hosts[2]
        await leader.put("key", "before")
        own = await join(learner, via=voter, role="learner")
        await wait_ready(learner)
        assert await learner.value("key") == "before"
        await learner.put("key", "mine")
        assert await voter.value("key") == await leader.value("key") == "mine"
        await wait_same(hosts)
        assert await learner.value("key", "stale") == "mine"
        taken = await learner.post("groups/1/snapshot")
        assert taken["index"] == (await learner.group())["applied"]
        for host in hosts:
            with pytest.raises(Refused, match=f"member {own} is not a voter"):
                await host.post("groups/1/transfer", to=own)

        term = (await learner.group())["term"]
        voter.kill()  # two of three members are left, and one of two voters

        async def nobody_leads() -> bool:
            return [(await host.group())["leader"] for host in (leader, learner)] == [None, None]

        await until(nobody_leads)
        await refused_without_leader(leader)
        leader.kill()
        await refused_without_leader(learner)
        alone = await learner.group()
        assert (alone["role"], alone["leader"]) == ("follower", None)
        assert alone["term"] == term, "it asked nobody for a vote"
        assert await learner.value("key", "stale") == "mine"

        for host in (leader, voter):
            host.start()
            await host.wait_up()
        assert await wait_leader(hosts) is not learner
        await wait_ready(learner)
        await learner.put("key", "after")
        assert await voter.value("key") == "after"
        await wait_same(hosts)


async def test_a_staging_member_becomes_a_voter_by_itself(tmp_path: Path) -> None:
    """Two of them, each with a snapshot to get first. Nobody asks for more than to join."""
    async with fleet(tmp_path, 5, "snapshot_keep_entries=0") as hosts:
        await predefined(hosts[:3])
        leader, follower, _ = await leader_first(hosts[:3])
        for number in range(20):
            await leader.put(f"key{number}", "x" * 1000)
        await leader.post("groups/1/snapshot")
        new = [await join(host, via=follower, role="staging") for host in hosts[3:]]
        assert len(set(new)) == 2
        expected = {1: "voter", 2: "voter", 3: "voter", **dict.fromkeys(new, "voter")}

        async def all_voters() -> bool:
            return all([await host.roles() == expected for host in hosts])

        await until(all_voters)
        assert (await (await wait_leader(hosts)).group())["staging"] == {}
        # They count: with two of the first three gone, they are what makes a majority.
        for host in hosts[:2]:
            host.kill()
        await wait_leader(hosts[2:])
        for host in hosts[3:]:
            await wait_ready(host)
        await hosts[3].put("key", "value")
        assert await hosts[4].value("key19") == "x" * 1000


async def test_a_staging_member_that_stands_still_or_is_dead_stays_staging_and_says_why(
    tmp_path: Path,
) -> None:
    """The leader shows how far it is and what it waits for. Once it is back it is promoted."""
    ticks = 60
    async with fleet(tmp_path, 4, f"election_ticks={ticks}") as hosts:
        await predefined(hosts[:3])
        leader, follower, _ = await leader_first(hosts[:3])
        new = hosts[3]
        member = await join(new, via=follower, role="staging")
        new.pause()  # an election timeout is three seconds, and it has to be caught up for that long

        async def lack() -> dict[str, Any] | None:
            shown: dict[str, Any] = (await leader.group())["staging"][str(member)]
            told = "it is behind: it has" in shown["reason"] or "nothing is known" in shown["reason"]
            return shown if told else None

        async def unheard() -> bool:
            """For a whole election timeout."""
            return not (await leader.group())["progress"][str(member)]["active"]

        async def still_staging() -> None:
            """More than a tenth of the log is new to it; and what is old by then counts as well."""
            await write(leader, 30)
            shown = await until(lack)
            assert shown is not None
            assert shown["match"] < shown["needed"]
            assert shown["caught_up_for_s"] == 0
            await until(unheard)
            for host in (leader, follower):
                assert (await host.roles())[member] == "staging"

        await still_staging()
        new.kill()
        await still_staging()
        new.start()

        async def promoted() -> bool:
            return (await leader.roles())[member] == "voter" == (await new.roles())[member]

        await until(promoted)
        await wait_same(hosts)
