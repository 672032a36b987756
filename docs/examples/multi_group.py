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

import trio

from multiraft import Entry, Host, HostConfig, Member, StateMachine, open_host

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


class Server:
    """One host that can be stopped and started again, as a process would be."""

    def __init__(self, data_dir: str) -> None:
        self.data_dir = data_dir
        self.address = "127.0.0.1:0"
        self.host: Host | None = None
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        self._stop, self._stopped = trio.Event(), trio.Event()
        config = HostConfig(data_dir=self.data_dir, listen=self.address, tick_interval_s=0.05)
        async with open_host(config, machines=lambda group_id: Partition()) as host:
            self.host, self.address = host, host.address  # a member stays at its address
            task_status.started()
            await self._stop.wait()
            self.host = None
        self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()


class Store:
    """What the program uses: finds the group of a key, on any host that runs."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers

    def _host(self, key: str) -> Host:
        running = [server.host for server in self.servers if server.host is not None]
        return running[zlib.crc32(key.encode()) // PARTITIONS % len(running)]

    async def put(self, key: str, value: int) -> None:
        proposal = json.dumps([key, value]).encode()
        await self._host(key).group(partition_of(key)).propose(proposal)

    async def check(self, key: str, value: int) -> None:
        assert await self._host(key).group(partition_of(key)).query(key) == value, key


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
        async with trio.open_nursery() as nursery:
            servers = [Server(f"{folder}/{letter}") for letter in "abc"]
            hosts: list[Host] = []
            for server in servers:
                await nursery.start(server.run)
                assert server.host is not None
                hosts.append(server.host)

            # The same members for every group here; each group may have its own.
            members = [Member(number, server.address) for number, server in enumerate(servers, start=1)]
            for host in hosts:
                await host.create_groups(dict.fromkeys(range(1, PARTITIONS + 1), members))
            for group in hosts[0].groups.values():
                await group.wait_leader()
            print(f"{PARTITIONS} groups; groups led by {leaders(hosts[0])}")

            store = Store(servers)
            await for_all_keys(store.put, 1)
            print(f"wrote {KEYS} keys through all hosts")

            await servers[2].stop()
            print("host c has stopped; the others elect new leaders for its groups")
            await for_all_keys(store.put, 2)
            print(f"wrote {KEYS} keys again; groups led by {leaders(hosts[0])}")

            await nursery.start(servers[2].run)
            assert servers[2].host is not None
            print(f"host c is back and has found {len(servers[2].host.groups)} groups on its disk")
            await for_all_keys(store.check, 2)
            print(f"read {KEYS} keys through all hosts: nothing is lost, host c has caught up")

            counted = hosts[0].statistics()
            print(f"host a: {counted.scheduler.applied_entries} entries applied, {counted.log.syncs} syncs")
            for server in servers:
                await server.stop()


if __name__ == "__main__":
    trio.run(main)
