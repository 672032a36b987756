"""One host, one group of one member: propose, query, status, snapshot, restart, remove."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio

from multiraft import (
    Entry,
    GroupExists,
    GroupNotFound,
    HostClosed,
    HostConfig,
    MultiraftError,
    StateMachine,
    open_host,
)


class Counter(StateMachine):
    """Adds up numbers; the result of a proposal is the sum after it."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        results = []
        for entry in entries:
            assert entry.index > 0
            assert entry.term > 0
            self.value += int(entry.data)
            results.append(self.value)
        return results

    def query(self, request: object) -> object:
        return (request, self.value)

    def snapshot(self) -> Iterable[bytes]:
        return [str(self.value).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.value = int(b"".join(chunks))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # With a scheme, and a data folder nobody made.
        config = HostConfig(
            data_dir=f"{folder}/not/yet/there",
            listen="http://127.0.0.1:0",
            cluster_id="counters",
            tick_interval_s=0.02,
        )
        made: list[int] = []

        def machines(group_id: int) -> Counter:
            made.append(group_id)
            return Counter()

        async with open_host(config, machines=machines) as host:
            assert Path(config.data_dir).is_dir()
            assert not host.address.endswith(":0"), host.address
            assert len(host.groups) == 0

            group = await host.create_group(8)
            assert made == [8]
            assert host.group(8) is group
            assert host.groups[8] is group
            assert list(host.groups) == [8]
            assert group.id == 8

            # A first member works at once.
            with trio.fail_after(10):
                assert await group.propose(b"5") == 5
                assert await group.propose_many([b"1", b"2", b"3"]) == [6, 8, 11]
                assert list(await group.propose_many([])) == []
                assert await group.query("now") == ("now", 11)
                await group.read_barrier()
            assert group.stale_query("local") == ("local", 11)

            # One proposal after another and many at a time keep their order and their results.
            results: dict[int, object] = {}

            async def one(number: int) -> None:
                results[number] = await group.propose(b"0")

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(one, number)
            assert results == dict.fromkeys(range(50), 11)

            await group.wait_leader()
            assert group.leader is not None
            assert group.leader.id == group.member_id
            assert group.members[group.member_id].address == host.address
            assert len(group.members) == 1

            status = group.status()
            assert status.term >= 1
            assert status.commit >= status.applied > 0
            assert status.last_index >= status.commit
            assert status.first_index >= 1
            assert status.leader is not None
            assert status.role is not None
            assert status.progress is not None
            assert status.at_rest in (True, False)
            try:
                status.term = 7  # type: ignore[misc]
            except AttributeError:
                pass
            else:
                raise AssertionError("a status must be frozen")

            async for leader in group.leadership():
                assert leader is not None
                assert leader.id == group.member_id
                break

            taken = await group.snapshot()
            assert Path(taken.path).stat().st_size == taken.bytes
            assert taken.index <= group.status().applied
            assert taken.term <= group.status().term

            # What already is there, and what is not.
            try:
                await host.create_group(8)
            except GroupExists as error:
                assert "8" in str(error)
                assert isinstance(error, MultiraftError)
            else:
                raise AssertionError("the same group twice")
            missing_calls: list[Callable[[], object]] = [lambda: host.group(9), lambda: host.groups[9]]
            for missing in missing_calls:
                try:
                    missing()
                except (GroupNotFound, KeyError) as error:
                    assert "9" in str(error)
                else:
                    raise AssertionError("found a group that is not here")
            try:
                host.group(9)
            except GroupNotFound:
                pass
            try:
                await host.remove_group(9)
            except GroupNotFound:
                pass
            else:
                raise AssertionError("removed a group that is not here")

            # Statistics are frozen too.
            statistics = host.statistics()
            assert "Statistics" in type(statistics).__name__ or repr(statistics)

            other = await host.create_group(9)
            await other.propose(b"100")
            await host.remove_group(9)
            assert 9 not in host.groups

        # After the block: closed, and clearly so.
        try:
            await group.propose(b"1")
        except HostClosed:
            pass
        else:
            raise AssertionError("proposed to a closed host")
        try:
            await host.create_group(10)
        except HostClosed:
            pass
        else:
            raise AssertionError("created a group on a closed host")

        # Again, from the disk: group 8 is back with its state, group 9 is gone for good.
        made.clear()
        async with open_host(config, machines=machines) as host:
            assert made == [8]
            group = host.group(8)
            with trio.fail_after(10):
                assert await group.query("again") == ("again", 11)
            # The id of a removed group can be used again, and starts from nothing.
            group = await host.create_group(9)
            assert await group.propose(b"1") == 1
    print("ok")


if __name__ == "__main__":
    trio.run(main)
