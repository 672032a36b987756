"""Every outcome that a proposal is told is checked against what was applied in the end."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft import (
    Group,
    MultiraftError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    ProposalDropped,
    TransferFailed,
)
from tests.cluster.proxy import Proxy, proxied
from tests.engine.helpers import create, leader_of, until
from tests.engine.machines import Journal

pytestmark = pytest.mark.slow

CERTAINLY_NOT_APPLIED = (ProposalDropped, NoLeader, NotLeader)
SECONDS = 8.0
WRITERS = 4


class Writers:
    """Payloads that are never used twice, and what their proposers were told."""

    def __init__(self) -> None:
        self._numbers = count()
        self.done: dict[bytes, int] = {}
        """With the place in the journal that the result named."""
        self.dropped: dict[bytes, MultiraftError] = {}
        self.unknown: dict[bytes, MultiraftError] = {}

    async def one(self, group: Group, source: random.Random) -> None:
        while True:
            data = b"%d " % next(self._numbers) + b"x" * source.randrange(2000)
            try:
                result = await group.propose(data)
            except OutcomeUnknown as error:
                self.unknown[data] = error
            except CERTAINLY_NOT_APPLIED as error:
                self.dropped[data] = error
                await trio.sleep(0.005)
            else:
                assert isinstance(result, tuple)
                assert result[1] == data, "somebody else's result"
                self.done[data] = result[0]

    async def batches(self, group: Group) -> None:
        """More at once than the group takes when its leader is slow."""
        while True:
            data = [b"%d " % next(self._numbers) + b"y" * 1500 for _ in range(20)]
            async with trio.open_nursery() as nursery:
                for each in data:
                    nursery.start_soon(self._single, group, each)
            await trio.sleep(0.02)

    async def _single(self, group: Group, data: bytes) -> None:
        try:
            await group.propose(data)
        except OutcomeUnknown as error:
            self.unknown[data] = error
        except CERTAINLY_NOT_APPLIED as error:
            self.dropped[data] = error
        else:
            self.done.setdefault(data, 0)


async def trouble(groups: list[Group], proxies: list[Proxy], source: random.Random) -> None:
    """A leader that hears nobody, links that break, leadership handed over, a follower left behind."""
    while True:
        led = [place for place, group in enumerate(groups) if group.status().role == "leader"]
        place = led[0] if led else 0
        kind = source.choice(("deaf", "deaf", "cut", "transfer", "behind"))
        if kind == "transfer":
            other = groups[(place + 1) % 3]
            with contextlib.suppress(TransferFailed, NoLeader):
                await other.transfer_leadership(other.member_id)
        elif kind == "cut":
            proxies[source.randrange(3)].cut()
        else:
            victim = place if kind == "deaf" else (place + 1) % 3
            proxies[victim].pause()
            await trio.sleep(0.7)
            proxies[victim].go_on()
        await trio.sleep(0.3)


async def settled(group: Group) -> None:
    """Return when the member has applied all there is; elections may still be under way."""
    with trio.fail_after(20):
        while True:
            with contextlib.suppress(NoLeader):
                await group.read_barrier()
                return


async def test_what_proposers_are_told_is_what_was_applied(tmp_path: Path) -> None:
    """Acknowledged: once, where the result said. Dropped: never, however late. Unknown: once at the most."""
    source = random.Random(7)
    settings: dict[str, Any] = {
        "leader_wait_s": 0.3,
        "max_uncommitted_bytes": 12_000,
        "snapshot_interval_entries": 40,
        "snapshot_keep_entries": 0,
    }
    writers = Writers()
    async with proxied(tmp_path, **settings) as (hosts, proxies):
        groups = await create(hosts, 7)
        with trio.move_on_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trouble, groups, proxies, source)
                for group in groups:
                    nursery.start_soon(writers.batches, group)
                    for _ in range(WRITERS):
                        nursery.start_soon(writers.one, group, source)
        for proxy in proxies:
            proxy.go_on()
        for group in groups:
            await settled(group)
        # What proposers gave up on may have been on its way still.
        await until(
            lambda: len({n for g in groups for n in (g.status().applied, g.status().last_index)}) == 1
        )
        machines = [group.machine for group in groups]
        journals = [each.entries for each in machines if isinstance(each, Journal)]
    assert [data for _, data in journals[0]] == [data for _, data in journals[1]]
    assert [data for _, data in journals[0]] == [data for _, data in journals[2]]
    applied = Counter(data for _, data in journals[0])
    assert max(applied.values()) == 1, "applied twice"
    assert not writers.done.keys() - applied.keys(), "acknowledged and lost"
    assert not writers.dropped.keys() & applied.keys(), "said to be dropped, and applied"
    for data, place in writers.done.items():
        assert place in (0, [each for _, each in journals[0]].index(data) + 1)
    told = len(writers.done), len(writers.dropped), len(writers.unknown)
    assert all(number > 10 for number in told), f"not every outcome was put to the test: {told}"
    lost = sum(data not in applied for data in writers.unknown)
    assert lost, "some of the unknown were not applied, so nothing else could have been said"


async def test_a_leader_without_a_quorum_steps_down_and_says_so(tmp_path: Path) -> None:
    """Within an election timeout. What was under way is unknown, what comes then has no leader."""
    async with proxied(tmp_path, leader_wait_s=0.5, election_ticks=40) as (hosts, proxies):
        groups = await create(hosts, 7)
        leader = leader_of(groups)
        await leader.propose(b"settled")
        errors: list[MultiraftError] = []

        async def propose(data: bytes) -> None:
            try:
                await leader.propose(data)
            except MultiraftError as error:
                errors.append(error)

        last = leader.status().last_index
        for proxy in proxies:
            proxy.pause()
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(propose, b"under way")
                await until(lambda: leader.status().last_index > last)
                await until(lambda: leader.status().role != "leader")
                assert leader.leader is None
                nursery.start_soon(propose, b"too late")
        assert {type(each) for each in errors} == {OutcomeUnknown, NoLeader}
        assert any("has had no leader for 0.5 s" in str(each) for each in errors)
        for proxy in proxies:
            proxy.go_on()
        await settled(leader)
        with trio.fail_after(20):
            await leader.propose(b"again")
            seen = await leader.query(None)
        assert isinstance(seen, list)
        assert b"too late" not in seen


async def test_without_check_quorum_a_leader_goes_on_hoping(tmp_path: Path) -> None:
    """The switch is real: the same hosts without it keep their leader, and the write succeeds later."""
    async with proxied(tmp_path, check_quorum=False) as (hosts, proxies):
        leader = leader_of(await create(hosts, 7))
        await leader.propose(b"settled")
        others = [proxy for place, proxy in enumerate(proxies) if place + 1 != leader.member_id]
        acknowledged = trio.Event()

        async def propose() -> None:
            await leader.propose(b"patient")
            acknowledged.set()

        async with trio.open_nursery() as nursery:
            proxies[leader.member_id - 1].pause()  # it hears no answers, but is heard
            nursery.start_soon(propose)
            await trio.sleep(3 * 10 * 0.02)
            assert leader.status().role == "leader"
            assert not acknowledged.is_set()
            for proxy in (*others, proxies[leader.member_id - 1]):
                proxy.go_on()
            with trio.fail_after(10):
                await acknowledged.wait()
