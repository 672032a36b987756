"""One replicated dictionary on three hosts.

    python docs/examples/single_group.py

The three hosts run in this one process, to have it in one file; in earnest each runs in a process
of its own, on a machine of its own, with the same list of members. Nothing else would change.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from multiraft import Entry, Host, HostConfig, Member, StateMachine, open_host


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
    with tempfile.TemporaryDirectory() as folder:

        def opened(letter: str, listen: str = "127.0.0.1:0") -> AbstractAsyncContextManager[Host]:
            # Port 0 picks a free one, and host.address says which. In earnest: "10.0.0.1:7001".
            config = HostConfig(data_dir=f"{folder}/{letter}", listen=listen, tick_interval_s=0.05)
            return open_host(config, machines=lambda group_id: Dictionary())

        async with opened("a") as a, opened("b") as b:
            async with opened("c") as c:
                # Every host is given the same list, and finds itself in it by its address.
                members = [Member(1, a.address), Member(2, b.address), Member(3, c.address)]
                first, second, third = [await host.create_group(1, members) for host in (a, b, c)]
                print("leader:", name(await first.wait_leader()))

                # Any member takes proposals and sends them on to the leader. When `propose` returns,
                # the entry is on the disks of a majority, and this member has applied it.
                print("set color=red, was:", await first.propose(put("color", "red")))
                print("set color=blue, was:", await second.propose(put("color", "blue")))

                # `query` sees all that was acknowledged before it, whichever member is asked.
                for group in (first, second, third):
                    print(f"member {group.member_id} reads color:", await group.query("color"))

                # Leadership can be moved.
                await first.transfer_leadership(3)
                print("leader now:", name(first.leader))

            # The block of host c has ended: it is closed. The other two are a majority, and elect one
            # of themselves; `propose` waits for that by itself.
            print("host c has stopped; set color=green, was:", await first.propose(put("color", "green")))
            print("leader now:", name(first.leader))

            # Once more, from its disk: the group is found, not created. Members are known by their
            # address, so the host has to keep its own.
            async with opened("c", listen=c.address) as c:
                third = c.group(1)
                print("host c is back; member 3 reads color:", await third.query("color"))
                status = third.status()
                print(f"member 3 is a {status.role} in term {status.term}, applied up to {status.applied}")


if __name__ == "__main__":
    trio.run(main)
