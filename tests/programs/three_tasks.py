"""Three hosts, each in a task of its own: one stops and starts again, then the quorum is lost."""

import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from multiraft import (
    Entry,
    Group,
    Host,
    HostClosed,
    HostConfig,
    Member,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    ProposalDropped,
    StateMachine,
    open_host,
)


class Log(StateMachine):
    """Remembers all it was given, with the indexes, to see that nothing comes twice."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.indexes: list[int] = []

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        for entry in entries:
            self.lines.append(bytes(entry.data))
            self.indexes.append(entry.index)
        return [entry.index for entry in entries]

    def query(self, request: object) -> object:
        return list(self.lines)

    def snapshot(self) -> Iterable[bytes]:
        return [b"\n".join(self.lines)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        text = b"".join(chunks)
        self.lines = text.split(b"\n") if text else []


class Runner:
    """One host in one task, with a switch."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self.host: Host | None = None
        self.stop = trio.Event()
        self.stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        async with open_host(self.config, machines=lambda group_id: Log()) as host:
            self.host = host
            task_status.started()
            await self.stop.wait()
        self.stopped.set()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            runners = []
            for name in "abc":
                runner = Runner(
                    HostConfig(
                        data_dir=f"{folder}/{name}",
                        listen="127.0.0.1:0",
                        tick_interval_s=0.02,
                        drain_s=0.2,
                        leader_wait_s=0.25 if name == "b" else 10.0,
                        forward_proposals=name != "c",
                    )
                )
                await nursery.start(runner.run)
                runners.append(runner)
            hosts = [runner.host for runner in runners]
            assert all(hosts)
            members = [Member(i + 1, host.address) for i, host in enumerate(hosts) if host]
            groups: list[Group] = []
            for host in hosts:
                assert host
                groups.append(await host.create_group(1, members=members))
            for group in groups:
                await group.wait_leader()

            # Host c does not forward: it names the leader instead.
            await groups[0].transfer_leadership(1)
            await until(lambda: groups[2].leader is not None and groups[2].leader.id == 1)
            try:
                await groups[2].propose(b"no")
            except NotLeader as error:
                assert error.leader is not None
                assert error.leader.id == 1
                assert error.leader.address == members[0].address
            else:
                raise AssertionError("host c forwarded although it was told not to")

            written = [str(number).encode() for number in range(30)]
            indexes = await groups[1].propose_many(written)
            assert len(set(indexes)) == 30

            # Host c stops; the others go on.
            runners[2].stop.set()
            await runners[2].stopped.wait()
            try:
                await groups[2].query(None)
            except HostClosed:
                pass
            else:
                raise AssertionError("asked a closed host")
            await groups[1].wait_leader()
            await groups[1].propose(b"without c")
            assert await groups[0].query(None) == [*written, b"without c"]

            # It starts again from its disk, on its old address, without being told of any group.
            config = runners[2].config
            again = Runner(
                HostConfig(
                    data_dir=config.data_dir,
                    listen=members[2].address,
                    tick_interval_s=0.02,
                    drain_s=0.2,
                )
            )
            await nursery.start(again.run)
            assert again.host
            third = again.host.group(1)
            assert third.member_id == 3
            assert await third.query(None) == [*written, b"without c"]

            # Two of three stop: no leader; calls wait a little and say so.
            for runner in (runners[0], again):
                runner.stop.set()
                await runner.stopped.wait()
            lonely = groups[1]
            await until(lambda: lonely.leader is None)
            started = trio.current_time()
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: lonely.propose(b"nobody"),
                lambda: lonely.query(None),
                lonely.read_barrier,
                lambda: lonely.add_member(Member(9, "127.0.0.1:1")),
            ]
            for call in calls:
                try:
                    await call()
                except NoLeader:
                    pass
                else:
                    raise AssertionError("worked without a quorum")
            assert trio.current_time() - started >= 4 * 0.2
            # The timeout of the caller comes first.
            with trio.move_on_after(0.05) as scope:
                await lonely.propose(b"nobody")
            assert scope.cancelled_caught
            # A stale read still answers.
            stale = lonely.stale_query(None)
            assert isinstance(stale, list)
            assert stale[-1] == b"without c"
            # wait_leader has no end of its own.
            with trio.move_on_after(0.05) as scope:
                await lonely.wait_leader()
            assert scope.cancelled_caught
            runners[1].stop.set()
    await unknown_outcome()
    print("ok")


async def unknown_outcome() -> None:
    """The quorum goes while a proposal is under way: it may or may not be applied later."""
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            runners = []
            for name in "ab":
                config = HostConfig(
                    data_dir=f"{folder}/{name}",
                    listen="127.0.0.1:0",
                    tick_interval_s=0.02,
                    drain_s=0.2,
                    leader_wait_s=0.5,
                )
                runners.append(Runner(config))
                await nursery.start(runners[-1].run)
            hosts = [runner.host for runner in runners if runner.host]
            members = [Member(i + 1, host.address) for i, host in enumerate(hosts)]
            groups = [await host.create_group(1, members=members) for host in hosts]
            for group in groups:
                await group.wait_leader()
            await groups[0].transfer_leadership(1)
            await until(lambda: groups[0].leader is not None and groups[0].leader.id == 1)
            runners[1].stop.set()
            await runners[1].stopped.wait()
            # Member 1 leads still, for an election timeout, and takes the proposal into its log.
            outcome = None
            with trio.move_on_after(5):
                try:
                    await groups[0].propose(b"?")
                except (OutcomeUnknown, NoLeader, ProposalDropped) as error:
                    outcome = error
                    if isinstance(error, ProposalDropped):
                        assert error.reason
            assert isinstance(outcome, OutcomeUnknown | NoLeader), repr(outcome)
            runners[0].stop.set()


if __name__ == "__main__":
    trio.run(main)
