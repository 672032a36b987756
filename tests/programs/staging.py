"""A staging member becomes a voter by itself once it has caught up, and not before."""

import tempfile
from collections.abc import Iterable, Sequence

import trio

from multiraft import Entry, HostConfig, Member, Role, StateMachine, open_host


class Sum(StateMachine):
    def __init__(self) -> None:
        self.total = 0

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        self.total += sum(len(entry.data) for entry in entries)
        return [self.total] * len(entries)

    def query(self, request: object) -> object:
        return self.total

    def snapshot(self) -> Iterable[bytes]:
        return [str(self.total).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.total = int(b"".join(chunks))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):

        def config(name: str) -> HostConfig:
            return HostConfig(data_dir=f"{folder}/{name}", listen="127.0.0.1:0", tick_interval_s=0.02)

        async with (
            open_host(config("a"), machines=lambda group_id: Sum()) as a,
            open_host(config("b"), machines=lambda group_id: Sum()) as b,
        ):
            first = await a.create_group(1)
            for _ in range(10):
                await first.propose_many([bytes(100)] * 10)

            # Someone who never answers stays where it is.
            ghost = await first.add_member(Member(5, "127.0.0.1:1", role=Role.STAGING))
            assert ghost.role is Role.STAGING
            assert first.members[5].role is Role.STAGING

            second = await b.join_group(1, via=a.address, role=Role.STAGING)
            assert second.members[second.member_id].role in (Role.STAGING, Role.VOTER)
            while first.members[second.member_id].role is not Role.VOTER:
                await trio.sleep(0.01)
            while second.members[second.member_id].role is not Role.VOTER:
                await trio.sleep(0.01)
            assert await second.query(None) == 10_000
            assert first.members[5].role is Role.STAGING
            await first.remove_member(5)

            # It votes: the first cannot go on alone.
            await first.transfer_leadership(second.member_id)
            assert (await second.wait_leader()) is None or second.leader is not None
            assert await first.propose(b"x") == 10_001
    print("ok")


if __name__ == "__main__":
    trio.run(main)
