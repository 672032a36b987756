"""The engine on real parts: sockets, files and threads, several hosts in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from multiraft import Group
from tests.engine.helpers import cluster, create, leader_of, until
from tests.engine.machines import BlockingJournal, Journal

pytestmark = pytest.mark.slow


def journal(group: Group) -> Journal:
    machine = group.machine
    assert isinstance(machine, Journal)
    return machine


async def test_a_proposal_is_applied_on_every_member(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        for number, group in enumerate(groups, 1):
            assert await group.propose(b"x%d" % number) == (number, b"x%d" % number)
        await until(lambda: all(len(journal(g).entries) == 3 for g in groups))
        assert len({tuple(journal(g).entries) for g in groups}) == 1


async def test_queries_are_linearizable_on_any_member(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        for number in range(30):
            await groups[number % 3].propose(b"%d" % number)
            seen = await groups[(number + 1) % 3].query(None)
            assert seen == [b"%d" % each for each in range(number + 1)]


async def test_a_group_of_one_works_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(8)
        with trio.fail_after(5):
            assert await group.propose(b"a") == (1, b"a")
            assert await group.query(None) == [b"a"]
            await group.read_barrier()
        assert group.stale_query(None) == [b"a"]
        assert group.leader is not None
        assert group.leader.id == group.member_id


async def test_many_proposals_keep_their_order(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        batch = [b"%d" % each for each in range(500)]
        for group in groups:
            before = len(journal(leader_of(groups)).entries)
            results = await group.propose_many(batch)
            assert results == [(before + each + 1, data) for each, data in enumerate(batch)]


async def test_a_group_restarts_from_its_log(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as (host,):
        group = await host.create_group(8)
        for number in range(20):
            await group.propose(b"%d" % number)
    async with cluster(tmp_path, 1) as (host,):
        assert await host.group(8).query(None) == [b"%d" % each for each in range(20)]
        assert (await host.group(8).propose(b"more")) == (21, b"more")


async def test_leadership_can_be_transferred(tmp_path: Path) -> None:
    async with cluster(tmp_path) as hosts:
        groups = await create(hosts, 7)
        for target in (1, 2, 3, 1):
            await groups[target % 3].transfer_leadership(target)
            await until(lambda target=target: leader_of(groups).member_id == target)
            await groups[2].propose(b"after")


async def test_blocking_machines_are_fed_in_order(tmp_path: Path) -> None:
    async with cluster(tmp_path, machines=lambda _: BlockingJournal()) as hosts:
        groups = await create(hosts, 7)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(groups[number % 3].propose, b"%d" % number)
        seen = await groups[1].query(None)
        assert isinstance(seen, list)
        assert sorted(seen) == sorted(b"%d" % each for each in range(100))
        await until(lambda: len({tuple(journal(g).entries) for g in groups}) == 1)
