"""What happens on a host, as a stream of events."""

import tempfile
from collections.abc import Iterable, Sequence

import trio
import trio.testing

from multiraft import Entry, Host, HostConfig, Member, StateMachine, open_host


class Nothing(StateMachine):
    def apply(self, entries: Sequence[Entry]) -> list[object]:
        return [None] * len(entries)

    def query(self, request: object) -> object:
        return None

    def snapshot(self) -> Iterable[bytes]:
        return [b"nothing"]

    def restore(self, chunks: Iterable[bytes]) -> None:
        assert b"".join(chunks) == b"nothing"


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):

        def config(name: str) -> HostConfig:
            return HostConfig(data_dir=f"{folder}/{name}", listen="127.0.0.1:0", tick_interval_s=0.02)

        async with open_host(config("a"), machines=lambda group_id: Nothing()) as a:
            seen: list[object] = []
            ended = trio.Event()

            async def listen(host: Host) -> None:
                async for event in host.events():
                    seen.append(event)
                ended.set()

            async def wait_for(word: str, group_id: int | None = None) -> None:
                while not any(
                    word in repr(event).lower() and (group_id is None or str(group_id) in repr(event))
                    for event in seen
                ):
                    await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, a)
                await trio.testing.wait_all_tasks_blocked()
                async with open_host(config("b"), machines=lambda group_id: Nothing()) as b:
                    members = [Member(1, a.address), Member(2, b.address)]
                    groups = [await host.create_group(4242, members=members) for host in (a, b)]
                    await groups[0].propose(b"x")
                    await wait_for("leader", 4242)
                    await groups[0].snapshot()
                    await wait_for("snapshot", 4242)
                    await wait_for("peer")
                    count = len(seen)

                    # Another listener hears what happens from now on, independently.
                    heard = trio.Event()

                    async def listen_too() -> None:
                        async for event in a.events():
                            assert event is not None
                            heard.set()
                            break

                    nursery.start_soon(listen_too)
                    await trio.testing.wait_all_tasks_blocked()
                # Host b is gone, and with it the leader (or the follower).
                await heard.wait()
                assert len(seen) > count
                nursery.cancel_scope.cancel()
    print("ok")


if __name__ == "__main__":
    trio.run(main)
