"""One replicated dictionary on three hosts.

    python docs/examples/single_group.py

The three hosts run in this one process, to have it in one file; in earnest each runs in a process
of its own, on a machine of its own, with the same list of members. Nothing else would change.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

import trio

from multiraft import Entry, Group, HostConfig, Member, StateMachine, open_host


class Dictionary(StateMachine):
    """What is replicated: plain synchronous code that knows nothing of Raft.

    Every member of the group has its own copy. All of them are given the same entries in the same
    order, so all of them come to the same state: `apply` must depend on nothing but its entries.
    """

    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        """Carry out what was proposed; one result for each entry. `propose` returns it."""
        results: list[object] = []
        for entry in entries:
            key, value = json.loads(entry.data)
            results.append(self.data.get(key))  # the value that was there before
            self.data[key] = value
        return results

    def query(self, request: object) -> object:
        """Answer a read; `group.query` returns it."""
        return self.data.get(str(request))

    def snapshot(self) -> Iterable[bytes]:
        """The whole state, so that the log can be cut off behind it."""
        return [json.dumps(self.data).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """The state, from what `snapshot` once returned."""
        self.data = json.loads(b"".join(chunks))


def put(key: str, value: str) -> bytes:
    """A proposal: any bytes that `apply` understands."""
    return json.dumps([key, value]).encode()


def name(member: Member | None) -> str:
    return "nobody" if member is None else f"member {member.id}"


async def main() -> None:
    async with AsyncExitStack() as hosts_a_and_b, AsyncExitStack() as host_c:
        folder = hosts_a_and_b.enter_context(tempfile.TemporaryDirectory())
        hosts = []
        for letter, stack in (("a", hosts_a_and_b), ("b", hosts_a_and_b), ("c", host_c)):
            # Port 0 picks a free one, and host.address says which. In earnest: "10.0.0.1:7001".
            config = HostConfig(data_dir=f"{folder}/{letter}", listen="127.0.0.1:0", tick_interval_s=0.05)
            opening = open_host(config, machines=lambda group_id: Dictionary())
            hosts.append(await stack.enter_async_context(opening))

        # Every host is given the same list, and finds itself in it by its address.
        members = [Member(number, host.address) for number, host in enumerate(hosts, start=1)]
        groups: list[Group] = [await host.create_group(1, members=members) for host in hosts]
        first, second, third = groups
        print("leader:", name(await first.wait_leader()))

        # Any member takes proposals and sends them on to the leader. When `propose` returns, the
        # entry is on the disks of a majority, and this member has applied it.
        print("set color=red, was:", await first.propose(put("color", "red")))
        print("set color=blue, was:", await second.propose(put("color", "blue")))

        # `query` sees every write that was acknowledged before it, whichever member is asked.
        for group in groups:
            print(f"member {group.member_id} reads color:", await group.query("color"))

        # Leadership can be moved, and followed as it moves.
        await first.transfer_leadership(3)
        print("leader now:", name(first.leader))

        # Host c, which leads, stops. The other two are a majority: they elect one of themselves.
        # `propose` waits for that by itself.
        await host_c.aclose()
        print("host c has stopped; set color=green, was:", await first.propose(put("color", "green")))
        print("leader now:", name(first.leader))

        # And once more, from its disk and at its old address. The group is found, not created.
        config = HostConfig(data_dir=f"{folder}/c", listen=members[2].address, tick_interval_s=0.05)
        async with open_host(config, machines=lambda group_id: Dictionary()) as again:
            third = again.group(1)
            print("host c is back; member 3 reads color:", await third.query("color"))
            status = third.status()
            print(f"member 3 is a {status.role} in term {status.term}, applied up to {status.applied}")


if __name__ == "__main__":
    trio.run(main)
