"""Proposals on their way are bounded, by group and by host; what is refused is never applied.

tests/cluster/test_uncommitted.py has processes without a quorum reach the limits."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft import (
    Group,
    Host,
    Member,
    MultiraftError,
    NoLeader,
    ProposalDropped,
    TransferFailed,
    open_host,
)
from multiraft.cli.ports import free_ports
from tests.api.programs import PATIENCE_S, create_on, follower_of, host_config, leader_of, open_hosts, until
from tests.engine.machines import Journal

pytestmark = pytest.mark.slow

KIB = 1 << 10
LIMIT = 64 * KIB
PAYLOAD_BYTES = 8 * KIB


def journal(_group: int) -> Journal:
    return Journal()


def payload(number: int) -> bytes:
    return (b"%d " % number).ljust(PAYLOAD_BYTES, b"x")


def used(host: Host) -> int:
    return host.statistics().scheduler.uncommitted_bytes


def applied(groups: Sequence[Group]) -> list[Counter[bytes]]:
    """What each member's machine has, and how often."""
    found = []
    for group in groups:
        machine = group.machine
        assert isinstance(machine, Journal)
        found.append(Counter(data for _, data in machine.entries))
    return found


class Trio:
    """A host that leads groups of three, and its two peers, which come and go."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        # A leader without a quorum goes on for an election timeout: on the first host, for long.
        self._configs = [
            host_config(folder, name, listen=f"127.0.0.1:{port}", election_ticks=ticks, drain_s=0.2, **limits)
            for name, port, ticks in zip("abc", free_ports(3), (400, 10, 10), strict=True)
        ]
        self.members = [Member(n, each.listen) for n, each in enumerate(self._configs, 1)]

    @asynccontextmanager
    async def first(self) -> AsyncIterator[Host]:
        async with open_host(self._configs[0], machines=journal) as host:
            yield host

    @asynccontextmanager
    async def others(self) -> AsyncIterator[list[Host]]:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(open_host(each, machines=journal))
                for each in self._configs[1:]
            ]

    async def lead(self, host: Host, others: Sequence[Host], ids: Sequence[int]) -> list[Group]:
        """Groups of all three that the first host leads."""
        groups = []
        for id_ in ids:
            made = [await each.create_group(id_, members=self.members) for each in (host, *others)]
            with trio.fail_after(PATIENCE_S):
                await made[1].propose(b"settled")
                await made[0].transfer_leadership(1)
            groups.append(made[0])
        return groups


class Calls:
    """Proposals, each with a payload of its own, and what became of them."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.refused: dict[bytes, MultiraftError] = {}
        self.asked = 0

    async def one(self, group: Group, data: bytes) -> None:
        self.asked += 1
        try:
            await group.propose(data)
        except MultiraftError as error:
            self.refused[data] = error
        else:
            self.done.append(data)


async def test_the_leaders_host_refuses_what_others_forward_beyond_its_budget(tmp_path: Path) -> None:
    """The proposers' hosts have room; the leader's counts what it takes from them."""
    cluster, calls = Trio(tmp_path, max_host_uncommitted_bytes=LIMIT, max_message_bytes=1 << 14), Calls()
    async with cluster.first() as host, trio.open_nursery() as nursery, cluster.others() as others:
        (group,) = await cluster.lead(host, others, [7])
        third = await others[1].create_group(12)
        await third.propose(b"fine")
        follower = others[0].group(7)
        # The first host's budget is nearly used up by a group that has no quorum.
        lonely = [Member(1, host.address), Member(2, "127.0.0.1:1"), Member(3, "127.0.0.1:2")]
        stuck = await host.create_group(13, members=lonely)
        for number in range(7):
            nursery.start_soon(calls.one, stuck, payload(number))
        await until(lambda: used(host) == 7 * PAYLOAD_BYTES)
        with pytest.raises(ProposalDropped, match=r"at the leader: .*max_host_uncommitted_bytes"):
            await follower.propose_many([payload(50), payload(51)])
        assert await follower.propose(payload(52)) is not None, "that much there is room for"
        assert used(others[0]) == 0
        await until(lambda: used(host) == 7 * PAYLOAD_BYTES)
        assert applied([group]) == [Counter([b"settled", payload(52)])]
        nursery.cancel_scope.cancel()


async def test_proposals_that_wait_for_a_leader_count_until_they_are_given_up(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "a", leader_wait_s=0.4, max_host_uncommitted_bytes=LIMIT) as (host,):
        lonely = [Member(1, host.address), Member(2, "127.0.0.1:1"), Member(3, "127.0.0.1:2")]
        group, calls = await host.create_group(7, members=lonely), Calls()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(calls.one, group, payload(number))
            await until(lambda: len(calls.refused) == 2)
            assert used(host) == LIMIT
        kinds = Counter(type(each) for each in calls.refused.values())
        assert kinds == {NoLeader: 8, ProposalDropped: 2}
        assert used(host) == 0


async def test_a_proposal_above_the_limits_is_taken_when_nothing_else_is_on_its_way(tmp_path: Path) -> None:
    """Else it could never be made at all; its size has a limit of its own."""
    async with open_hosts(
        tmp_path, "a", machines=journal, max_host_uncommitted_bytes=1024, max_uncommitted_bytes=1024
    ) as (host,):
        group = await host.create_group(7)
        for number in range(3):
            await group.propose(payload(number))
        assert used(host) == 0


async def test_whatever_happens_to_proposals_their_room_is_there_again(tmp_path: Path) -> None:
    """Leaders that change under load, callers that give up, groups that are removed: no byte is lost."""
    async with open_hosts(tmp_path, machines=journal, leader_wait_s=1.0) as hosts:
        groups = await create_on(hosts, 7)
        removed = await create_on(hosts, 8)
        number = 0

        async def write(group: Group, patience_s: float) -> None:
            nonlocal number
            while True:
                number += 1
                with trio.move_on_after(patience_s):
                    try:
                        await group.propose_many([payload(number), b"small"])
                    except MultiraftError:
                        await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            for group in (*groups, *removed):
                nursery.start_soon(write, group, PATIENCE_S)
                nursery.start_soon(write, group, 0.002)
            for _ in range(6):
                await trio.sleep(0.1)
                follower = follower_of(groups)
                with contextlib.suppress(TransferFailed), trio.fail_after(PATIENCE_S):
                    await follower.transfer_leadership(follower.member_id)
                await until(lambda: len([each for each in groups if each.status().role == "leader"]) == 1)
            await until(lambda: any(each.status().role == "leader" for each in removed))
            # Chosen together: once the leader's host has let go of the group, nobody may lead it.
            gone = [leader_of(removed), follower_of(removed)]
            for group in gone:
                await hosts[removed.index(group)].remove_group(8)
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        assert number > 100
        await leader_of(groups).propose(b"last")
        for group in groups:
            await group.read_barrier()
        await until(lambda: [used(host) for host in hosts] == [0, 0, 0])
