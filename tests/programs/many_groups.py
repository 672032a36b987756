"""Hundreds of groups made at once on three hosts, their machines sharing one store and one commit."""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from multiraft import Entry, GroupExists, HostConfig, Member, StateMachine, open_host

GROUPS = range(100, 400)


class Store:
    """All groups of a host in one SQLite file, one transaction for each pass."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA synchronous=OFF")
        self.db.execute("CREATE TABLE IF NOT EXISTS sums (id INTEGER PRIMARY KEY, applied, total)")
        self.batches = 0
        self.inside = False

    def __call__(self, group_id: int) -> "Total":
        return Total(self, group_id)

    @contextmanager
    def batch(self) -> Iterator[None]:
        assert not self.inside
        self.inside = True
        self.batches += 1
        self.db.execute("BEGIN")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        finally:
            self.inside = False


class Total(StateMachine):
    """One row of the store, with the index up to which it is applied."""

    def __init__(self, store: Store, group_id: int) -> None:
        self.store = store
        self.id = group_id
        row = store.db.execute("SELECT applied, total FROM sums WHERE id=?", (group_id,)).fetchone()
        self.applied: int = row[0] if row else 0
        self.total: int = row[1] if row else 0

    @property
    def applied_index(self) -> int:  # type: ignore[override]  # read, never set
        return self.applied

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        assert self.store.inside, "apply must run inside batch()"
        results: list[object] = []
        for entry in entries:
            assert entry.index > self.applied, "an entry came twice"
            self.applied = entry.index
            self.total += int(entry.data)
            results.append(self.total)
        self.store.db.execute("REPLACE INTO sums VALUES (?, ?, ?)", (self.id, self.applied, self.total))
        return results

    def query(self, request: object) -> object:
        return self.total

    def snapshot(self) -> Iterable[bytes]:
        return [f"{self.applied} {self.total}".encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.applied, self.total = map(int, b"".join(chunks).split())
        self.store.db.execute("REPLACE INTO sums VALUES (?, ?, ?)", (self.id, self.applied, self.total))

    def sync(self) -> None:
        pass


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):

        def config(name: str, listen: str = "127.0.0.1:0") -> HostConfig:
            return HostConfig(data_dir=f"{folder}/{name}", listen=listen, tick_interval_s=0.05)

        stores = [Store(Path(folder) / f"{name}.db") for name in "abc"]
        async with (
            open_host(config("a"), machines=stores[0]) as a,
            open_host(config("b"), machines=stores[1]) as b,
            open_host(config("c"), machines=stores[2]) as c,
        ):
            hosts = [a, b, c]
            members = [Member(i + 1, host.address) for i, host in enumerate(hosts)]
            made = [await host.create_groups(dict.fromkeys(GROUPS, members)) for host in hosts]
            assert all(len(host.groups) == len(GROUPS) for host in hosts)
            assert len(made[0]) == len(GROUPS)
            try:
                await a.create_groups({500: members, 100: members})
            except GroupExists as error:
                assert "100" in str(error)
            else:
                raise AssertionError("made a group twice")
            assert 500 not in a.groups, "all or none of them"

            async def write(group_id: int) -> None:
                group = hosts[group_id % 3].group(group_id)
                assert await group.propose_many([b"1", b"2", str(group_id).encode()]) == [
                    1,
                    3,
                    3 + group_id,
                ]

            async with trio.open_nursery() as nursery:
                for group_id in GROUPS:
                    nursery.start_soon(write, group_id)
            totals: dict[int, object] = {}

            async def read(group_id: int) -> None:
                totals[group_id] = await hosts[(group_id + 1) % 3].group(group_id).query(None)

            async with trio.open_nursery() as nursery:
                for group_id in GROUPS:
                    nursery.start_soon(read, group_id)
            assert totals == {group_id: 3 + group_id for group_id in GROUPS}
            assert 0 < stores[0].batches < 3 * len(GROUPS), stores[0].batches
            address = a.address

        # One of them again, alone: all groups are found, nothing is applied a second time (the
        # machine would say), and the store knows all that was acknowledged.
        again = Store(Path(folder) / "a.db")
        async with open_host(config("a", listen=address), machines=again) as host:
            assert sorted(host.groups) == list(GROUPS)
            await trio.sleep(0.1)
    print("ok")


if __name__ == "__main__":
    trio.run(main)
