"""Hosts and groups that end, and begin again."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
import trio

from multiraft import (
    Entry,
    Group,
    HostClosed,
    MultiraftError,
    NoLeader,
    OutcomeUnknown,
    StateMachineFailed,
    open_host,
)
from tests.api.programs import PATIENCE_S, create_on, host_config, leader_of, open_hosts, until
from tests.cluster.memory import resident_mib
from tests.engine.machines import Journal

pytestmark = pytest.mark.slow

KIB = 1 << 10


class Pending:
    """Calls of all kinds that are under way, and how each of them ended."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes] = []
        self.unknown: list[bytes] = []
        self.refused: list[bytes] = []
        self.ended: Counter[str] = Counter()
        self.started = 0

    async def propose(self, group: Group, name: int) -> None:
        """One after the other, until the host is closed."""
        for number in count():
            data = b"%d/%d" % (name, number)
            self.started += 1
            try:
                await group.propose(data)
            except HostClosed as error:
                (self.unknown if isinstance(error, OutcomeUnknown) else self.refused).append(data)
                break
            else:
                self.acknowledged.append(data)
            finally:
                self.ended["propose"] += 1

    async def read(self, group: Group) -> None:
        with contextlib.suppress(HostClosed, NoLeader):
            while True:
                self.started += 1
                try:
                    await group.query(None)
                finally:
                    self.ended["query"] += 1

    async def barrier(self, group: Group) -> None:
        with contextlib.suppress(HostClosed, NoLeader):
            while True:
                self.started += 1
                try:
                    await group.read_barrier()
                finally:
                    self.ended["barrier"] += 1

    async def snapshot(self, group: Group) -> None:
        with contextlib.suppress(HostClosed):
            while True:
                self.started += 1
                try:
                    await group.snapshot()
                finally:
                    self.ended["snapshot"] += 1


@pytest.mark.parametrize("closing", ["leader", "follower"])
@pytest.mark.parametrize("drain_s", [0.0, 5.0], ids=["at once", "drained"])
async def test_a_host_that_closes_answers_every_call_and_loses_nothing(
    tmp_path: Path, closing: str, drain_s: float
) -> None:
    """Each pending call ends with its result or `HostClosed`; the other two have what was acknowledged."""
    pending = Pending()
    async with (
        trio.open_nursery() as nursery,
        open_hosts(tmp_path, "ab", machines=lambda _: Journal(), leader_wait_s=5.0) as others,
    ):
        config = host_config(tmp_path, "c", drain_s=drain_s, leader_wait_s=5.0)
        async with open_host(config, machines=lambda _: Journal()) as host:
            groups = await create_on([*others, host], 7)
            group = groups[2]
            target = group if closing == "leader" else groups[0]
            with trio.fail_after(PATIENCE_S):
                await target.transfer_leadership(target.member_id)
            for name in range(100):
                nursery.start_soon(pending.propose, group, name)
            for call in (pending.read, pending.barrier, pending.snapshot):
                nursery.start_soon(call, group)
            await until(lambda: len(pending.acknowledged) > 300)
        await until(lambda: not nursery.child_tasks)
        assert pending.ended.total() == pending.started
        assert len(pending.unknown) + len(pending.refused) == 100, "each heard of the end"
        assert all(pending.ended.values())
        if drain_s:
            assert not pending.unknown, "there was time for what was under way"
        with trio.fail_after(PATIENCE_S):
            seen = await groups[0].query(None)
        assert isinstance(seen, list)
        times = Counter(seen)
        assert all(times[data] == 1 for data in pending.acknowledged)
        assert all(times[data] <= 1 for data in pending.unknown)
        assert not any(times[data] for data in pending.refused)
    with pytest.raises(HostClosed):
        await group.propose(b"late")


class Moody(Journal):
    """Fails as long as it is told to."""

    broken = False

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        if Moody.broken:
            raise ValueError("not today")
        return super().apply(entries)


async def test_a_failed_group_runs_again_after_the_host_was_restarted(tmp_path: Path) -> None:
    """What it failed on is in its log: applied as soon as the machine can. Other groups never stopped."""
    config = host_config(tmp_path, "a")
    Moody.broken = False
    async with open_host(config, machines=lambda _: Moody()) as host:
        group, other = await host.create_group(1), await host.create_group(2)
        await group.propose(b"before")
        Moody.broken = True
        with pytest.raises(OutcomeUnknown):
            await group.propose(b"during")
        Moody.broken = False
        with pytest.raises(StateMachineFailed):
            await group.propose(b"after")
        assert group.status().failed is not None
        await other.propose(b"fine")
    async with open_host(config, machines=lambda _: Moody()) as host:
        with trio.fail_after(PATIENCE_S):
            assert await host.group(1).query(None) == [b"before", b"during"]
            await host.group(1).propose(b"again")
            assert await host.group(2).query(None) == [b"fine"]


async def test_a_group_that_failed_on_one_host_of_three_catches_up_after_its_restart(tmp_path: Path) -> None:
    class Fragile(Journal):
        def __init__(self, *, fails: bool) -> None:
            super().__init__()
            self._fails = fails

        def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
            if self._fails and any(entry.data == b"5" for entry in entries):
                raise ValueError("five is too much")
            return super().apply(entries)

    async with open_hosts(tmp_path, "ab", machines=lambda _: Journal()) as others:
        config = host_config(tmp_path, "c")
        async with open_host(config, machines=lambda _: Fragile(fails=True)) as host:
            config = host_config(tmp_path, "c", listen=host.address)
            groups = await create_on([*others, host], 7)
            with trio.fail_after(PATIENCE_S):
                await groups[0].transfer_leadership(1)
                for number in range(10):
                    await groups[0].propose(b"%d" % number)
            await until(lambda: groups[2].status().failed)
        async with open_host(config, machines=lambda _: Fragile(fails=False)) as host:
            with trio.fail_after(PATIENCE_S):
                assert await host.group(7).query(None) == [b"%d" % number for number in range(10)]


async def test_a_group_that_lost_its_host_for_a_while_is_served_by_the_others(tmp_path: Path) -> None:
    """Graceful or not, two of three go on; a host that comes back has everything again."""
    async with open_hosts(tmp_path, "ab", machines=lambda _: Journal()) as others:
        config = host_config(tmp_path, "c")
        async with open_host(config, machines=lambda _: Journal()) as host:
            config = host_config(tmp_path, "c", listen=host.address)
            groups = await create_on([*others, host], 7)
            with trio.fail_after(PATIENCE_S):
                await groups[2].transfer_leadership(3)
        with trio.fail_after(PATIENCE_S):
            await groups[0].propose(b"without")
        for number in range(3):
            async with open_host(config, machines=lambda _: Journal()) as host:
                with trio.fail_after(PATIENCE_S):
                    await host.group(7).propose(b"%d" % number)
                    assert await leader_of([*groups[:2], host.group(7)]).query(None) is not None
        with trio.fail_after(PATIENCE_S):
            assert await groups[1].query(None) == [b"without", b"0", b"1", b"2"]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> list[str]:
    """Those of hosts; trio keeps idle ones of its own for a while, for whoever comes next."""
    return [each.name for each in threading.enumerate() if "multiraft" in each.name]


async def test_a_hundred_hosts_after_each_other_leave_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In one process, on one data folder: no open file, thread, task or growing memory is left."""
    caplog.set_level(logging.CRITICAL, logger="multiraft")  # what is logged would be kept, with all it names
    config = host_config(tmp_path, "a", segment_bytes=64 * KIB, max_log_bytes=256 * KIB)

    async def one(number: int) -> None:
        async with open_host(config, machines=lambda _: Journal()) as host:
            for group_id in (1, 2):
                group = host.group(group_id) if number else await host.create_group(group_id)
                await group.propose(b"%d" % number)
            if number % 10 == 0:
                await host.group(1).snapshot()

    async def rounds(numbers: range) -> tuple[int, int, int, list[str]]:
        for number in numbers:
            await one(number)
        gc.collect()
        tasks = trio.lowlevel.current_statistics().tasks_living
        return len(gc.get_objects()), open_files(), tasks, threads()

    before = await rounds(range(20))
    rss_mib = resident_mib(os.getpid())
    after = await rounds(range(20, 100))
    assert after[1:] == before[1:]
    assert after[3] == []
    assert after[0] - before[0] < 100, "objects that 80 more hosts have left"
    assert resident_mib(os.getpid()) - rss_mib < 8
    async with open_host(config, machines=lambda _: Journal()) as host:
        assert await host.group(2).query(None) == [b"%d" % number for number in range(100)]


async def test_a_host_that_fails_to_open_leaves_nothing_behind(tmp_path: Path) -> None:
    """The address is taken, so it gets as far as its log, and has to let go of that."""
    async with open_host(host_config(tmp_path, "a"), machines=lambda _: Journal()) as host:
        before = open_files(), trio.lowlevel.current_statistics().tasks_living, threads()
        for _ in range(20):
            with pytest.raises(MultiraftError):
                async with open_host(
                    host_config(tmp_path, "b", listen=host.address), machines=lambda _: Journal()
                ):
                    raise AssertionError
        assert (open_files(), trio.lowlevel.current_statistics().tasks_living, threads()) == before
    async with open_host(host_config(tmp_path, "b"), machines=lambda _: Journal()):
        pass
