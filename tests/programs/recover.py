"""The worst day: the quorum is gone for good; a group again from a disk, another from a snapshot file."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio

from multiraft import (
    Entry,
    GroupExists,
    GroupNotFound,
    HostConfig,
    Member,
    Role,
    SnapshotInvalid,
    StateMachine,
    open_host,
)


class Text(StateMachine):
    def __init__(self) -> None:
        self.text = ""

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        for entry in entries:
            self.text += bytes(entry.data).decode()
        return [self.text] * len(entries)

    def query(self, request: object) -> object:
        return self.text

    def snapshot(self) -> Iterable[bytes]:
        return [self.text.encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.text = b"".join(chunks).decode()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):

        def config(name: str) -> HostConfig:
            return HostConfig(
                data_dir=f"{folder}/{name}",
                listen="127.0.0.1:0",
                tick_interval_s=0.02,
                leader_wait_s=5,
            )

        def machines(group_id: int) -> Text:
            return Text()

        file = Path(folder) / "kept.snap"
        async with open_host(config("a"), machines=machines) as a:
            async with (
                open_host(config("b"), machines=machines) as b,
                open_host(config("c"), machines=machines) as c,
            ):
                members = [Member(i + 1, host.address) for i, host in enumerate((a, b, c))]
                groups = [await host.create_group(11, members=members) for host in (a, b, c)]
                for group in groups:
                    await group.wait_leader()
                assert await groups[0].propose(b"hello") == "hello"
                taken = await groups[0].snapshot()
                assert taken.index > 0
                shutil.copy(taken.path, file)
                assert await groups[1].propose(b" world") == "hello world"
                await groups[0].read_barrier()

            # Two of three are gone for good. Host a goes on alone, the group running or not.
            await until(lambda: groups[0].leader is None)
            alone = await a.force_new_group(11)
            assert a.group(11) is alone
            assert await alone.query(None) == "hello world"
            assert await alone.propose(b"!") == "hello world!"
            voters = [m for m in alone.members.values() if m.role is Role.VOTER]
            assert len(voters) == 1
            assert voters[0].address == a.address

            # It grows again.
            async with open_host(config("d"), machines=machines) as d:
                joined = await d.join_group(11, via=a.address)
                assert await joined.query(None) == "hello world!"
                await joined.leave()

            # A new group out of the file of another.
            restored = await a.restore_group(12, snapshot=str(file))
            assert await restored.query(None) == "hello"
            assert await restored.propose(b"?") == "hello?"
            others = {m.role for m in restored.members.values() if m.id != restored.member_id}
            assert others <= {Role.REMOVED}, "known, so that their ids never come back"

            # What cannot be.
            try:
                await a.restore_group(12, snapshot=file)
            except GroupExists:
                pass
            else:
                raise AssertionError("restored over a group")
            broken = Path(folder) / "broken.snap"
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 0xFF
            broken.write_bytes(content)
            short = Path(folder) / "short.snap"
            short.write_bytes(file.read_bytes()[:-3])
            empty = Path(folder) / "empty.snap"
            empty.write_bytes(b"")
            for bad in (broken, short, empty, Path(folder) / "nothing.snap"):
                try:
                    await a.restore_group(13, snapshot=bad)
                except SnapshotInvalid as error:
                    assert bad.name in str(error), str(error)
                except FileNotFoundError:
                    assert bad.name == "nothing.snap"
                else:
                    raise AssertionError(f"took {bad.name}")
                assert 13 not in a.groups
            try:
                await a.force_new_group(99)
            except GroupNotFound as error:
                assert "99" in str(error)
            else:
                raise AssertionError("a group out of nothing")

        # All of it survives a restart.
        async with open_host(config("a"), machines=machines) as a:
            assert sorted(a.groups) == [11, 12]
            assert await a.group(11).query(None) == "hello world!"
            assert await a.group(12).query(None) == "hello?"
    print("ok")


if __name__ == "__main__":
    trio.run(main)
