"""A host process whose groups have states of any size, none of which is in memory.

`python -m tests.cluster.state_host`, driven by processes.py like journal_host.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from multiraft import Entry, Host, StateMachine
from tests.cluster.journal_host import create, leaders, main

BLOCK_BYTES = 64 << 10
PIECE_BYTES = 32
"""A block is this much, again and again: recognized wherever one looks at it."""


def block(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (BLOCK_BYTES // PIECE_BYTES)


class Blocks(StateMachine):
    """As many blocks as the last `grow N` said; other entries only count as seen."""

    def __init__(self) -> None:
        self.blocks = 0
        self.entries = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        for entry in entries:
            self.entries += 1
            if entry.data.startswith(b"grow "):
                self.blocks = int(entry.data[5:])
        return [None] * len(entries)

    def query(self, request: object) -> object:  # noqa: ARG002 - there is one question only
        return [self.blocks, self.entries]

    def snapshot(self) -> Iterable[bytes]:
        # Two numbers are the whole state, so they are all there is to capture.
        return chain([b"%d" % self.entries], map(block, range(self.blocks)))

    def restore(self, chunks: Iterable[bytes]) -> None:
        given = iter(chunks)
        self.entries = int(next(given))
        self.blocks = 0
        for number, chunk in enumerate(given):
            if chunk != block(number):
                raise ValueError(f"block {number} is not what it was")
            self.blocks += 1


async def answer(host: Host, request: dict[str, Any]) -> object:
    do = request["do"]
    if do == "create":
        return await create(host, request)
    if do == "leaders":
        return leaders(host)
    group = host.group(request["group"])
    if do == "propose":
        return await group.propose(request["data"].encode())
    if do == "write":
        payload = bytes(request["bytes"])
        return len(await group.propose_many([payload] * request["count"]))
    if do == "query":
        return await group.query(None)
    if do == "snapshot":
        taken = await group.snapshot()
        return [taken.path, taken.index, taken.bytes]
    assert do == "status", do
    status = group.status()
    return {
        "applied": status.applied,
        "first_index": status.first_index,
        "last_index": status.last_index,
        "failed": status.failed,
        "match": {str(member): each.match for member, each in status.progress.items()},
    }


if __name__ == "__main__":
    main(lambda _: lambda _: Blocks(), answer)
