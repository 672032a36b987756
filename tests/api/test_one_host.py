"""Programs with one host: a group, its restart, durable machines, machines that share a store."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from multiraft import (
    Entry,
    GroupNotFound,
    HostConfig,
    Member,
    MembershipRejected,
    ProposalTooLarge,
    Role,
    StateMachine,
    open_host,
)
from tests.api.programs import PATIENCE_S, Ledger, change, host_config, until

pytestmark = pytest.mark.slow  # real sockets, files and elections


class MadeAsAsked(Mapping[int, list[Member]]):
    """Groups of one member each, whose lists nobody keeps."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __getitem__(self, group: int) -> list[Member]:
        return [Member(100 + group, self._address)]

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, 9))

    def __len__(self) -> int:
        return 8


async def test_members_come_from_lists_that_are_made_as_they_are_asked_for(tmp_path: Path) -> None:
    """Lists are told apart by their identity, which is another's once one is gone."""
    async with open_host(host_config(tmp_path, "data"), machines=lambda _group: Ledger()) as host:
        made = await host.create_groups(MadeAsAsked(host.address))
        assert {group: each.member_id for group, each in made.items()} == {n: 100 + n for n in range(1, 9)}


async def test_a_program_with_one_group_and_nothing_but_defaults(tmp_path: Path) -> None:
    """A missing data folder is created; a group without members is this host alone, under a random id."""
    config = HostConfig(data_dir=str(tmp_path / "deep" / "data"), listen="127.0.0.1:0")
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        group = await host.create_group(8)
        assert await group.propose(change(ann=5)) == {"ann": 5}
        assert await group.propose(change(ann=2, bob=1)) == {"ann": 7, "bob": 1}
        assert await group.query("ann") == 7
        await group.read_barrier()
        assert group.stale_query("bob") == 1
        assert host.group(8) is group
        assert dict(host.groups) == {8: group}
        assert group.id == 8
        assert list(group.members) == [group.member_id]
        me = group.members[group.member_id]
        assert me.role is Role.VOTER
        assert me.address == host.address
        assert group.leader == me
        assert me.id > 0


async def test_status_says_where_the_group_stands(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _group: Ledger()) as host:
        group = await host.create_group(8)
        await group.propose_many([change(ann=1)] * 10)
        status = group.status()
        assert status.term >= 1
        assert status.leader == group.leader
        assert status.role == "leader"
        assert status.commit == status.applied == status.last_index >= 10
        assert 1 <= status.first_index <= status.last_index
        assert status.progress[group.member_id].match == status.last_index
        assert status.members == group.members
        assert isinstance(status.at_rest, bool)
        assert status.failed is None
        with pytest.raises(AttributeError):
            status.term = 9  # type: ignore[misc]  # that it is frozen is what is tested


async def test_statistics_are_frozen(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _group: Ledger()) as host:
        await host.create_group(8)
        statistics = host.statistics()
        assert "1" in repr(statistics)
        name = next(iter(statistics.__attrs_attrs__)).name
        with pytest.raises(AttributeError):
            setattr(statistics, name, 0)


async def test_every_group_is_back_after_a_restart(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        for number in (1, 2, 3):
            group = await host.create_group(number)
            await group.propose(change(ann=number))
        ids = {number: group.member_id for number, group in host.groups.items()}
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        assert {number: group.member_id for number, group in host.groups.items()} == ids
        with trio.fail_after(PATIENCE_S):
            for number, group in host.groups.items():
                assert await group.query("ann") == number
                assert await group.propose(change(ann=1)) == {"ann": number + 1}


async def test_a_host_that_moved_is_told_that_its_groups_say_otherwise(tmp_path: Path) -> None:
    """Others would dial it where it was: without a word of it, it would just never hear from them."""
    async with open_host(host_config(tmp_path, "a"), machines=lambda _group: Ledger()) as host:
        group = await host.create_group(8)
        there = host.address
    with socket.create_server(("127.0.0.1", int(there.rpartition(":")[2]))), capture_logs() as lines:
        async with open_host(host_config(tmp_path, "a"), machines=lambda _group: Ledger()) as host:
            group = host.group(8)
            (moved,) = [line for line in lines if "another address" in line["event"]]
            assert (moved["groups"], moved["first"]) == (1, 8)
            assert (moved["there"], moved["address"]) == (there, host.address)
            with trio.fail_after(PATIENCE_S):
                await group.update_member(group.member_id, address=host.address)
            assert group.members[group.member_id].address == host.address


async def test_a_removed_group_is_gone_with_its_data(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        await (await host.create_group(8)).propose(change(ann=1))
        await host.remove_group(8)
        with pytest.raises(GroupNotFound, match="8"):
            host.group(8)
        assert not host.groups
        group = await host.create_group(8)
        assert await group.query("ann") == 0
        await host.remove_group(8)
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        assert not host.groups


class DurableLedger(Ledger):
    """Keeps its state in a file of its own and says how far it has applied."""

    blocking = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.threads: set[int] = set()
        self.synced = 0
        if path.exists():
            saved = json.loads(path.read_text())
            self.balances, self.applied_index = saved["balances"], saved["applied"]

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        self.threads.add(threading.get_ident())
        results = super().apply(entries)
        self.applied_index = entries[-1].index
        return results

    def query(self, request: object) -> object:
        self.threads.add(threading.get_ident())
        return super().query(request)

    def snapshot(self) -> Iterable[bytes]:
        self.threads.add(threading.get_ident())
        return super().snapshot()

    def sync(self) -> None:
        self.synced += 1
        self.path.write_text(json.dumps({"balances": self.balances, "applied": self.applied_index}))


async def test_a_durable_machine_is_not_fed_twice_and_does_its_work_in_a_thread(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    made: list[DurableLedger] = []

    def machine(_group: int) -> DurableLedger:
        made.append(DurableLedger(tmp_path / "ledger.json"))
        return made[-1]

    async with open_host(config, machines=machine) as host:
        group = await host.create_group(8)
        for _ in range(20):
            await group.propose(change(ann=1))
        snapshot = await group.snapshot()  # sync comes before the log is compacted
        assert made[0].synced >= 1
        assert await group.query("ann") == 20
        made[0].sync()  # what a commit per batch would have done
        await group.propose(change(ann=1))  # and this one is lost with the process
        assert threading.get_ident() not in made[0].threads
    async with open_host(config, machines=machine) as host:
        group = host.group(8)
        with trio.fail_after(PATIENCE_S):
            assert await group.query("ann") == 21
        assert len(made[1].seen) <= 1
        assert made[1].applied_index > snapshot.index


class SharedStore:
    """Counts for all groups in one place, committed once for all applies of a pass."""

    def __init__(self) -> None:
        self.working: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.commits = 0
        self.inside = False

    def __call__(self, group_id: int) -> StateMachine:
        return Counted(self, group_id)

    @contextmanager
    def batch(self) -> Iterator[None]:
        assert not self.inside
        self.inside = True
        try:
            yield
            self.committed.update(self.working)
            self.commits += 1
        finally:
            self.inside = False


class Counted(StateMachine):
    def __init__(self, store: SharedStore, group_id: int) -> None:
        self.store, self.group_id = store, group_id

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        assert self.store.inside, "an apply outside of batch()"
        count = self.store.working.get(self.group_id, 0)
        self.store.working[self.group_id] = count + len(entries)
        return [count + number for number in range(1, len(entries) + 1)]

    def query(self, request: object) -> object:
        assert request is None
        return self.store.committed.get(self.group_id, 0)

    def snapshot(self) -> Iterable[bytes]:
        return [str(self.store.committed.get(self.group_id, 0)).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.store.working[self.group_id] = self.store.committed[self.group_id] = int(b"".join(chunks))


async def test_machines_that_share_a_store_commit_together(tmp_path: Path) -> None:
    store = SharedStore()
    async with open_host(host_config(tmp_path, "a"), machines=store) as host:
        groups = [await host.create_group(number) for number in range(1, 11)]
        await groups[0].wait_leader()
        before = store.commits
        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(group.propose_many, [b"x"] * 20)
        assert [await group.query(None) for group in groups] == [20] * 10
        assert 1 <= store.commits - before <= 30, "far fewer commits than the 200 proposals"


async def test_propose_many_answers_in_order_and_none_is_fine(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _group: Ledger()) as host:
        group = await host.create_group(8)
        results = await group.propose_many([change(ann=1) for _ in range(500)])
        assert results == [{"ann": number} for number in range(1, 501)]
        assert await group.propose_many([]) == []
        with pytest.raises(MembershipRejected, match="no other voter"):
            await group.step_down()


async def test_snapshots_are_taken_when_asked_and_at_the_interval(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a", max_snapshot_files=2)
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        forced = await host.create_group(1)
        await forced.propose_many([change(ann=1)] * 50)
        snapshot = await forced.snapshot()
        assert (await trio.Path(snapshot.path).stat()).st_size == snapshot.bytes
        assert snapshot.index == forced.status().applied
        assert snapshot.term == forced.status().term

        automatic = await host.create_group(2, snapshot_interval_entries=20, snapshot_keep_entries=5)
        for _ in range(100):
            await automatic.propose(change(ann=1))
        await until(lambda: automatic.status().first_index > 20)
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        assert await host.group(1).query("ann") == 50
        assert await host.group(2).query("ann") == 100


async def test_a_group_may_have_limits_of_its_own(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        small = await host.create_group(1, max_proposal_bytes=100, max_uncommitted_bytes=1 << 20)
        large = await host.create_group(2)
        with pytest.raises(ProposalTooLarge) as caught:
            await small.propose(change(**{"a" * 200: 1}))
        assert (caught.value.limit, caught.value.size) == (100, len(change(**{"a" * 200: 1})))
        with pytest.raises(ProposalTooLarge):
            await small.propose_many([change(ann=1), change(**{"a" * 200: 1})])
        assert await small.query("ann") == 0, "refused as a whole"
        await large.propose(change(**{"a" * 200: 1}))
    async with open_host(config, machines=lambda _group: Ledger()) as host:
        with pytest.raises(ProposalTooLarge):  # the limits are the group's, not the program's
            await host.group(1).propose(change(**{"a" * 200: 1}))
