"""Membership changes on real hosts: every rule, restarts, snapshots, and joining."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft import (
    ConfigError,
    Group,
    Host,
    Member,
    MemberRemoved,
    MembershipRejected,
    NoLeader,
    Role,
    TransferFailed,
    open_host,
)
from tests.engine.helpers import cluster, config, create, journals, leader_of, members, until
from tests.engine.machines import Journal

pytestmark = pytest.mark.slow


def journal(group: Group) -> Journal:
    machine = group.machine
    assert isinstance(machine, Journal)
    return machine


def roles(group: Group) -> dict[int, Role]:
    return {id_: member.role for id_, member in group.members.items()}


def voters(group: Group) -> set[int]:
    return {id_ for id_, role in roles(group).items() if role is Role.VOTER}


def follower_of(groups: Sequence[Group]) -> Group:
    return next(group for group in groups if group.status().role != "leader")


async def joined(host: Host, group_id: int, via: Host, role: Role = Role.VOTER) -> Group:
    with trio.fail_after(10):
        return await host.join_group(group_id, via.address, role=role)


async def lead(group: Group) -> None:
    """Have this member lead. A vote may be lost while links are still being made."""
    for _ in range(10):
        try:
            return await group.transfer_leadership(group.member_id)
        except TransferFailed:
            continue
    pytest.fail("it never came to lead")


async def agree(groups: Sequence[Group]) -> None:
    """All members come to the same members and the same state."""
    await until(lambda: len({tuple(journal(group).entries) for group in groups}) == 1)
    await until(
        lambda: (
            len({(g.status().version, tuple(g.members[i] for i in sorted(g.members))) for g in groups}) == 1
        )
    )


@asynccontextmanager
async def reopened(folder: Path, listen: Sequence[str], **changes: Any) -> AsyncIterator[list[Host]]:
    """The hosts of a cluster once more, at the addresses they had."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_host(config(folder / str(i), listen=address, **changes), journals)
            )
            for i, address in enumerate(listen)
        ]


async def test_a_host_joins_as_a_voter_through_a_follower_and_catches_up(tmp_path: Path) -> None:
    async with cluster(tmp_path, 4) as hosts:
        groups = await create(hosts[:3], 7)
        for number in range(20):
            await groups[0].propose(b"%d" % number)
        via = follower_of(groups)
        new = await joined(hosts[3], 7, hosts[groups.index(via)])
        assert roles(new)[new.member_id] is Role.VOTER
        assert voters(new) == {1, 2, 3, new.member_id}
        assert await new.query(None) == [b"%d" % number for number in range(20)]
        assert await new.propose(b"mine") == (21, b"mine")
        await agree([*groups, new])


async def test_joining_twice_is_harmless(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as hosts:
        first = await hosts[0].create_group(7)
        new = await joined(hosts[1], 7, hosts[0])
        assert await joined(hosts[1], 7, hosts[0]) is new
        assert len(first.members) == 2


async def test_a_learner_gets_everything_and_has_no_vote(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as hosts:
        first = await hosts[0].create_group(7)
        await first.propose(b"a")
        new = await joined(hosts[1], 7, hosts[0], Role.LEARNER)
        assert roles(new) == {first.member_id: Role.VOTER, new.member_id: Role.LEARNER}
        assert await new.propose(b"b") == (2, b"b")
        assert await new.query(None) == [b"a", b"b"]
        with pytest.raises(MembershipRejected, match="not a voter"):
            await first.transfer_leadership(new.member_id)
        await new.promote_member(new.member_id)
        await until(lambda: first.status().version == new.status().version)
        await lead(new)
        assert await first.propose(b"c") == (3, b"c")


async def test_joining_says_what_is_wrong_and_leaves_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as hosts:
        with pytest.raises(MembershipRejected, match="carries no group 9"), trio.fail_after(5):
            await hosts[1].join_group(9, hosts[0].address)
        with pytest.raises(ConfigError):
            await hosts[1].join_group(9, hosts[0].address, role=Role.REMOVED)
        # Its data was lost: the id it had must not be used by an empty log.
        first = await hosts[0].create_group(7)
        await first.add_member(Member(5, hosts[1].address, Role.LEARNER))
        with pytest.raises(MembershipRejected, match="member 5 is at"), trio.fail_after(5):
            await hosts[1].join_group(7, hosts[0].address)
        assert not hosts[1].groups
        await first.remove_member(5)
        assert (await joined(hosts[1], 7, hosts[0])).member_id != 5


async def test_what_does_not_fit_is_refused_at_once_from_any_member(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        leader, follower = leader_of(groups), follower_of(groups)
        await leader.add_member(Member(4, "127.0.0.1:1", Role.LEARNER))
        await leader.add_member(Member(5, "127.0.0.1:2", Role.LEARNER))
        await leader.remove_member(5)
        version = leader.status().version
        before = leader.status().last_index
        for group in (leader, follower):
            with trio.fail_after(2):
                for reason, call in (
                    ("there is no member 9", group.remove_member(9)),
                    ("there is no member 9", group.promote_member(9)),
                    ("there is no member 9", group.update_member(9, address="127.0.0.1:3")),
                    ("member 5 was removed", group.remove_member(5)),
                    ("member 5 was removed", group.add_member(Member(5, "127.0.0.1:3"))),
                    ("member 4 is there already", group.add_member(Member(4, "127.0.0.1:3"))),
                    ("member 4 is at", group.add_member(Member(6, "127.0.0.1:1"))),
                    ("member 4 is at", group.update_member(1, address="127.0.0.1:1")),
                    ("is a voter already", group.promote_member(1)),
                    ("is no voter", group.demote_member(4)),
                    ("without a voter", group.change_membership(remove=[1, 2], demote=[3])),
                    ("named twice", group.change_membership(promote=[4], remove=[4])),
                    ("nothing to change", group.change_membership()),
                    ("not 1", group.remove_member(4, expected=1)),
                    ("added as removed", group.add_member(Member(6, "127.0.0.1:3", Role.REMOVED))),
                ):
                    with pytest.raises(MembershipRejected, match=reason):
                        await call
        assert leader.status().version == version
        assert leader.status().last_index == before, "nothing that was refused is in the log"
        with pytest.raises(ConfigError):
            await leader.remove_member(0)
        with pytest.raises(ConfigError):
            await leader.add_member(Member(6, "nowhere"))


async def test_the_last_voter_stays(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(7)
        for call in (group.remove_member, group.demote_member):
            with pytest.raises(MembershipRejected, match="without a voter"):
                await call(group.member_id)
        with pytest.raises(MembershipRejected, match="without a voter"):
            await group.leave()
        assert await group.propose(b"a") == (1, b"a")


async def test_one_change_at_a_time(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        leader = leader_of(groups)
        refused: list[str] = []

        async def add(number: int) -> None:
            try:
                await leader.add_member(Member(number, f"127.0.0.1:{number}", Role.LEARNER))
            except MembershipRejected as error:
                refused.append(error.reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, 4)
            nursery.start_soon(add, 5)
        assert refused == ["another change is under way"]
        assert len(leader.members) == 4


async def test_a_version_lets_only_one_of_two_changes_through(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        assert [group.status().version for group in groups] == [0, 0, 0]
        await groups[0].add_member(Member(4, "127.0.0.1:1", Role.LEARNER), expected=0)
        seen = groups[0].status().version
        assert seen > 0
        with pytest.raises(MembershipRejected, match="version"):
            await groups[1].remove_member(4, expected=0)
        await groups[1].remove_member(4, expected=seen)


async def test_an_id_is_made_up_where_none_is_given(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(7)
        member = await group.add_member(Member(0, "127.0.0.1:1", Role.LEARNER))
        assert member.id > 0
        assert group.members[member.id] == member


async def test_the_same_address_again_succeeds(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        before = groups[0].members
        await groups[1].update_member(1, address=hosts[0].address)
        assert groups[1].members == before


async def test_several_changes_are_one_and_are_done_when_the_call_returns(tmp_path: Path) -> None:
    async with cluster(tmp_path, 5) as hosts:
        groups = await create(hosts[:3], 7)
        new = [
            await joined(hosts[3], 7, hosts[0], Role.LEARNER),
            await joined(hosts[4], 7, hosts[1], Role.LEARNER),
        ]
        leader, follower = leader_of(groups), follower_of(groups)
        other = next(group for group in groups if group not in (leader, follower))
        await follower.change_membership(
            promote=[each.member_id for each in new], remove=[other.member_id], demote=[follower.member_id]
        )
        assert voters(follower) == {leader.member_id, *(each.member_id for each in new)}
        assert not follower.raft.joint
        await leader.remove_member(follower.member_id)  # nothing is under way any more
        await until(lambda: other.status().failed is not None)
        assert await new[0].propose(b"x") == (1, b"x")
        await agree([leader, *new])


async def test_a_whole_cluster_can_be_replaced_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, 4) as hosts:
        groups = await create(hosts[:2], 7)
        await groups[0].propose(b"a")
        new = [await joined(host, 7, hosts[0], Role.LEARNER) for host in hosts[2:]]
        ids = [each.member_id for each in new]
        # The old leader has nobody to hand over to: it carries the change out, and steps down.
        with trio.fail_after(10):
            await new[0].change_membership(promote=ids, remove=[1, 2])
            assert await new[1].propose(b"b") == (2, b"b")
        for group in groups:
            with pytest.raises(MemberRemoved), trio.fail_after(10):
                await group.propose(b"late")
        await agree(new)


@pytest.mark.parametrize("demote", [False, True])
@pytest.mark.parametrize("from_leader", [False, True])
async def test_a_leader_hands_over_before_it_goes(tmp_path: Path, demote: bool, from_leader: bool) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        leader = leader_of(groups)
        caller = leader if from_leader else follower_of(groups)
        with trio.fail_after(10):
            if demote:
                await caller.demote_member(leader.member_id)
            else:
                await caller.remove_member(leader.member_id)
        rest = [group for group in groups if group is not leader]
        assert await rest[0].propose(b"x") == (1, b"x")
        assert leader_of(rest).status().role == "leader"
        await agree(rest)
        if demote:
            assert await leader.query(None) == [b"x"]
            assert roles(leader)[leader.member_id] is Role.LEARNER
        else:
            with pytest.raises(MemberRemoved):
                await leader.propose(b"late")


async def test_a_removed_member_stops_and_stays_until_its_group_is_removed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        listen = [host.address for host in hosts]
        gone = follower_of(groups)
        where = groups.index(gone)
        with trio.fail_after(5):
            await gone.leave()
        with pytest.raises(MemberRemoved):
            await gone.query(None)
        assert "removed" in (gone.status().failed or "")
        assert hosts[where].group(7) is gone
        rest = [group for group in groups if group is not gone]
        await until(lambda: all(roles(g)[gone.member_id] is Role.REMOVED for g in rest))
        # Silent. It has stopped only if it was told before it could apply its removal.
        await until(lambda: not gone.routes)
        assert (gone.failed is not None) == (gone.member_id in gone.raft.progress)
    async with reopened(tmp_path, listen) as hosts:
        again = hosts[where].group(7)
        with pytest.raises(MemberRemoved):
            await again.propose(b"x")
        await hosts[where].remove_group(7)
        new = await joined(hosts[where], 7, hosts[(where + 1) % 3])
        assert new.member_id != gone.member_id
        assert roles(new)[gone.member_id] is Role.REMOVED


async def test_a_dead_member_is_removed_and_told_when_it_is_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(open_host(config(tmp_path / str(i)), journals)) for i in range(2)
        ]
        async with open_host(config(tmp_path / "2"), journals) as third:
            await create([*hosts, third], 7)
            address = third.address
        groups = [host.group(7) for host in hosts]
        with trio.fail_after(5):
            await groups[0].wait_leader()
            await groups[0].remove_member(3)
            # Its place is free.
            await groups[1].add_member(Member(4, address, Role.LEARNER))
            await groups[1].remove_member(4)
        # What is said to it unasked is lost; it has to ask.
        await until(lambda: not any(host._scheduler._departures._to_tell for host in hosts))
        async with open_host(config(tmp_path / "2", listen=address), journals) as third:
            back = third.group(7)
            await until(lambda: back.removed is not None)
            with pytest.raises(MemberRemoved):
                await back.propose(b"x")
            await until(lambda: back.failed is not None)
            assert roles(back)[3] is Role.REMOVED, "though it never gets the entry that removed it"


async def test_members_survive_restarts_from_the_log_and_from_snapshots(tmp_path: Path) -> None:
    async with cluster(tmp_path, 4) as hosts:
        groups = await create(hosts[:3], 7)
        listen = [host.address for host in hosts]
        await groups[0].propose(b"a")
        new = await joined(hosts[3], 7, hosts[0])
        await groups[0].add_member(Member(9, "127.0.0.1:1", Role.LEARNER))
        await groups[1].snapshot()
        await groups[0].remove_member(9)
        await groups[2].propose(b"b")
        await agree([*groups, new])
        expected, version = dict(new.members), new.status().version
        entries = journal(new).entries
    async with reopened(tmp_path, listen) as hosts:
        groups = [host.group(7) for host in hosts]
        with trio.fail_after(10):
            assert await groups[3].propose(b"c") == (3, b"c")
        await agree(groups)
        for group in groups:
            assert group.members == expected
            assert group.status().version == version
            assert journal(group).entries[:2] == entries
        for group in groups:
            with pytest.raises(MembershipRejected, match="member 9 was removed"), trio.fail_after(5):
                await group.add_member(Member(9, "127.0.0.1:1"))


async def test_a_change_is_written_with_the_commit_index(tmp_path: Path) -> None:
    """Whoever has a change on disk knows there that the one before it is committed, crash or not."""
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        await groups[0].add_member(Member(4, "127.0.0.1:1", Role.LEARNER))
        first = groups[0].status().version
        await groups[0].add_member(Member(5, "127.0.0.1:2", Role.LEARNER))
        second = groups[0].status().version
        assert first < second
        await until(lambda: all(group.status().version == second for group in groups))
        for group in groups:
            assert first <= group.log.hard_state.commit <= group.log.last_index()


async def test_members_survive_a_crash(tmp_path: Path) -> None:
    """What a crash leaves is the folder as it is in mid-run: no last commit index, no last words."""
    async with cluster(tmp_path / "a", 1) as (host,):
        group = await host.create_group(7)
        await group.add_member(Member(4, "127.0.0.1:1", Role.LEARNER))
        await group.propose(b"a")
        await group.change_membership(add=[Member(5, "127.0.0.1:2", Role.LEARNER)], remove=[4])
        expected, version = dict(group.members), group.status().version
        await trio.to_thread.run_sync(shutil.copytree, tmp_path / "a", tmp_path / "b")
    async with cluster(tmp_path / "b", 1) as (host,):
        group = host.group(7)
        with trio.fail_after(10):
            assert await group.query(None) == [b"a"]
        assert group.members == expected
        assert group.status().version == version
        with pytest.raises(MembershipRejected, match="member 4 was removed"):
            await group.add_member(Member(4, "127.0.0.1:1"))


async def test_joining_goes_on_after_a_crash(tmp_path: Path) -> None:
    async with cluster(tmp_path / "a", 1) as (first,):
        await first.create_group(7)
        async with open_host(config(tmp_path / "b"), journals) as second:
            address = second.address
            with trio.move_on_after(0.2):
                await second.join_group(9, "127.0.0.1:1")  # nobody is there
            assert not second.groups
            new = await joined(second, 7, first)
            await trio.to_thread.run_sync(shutil.copytree, tmp_path / "b", tmp_path / "c")
        async with open_host(config(tmp_path / "c", listen=address), journals) as second:
            again = await joined(second, 7, first)
            assert again.member_id == new.member_id
            with trio.fail_after(10):
                assert await again.propose(b"x") == (1, b"x")


async def test_a_member_that_was_away_follows_a_leader_it_never_heard_of(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(open_host(config(tmp_path / str(i)), journals)) for i in range(3)
        ]
        async with open_host(config(tmp_path / "3"), journals) as away:
            groups = await create([*hosts[:2], away], 7)
            address = away.address
        new = await joined(hosts[2], 7, hosts[0])
        await lead(new)
        await groups[0].propose(b"a")
        async with open_host(config(tmp_path / "3", listen=address), journals) as away:
            back = away.group(7)
            await until(lambda: len(journal(back).entries) == 1)
            with trio.fail_after(10):
                assert await back.propose(b"b") == (2, b"b")
            assert back.leader is not None
            assert back.leader.id == new.member_id


async def test_a_member_whose_host_moved_is_found_at_its_new_address(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(open_host(config(tmp_path / str(i)), journals)) for i in range(2)
        ]
        async with open_host(config(tmp_path / "2"), journals) as third:
            await create([*hosts, third], 7)
        groups = [host.group(7) for host in hosts]
        async with open_host(config(tmp_path / "2"), journals) as third:
            back = third.group(7)
            await groups[0].wait_leader()
            await groups[0].update_member(3, address=third.address)
            with trio.fail_after(10):
                assert await groups[0].propose(b"a") == (1, b"a")
            await until(lambda: journal(back).entries == journal(groups[0]).entries)
            await until(lambda: back.members[3].address == third.address)


async def test_a_new_member_is_brought_up_by_a_snapshot_that_has_it_in(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"snapshot_interval_entries": 20, "snapshot_keep_entries": 5}
    async with cluster(tmp_path, 3, **changes) as hosts:
        first = await hosts[0].create_group(7)
        for number in range(50):
            await first.propose(b"%d" % number)
        await until(lambda: first.status().snapshot_index > 1)
        new = [await joined(host, 7, hosts[0]) for host in hosts[1:]]
        assert await new[1].query(None) == [b"%d" % number for number in range(50)]
        await agree([first, *new])


async def test_changes_wait_for_a_leader_and_give_up(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2, leader_wait_s=0.3) as hosts:
        lonely = await hosts[0].create_group(7, [*members(hosts[:1]), Member(2, "127.0.0.1:1")])
        with pytest.raises(NoLeader), trio.fail_after(5):
            await lonely.remove_member(2)
        with trio.move_on_after(0.05):
            await lonely.remove_member(2)
        assert not lonely.proposals.changes, "a cancelled change is not proposed later"


async def test_links_that_no_group_needs_are_closed(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        await groups[0].remove_member(3)
        gone = hosts[2].address
        rest = hosts[:2]
        await until(
            lambda: all(gone not in {link.address for link in h.statistics().transport} for h in rest), 20
        )
