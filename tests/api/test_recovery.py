"""Quorums lost for good, hosts wiped, groups from files: real hosts, real sockets, real disks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from multiraft import (
    ConfigError,
    Group,
    GroupExists,
    GroupNotFound,
    Host,
    Member,
    MemberForgotten,
    MembershipRejected,
    NoLeader,
    Role,
    SnapshotInvalid,
    open_host,
)
from tests.api.programs import PATIENCE_S, Ledger, change, create_on, host_config, open_hosts, until

pytestmark = pytest.mark.slow  # real sockets, files and elections


def ledgers(_: int) -> Ledger:
    return Ledger()


async def open_one(stack: AsyncExitStack, folder: Path, name: str, listen: str = "127.0.0.1:0") -> Host:
    config = host_config(folder, name, listen=listen, leader_wait_s=1.0)
    return await stack.enter_async_context(open_host(config, machines=ledgers))


async def copy_of(source: Path, target: Path) -> None:
    """The disk as a crash leaves it: in mid-run, without last words."""
    await trio.to_thread.run_sync(shutil.copytree, source, target)


def roles(group: Group) -> dict[int, Role]:
    return {id_: member.role for id_, member in group.members.items()}


async def returned(
    stack: AsyncExitStack, folder: Path, names: Sequence[str], listens: Sequence[str]
) -> list[Group]:
    hosts = [await open_one(stack, folder, name, listen) for name, listen in zip(names, listens, strict=True)]
    return [host.group(7) for host in hosts]


async def test_one_of_three_goes_on_and_the_dead_cannot_disturb_it_when_they_are_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        last = await open_one(stack, tmp_path, "c")
        async with open_hosts(tmp_path, "ab") as (a, b):
            groups = await create_on([a, b, last], 7)
            for number in range(20):
                assert await groups[number % 3].propose(change(ann=1)) == {"ann": number + 1}
            await groups[2].read_barrier()
            listens = [a.address, b.address]
            for name in "ab":
                await copy_of(tmp_path / name, tmp_path / f"old-{name}")
        for name in "ab":
            shutil.rmtree(tmp_path / name)
        old = last.group(7)
        await until(lambda: old.leader is None)
        with pytest.raises(NoLeader):
            await old.propose(change(ann=1))
        with trio.fail_after(PATIENCE_S):
            group = await last.force_new_group(7)
        assert last.group(7) is group
        assert group.generation != 0
        assert group.leader is not None
        assert group.leader.id == group.member_id == 3
        assert roles(group) == {1: Role.REMOVED, 2: Role.REMOVED, 3: Role.VOTER}
        assert await group.query("ann") == 20
        assert await group.propose(change(ann=1)) == {"ann": 21}
        new = [await open_one(stack, tmp_path, "d"), await open_one(stack, tmp_path, "e")]
        with trio.fail_after(PATIENCE_S):
            joined = [await host.join_group(7, last.address) for host in new]
        assert {each.generation for each in joined} == {group.generation}
        assert await joined[1].propose(change(ann=1)) == {"ann": 22}
        with pytest.raises(MembershipRejected, match="never used twice"):
            await group.add_member(Member(1, "127.0.0.1:1"))
        # Back from the dead: a majority of the old group, at the addresses that all of them know.
        back = await returned(stack, tmp_path, ("old-a", "old-b"), listens)
        with trio.fail_after(PATIENCE_S):
            await back[0].wait_leader()
            assert await back[0].propose(change(bob=1)) == {"bob": 1}
            await until(
                lambda: any(
                    "generation" in text for text in back[0].status().warnings + back[1].status().warnings
                )
            )
        await until(lambda: any("shut out" in text for text in group.status().warnings))
        with trio.fail_after(PATIENCE_S):
            for member in (group, *joined):
                assert await member.query("ann") == 22
                assert await member.query("bob") == 0
            assert await joined[0].propose(change(ann=1)) == {"ann": 23}
        assert group.status().warnings
        # What is left to do there: give the old group up, and join the one that lives.
        with pytest.raises(MembershipRejected, match="is at"):
            await group.add_member(Member(9, new[0].address))


async def test_a_restart_keeps_what_was_forced(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "ab") as (a, b):
        groups = await create_on([a, b], 7)
        await groups[0].propose(change(ann=5))
        listen = a.address
    async with AsyncExitStack() as stack:
        host = await open_one(stack, tmp_path, "a", listen)
        with trio.fail_after(PATIENCE_S):
            group = await host.force_new_group(7)
            assert await group.propose(change(ann=1)) == {"ann": 6}
        generation = group.generation
    async with AsyncExitStack() as stack:
        host = await open_one(stack, tmp_path, "a", listen)
        group = host.group(7)
        assert group.generation == generation
        with trio.fail_after(PATIENCE_S):
            assert await group.query("ann") == 6
            again = await host.force_new_group(7)
        assert again.generation not in (0, generation)
        assert await again.query("ann") == 6
    async with AsyncExitStack() as stack:  # the other one went on as well: two groups that never meet
        hosts = [await open_one(stack, tmp_path, "a", listen), await open_one(stack, tmp_path, "b")]
        with trio.fail_after(PATIENCE_S):
            other = await hosts[1].force_new_group(7)
            assert await other.propose(change(bob=1)) == {"bob": 1}
            assert await hosts[0].group(7).query("bob") == 0
        with pytest.raises(GroupNotFound):
            await hosts[0].force_new_group(8)


async def test_a_group_comes_from_a_snapshot_of_another(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "abc") as hosts:
        groups = await create_on(hosts, 7)
        await groups[0].propose(change(ann=5))
        exported = await groups[0].snapshot()
        shutil.copy(exported.path, tmp_path / "7.snap")
    async with AsyncExitStack() as stack:
        host = await open_one(stack, tmp_path, "d")
        with trio.fail_after(PATIENCE_S):
            group = await host.restore_group(9, snapshot=tmp_path / "7.snap", snapshot_keep_entries=7)
            assert await group.query("ann") == 5
            assert await group.propose(change(ann=1)) == {"ann": 6}
        assert group.limits == {"snapshot_keep_entries": 7}
        assert list(roles(group).values()).count(Role.REMOVED) == 3
        with pytest.raises(GroupExists):
            await host.restore_group(9, snapshot=str(tmp_path / "7.snap"))
        with pytest.raises(SnapshotInvalid, match=r"nothing\.snap: no such file"):
            await host.restore_group(10, snapshot=str(tmp_path / "nothing.snap"))
        with pytest.raises(SnapshotInvalid, match="directory"):
            await host.restore_group(10, snapshot=tmp_path)
        whole = (tmp_path / "7.snap").read_bytes()
        (tmp_path / "bad.snap").write_bytes(whole[:-60] + b"x" + whole[-59:])
        with pytest.raises(SnapshotInvalid, match=r"bad\.snap"):
            await host.restore_group(10, snapshot=tmp_path / "bad.snap")
        with pytest.raises(ConfigError, match="snapshot"):
            await host.restore_group(10, snapshot=7)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="no limit"):
            await host.restore_group(10, snapshot=tmp_path / "7.snap", colour=7)
        assert sorted(host.groups) == [9]
        other = await open_one(stack, tmp_path, "e")
        with trio.fail_after(PATIENCE_S):
            joined = await other.join_group(9, host.address)
            assert await joined.query("ann") == 6


async def test_a_wiped_host_is_refused_and_joins_under_a_new_id(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [await open_one(stack, tmp_path, name) for name in "ab"]
        async with open_hosts(tmp_path, "c") as (third,):
            groups = await create_on([*hosts, third], 7)
            members = [Member(number, host.address) for number, host in enumerate((*hosts, third), 1)]
            for group in groups:
                await group.propose(change(ann=1))
            listen = third.address
        shutil.rmtree(tmp_path / "c")
        wiped = await open_one(stack, tmp_path, "c", listen)
        # As its program would at any start: it cannot know.
        group = await wiped.start_group(7, members)
        await until(lambda: group.status().failed is not None)
        with pytest.raises(MemberForgotten, match="remove the member from the group"):
            await group.propose(change(ann=1))
        with trio.fail_after(PATIENCE_S):
            assert await groups[0].propose(change(ann=1)) == {"ann": 4}
            # The advice, step by step.
            await groups[0].remove_member(3)
            await wiped.remove_group(7)
            back = await wiped.join_group(7, hosts[0].address)
            assert back.member_id != 3
            assert await back.propose(change(ann=1)) == {"ann": 5}


async def test_a_host_that_lost_its_power_or_moved_is_the_same(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [await open_one(stack, tmp_path, name) for name in "ab"]
        async with open_hosts(tmp_path, "c") as (third,):
            groups = await create_on([*hosts, third], 7)
            await groups[2].propose(change(ann=1))
            listen = third.address
            await copy_of(tmp_path / "c", tmp_path / "crashed")
        async with AsyncExitStack() as second:
            third = await open_one(second, tmp_path, "crashed", listen)
            with trio.fail_after(PATIENCE_S):
                assert await third.group(7).propose(change(ann=1)) == {"ann": 2}
        moved = await open_one(stack, tmp_path, "crashed")
        with trio.fail_after(PATIENCE_S):
            await groups[0].update_member(3, address=moved.address)
            assert await moved.group(7).propose(change(ann=1)) == {"ann": 3}
        assert not any(group.status().warnings for group in (*groups[:2], moved.group(7)))


async def test_a_data_folder_without_its_log_is_another_host(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [await open_one(stack, tmp_path, name) for name in "ab"]
        async with open_hosts(tmp_path, "c") as (third,):
            groups = await create_on([*hosts, third], 7)
            members = [Member(number, host.address) for number, host in enumerate((*hosts, third), 1)]
            for group in groups:
                await group.propose(change(ann=1))  # so that whoever leads has heard the third
            listen = third.address
        shutil.rmtree(tmp_path / "c" / "wal")
        third = await open_one(stack, tmp_path, "c", listen)
        group = await third.create_group(7, members)
        await until(lambda: group.status().failed is not None)
        with pytest.raises(MemberForgotten):
            await group.propose(change(ann=1))
