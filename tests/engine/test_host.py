"""The engine on real parts: sockets, files and threads, several hosts in one process."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from multiraft import (
    AddressInUse,
    ClusterMismatch,
    ConfigError,
    DataDirInUse,
    Group,
    GroupExists,
    GroupNotFound,
    HostClosed,
    Member,
    MembershipRejected,
    NoLeader,
    NotLeader,
    NotMember,
    OutcomeUnknown,
    ProposalTooLarge,
    StateMachineFailed,
    TransferFailed,
    open_host,
)
from multiraft.messages import Message, MessageType
from multiraft.post import Post
from tests.engine.helpers import cluster, config, create, leader_of, members, until
from tests.engine.machines import BlockingJournal, Journal

pytestmark = pytest.mark.slow


def leads(groups: list[Group], member: int) -> bool:
    return leader_of(groups).member_id == member


def journal(group: Group) -> Journal:
    machine = group.machine
    assert isinstance(machine, Journal)
    return machine


async def test_a_proposal_is_applied_on_every_member(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        for number, group in enumerate(groups, 1):
            assert await group.propose(b"x%d" % number) == (number, b"x%d" % number)
        await until(lambda: all(len(journal(g).entries) == 3 for g in groups))
        assert len({tuple(journal(g).entries) for g in groups}) == 1


async def test_queries_are_linearizable_on_any_member(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        for number in range(30):
            await groups[number % 3].propose(b"%d" % number)
            seen = await groups[(number + 1) % 3].query(None)
            assert seen == [b"%d" % each for each in range(number + 1)]


async def test_a_group_of_one_works_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(8)
        with trio.fail_after(5):
            assert await group.propose(b"a") == (1, b"a")
            assert await group.query(None) == [b"a"]
            await group.read_barrier()
        assert group.stale_query(None) == [b"a"]
        assert group.leader is not None
        assert group.leader.id == group.member_id


async def test_many_proposals_keep_their_order(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        batch = [b"%d" % each for each in range(500)]
        for group in groups:
            before = len(journal(leader_of(groups)).entries)
            results = await group.propose_many(batch)
            assert results == [(before + each + 1, data) for each, data in enumerate(batch)]


async def test_a_group_restarts_from_its_log(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(8)
        for number in range(20):
            await group.propose(b"%d" % number)
    async with cluster(tmp_path, 1) as (host,):
        assert await host.group(8).query(None) == [b"%d" % each for each in range(20)]
        assert (await host.group(8).propose(b"more")) == (21, b"more")


async def test_leadership_can_be_transferred(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        for target in (1, 2, 3, 1):
            await groups[target % 3].transfer_leadership(target)
            await until(partial(leads, groups, target))
            await groups[2].propose(b"after")


async def test_a_request_to_hand_over_that_got_lost_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an election timeout: whatever comes of the last one is over when the call is."""
    lost: list[Message] = []
    losses = 1

    def losing(post: Post, group: Group, message: Message, route: Any = Post.route) -> None:
        if message.type is MessageType.TRANSFER_LEADER and len(lost) < losses:
            lost.append(message)
        else:
            route(post, group, message)

    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        heir, other = (group for group in groups if group is not leader_of(groups))
        monkeypatch.setattr(Post, "route", losing)
        await heir.transfer_leadership(heir.member_id)
        assert heir.status().role == "leader"
        assert [message.sender for message in lost] == [heir.member_id]
        await until(lambda: other.leader == heir.leader)
        losses = 1000
        with pytest.raises(TransferFailed):
            await other.transfer_leadership(other.member_id)
        election_ticks, heartbeat_ticks = 10, 1
        assert 2 < len(lost) <= 2 + election_ticks // heartbeat_ticks


async def test_blocking_machines_are_fed_in_order(tmp_path: Path) -> None:
    async with cluster(tmp_path, machines=lambda _: BlockingJournal()) as hosts:
        groups = await create(hosts, 7)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(groups[number % 3].propose, b"%d" % number)
        seen = await groups[1].query(None)
        assert isinstance(seen, list)
        assert sorted(seen) == sorted(b"%d" % each for each in range(100))
        await until(lambda: len({tuple(journal(g).entries) for g in groups}) == 1)


async def test_a_removed_group_is_gone_and_its_id_can_be_used_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(8)
        await group.propose(b"old")
        await group.snapshot()
        await host.remove_group(8)
        with pytest.raises(GroupNotFound, match="group 8"):
            host.group(8)
        with pytest.raises(GroupNotFound):
            await group.propose(b"late")
        again = await host.create_group(8)
        assert await again.propose(b"new") == (1, b"new")
    async with cluster(tmp_path, 1) as (host,):
        assert await host.group(8).query(None) == [b"new"]


async def test_snapshots_are_taken_and_the_log_is_compacted_behind_them(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1, snapshot_interval_entries=50, snapshot_keep_entries=10) as (host,):
        group = await host.create_group(8)
        for number in range(200):
            await group.propose(b"%d" % number)
        await until(lambda: group.status().snapshot_index >= 150)
        await until(lambda: group.status().first_index > 100)
        taken = await group.snapshot()
        size = await trio.Path(taken.path).stat()
        assert size.st_size == taken.bytes
    async with cluster(tmp_path, 1) as (host,):
        assert await host.group(8).query(None) == [b"%d" % each for each in range(200)]


async def test_a_member_that_was_away_too_long_catches_up_by_snapshot(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"snapshot_interval_entries": 40, "snapshot_keep_entries": 5}
    async with cluster(tmp_path / "two", 2, **limits) as hosts:
        # The third member's host is not there yet; its address is known all the same.
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener[0].socket.getsockname()[1]
        listener[0].socket.close()
        everyone = [*members(hosts), Member(3, f"127.0.0.1:{port}")]
        groups = [await host.create_group(7, everyone) for host in hosts]
        for number in range(200):
            await groups[0].propose(b"%d" % number)
        await until(lambda: leader_of(groups).status().first_index > 100)
        late = config(tmp_path / "late", listen=f"127.0.0.1:{port}", **limits)
        async with open_host(late, lambda _: Journal()) as host:
            group = await host.create_group(7, everyone)
            with trio.fail_after(20):
                assert await group.query(None) == [b"%d" % each for each in range(200)]
            assert group.status().first_index > 100


async def test_a_failing_machine_stops_its_group_and_no_other(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        bad, good = await host.create_group(8), await host.create_group(9)
        with pytest.raises(OutcomeUnknown, match="poison"):
            await bad.propose(b"poison")
        with pytest.raises(StateMachineFailed, match=r"group 8.*poison"):
            await bad.propose(b"more")
        assert await good.propose(b"fine") == (1, b"fine")


async def test_an_error_of_a_query_is_the_callers(tmp_path: Path) -> None:
    for kind in (Journal, BlockingJournal):

        def machine(_: int, kind: type[Journal] = kind) -> Journal:
            return kind()

        async with cluster(tmp_path / kind.__name__, 1, machines=machine) as (host,):
            group = await host.create_group(8)
            with pytest.raises(KeyError):
                await group.query("fail")
            assert await group.query(None) == []


async def test_closing_lets_pending_work_finish(tmp_path: Path) -> None:
    results: list[object] = []

    async def propose(group: Group, number: int) -> None:
        results.append(await group.propose(b"%d" % number))

    async with trio.open_nursery() as nursery, cluster(tmp_path, 1) as (host,):
        group = await host.create_group(8)
        for number in range(100):
            nursery.start_soon(propose, group, number)
        await trio.testing.wait_all_tasks_blocked()
    assert len(results) == 100
    with pytest.raises(HostClosed):
        await group.propose(b"late")


async def test_leadership_yields_the_present_state_first(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        leader = leader_of(groups)
        async for seen in leader.leadership():
            assert seen is not None
            assert seen.id == leader.member_id
            break
        target = next(group for group in groups if group is not leader)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(target.transfer_leadership, target.member_id)
            with trio.fail_after(10):
                async for seen in leader.leadership():
                    if seen is not None and seen.id == target.member_id:
                        break


async def test_a_group_without_quorum_says_so(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1, leader_wait_s=0.3) as (host,):
        everyone = [Member(1, host.address), Member(2, "127.0.0.1:1"), Member(3, "127.0.0.1:2")]
        group = await host.create_group(7, everyone)
        for call in (group.propose(b"x"), group.query(None), group.read_barrier()):
            with pytest.raises(NoLeader, match="group 7"):
                await call


async def test_forwarding_can_be_switched_off(tmp_path: Path) -> None:
    async with cluster(tmp_path, forward_proposals=False) as hosts:
        groups = await create(hosts, 7)
        follower = next(group for group in groups if group is not leader_of(groups))
        with pytest.raises(NotLeader) as caught:
            await follower.propose(b"x")
        assert caught.value.leader == follower.leader


async def test_wrong_calls_are_refused_with_a_reason(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1, max_proposal_bytes=100) as (host,):
        group = await host.create_group(8)
        with pytest.raises(GroupExists):
            await host.create_group(8)
        with pytest.raises(ProposalTooLarge) as caught:
            await group.propose(b"x" * 101)
        assert (caught.value.size, caught.value.limit) == (101, 100)
        with pytest.raises(TypeError, match="bytes"):
            await group.propose("text")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(NotMember, match="no member has this host's address"):
            await host.create_group(9, [Member(1, "127.0.0.1:1")])
        with pytest.raises(ConfigError, match="group_id"):
            await host.create_group(0)
        with pytest.raises(ConfigError, match="is no limit of a group"):
            await host.create_group(9, tick_interval_s=1)
        with pytest.raises(ConfigError, match="max_proposal_bytes"):
            await host.create_group(9, max_proposal_bytes=0)
        with pytest.raises(GroupNotFound):
            await host.remove_group(99)
        with pytest.raises(MembershipRejected, match="not a voter"):
            await group.transfer_leadership(group.member_id + 1)
        small = await host.create_group(9, max_proposal_bytes=10)
        with pytest.raises(ProposalTooLarge):
            await small.propose(b"x" * 11)


async def test_a_data_folder_has_one_host(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1):
        with pytest.raises(DataDirInUse):
            async with open_host(config(tmp_path / "0"), lambda _: Journal()):
                pass


async def test_a_busy_port_is_named(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        with pytest.raises(AddressInUse, match=host.address):
            async with open_host(config(tmp_path / "other", listen=host.address), lambda _: Journal()):
                pass


async def test_a_data_folder_belongs_to_one_cluster(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1, cluster_id="one"):
        pass
    with pytest.raises(ClusterMismatch, match="'one', not 'two'"):
        async with cluster(tmp_path, 1, cluster_id="two"):
            pass


async def test_the_callers_own_exception_leaves_bare(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with cluster(tmp_path, 2):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with cluster(tmp_path, 1), trio.open_nursery():
            raise ZeroDivisionError


async def test_a_removed_member_never_comes_back_under_its_id(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        await groups[0].propose(b"x")
        await hosts[2].remove_group(7)
        with pytest.raises(MembershipRejected, match="member 3 of group 7 was removed from this host"):
            await hosts[2].create_group(7, members(hosts))
        await groups[0].propose(b"y")
    async with cluster(tmp_path) as hosts:
        listed = [Member(number, host.address) for number, host in enumerate(hosts, 1)]
        with pytest.raises(MembershipRejected, match="needs a new id"):
            await hosts[2].create_group(7, listed)


class Refusing(Journal):
    def restore(self, chunks: Iterable[bytes]) -> None:
        raise ValueError(f"{sum(map(len, chunks))} bytes that cannot be restored")


async def test_a_state_that_cannot_be_restored_stops_its_group_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        for group_id in (8, 9):
            await (await host.create_group(group_id)).propose(b"x")
        await host.group(8).snapshot()
    async with cluster(tmp_path, 1, machines=lambda g: Refusing() if g == 8 else Journal()) as (host,):
        with pytest.raises(StateMachineFailed, match=r"group 8.*cannot be restored"):
            await host.group(8).query(None)
        assert await host.group(9).query(None) == [b"x"]
    async with cluster(tmp_path, 1) as (host,):
        assert await host.group(8).query(None) == [b"x"]
