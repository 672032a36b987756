"""Programs with three hosts in one process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from multiraft import Group, HostConfig, Member, NotLeader, open_host
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

pytestmark = pytest.mark.slow  # real sockets, files and elections


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def test_nested_hosts_agree_and_any_of_them_answers(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts:
        groups = await create_on(hosts, 7)
        for number, group in enumerate(groups, start=1):
            assert await group.propose(change(ann=1)) == {"ann": number}
            assert await group.query("ann") == number
        await follower_of(groups).read_barrier()
        results = await follower_of(groups).propose_many([change(ann=1)] * 100)
        assert results == [{"ann": number} for number in range(4, 104)]
        await until(lambda: [group.stale_query("ann") for group in groups] == [103] * 3)
        for group in groups:
            assert sorted(group.members) == [1, 2, 3]
        assert len({group.leader for group in groups}) == 1


async def test_hosts_in_tasks_of_their_own_with_fixed_ports(tmp_path: Path) -> None:
    """The list of members is the same on every host, in any order."""
    ports = free_ports(3)
    members = [Member(number, f"127.0.0.1:{port}") for number, port in enumerate(ports, start=1)]
    answers: list[object] = []

    async def one(number: int) -> None:
        config = HostConfig(
            data_dir=str(tmp_path / str(number)), listen=f"127.0.0.1:{ports[number]}", tick_interval_s=0.05
        )
        turned = members[number:] + members[:number]
        async with open_host(config, machines=lambda _group: Ledger()) as host:
            group = await host.create_group(7, members=turned)
            assert group.member_id == number + 1
            await group.propose(change(ann=1))
            with trio.fail_after(PATIENCE_S):
                while await group.query("ann") != 3:  # noqa: ASYNC110 - nothing sets an event
                    await trio.sleep(0.02)
            answers.append(number)
            await until(lambda: len(answers) == 3)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(one, number)
    assert sorted(map(str, answers)) == ["0", "1", "2"]


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_addresses_may_carry_a_scheme_or_not(tmp_path: Path, scheme: str) -> None:
    ports = free_ports(2)
    other = "http://" if not scheme else ""  # as listened on one way, named the other way
    async with (
        open_host(
            host_config(tmp_path, "a", listen=f"{scheme}127.0.0.1:{ports[0]}"), machines=lambda _g: Ledger()
        ) as a,
        open_host(
            host_config(tmp_path, "b", listen=f"{scheme}127.0.0.1:{ports[1]}"), machines=lambda _g: Ledger()
        ) as b,
    ):
        members = [Member(1, f"{other}127.0.0.1:{ports[0]}"), Member(2, f"{other}127.0.0.1:{ports[1]}")]
        groups = [await host.create_group(7, members=members) for host in (a, b)]
        with trio.fail_after(PATIENCE_S):
            assert await groups[0].propose(change(ann=1)) == {"ann": 1}
            assert await groups[1].query("ann") == 1


async def test_advertise_is_what_other_hosts_dial(tmp_path: Path) -> None:
    ports = free_ports(2)
    async with (
        open_host(
            host_config(tmp_path, "a", listen=f"0.0.0.0:{ports[0]}", advertise=f"localhost:{ports[0]}"),
            machines=lambda _g: Ledger(),
        ) as a,
        open_host(
            host_config(tmp_path, "b", listen=f"0.0.0.0:{ports[1]}", advertise=f"localhost:{ports[1]}"),
            machines=lambda _g: Ledger(),
        ) as b,
    ):
        assert a.address == f"localhost:{ports[0]}"
        members = [Member(1, f"localhost:{ports[0]}"), Member(2, f"localhost:{ports[1]}")]
        groups = [await host.create_group(7, members=members) for host in (a, b)]
        with trio.fail_after(PATIENCE_S):
            await groups[0].propose(change(ann=1))
            assert await groups[1].query("ann") == 1


async def test_port_zero_picks_one(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, "ab") as hosts:
        picked = {int(host.address.rpartition(":")[2]) for host in hosts}
        assert len(picked) == 2
        assert 0 not in picked


async def test_hundreds_of_groups_at_once(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, tick_interval_s=0.1) as hosts:
        members = [Member(number, host.address) for number, host in enumerate(hosts, start=1)]
        wanted = dict.fromkeys(range(100, 400), members)
        made = [await host.create_groups(wanted) for host in hosts]
        assert sorted(hosts[0].groups) == list(range(100, 400))
        groups = [hosts[number % 3].group(group_id) for number, group_id in enumerate(wanted)]
        assert [group.id for group in made[0].values()] == list(wanted)

        async def use(group: Group) -> None:
            assert await group.propose(change(ann=group.id)) == {"ann": group.id}
            assert await group.query("ann") == group.id

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for group in groups:
                    nursery.start_soon(use, group)


async def test_watchers_see_each_change_of_the_leader(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts:
        groups = await create_on(hosts, 7)
        seen: list[list[int | None]] = [[] for _ in groups]

        async def watch(number: int) -> None:
            async for leader in groups[number].leadership():
                seen[number].append(leader.id if leader else None)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(watch, number)
            first = leader_of(groups).member_id
            await until(lambda: all(each and each[-1] == first for each in seen))
            assert [each[0] for each in seen] == [first] * 3, "the present state comes first"
            second = follower_of(groups).member_id
            second_member = groups[0].members[second]
            with trio.fail_after(PATIENCE_S):
                await leader_of(groups).transfer_leadership(second)
            await until(lambda: all(each[-1] == second for each in seen))
            with trio.fail_after(PATIENCE_S):
                for group in groups:
                    assert await group.wait_leader() == second_member
            assert await groups[first - 1].propose(change(ann=1)) == {"ann": 1}
            with trio.fail_after(PATIENCE_S):
                await groups[first - 1].step_down()  # does not lead: nothing to do
                assert groups[first - 1].leader == second_member
                await groups[second - 1].step_down()
            assert groups[second - 1].leader not in (None, second_member)
            nursery.cancel_scope.cancel()


async def test_leadership_may_be_transferred_from_any_member(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts:
        groups = await create_on(hosts, 7)
        follower = follower_of(groups)
        with trio.fail_after(PATIENCE_S):
            await follower.transfer_leadership(follower.member_id)
        await until(lambda: follower.leader is not None and follower.leader.id == follower.member_id)


async def test_a_host_that_was_away_catches_up_from_a_snapshot(tmp_path: Path) -> None:
    ports = free_ports(3)
    configs = [
        host_config(
            tmp_path, name, listen=f"127.0.0.1:{port}", snapshot_interval_entries=50, snapshot_keep_entries=10
        )
        for name, port in zip("abc", ports, strict=True)
    ]
    members = [Member(number, config.listen) for number, config in enumerate(configs, start=1)]

    def ledger(_group: int) -> Ledger:
        return Ledger()

    async with open_host(configs[0], machines=ledger) as a, open_host(configs[1], machines=ledger) as b:
        async with open_host(configs[2], machines=ledger) as c:
            groups = [await host.create_group(7, members=members) for host in (a, b, c)]
            with trio.fail_after(PATIENCE_S):
                await groups[2].propose(change(ann=1))
        with trio.fail_after(PATIENCE_S):
            for _ in range(300):
                await groups[0].propose(change(ann=1))
        await until(lambda: groups[0].status().first_index > 200)
        async with open_host(configs[2], machines=ledger) as c:
            back = c.group(7)
            with trio.fail_after(PATIENCE_S):
                assert await back.query("ann") == 301
            assert back.status().first_index > 200


async def test_the_leader_tells_the_progress_of_each_member(tmp_path: Path) -> None:
    async with open_hosts(tmp_path) as hosts:
        groups = await create_on(hosts, 7)
        leader = leader_of(groups)
        await leader.propose(change(ann=1))
        await until(lambda: set(leader.status().progress) == {1, 2, 3})
        last = leader.status().last_index
        await until(lambda: all(each.match == last for each in leader.status().progress.values()))
        status = follower_of(groups).status()
        assert not status.progress
        assert status.leader == leader.leader


async def test_without_forwarding_a_follower_names_the_leader(tmp_path: Path) -> None:
    async with open_hosts(tmp_path, forward_proposals=False) as hosts:
        groups = await create_on(hosts, 7)
        with pytest.raises(NotLeader) as caught:
            await follower_of(groups).propose(change(ann=1))
        assert caught.value.leader == leader_of(groups).leader
        assert await leader_of(groups).propose(change(ann=1)) == {"ann": 1}
        assert await follower_of(groups).query("ann") == 1, "reads are answered by any member"
