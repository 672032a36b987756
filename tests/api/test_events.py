"""Programs that listen to what happens on their hosts, over real sockets and on real files."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from multiraft import (
    Event,
    EventReader,
    EventsMissed,
    GroupCreated,
    GroupRemoved,
    GroupStopped,
    Host,
    HostClosed,
    HostFailed,
    LeaderChanged,
    Member,
    MembersChanged,
    OwnMemberRemoved,
    PeerDown,
    PeerUp,
    Role,
    SnapshotInstalled,
    SnapshotSent,
    SnapshotTaken,
    StateMachineFailed,
    StorageFull,
    SyncSlow,
    open_host,
)
from multiraft.interfaces import File
from multiraft.storage.files import OsFiles
from tests.api.programs import (
    PATIENCE_S,
    Ledger,
    change,
    create_on,
    follower_of,
    host_config,
    leader_of,
    open_hosts,
    until,
)

T = TypeVar("T", bound=Event)

pytestmark = pytest.mark.slow  # real sockets, files and elections


@asynccontextmanager
async def heard(host: Host) -> AsyncIterator[list[Event]]:
    """All events of a host while the block runs."""
    seen: list[Event] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, host.events(), seen)
        await trio.testing.wait_all_tasks_blocked()
        yield seen
        nursery.cancel_scope.cancel()


async def listen(reader: EventReader, seen: list[Event]) -> None:
    async for event in reader:
        seen.append(event)  # noqa: PERF401 - whoever looks must see each at once


def of_kind(events: list[Event], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


async def test_a_group_and_its_leaders_and_members(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts, heard(hosts[0]) as seen:
        groups = await create_on(hosts, 7)
        await until(lambda: GroupCreated(7, 1) in seen)
        leader = leader_of(groups)
        await until(lambda: LeaderChanged(7, leader.leader, leader.status().term) in seen)
        target = follower_of(groups)
        await target.transfer_leadership(target.member_id)
        await until(lambda: LeaderChanged(7, target.leader, target.status().term) in seen)
        told = of_kind(seen, LeaderChanged)
        assert all(before != after for before, after in pairwise(told)), "changes only"
        await target.demote_member(1)
        await until(lambda: len(of_kind(seen, MembersChanged)) == 1)
        (changed,) = of_kind(seen, MembersChanged)
        assert changed.group == 7
        assert changed.members[1].role is Role.LEARNER
        assert changed.version == groups[0].status().version
        assert changed.complete
        await target.remove_member(1)
        await until(lambda: OwnMemberRemoved(7, 1) in seen)
        await hosts[0].remove_group(7)
        await until(lambda: GroupRemoved(7) in seen)
        assert not of_kind(seen, GroupStopped), "a member that was removed did not fail"


async def test_a_joint_change_is_told_when_it_is_entered_and_when_it_is_left(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts, heard(hosts[0]) as seen:
        groups = await create_on(hosts, 7)
        await groups[0].change_membership(demote=[2, 3])
        await until(lambda: len(of_kind(seen, MembersChanged)) == 2)
        entered, left = of_kind(seen, MembersChanged)
        assert (entered.complete, left.complete) == (False, True)
        assert entered.members == left.members
        assert left.version == groups[0].status().version


async def test_snapshots_at_both_ends(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "ab") as (first, second):
        group = await first.create_group(7)
        await group.propose(change(ann=1))
        async with heard(first) as sender, heard(second) as receiver:
            taken = await group.snapshot()
            await until(lambda: SnapshotTaken(7, taken.index, taken.bytes) in sender)
            new = await second.join_group(7, first.address, role=Role.LEARNER)
            await until(lambda: of_kind(sender, SnapshotSent))
            sent = of_kind(sender, SnapshotSent)[0]
            assert (sent.group, sent.peer, sent.member) == (7, second.address, new.member_id)
            installed = SnapshotInstalled(7, sent.index, sent.bytes, first.address)
            await until(lambda: installed in receiver)
            version = new.status().version
            await until(lambda: any(event.version == version for event in of_kind(receiver, MembersChanged)))


async def test_a_peer_is_lost_and_back_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not once for each lane, nor for each try."""
    caplog.set_level("INFO", "multiraft")
    async with open_hosts(tmp_path, "a") as (host,), heard(host) as seen:
        async with open_host(host_config(tmp_path, "b"), lambda _g: Ledger()) as peer:
            address = peer.address
            for one in (host, peer):
                await one.create_group(7, [Member(1, host.address), Member(2, address)])
            await until(lambda: PeerUp(address) in seen)
        await until(lambda: of_kind(seen, PeerDown))
        async with open_host(host_config(tmp_path, "b", listen=address), lambda _g: Ledger()):
            await until(lambda: len(of_kind(seen, PeerUp)) == 2)
        ups = [event for event in seen if isinstance(event, PeerUp | PeerDown)]
        assert [type(event) for event in ups[:3]] == [PeerUp, PeerDown, PeerUp]
        assert {event.address for event in ups} == {address}
        assert of_kind(seen, PeerDown)[0].reason
        lost = [record for record in caplog.records if "peer down" in record.getMessage()]
        assert [record.levelname for record in lost][:1] == ["WARNING"]


async def test_a_group_that_fails_is_told_and_a_slow_reader_hears_what_it_missed(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "a") as (host,):
        slow = host.events(limit=2)
        for group_id in range(1, 6):
            await (await host.create_group(group_id)).wait_leader()
        with pytest.raises(StateMachineFailed):
            await host.group(1).propose(b"no JSON")
        first = await anext(slow)
        assert isinstance(first, EventsMissed)
        assert first.count >= 8, (
            "five groups made, five leaders, one group stopped: eleven, of which two are kept"
        )
        rest = [await anext(slow), await anext(slow)]
        stopped = rest[-1]
        assert isinstance(stopped, GroupStopped)
        assert stopped.group == 1
        assert isinstance(stopped.error, StateMachineFailed)


async def test_a_closed_host_ends_the_stream_with_what_was_not_read(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "a") as (host,):
        reader = host.events()
        await host.create_group(7)
    assert isinstance(await anext(reader), GroupCreated)
    with pytest.raises(HostClosed):
        async for _ in reader:
            pass
    with pytest.raises(HostClosed):
        await anext(host.events())


class ToldFiles(OsFiles):
    """The real file system; syncing the log does what a test says first."""

    def __init__(self) -> None:
        self.before_sync: Callable[[], None] = lambda: None

    def open(self, path: str, *, create: bool = False) -> File:  # type: ignore[override] # a `File`
        file = super().open(path, create=create)
        return _ToldFile(file, self) if "/wal/" in path else file


class _ToldFile:
    def __init__(self, file: File, files: ToldFiles) -> None:
        self._file = file
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def sync(self) -> None:
        self._files.before_sync()
        self._file.sync()


async def test_a_disk_that_hangs_and_then_is_full(tmp_path: Path) -> None:
    """The last event is told inside the block, which the failure cancels, and outside."""
    files, gate = ToldFiles(), threading.Event()
    seen: list[Event] = []
    outside: list[EventReader] = []

    def hang() -> None:
        gate.wait(PATIENCE_S)

    def full() -> None:
        raise OSError(errno.ENOSPC, "no room")

    async def program() -> None:
        config = host_config(tmp_path, "a", slow_sync_s=0.05)
        async with open_host(config, lambda _g: Ledger(), files=files) as host:
            group = await host.create_group(7)
            await group.propose(change(ann=1))
            outside.append(host.events())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, host.events(), seen)
                files.before_sync = hang
                nursery.start_soon(group.propose, change(ann=1))
                await until(lambda: any(not event.done for event in of_kind(seen, SyncSlow)))
                gate.set()
                await until(lambda: any(event.done for event in of_kind(seen, SyncSlow)))
                files.before_sync = full
                await group.propose(change(ann=1))

    with pytest.raises(StorageFull):
        await program()
    assert isinstance(seen[-1], HostFailed)
    assert isinstance(seen[-1].error, StorageFull)
    told: list[Event] = []
    with pytest.raises(StorageFull):
        await listen(outside[0], told)
    assert isinstance(told[-1], HostFailed)
