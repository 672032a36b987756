"""Getting groups going, on real hosts: whichever call fits, many at once, and after a restart."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from multiraft import (
    ConfigError,
    Entry,
    Group,
    GroupExists,
    GroupNotFound,
    Member,
    MemberRemoved,
    Role,
    StateMachine,
    StateMachineFailed,
    open_host,
)
from multiraft.membership import GroupMeta
from multiraft.waiters import TaskWaiter
from tests.engine.helpers import cluster, config, create, journals, members, until
from tests.engine.machines import Journal

pytestmark = pytest.mark.slow


# --- whichever fits --------------------------------------------------------------------------------


async def test_a_group_is_made_joined_or_simply_there(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(open_host(config(tmp_path / str(i)), journals)) for i in range(2)
        ]
        listed = [Member(1, hosts[0].address)]
        with pytest.raises(GroupNotFound):
            await hosts[0].start_group(7)
        with pytest.raises(ConfigError, match="not both"):
            await hosts[0].start_group(7, listed, via=hosts[1].address)
        made = await hosts[0].start_group(7, listed, snapshot_keep_entries=3)
        assert made.limits == {"snapshot_keep_entries": 3}
        assert await hosts[0].start_group(7, listed) is made
        with trio.fail_after(10):
            joined = await hosts[1].start_group(7, via=hosts[0].address, role=Role.LEARNER)
            assert joined.members[joined.member_id].role is Role.LEARNER
            assert await hosts[1].start_group(7, via=hosts[0].address) is joined
            await joined.propose(b"a")
        address = hosts[1].address
    async with open_host(config(tmp_path / "1", listen=address), journals) as host:
        # Nobody else is there: it needs nobody to be back.
        with trio.fail_after(5):
            again = await host.start_group(7, via="127.0.0.1:1")
            assert again.member_id == joined.member_id
            assert await host.start_group(7) is again


async def test_a_join_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as (first, second):
        await first.create_group(7)
        await blank(second_host=second, generation=0)
        with trio.fail_after(10):
            joined = await second.start_group(7, via=first.address)
            assert joined.member_id == 5
            assert await joined.propose(b"a") == (1, b"a")


async def test_a_group_that_stopped_says_why(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as hosts:
        groups = await create(hosts, 7)
        with trio.fail_after(10):
            await groups[2].leave()
        with pytest.raises(MemberRemoved):
            await hosts[2].start_group(7, members(hosts))
        await until(lambda: groups[2].removed is not None)
        await hosts[2].remove_group(7)
        with trio.fail_after(10):
            back = await hosts[2].start_group(7, via=hosts[0].address)
        assert back.member_id not in (1, 2, 3)


async def test_a_host_that_joins_twice_at_once_is_one_member(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as (first, second):
        await first.create_group(7)
        joined: list[Group] = []

        async def join() -> None:
            joined.append(await second.join_group(7, first.address))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(join)
        assert len(joined) == 3
        assert len(set(joined)) == 1
        assert len(joined[0].members) == 2
        assert not second._joins, "nothing is kept of a call that is over"


# --- generations -------------------------------------------------------------------------------------


async def blank(second_host: object, generation: int) -> None:
    """A member that knows nothing yet, as an interrupted join leaves it."""
    waiter = TaskWaiter()
    second_host._scheduler.catalog.create_groups({7: (None, GroupMeta(5, generation))}, waiter)  # type: ignore[attr-defined]
    await waiter.wait()


async def test_who_was_about_to_join_takes_the_generation_of_the_group(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as (first, second):
        await first.create_group(7)
        await blank(second, 0)
        with trio.fail_after(10):
            group = await first.force_new_group(7)
            joined = await second.join_group(7, first.address)
            assert joined.member_id == 5
            assert joined.generation == group.generation != 0
            assert await joined.propose(b"a") == (1, b"a")
        address = second.address
    async with open_host(config(tmp_path / "1", listen=address), journals) as again:
        assert again.group(7).generation == group.generation


async def test_nothing_can_be_forced_out_of_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        await blank(host, 0)
        with pytest.raises(Exception, match="about to join group 7"):
            await host.force_new_group(7)


async def test_a_removed_member_goes_on_alone_under_a_new_id(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as hosts:
        groups = await create(hosts, 7)
        with trio.fail_after(10):
            await groups[0].propose(b"a")
            await groups[0].remove_member(2)
            await until(lambda: groups[1].failed is not None)
            forced = await hosts[1].force_new_group(7)
            assert await forced.propose(b"b") == (2, b"b")
            assert await groups[0].propose(b"c") == (2, b"c")
        assert forced.member_id != 2
        assert forced.members[2].role is Role.REMOVED


# --- many ----------------------------------------------------------------------------------------------


async def test_thousands_of_groups_are_made_or_none(tmp_path: Path) -> None:
    refuse = False

    def machine(group_id: int) -> Journal:
        if refuse and group_id == 2400:
            raise ValueError("not this one")
        return Journal()

    async with open_host(config(tmp_path), machine) as host:
        alone = [Member(1, host.address)]
        await host.create_group(2500, alone)
        wanted = dict.fromkeys(range(1, 2501), alone)
        with pytest.raises(GroupExists):
            await host.create_groups(wanted)
        assert list(host.groups) == [2500]
        del wanted[2500]
        refuse = True
        with pytest.raises(StateMachineFailed):
            await host.create_groups(wanted)
        assert list(host.groups) == [2500]
        refuse = False
        made: list[object] = []

        async def make() -> None:
            made.extend(await host.create_groups(wanted))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make)
            await until(lambda: host._scheduler.catalog.busy)
            with pytest.raises(GroupExists):  # taken, though its turn comes last
                await host.create_group(2400, alone)
        assert made == list(wanted)
        assert len(host.groups) == 2500


class Durable(StateMachine):
    """A file of all that was ever applied; nothing is applied twice or left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    @property
    def applied(self) -> list[int]:
        return [int(line) for line in self._path.read_text().split()]

    @property
    def applied_index(self) -> int:  # type: ignore[override]  # what the file says, not a constant
        return max(self.applied, default=0)

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        with self._path.open("a") as file:
            file.writelines(f"{entry.index}\n" for entry in entries)
        return [entry.index for entry in entries]

    def snapshot(self) -> list[bytes]:
        return [self._path.read_bytes()]


async def test_nothing_is_applied_twice_when_hundreds_of_groups_restart(tmp_path: Path) -> None:
    groups = range(1, 301)

    def machines(folder: Path) -> dict[int, Durable]:
        (folder / "machines").mkdir(parents=True, exist_ok=True)
        return {group: Durable(folder / "machines" / str(group)) for group in groups}

    async def propose(group: Group, count: int) -> None:
        for _ in range(count):
            await group.propose(b"x")

    async def propose_all(host_groups: Sequence[Group], count: int) -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for group in host_groups:
                    nursery.start_soon(propose, group, count)

    settings = {"snapshot_interval_entries": 8, "snapshot_keep_entries": 2, "segment_bytes": 1 << 20}
    first = machines(tmp_path / "a")
    async with open_host(config(tmp_path / "a" / "data", **settings), first.__getitem__) as host:
        await host.create_groups({group: [Member(1, host.address)] for group in groups})
        await propose_all([host.group(group) for group in groups], 10)
        # A crash in mid-run. Snapshots that are just being written come and go.
        copy = partial(shutil.copytree, ignore=shutil.ignore_patterns("*.tmp"))
        await trio.to_thread.run_sync(copy, tmp_path / "a", tmp_path / "b")
    for folder in ("a", "b"):
        kept = machines(tmp_path / folder)
        before = {group: machine.applied for group, machine in kept.items()}
        assert all(len(applied) == 10 for applied in before.values())
        async with open_host(config(tmp_path / folder / "data", **settings), kept.__getitem__) as host:
            assert sorted(host.groups) == list(groups)
            await propose_all([host.group(group) for group in groups], 1)
            for group, machine in kept.items():
                applied = machine.applied
                assert applied[:-1] == before[group]
                assert applied == sorted(set(applied))
