"""A durable machine in SQLite that blocks: applied_index, sync, compaction, restarts, snapshots to others."""

import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio

from multiraft import Entry, HostConfig, Role, StateMachine, open_host


class Table(StateMachine):
    """Every entry is a row; the index of the row is the index of the entry."""

    blocking = True

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, data BLOB)")
        self.threads: set[int] = set()
        self.applied_now: list[int] = []
        self.synced = 0
        self.restored = 0

    @property
    def applied_index(self) -> int:  # type: ignore[override]  # read, never set
        return int(self.db.execute("SELECT coalesce(max(id), 0) FROM rows").fetchone()[0])

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        self.threads.add(threading.get_ident())
        self.db.execute("BEGIN")
        for entry in entries:
            self.db.execute("INSERT INTO rows VALUES (?, ?)", (entry.index, bytes(entry.data)))
            self.applied_now.append(entry.index)
        self.db.execute("COMMIT")
        return [entry.index for entry in entries]

    def query(self, request: object) -> object:
        self.threads.add(threading.get_ident())
        return self.db.execute("SELECT count(*) FROM rows").fetchone()[0]

    def snapshot(self) -> Iterable[bytes]:
        rows = self.db.execute("SELECT id, data FROM rows ORDER BY id").fetchall()
        return [id_.to_bytes(8, "big") + data.ljust(8, b" ") for id_, data in rows]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.restored += 1
        state = b"".join(chunks)
        self.db.execute("BEGIN")
        self.db.execute("DELETE FROM rows")
        for at in range(0, len(state), 16):
            row = (int.from_bytes(state[at : at + 8], "big"), state[at + 8 : at + 16].rstrip())
            self.db.execute("INSERT INTO rows VALUES (?, ?)", row)
        self.db.execute("COMMIT")

    def sync(self) -> None:
        self.synced += 1


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):
        machines: list[Table] = []

        def factory(name: str) -> Callable[[int], Table]:
            def machine(group_id: int) -> Table:
                machines.append(Table(Path(folder) / f"{name}-{group_id}.db"))
                return machines[-1]

            return machine

        def config(name: str, listen: str = "127.0.0.1:0") -> HostConfig:
            return HostConfig(
                data_dir=Path(folder) / name,  # a Path does as well as a string
                listen=listen,
                tick_interval_s=0.02,
            )

        count = 0
        async with open_host(config("a"), machines=factory("a")) as a:
            group = await a.create_group(3, snapshot_interval_entries=20)
            for _ in range(10):
                indexes = await group.propose_many([str(count + i).encode() for i in range(10)])
                assert len(set(indexes)) == 10
                count += 10
            assert await group.query(None) == count
            assert threading.get_ident() not in machines[0].threads
            while group.status().first_index == 1:  # the log is compacted, after a sync
                await trio.sleep(0.01)
            assert machines[0].synced > 0
            before = group.status().last_index
            address = a.address  # others dial it, so it has to stay

        # Again: nothing is applied twice, and nothing is restored over what is there.
        async with open_host(config("a", address), machines=factory("a")) as a:
            group = a.group(3)
            assert await group.query(None) == count
            assert machines[1].applied_now == []
            assert machines[1].restored == 0
            await group.propose(b"more")
            assert machines[1].applied_now[0] > before

            # A newcomer gets what the log has no more, as a snapshot.
            async with open_host(config("b"), machines=factory("b")) as b:
                learner = await b.join_group(3, via=a.address, role=Role.LEARNER)
                assert await learner.query(None) == count + 1
                assert machines[2].restored == 1
                await learner.propose(b"from b")
                assert await learner.query(None) == count + 2
    print("ok")


if __name__ == "__main__":
    trio.run(main)
