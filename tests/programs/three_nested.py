"""Three hosts nested in one task: predefined lists in any order, followers, reads, leadership."""

import json
import tempfile
from collections.abc import Iterable, Sequence

import trio

from multiraft import (
    Entry,
    Group,
    HostConfig,
    Member,
    MembershipRejected,
    ReadMode,
    Role,
    StateMachine,
    open_host,
)


class Store(StateMachine):
    """A dictionary; a command is [key, value], its result is the value it replaced."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        results: list[object] = []
        for entry in entries:
            key, value = json.loads(entry.data)
            results.append(self.data.get(key))
            self.data[key] = value
        return results

    def query(self, request: object) -> object:
        return self.data.get(str(request))

    def snapshot(self) -> Iterable[bytes]:
        return [json.dumps(self.data).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.data = json.loads(b"".join(chunks))


def put(key: str, value: str) -> bytes:
    return json.dumps([key, value]).encode()


async def agreed_leader(groups: Sequence[Group]) -> int:
    """Wait until all of the groups name the same leader; return its member id."""
    while True:
        leaders = {group.leader.id if group.leader else None for group in groups}
        if len(leaders) == 1 and (leader := leaders.pop()) is not None:
            return leader
        await trio.sleep(0.01)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):

        def config(name: str) -> HostConfig:
            return HostConfig(
                data_dir=f"{folder}/{name}",
                listen="127.0.0.1:0",
                cluster_id="orders",
                tick_interval_s=0.02,
            )

        def machines(group_id: int) -> Store:
            return Store()

        async with (
            open_host(config("a"), machines=machines) as a,
            open_host(config("b"), machines=machines) as b,
            open_host(config("c"), machines=machines) as c,
        ):
            hosts = [a, b, c]
            one, two, three = (Member(i + 1, hosts[i].address) for i in range(3))
            # The same list in another order on every host; oneself need not come first,
            # and an address may carry its scheme.
            orders = [
                [one, two, three],
                [three, one, two],
                [Member(2, "http://" + b.address.removeprefix("http://")), three, one],
            ]
            groups = [
                await host.create_group(7, members=order) for host, order in zip(hosts, orders, strict=True)
            ]
            assert [group.member_id for group in groups] == [1, 2, 3]

            # Before there is a leader, calls wait for one.
            assert await groups[0].propose(put("first", "1")) is None

            leader_id = await agreed_leader(groups)
            leader = groups[leader_id - 1]
            followers = [group for group in groups if group is not leader]
            assert [m.role for m in leader.members.values()] == [Role.VOTER] * 3
            assert set(leader.members) == {1, 2, 3}

            # From followers, with the result of apply.
            assert await followers[0].propose(put("first", "2")) == "1"
            assert await followers[1].propose_many([put("first", "3"), put("first", "4")]) == [
                "2",
                "3",
            ]
            # Linearizable wherever it is asked.
            for group in groups:
                assert await group.query("first") == "4"
                await group.read_barrier()
                assert group.stale_query("first") == "4"

            # Everybody tells the same story; only the leader knows the progress of others.
            await agreed_leader(groups)
            assert {group.status().term for group in groups} == {leader.status().term}
            assert set(leader.status().progress) == {1, 2, 3}
            assert not followers[0].status().progress

            # Leadership, level-triggered.
            seen: list[int | None] = []

            async def listen() -> None:
                async for member in groups[0].leadership():
                    seen.append(member.id if member else None)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                while not seen:
                    await trio.lowlevel.checkpoint()
                assert seen == [leader_id]
                target = leader_id % 3 + 1
                await leader.transfer_leadership(target)
                while seen[-1] != target:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            assert await agreed_leader(groups) == target

            # From a follower, too.
            back = next(i for i in (1, 2, 3) if i != target)
            ask = next(g for g in groups if g.member_id not in (target, back))
            await ask.transfer_leadership(back)
            assert await agreed_leader(groups) == back

            try:
                await groups[0].transfer_leadership(99)
            except MembershipRejected as error:
                assert "99" in str(error)
            else:
                raise AssertionError("gave the lead to nobody")

            # Step down: somebody else leads.
            await groups[back - 1].step_down()
            while await agreed_leader(groups) == back:
                await trio.sleep(0.01)
            assert await groups[back - 1].propose(put("last", "x")) is None
            for group in groups:
                assert await group.query("last") == "x"

    await lease_reads()
    print("ok")


async def lease_reads() -> None:
    """The same with reads under a lease."""
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(10):

        def config(name: str) -> HostConfig:
            return HostConfig(
                data_dir=f"{folder}/{name}",
                listen="127.0.0.1:0",
                tick_interval_s=0.02,
                read_mode=ReadMode.LEASE,
            )

        async with (
            open_host(config("a"), machines=lambda group_id: Store()) as a,
            open_host(config("b"), machines=lambda group_id: Store()) as b,
            open_host(config("c"), machines=lambda group_id: Store()) as c,
        ):
            members = [Member(i + 1, host.address) for i, host in enumerate((a, b, c))]
            groups = [await host.create_group(1, members=members) for host in (a, b, c)]
            await groups[1].propose(put("k", "v"))
            for group in groups:
                assert await group.query("k") == "v"


if __name__ == "__main__":
    trio.run(main)
