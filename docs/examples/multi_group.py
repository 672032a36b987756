"""A store partitioned over many Raft groups; one host stops and comes back in the middle of it.

    python docs/examples/multi_group.py

One group can do no more than one leader does. Many groups spread the work: each key belongs to one
of them, by its hash, and the leaders of the groups are spread over the hosts. All groups of a host
share its log, its links and its timers, so that thousands of them cost little more than one.
"""

import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from multiraft import Entry, Group, Host, HostConfig, Member, StateMachine, open_host

PARTITIONS = 64
KEYS = 2000


class Partition(StateMachine):
    """The keys of one group. See single_group.py for what each method is for."""

    def __init__(self) -> None:
        self.data: dict[str, int] = {}

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        for entry in entries:
            key, value = json.loads(entry.data)
            self.data[key] = value
        return [None] * len(entries)

    def query(self, request: object) -> object:
        return self.data.get(str(request))

    def snapshot(self) -> Iterable[bytes]:
        return [json.dumps(self.data).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.data = json.loads(b"".join(chunks))


def partition_of(key: str) -> int:
    """Group ids are 1 to PARTITIONS. Python's own hash() differs from process to process."""
    return zlib.crc32(key.encode()) % PARTITIONS + 1


class Store:
    """What the program uses: it finds the group of a key, on any of the hosts that run."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = list(hosts)

    def _group(self, key: str) -> Group:
        host = self.hosts[zlib.crc32(key.encode()) // PARTITIONS % len(self.hosts)]
        return host.group(partition_of(key))

    async def put(self, key: str, value: int) -> None:
        await self._group(key).propose(json.dumps([key, value]).encode())

    async def check(self, key: str, value: int) -> None:
        assert await self._group(key).query(key) == value, key


async def for_all_keys(call: Callable[[str, int], Awaitable[None]], value: int) -> None:
    """All at once: writes of one moment share a sync, and reads a round, whatever their groups."""
    async with trio.open_nursery() as nursery:
        for number in range(KEYS):
            nursery.start_soon(call, f"key-{number}", value)


def leaders(host: Host) -> str:
    """Who leads how many groups, as this host sees it."""
    counted = Counter(group.leader.id if group.leader else 0 for group in host.groups.values())
    return ", ".join(f"member {member}: {count}" for member, count in sorted(counted.items()))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:

        def opened(letter: str, listen: str = "127.0.0.1:0") -> AbstractAsyncContextManager[Host]:
            config = HostConfig(data_dir=f"{folder}/{letter}", listen=listen, tick_interval_s=0.05)
            return open_host(config, machines=lambda group_id: Partition())

        async with opened("a") as a, opened("b") as b:
            async with opened("c") as c:
                # The same members for every group here; each group may have its own.
                members = [Member(1, a.address), Member(2, b.address), Member(3, c.address)]
                for host in (a, b, c):
                    await host.create_groups(dict.fromkeys(range(1, PARTITIONS + 1), members))
                for group in a.groups.values():
                    await group.wait_leader()
                print(f"{PARTITIONS} groups; groups led by {leaders(a)}")

                store = Store([a, b, c])
                await for_all_keys(store.put, 1)
                print(f"wrote {KEYS} keys through all hosts")

            # The block of host c has ended: it is closed. The others elect new leaders for its
            # groups; `propose` waits for that by itself.
            store.hosts.remove(c)
            print("host c has stopped")
            await for_all_keys(store.put, 2)
            print(f"wrote {KEYS} keys again; groups led by {leaders(a)}")

            # Once more, from its disk. Members are known by address, so it has to keep its own.
            async with opened("c", listen=c.address) as c:
                print(f"host c is back and has found {len(c.groups)} groups on its disk")
                store.hosts.append(c)
                await for_all_keys(store.check, 2)
                print(f"read {KEYS} keys through all hosts: nothing is lost, host c has caught up")

                counted = a.statistics()
                print(
                    f"host a: {counted.scheduler.applied_entries} entries applied, {counted.log.syncs} syncs"
                )


if __name__ == "__main__":
    trio.run(main)
