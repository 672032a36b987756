"""Give a host that does not run thousands of groups with long logs: `python -m bench.make_log`, see `main`.

Every group is made with the members given, and gets the election of a leader and then proposals, each a
run of its own, in turn with the other groups', in batches as passes write them; at last the commit index,
as a host that is closed writes it. Done to all hosts of a cluster, the log of each is what it would be had
all that been proposed and the hosts been closed, which takes many times as long.
"""

from __future__ import annotations

import json
import random
import sys

from multiraft.errors import StorageFailed
from multiraft.membership import GroupMeta, predefined
from multiraft.messages import HardState, Run, Snapshot
from multiraft.storage.files import OsFiles
from multiraft.storage.store import Store, open_store
from multiraft.storage.writer import InlineWriter
from multiraft.types import Member

BATCH_GROUPS = 500
TERM = 2
FIRST = 2
"""The entry of the election; the groups begin behind index 1."""
SEQUENCE = (1 << 40) + (1 << 39)
"""Above the numbers that a host gives in its first life, below those of the next."""


def make(store: Store, member_id: int, hosts: dict[int, tuple[str, int]], groups: int) -> None:
    """The groups, led by member 1 (which voted for itself, as the others did)."""
    membership = predefined([Member(id_, address) for id_, (address, _) in hosts.items()])
    meta = GroupMeta(member_id, hosts={id_: host for id_, (_, host) in hosts.items() if id_ != member_id})
    point = Snapshot(FIRST - 1, 1, membership.conf_state(), membership.encode())
    for start in range(1, groups + 1, BATCH_GROUPS):
        batch = store.batch()
        for group in range(start, min(start + BATCH_GROUPS, groups + 1)):
            batch.create(group, meta.encode(), HardState(TERM, 1, FIRST - 1), point)
            batch.append(group, [Run.of([b""], first=FIRST, term=TERM)])
        store.submit(batch, lambda: None)


def lengthen(store: Store, groups: int, entries: int, payload: int) -> None:
    data = bytes(payload)
    sequence = SEQUENCE
    for index in range(FIRST + 1, FIRST + 1 + entries):
        for start in range(1, groups + 1, BATCH_GROUPS):
            batch = store.batch()
            for group in range(start, min(start + BATCH_GROUPS, groups + 1)):
                sequence += 1
                batch.append(group, [Run.of([data], first=index, term=TERM, origin=1, sequence=sequence)])
            store.submit(batch, lambda: None)
    batch = store.batch()
    for group in range(1, groups + 1):
        batch.hard_state(group, HardState(TERM, 1, FIRST + entries))
    store.submit(batch, lambda: None)


def main() -> None:
    """Takes one JSON object: `folder`, `member`, `hosts` (id, address, host id of each), `groups`,
    `entries`, `payload`. Prints the bytes of the log's records."""
    wanted = json.loads(sys.argv[1])

    def failed(error: StorageFailed) -> None:
        raise error

    store = open_store(
        OsFiles(),
        wanted["folder"],
        random=random.SystemRandom().randrange,
        on_failure=failed,
        writer=InlineWriter,
        cache_bytes=0,
    )
    try:
        hosts = {id_: (address, host) for id_, address, host in wanted["hosts"]}
        make(store, wanted["member"], hosts, wanted["groups"])
        lengthen(store, wanted["groups"], wanted["entries"], wanted["payload"])
        print(store.statistics().live_bytes)
    finally:
        store.close()


if __name__ == "__main__":
    main()
