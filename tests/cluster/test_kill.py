"""Hosts that lead are killed in the middle of writes: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path

import pytest
import trio

from tests.cluster.processes import HostError, HostGone, HostProcess, create_groups, host_processes

GROUPS = (1, 2, 3)
KILLS = 10
WRITERS = 8
WRITES_PER_ROUND = 60

CERTAINLY_NOT_APPLIED = {"ProposalDropped", "NoLeader"}


class Writers:
    """Unique payloads, and what became of each."""

    def __init__(self, hosts: Sequence[HostProcess]) -> None:
        self._hosts = hosts
        self._numbers = count()
        self._random = random.Random(20)
        self.acknowledged: dict[int, set[str]] = {group: set() for group in GROUPS}
        self.attempted: dict[int, set[str]] = {group: set() for group in GROUPS}
        self.total = 0

    async def one(self) -> None:
        """Write for ever, through any host that is up."""
        while True:
            group = self._random.choice(GROUPS)
            payload = f"{group}-{next(self._numbers)}"
            self.attempted[group].add(payload)
            while not await self._try(group, payload):  # noqa: ASYNC110 - a retry
                await trio.sleep(0.01)

    async def _try(self, group: int, payload: str) -> bool:
        """False: certainly not applied, so try again."""
        host = self._random.choice([host for host in self._hosts if host.up])
        try:
            await host.call("propose", group=group, data=payload)
        except HostGone:
            return True  # unknown: never again
        except HostError as error:
            return error.name not in CERTAINLY_NOT_APPLIED
        self.acknowledged[group].add(payload)
        self.total += 1
        return True

    async def wait_writes(self, number: int) -> None:
        """Until so many more are acknowledged."""
        until = self.total + number
        with trio.fail_after(30):
            while self.total < until:  # noqa: ASYNC110 - the answers of three processes
                await trio.sleep(0.005)


async def leader(hosts: Sequence[HostProcess], group: int) -> HostProcess:
    """The host that leads, as all that are up agree."""
    with trio.fail_after(30):
        while True:
            seen = {(await host.call("leaders"))[str(group)] for host in hosts if host.up}
            if len(seen) == 1 and None not in seen:
                (address,) = seen
                return next(host for host in hosts if host.address == address)
            await trio.sleep(0.01)


async def agreed_journal(hosts: Sequence[HostProcess], group: int) -> list[list[object]]:
    """What every host has applied, once a linearizable read on each has seen all there is."""
    for host in hosts:
        await host.call("query", group=group)
    with trio.fail_after(30):
        while True:
            journals = [await host.call("journal", group=group) for host in hosts]
            if all(journal == journals[0] for journal in journals):
                found: list[list[object]] = journals[0]
                return found
            lengths = [len(journal) for journal in journals]
            shortest = min(lengths)
            assert all(journal[:shortest] == journals[0][:shortest] for journal in journals), "they differ"
            await trio.sleep(0.02)


@pytest.mark.slow
async def test_leaders_killed_in_the_middle_of_writes(tmp_path: Path) -> None:
    """Ten kills: every acknowledged write is there, once, at the same index on every host."""
    async with host_processes(tmp_path, snapshot_interval_entries=150, snapshot_keep_entries=20) as hosts:
        await create_groups(hosts, GROUPS)
        writers = Writers(hosts)
        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(writers.one)
            for kill in range(KILLS):
                victim = await leader(hosts, GROUPS[kill % len(GROUPS)])
                await writers.wait_writes(WRITES_PER_ROUND)
                await victim.kill()
                await writers.wait_writes(WRITES_PER_ROUND)
                await victim.start(snapshot_interval_entries=150, snapshot_keep_entries=20)
                await writers.wait_writes(WRITES_PER_ROUND)
            nursery.cancel_scope.cancel()
        assert writers.total >= KILLS * 3 * WRITES_PER_ROUND
        for group in GROUPS:
            journal = await agreed_journal(hosts, group)
            payloads = [str(payload) for _, payload in journal]
            twice = [payload for payload, times in Counter(payloads).items() if times > 1]
            assert not twice, f"applied more than once: {twice[:5]}"
            assert writers.acknowledged[group] <= set(payloads), "an acknowledged write is missing"
            assert set(payloads) <= writers.attempted[group], "applied something that nobody wrote"
            indexes = [int(str(index)) for index, _ in journal]
            assert all(lower < upper for lower, upper in pairwise(indexes))


@pytest.mark.slow
async def test_graceful_restart_keeps_the_data_of_fifty_groups(tmp_path: Path) -> None:
    """All three hosts stop cleanly and come back with every group and everything in it."""
    groups = range(1, 51)
    async with host_processes(tmp_path) as hosts:
        await create_groups(hosts, groups)

        async def fill(group: int) -> None:
            for number in range(4):
                await hosts[(group + number) % 3].call("propose", group=group, data=f"{group}-{number}")

        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(fill, group)
        assert [await host.stop() for host in hosts] == [0, 0, 0]
        for host in hosts:
            await host.start()
        for group in groups:
            expected = [f"{group}-{number}" for number in range(4)]
            assert await hosts[group % 3].call("query", group=group) == expected
