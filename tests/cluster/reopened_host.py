"""A host process that opens and closes its host again and again before it serves.

`python -m tests.cluster.reopened_host`, driven by processes.py like work_host.py; the `lives` of its
configuration say how often. In each life it finds what earlier ones wrote, writes, and is closed with
writes under way.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import trio

from multiraft import Group, Host, HostClosed, HostConfig, Member, open_host
from tests.cluster import work_host
from tests.cluster.journal_host import main
from tests.engine.helpers import journals

OWN = 99
"""A group that it has to itself."""
PENDING = 8
ACKNOWLEDGED: list[str] = []
TOLD: list[str] = []
"""What was neither written nor lost silently."""
_numbers = count()


async def write(group: Group) -> None:
    data = f"write {next(_numbers)}"
    try:
        await group.propose(data.encode())
    except HostClosed:
        TOLD.append(data)
    else:
        ACKNOWLEDGED.append(data)


async def live(config: HostConfig) -> None:
    async with trio.open_nursery() as nursery, open_host(config, journals) as host:
        group = await host.start_group(OWN, [Member(1, host.address)])
        found = [data.decode() for data in await group.query(None)]  # type: ignore[attr-defined] # a list
        assert len(set(found)) == len(found), "applied twice"
        assert set(ACKNOWLEDGED) <= set(found), "an acknowledged write is gone"
        await write(group)
        for _ in range(PENDING):
            nursery.start_soon(write, group)
        await trio.lowlevel.checkpoint()


async def answer(host: Host, request: dict[str, Any]) -> object:
    if request["do"] == "lives":
        return {"acknowledged": ACKNOWLEDGED, "told": TOLD}
    return await work_host.answer(host, request)


if __name__ == "__main__":
    main(lambda _: journals, answer, before=live)
