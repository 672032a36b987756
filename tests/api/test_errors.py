"""Each error that API.md names, met the way a program meets it."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

import multiraft
from multiraft import (
    ClusterMismatch,
    CorruptRecord,
    DataDirInUse,
    Entry,
    GroupExists,
    GroupNotFound,
    Member,
    MultiraftError,
    NoLeader,
    NotMember,
    OutcomeUnknown,
    SnapshotInvalid,
    StateMachineFailed,
    StorageFailed,
    open_host,
)
from tests.api.programs import (
    PATIENCE_S,
    Ledger,
    change,
    create_on,
    host_config,
    members_on,
    open_hosts,
    until,
)

pytestmark = pytest.mark.slow  # real sockets, files and elections

NAMED = [
    "NoLeader",
    "NotLeader",
    "ProposalDropped",
    "ProposalTooLarge",
    "StateMachineFailed",
    "OutcomeUnknown",
    "GroupNotFound",
    "GroupExists",
    "NotMember",
    "MemberRemoved",
    "MembershipRejected",
    "HostClosed",
    "DataDirInUse",
    "ClusterMismatch",
    "StorageFull",
    "StorageFailed",
    "CorruptRecord",
    "SnapshotInvalid",
    "ConfigError",
]


@pytest.mark.parametrize("name", NAMED)
def test_every_error_is_importable_and_a_multiraft_error(name: str) -> None:
    assert issubclass(getattr(multiraft, name), MultiraftError)


async def test_a_folder_holds_one_host(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=lambda _g: Ledger()):
        with pytest.raises(DataDirInUse, match="a"):
            async with open_host(config, machines=lambda _g: Ledger()):
                raise AssertionError("opened twice")
    async with open_host(config, machines=lambda _g: Ledger()):
        pass  # free again


async def test_groups_that_are_not_here_and_those_that_are(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _g: Ledger()) as host:
        with pytest.raises(GroupNotFound) as missing:
            host.group(5)
        assert missing.value.group == 5
        with pytest.raises(GroupNotFound):
            await host.remove_group(5)
        await host.create_group(5)
        with pytest.raises(GroupExists):
            await host.create_group(5)
        with pytest.raises(GroupExists):
            await host.create_groups({4: [Member(1, host.address)], 5: [Member(1, host.address)]})
        assert list(host.groups) == [5], "all or nothing"


async def test_a_host_that_is_not_in_the_list(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _g: Ledger()) as host:
        with pytest.raises(NotMember, match=r"127\.0\.0\.1:1, 127\.0\.0\.1:2"):
            await host.create_group(5, members=[Member(1, "127.0.0.1:1"), Member(2, "127.0.0.1:2")])
        assert not host.groups


async def test_calls_wait_for_a_leader_and_then_say_that_there_is_none(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "a", leader_wait_s=0.5) as (host,):
        group = await host.create_group(
            5, members=[Member(1, host.address), Member(2, "127.0.0.1:1"), Member(3, "127.0.0.1:2")]
        )
        assert group.leader is None
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: group.propose(change(ann=1)),
            lambda: group.propose_many([change(ann=1)]),
            lambda: group.query("ann"),
            group.read_barrier,
            lambda: group.transfer_leadership(2),
        ]
        for call in calls:
            began = trio.current_time()
            with trio.fail_after(PATIENCE_S), pytest.raises(NoLeader):
                await call()
            assert 0.4 < trio.current_time() - began < 5
        assert group.stale_query("ann") == 0
        assert group.status().leader is None


class Fragile(Ledger):
    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        if any(b"boom" in entry.data for entry in entries):
            raise RuntimeError("no such account: boom")
        return super().apply(entries)


class TooFew(Ledger):
    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        return super().apply(entries)[1:]


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_machine_that_raises_stops_its_group_and_no_other(tmp_path: Path, blocking: bool) -> None:
    def machine(_group: int) -> Fragile:
        made = Fragile()
        made.blocking = blocking
        return made

    async with open_host(host_config(tmp_path, "a"), machines=machine) as host:
        bad, good = await host.create_group(1), await host.create_group(2)
        with pytest.raises(StateMachineFailed, match=r"group 1.*no such account: boom") as caught:
            await bad.propose(change(boom=1))
        assert isinstance(caught.value, OutcomeUnknown), "other hosts may yet apply it"
        assert isinstance(caught.value.__cause__, RuntimeError)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: bad.propose(change(ann=1)),
            lambda: bad.query("ann"),
            bad.read_barrier,
            bad.snapshot,
        ]
        for call in calls:
            with trio.fail_after(PATIENCE_S), pytest.raises(StateMachineFailed):
                await call()
        assert await good.propose(change(ann=1)) == {"ann": 1}
        assert "no such account" in str(bad.status().failed)
        await host.remove_group(1)
        assert await (await host.create_group(1)).propose(change(ann=1)) == {"ann": 1}


async def test_a_machine_that_answers_too_little_stops_its_group(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _g: TooFew()) as host:
        group = await host.create_group(1)
        with trio.fail_after(PATIENCE_S), pytest.raises(StateMachineFailed):
            await group.propose(change(ann=1))


async def test_what_query_raises_goes_to_the_caller(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "ab") as hosts:
        for group in await create_on(hosts, 1):
            with pytest.raises(KeyError):
                await group.query(17)
            with pytest.raises(KeyError):
                group.stale_query(17)
            assert await group.query("ann") == 0


async def test_a_folder_of_another_cluster_is_refused(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a", cluster_id="orders")
    async with open_host(config, machines=lambda _g: Ledger()):
        pass
    with pytest.raises(ClusterMismatch, match="orders"):
        async with open_host(
            host_config(tmp_path, "a", cluster_id="customers"), machines=lambda _g: Ledger()
        ):
            raise AssertionError("opened a folder of another cluster")


async def test_joining_by_a_host_of_another_cluster_says_so(tmp_path: Path) -> None:
    async with (
        open_host(host_config(tmp_path, "a", cluster_id="orders"), machines=lambda _g: Ledger()) as a,
        open_host(host_config(tmp_path, "b", cluster_id="customers"), machines=lambda _g: Ledger()) as b,
    ):
        await a.create_group(1)
        with trio.fail_after(PATIENCE_S), pytest.raises(ClusterMismatch, match=r"'orders'.*'customers'"):
            await b.join_group(1, via=a.address)
        assert not b.groups


async def test_joining_by_what_is_no_host_of_ours_says_so(tmp_path: Path) -> None:
    """The commonest slip: some other port, here of a server that knows HTTP/1 alone."""

    async def answer(stream: trio.SocketStream) -> None:
        if (await stream.receive_some(4096)).startswith(b"GET"):
            await stream.send_all(b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\n\r\n")

    async with (
        trio.open_nursery() as nursery,
        open_host(host_config(tmp_path, "a"), machines=lambda _g: Ledger()) as host,
    ):
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        expected = rf"{address} answers, but is not a multiraft host of cluster .*\(HTTP 404, text/plain\)"
        with trio.fail_after(PATIENCE_S), pytest.raises(ClusterMismatch, match=expected):
            await host.join_group(1, via=address)
        nursery.cancel_scope.cancel()


async def test_both_sides_log_why_they_refuse_each_other(tmp_path: Path) -> None:
    with capture_logs() as lines:
        await let_clusters_meet(tmp_path)
    refused = [line for line in lines if line["event"] == "host refused"]
    assert len({line["peer"] for line in refused}) == 2
    assert all("'orders'" in line["reason"] and "'customers'" in line["reason"] for line in refused)


async def let_clusters_meet(tmp_path: Path) -> None:
    async with (
        open_host(host_config(tmp_path, "b", cluster_id="orders"), machines=lambda _g: Ledger()) as one,
        open_host(
            host_config(tmp_path, "c", cluster_id="customers", leader_wait_s=1.0),
            machines=lambda _g: Ledger(),
        ) as other,
    ):
        members = members_on([one, other])
        groups = [await host.create_group(7, members=members) for host in (one, other)]
        with trio.fail_after(PATIENCE_S), pytest.raises(NoLeader, match="7"):
            await groups[1].propose(change(ann=1))


async def test_a_damaged_log_is_refused_with_its_place(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=lambda _g: Ledger()) as host:
        group = await host.create_group(1)
        for _ in range(50):
            await group.propose(change(ann=1))
    segments = sorted(
        (path for path in (tmp_path / "a").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    log = segments[-1]
    with log.open("r+b") as file:
        data = file.read(1 << 16)
        used = len(data.rstrip(b"\0"))
        file.seek(used // 2)
        file.write(os.urandom(16))
    with pytest.raises(CorruptRecord) as caught:
        async with open_host(config, machines=lambda _g: Ledger()):
            raise AssertionError("opened a damaged log")
    assert caught.value.segment in str(log)
    assert 0 < caught.value.offset <= used


async def test_a_snapshot_that_is_needed_and_damaged_is_named(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=lambda _g: Ledger()) as host:
        group = await host.create_group(1, snapshot_keep_entries=0)
        await group.propose_many([change(ann=1)] * 50)
        path = trio.Path((await group.snapshot()).path)
        await until(lambda: group.status().first_index > 50)
        await host.create_group(2)
    whole = await path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"x" + whole[1:]):
        await path.write_bytes(damaged)
        async with open_host(config, machines=lambda _g: Ledger()) as host:
            await host.group(2).propose(change(bob=1))  # one group's trouble is its own
            with pytest.raises(SnapshotInvalid, match="group 1|" + path.name):
                await host.group(1).query("ann")
            status = host.group(1).status()
            assert status.failed is not None
            assert path.name in status.failed or "group 1" in status.failed
    await path.write_bytes(whole)
    async with open_host(config, machines=lambda _g: Ledger()) as host:
        assert await host.group(1).query("ann") == 50


class FullStore:
    """Machines that share a store that cannot begin, or whose commit fails."""

    full = False

    def __init__(self, *, begins: bool) -> None:
        self.begins = begins

    def __call__(self, _group: int) -> Ledger:
        return Ledger()

    @contextmanager
    def batch(self) -> Iterator[None]:
        if self.full and not self.begins:
            raise OSError(errno.ENOSPC, "no room for the commit")
        yield
        if self.full:
            raise OSError(errno.ENOSPC, "no room for the commit")


@pytest.mark.parametrize("begins", [True, False])
async def test_a_shared_store_that_fails_stops_the_host(tmp_path: Path, begins: bool) -> None:
    """Nobody's state can be trusted to be kept any more, so nobody is told otherwise."""
    store = FullStore(begins=begins)
    caught: list[StorageFailed] = []

    async def fill_up() -> None:
        async with open_host(host_config(tmp_path, "a"), machines=store) as host:
            groups = [await host.create_group(number) for number in (1, 2)]
            await groups[1].propose(change(ann=1))
            store.full = True
            for group in groups:
                with trio.CancelScope(shield=True), trio.fail_after(PATIENCE_S):
                    try:
                        await group.propose(change(ann=1))
                    except StorageFailed as error:
                        caught.append(error)
            await trio.sleep_forever()

    with pytest.raises(StorageFailed, match="no room for the commit"):
        await fill_up()
    assert [isinstance(error, OutcomeUnknown) for error in caught] == [True, False]
