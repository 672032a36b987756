"""When staging members become voters: the rule, tick by tick, and on real hosts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft import Group, Host, Member, Role, StagingStatus, TransferFailed, open_host
from multiraft.membership import Change, GroupMeta, Step, Verb, predefined
from multiraft.messages import MessageType
from multiraft.proposals import QueuedChange
from tests.engine.bench_host import Answer, BenchHost
from tests.engine.helpers import cluster, config, create, journals, leader_of, until

TICKS = 10
"""An election timeout."""


class Leader:
    """Member 1 leads alone; member 2 is staging. Everything that member 2 does is up to the test."""

    def __init__(self, *more: Member, **settings: Any) -> None:
        self.host = BenchHost(election_ticks=TICKS, **settings)
        members = [Member(1, "h1:1"), Member(2, "h2:1", Role.STAGING), *more]
        answer = Answer()
        self.host.catalog.create_groups({7: (predefined(members), GroupMeta(1))}, answer)
        self.host.settle()
        self.group: Group = self.host.scheduler.groups[7]
        assert self.group.status().role == "leader"
        # A member's first word counts once it is on disk which host it comes from.
        self.host.hear(self.group, 2, MessageType.HEARTBEAT_RESP, term=self.group.raft.term)
        self.host.settle()

    def grow(self, entries: int) -> None:
        self.host.propose(self.group, *[b"x"] * entries)
        self.host.settle()

    def acknowledge(self, index: int | None = None, member: int = 2) -> None:
        """A member has the leader's log up to `index`. Default: all of it."""
        raft = self.group.raft
        at = raft.last_index if index is None else index
        self.host.hear(self.group, member, MessageType.APP_RESP, term=raft.term, index=at)
        self.host.passes()

    def ticks(self, count: int, *, answers: bool = True) -> None:
        """Time passes; the member acknowledges whatever is new at once, or nothing."""
        for _ in range(count):
            self.host.tick()
            self.host.settle()
            if answers:
                self.acknowledge()

    @property
    def status(self) -> StagingStatus:
        return self.group.status().staging[2]

    def is_now(self, role: Role) -> bool:
        return self.group.members[2].role is role


def test_it_is_promoted_once_it_has_been_caught_up_for_an_election_timeout() -> None:
    leader = Leader()
    leader.grow(20)
    leader.ticks(3 * TICKS, answers=False)
    assert leader.is_now(Role.STAGING), "nothing is known of its log"
    assert "nothing is known" in leader.status.reason or "behind" in leader.status.reason
    leader.acknowledge()
    leader.ticks(TICKS)
    assert leader.is_now(Role.STAGING)
    assert leader.status.match == leader.group.status().last_index
    assert leader.status.caught_up_for_s == pytest.approx(TICKS * 0.1)
    assert "stay" in leader.status.reason
    leader.ticks(1)
    assert leader.is_now(Role.VOTER)
    assert leader.group.status().staging == {}


def test_the_clock_starts_again_when_it_falls_behind() -> None:
    leader = Leader()
    leader.acknowledge()
    leader.ticks(TICKS)
    leader.grow(200)
    leader.ticks(1, answers=False)
    status = leader.status
    assert status.caught_up_for_s == 0
    assert status.reason == f"it is behind: it has {status.match} of {status.needed}"
    leader.acknowledge()
    leader.ticks(TICKS)
    assert leader.is_now(Role.STAGING)
    leader.ticks(1)
    assert leader.is_now(Role.VOTER)


def test_nine_tenths_of_a_long_log_are_not_enough_for_ever() -> None:
    """What was there an election timeout ago has to be on its disk, however long the log is."""
    leader = Leader()
    leader.grow(1000)
    last = leader.group.raft.last_index
    leader.acknowledge(last - 50)
    leader.ticks(5 * TICKS, answers=False)
    assert leader.is_now(Role.STAGING)
    assert leader.status.needed == last
    leader.acknowledge()
    leader.ticks(TICKS + 1)
    assert leader.is_now(Role.VOTER)


def test_a_busy_log_is_caught_up_with_by_who_is_less_than_an_election_timeout_behind() -> None:
    leader = Leader()
    leader.grow(1000)
    for _ in range(TICKS + 2):
        leader.acknowledge()
        leader.grow(10)
        leader.ticks(1, answers=False)
    leader.acknowledge()
    assert leader.is_now(Role.VOTER)


def test_a_member_that_was_caught_up_and_went_silent_is_not_promoted() -> None:
    """In an idle group, too: it has to acknowledge what the leader wrote when the clock started."""
    leader = Leader()
    leader.grow(100)
    leader.acknowledge()
    leader.ticks(10 * TICKS, answers=False)
    assert leader.is_now(Role.STAGING)
    leader.ticks(2 * TICKS)
    assert leader.is_now(Role.VOTER)


def test_a_link_that_comes_and_goes_does_not_fill_the_log() -> None:
    leader = Leader()
    before = leader.group.raft.last_index
    for _ in range(10 * TICKS):
        leader.acknowledge()
        leader.ticks(1, answers=False)
        leader.group.raft.report_unreachable(2)
        leader.ticks(1, answers=False)
    assert leader.is_now(Role.STAGING)
    assert 10 < leader.group.raft.last_index - before <= 21, "one entry for each election timeout"


def test_it_waits_while_another_change_is_under_way() -> None:
    leader = Leader()
    leader.acknowledge()
    leader.ticks(TICKS)
    change = Change((Step(Verb.ADD, 9, "h9:1", Role.LEARNER),)).conf_change().encode()
    answer = Answer()
    leader.group.proposals.changes.append(QueuedChange(change, answer))
    leader.host.scheduler.mark_dirty(leader.group)
    leader.host.passes()  # in the log, but the disk has not got it yet
    for _ in range(3):
        leader.acknowledge()
        leader.host.tick()
    assert leader.status.reason == "another change is under way"
    leader.host.settle()
    assert answer.told
    assert answer.error is None
    leader.ticks(1)
    assert leader.is_now(Role.VOTER)
    assert leader.group.members[9].role is Role.LEARNER


def test_two_of_them_are_promoted_one_after_the_other() -> None:
    leader = Leader(Member(3, "h3:1", Role.STAGING))
    for _ in range(TICKS + 6):
        leader.acknowledge(member=2)
        leader.acknowledge(member=3)
        leader.ticks(1, answers=False)
    assert [member.role for member in leader.group.members.values()] == [Role.VOTER] * 3


def test_a_promotion_that_is_dropped_is_tried_again_less_and_less_often() -> None:
    leader = Leader(max_uncommitted_bytes=1024)
    leader.acknowledge()
    leader.host.propose(leader.group, b"x" * 1020)  # never on disk, so the next entry is too much
    leader.host.passes()
    tries: list[int] = []
    for tick in range(1, 100 * TICKS):
        leader.acknowledge()
        (candidate,) = leader.host.scheduler._staging._led[leader.group].candidates.values()
        before = candidate.again_at
        leader.host.tick()
        if candidate.again_at != before:
            tries.append(tick)
    assert leader.is_now(Role.STAGING)
    assert leader.status.reason.startswith("refused: ")
    pauses = [after - before for before, after in pairwise(tries)]
    assert pauses == [TICKS * 2**n for n in range(len(pauses))]
    assert len(tries) >= 5
    leader.ticks(64 * TICKS)
    assert leader.is_now(Role.VOTER)


def test_a_new_leadership_starts_the_clock_again() -> None:
    leader = Leader()
    leader.acknowledge()
    leader.ticks(TICKS)
    raft = leader.group.raft
    raft.become_follower(raft.term, 0)
    leader.host.scheduler.mark_dirty(leader.group)
    leader.host.settle()
    assert leader.group.status().staging == {}
    leader.host.scheduler.stand(leader.group)
    leader.host.settle()
    leader.acknowledge()
    leader.ticks(TICKS)
    assert leader.is_now(Role.STAGING)
    leader.ticks(1)
    assert leader.is_now(Role.VOTER)


def test_only_groups_that_lead_staging_members_are_looked_at() -> None:
    leader = Leader()
    others = [leader.host.create(group_id) for group_id in range(100, 110)]
    assert set(leader.host.scheduler._staging._led) == {leader.group}
    assert others[0].status().staging == {}


# --- on real hosts ---------------------------------------------------------------------------


async def staged(host: Host, group_id: int, via: Host) -> Group:
    with trio.fail_after(10):
        return await host.join_group(group_id, via.address, role=Role.STAGING)


@pytest.mark.slow
async def test_a_host_joins_as_staging_member_and_becomes_a_voter_by_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path, 4) as hosts:
        groups = await create(hosts[:3], 7)
        for number in range(50):
            await groups[0].propose(b"%d" % number)
        new = await staged(hosts[3], 7, hosts[1])
        own = new.member_id
        assert new.members[own].role in (Role.STAGING, Role.VOTER)
        await until(lambda: all(group.members[own].role is Role.VOTER for group in (*groups, new)))
        assert await new.query(None) == [b"%d" % number for number in range(50)]
        assert len({group.status().version for group in (*groups, new)}) == 1
        with trio.fail_after(10):
            while True:
                try:
                    await new.transfer_leadership(own)
                    break
                except TransferFailed:
                    continue
        assert await new.propose(b"mine") == (51, b"mine")


@pytest.mark.slow
async def test_one_that_is_not_there_stays_staging_and_says_why(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1, tick_interval_s=0.01) as (host,):
        group = await host.create_group(7)
        await group.add_member(Member(4, "127.0.0.1:1", Role.STAGING))
        await group.change_membership(
            add=[Member(5, "127.0.0.1:2", Role.STAGING), Member(6, "127.0.0.1:3", Role.STAGING)]
        )
        await until(lambda: group.status().staging[4].needed > 0)
        await trio.sleep(0.5)  # five election timeouts
        status = group.status().staging
        assert set(status) == {4, 5, 6}
        assert all(each.match == 0 and each.reason for each in status.values())
        await group.demote_member(4)
        await group.remove_member(5)
        assert set(group.status().staging) == {6}
        assert [group.members[id_].role for id_ in (4, 5, 6)] == [Role.LEARNER, Role.REMOVED, Role.STAGING]
        await group.promote_member(6)
        assert group.members[6].role is Role.VOTER
        assert group.status().staging == {}


@pytest.mark.slow
async def test_the_role_survives_restarts_and_snapshots_and_a_new_leader_goes_on(tmp_path: Path) -> None:
    """The member's host is away until leader and log have changed."""
    async with cluster(tmp_path, 4, snapshot_keep_entries=0) as hosts:
        groups = await create(hosts[:3], 7)
        spare = hosts[3].address
        await groups[0].add_member(Member(4, "127.0.0.1:1", Role.STAGING))
        await groups[0].propose(b"x")
        for group in groups:
            await until(lambda g=group: g.members.get(4) is not None)  # type: ignore[misc] # a default
            await group.snapshot()
        addresses = [host.address for host in hosts[:3]]
    async with (
        open_host(config(tmp_path / "0", listen=addresses[0]), journals) as first,
        open_host(config(tmp_path / "1", listen=addresses[1]), journals) as second,
        open_host(config(tmp_path / "3", listen=spare), journals) as fourth,
    ):
        groups = [first.group(7), second.group(7)]
        assert all(group.members[4].role is Role.STAGING for group in groups)
        await groups[0].wait_leader()
        leader = leader_of(groups)
        await until(lambda: 4 in leader.status().staging)
        assert leader.status().staging[4].caught_up_for_s == 0
        await groups[0].remove_member(4)
        new = await staged(fourth, 7, first)
        await until(lambda: all(g.members[new.member_id].role is Role.VOTER for g in (*groups, new)))
