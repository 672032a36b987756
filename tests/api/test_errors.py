"""Each error that API.md names, met the way a program meets it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

import multiraft
from multiraft import (
    ClusterMismatch,
    ConfigError,
    CorruptRecord,
    DataDirInUse,
    Entry,
    GroupExists,
    GroupNotFound,
    HostClosed,
    Member,
    MultiraftError,
    NoLeader,
    NotMember,
    OutcomeUnknown,
    StateMachineFailed,
    open_host,
)
from tests.api.programs import (
    PATIENCE_S,
    Ledger,
    change,
    create_on,
    follower_of,
    host_config,
    leader_of,
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


async def test_everything_fails_with_host_closed_after_the_end(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), machines=lambda _g: Ledger()) as host:
        group = await host.create_group(1)
        await group.propose(change(ann=1))
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: group.propose(change(ann=1)),
        lambda: group.propose_many([change(ann=1)]),
        lambda: group.propose_many([]),
        lambda: group.query("ann"),
        group.read_barrier,
        group.snapshot,
        group.wait_leader,
        lambda: group.transfer_leadership(1),
        group.step_down,
        lambda: host.create_group(2),
        lambda: host.create_groups({2: [Member(1, host.address)]}),
        lambda: host.remove_group(1),
    ]
    for call in calls:
        with trio.fail_after(PATIENCE_S), pytest.raises(HostClosed):
            await call()
    with pytest.raises(HostClosed):
        group.stale_query("ann")
    with trio.fail_after(PATIENCE_S), pytest.raises(HostClosed):
        async for _ in group.leadership():
            pass


async def test_what_is_under_way_at_the_end_drains_or_fails_with_host_closed(tmp_path: Path) -> None:
    outcomes: list[object] = []

    async def propose(group: multiraft.Group) -> None:
        try:
            outcomes.append(await group.propose(change(ann=1)))
        except HostClosed as error:
            outcomes.append(error)

    config = host_config(tmp_path, "a")
    async with trio.open_nursery() as nursery, open_host(config, machines=lambda _g: Ledger()) as host:
        group = await host.create_group(1)
        await group.wait_leader()
        for _ in range(200):
            nursery.start_soon(propose, group)
        await until(lambda: outcomes)
    assert len(outcomes) == 200
    acknowledged = sum(isinstance(outcome, dict) for outcome in outcomes)
    async with open_host(config, machines=lambda _g: Ledger()) as host:
        balance = await host.group(1).query("ann")
        assert isinstance(balance, int)
        assert acknowledged <= balance <= 200, "nothing acknowledged is lost"


async def test_hosts_of_another_cluster_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = host_config(tmp_path, "a", cluster_id="orders")
    async with open_host(config, machines=lambda _g: Ledger()):
        pass
    with pytest.raises(ClusterMismatch, match="orders"):
        async with open_host(
            host_config(tmp_path, "a", cluster_id="customers"), machines=lambda _g: Ledger()
        ):
            raise AssertionError("opened a folder of another cluster")

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
    refused = [line for line in capsys.readouterr().out.splitlines() if "refused" in line]
    for host in (one, other):  # each says which peer it refuses, and both clusters' names
        assert any(f"peer={host.address}" in line for line in refused)
    assert all("orders" in line and "customers" in line for line in refused)


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


async def test_exceptions_leave_open_host_bare(tmp_path: Path) -> None:
    class Mine(Exception):
        pass

    async def leave_by(error: BaseException) -> None:
        async with open_host(host_config(tmp_path, "a"), machines=lambda _g: Ledger()):
            raise error

    for error in (Mine("mine"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            await leave_by(error)
        assert caught.value is error
    with pytest.raises(Mine):
        async with open_hosts(tmp_path, "bcd"):
            raise Mine
    with pytest.raises(ConfigError):
        async with open_hosts(tmp_path, "e", listen="nonsense"):
            raise AssertionError


async def test_of_several_exceptions_the_first_leaves_and_notes_name_the_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1") as caught:
        async with open_host(host_config(tmp_path, "a"), machines=lambda _g: Ledger()):
            raise ExceptionGroup("two", [ValueError(1), KeyError(2)])
    assert caught.value.__notes__ == ["also raised: KeyError(2)"]


async def test_a_cancelled_call_leaves_the_group_usable(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts:
        groups = await create_on(hosts, 1)
        for group in (leader_of(groups), follower_of(groups)):
            for _ in range(5):
                with trio.move_on_after(0):
                    await group.propose(change(ann=1))
                with trio.move_on_after(0.001):
                    await group.propose_many([change(ann=1)] * 3)
                with trio.move_on_after(0.001):
                    await group.query("ann")
                with trio.move_on_after(0.001):
                    await group.read_barrier()
                with pytest.raises(trio.TooSlowError), trio.fail_after(0):
                    await group.query("ann")
            with trio.fail_after(PATIENCE_S):
                await group.propose(change(bob=1))
                await group.read_barrier()
        with trio.fail_after(PATIENCE_S):
            answers = [await group.query("ann") for group in groups]
        assert len(set(answers)) == 1
        assert await groups[0].query("bob") == 2


async def test_what_is_under_way_without_a_quorum_ends_as_closed_and_as_unknown(tmp_path: Path) -> None:
    """It is in the leader's log, so it may yet be applied; the program sees that it is over."""
    caught: list[HostClosed] = []

    async def propose(group: multiraft.Group) -> None:
        try:
            await group.propose(change(ann=1))
        except HostClosed as error:
            caught.append(error)

    patient = host_config(tmp_path, "a", drain_s=0.2, election_ticks=100)
    async with trio.open_nursery() as nursery, open_host(patient, machines=lambda _g: Ledger()) as host:
        async with open_hosts(tmp_path, "bc") as others:
            group = (await create_on([host, *others], 1))[0]
            with trio.fail_after(PATIENCE_S):
                await group.transfer_leadership(1)
        # The others are gone; for an election timeout, 5 s, the leader goes on.
        last = group.status().last_index
        nursery.start_soon(propose, group)
        await until(lambda: group.status().last_index > last)
    assert isinstance(caught[0], OutcomeUnknown)


async def test_a_call_cancelled_while_there_is_no_leader(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "ab") as hosts:
        members = members_on(hosts)
        first = await hosts[0].create_group(1, members=members)
        with trio.move_on_after(0.2) as scope:
            await first.propose(change(ann=1))
        assert scope.cancelled_caught
        with trio.move_on_after(0.1) as scope:
            await first.wait_leader()
        assert scope.cancelled_caught
        await hosts[1].create_group(1, members=members)
        with trio.fail_after(PATIENCE_S):
            assert await first.propose(change(bob=1)) == {"bob": 1}
            assert await first.query("ann") == 0, "it never reached a leader, so it was never proposed"
