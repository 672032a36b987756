"""How calls and hosts end: when a host closes, an exception leaves its block, or a caller gives up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

import multiraft
from multiraft import ConfigError, HostClosed, Member, OutcomeUnknown, open_host
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


@pytest.mark.parametrize("led", [False, True], ids=["queued", "under way"])
async def test_a_host_does_not_stay_open_for_calls_that_were_given_up(tmp_path: Path, led: bool) -> None:
    """Without a quorum they never end: a program that is interrupted would hang for `drain_s`."""
    config = host_config(tmp_path, "a", drain_s=60.0, leader_wait_s=60.0, check_quorum=False)
    with trio.fail_after(PATIENCE_S):
        async with open_host(config, machines=lambda _g: Ledger()) as host:
            if led:
                group = await host.create_group(1)
                await group.wait_leader()
                await group.add_member(Member(2, "127.0.0.1:1"))
            else:
                members = [Member(1, host.address), Member(2, "127.0.0.1:1")]
                group = await host.create_group(1, members=members)
            before = group.status().last_index
            async with trio.open_nursery() as nursery:
                nursery.start_soon(group.propose, change(ann=1))
                nursery.start_soon(group.propose_many, [change(ann=1), change(bob=1)])
                nursery.start_soon(group.query, "ann")
                nursery.start_soon(group.read_barrier)
                nursery.start_soon(group.remove_member, 2)
                if led:
                    await until(lambda: group.status().last_index > before)
                else:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
