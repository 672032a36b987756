"""Every error on the page that the other programs do not provoke."""

import errno
import resource
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import trio

import multiraft
from multiraft import (
    ClusterMismatch,
    ConfigError,
    CorruptRecord,
    DataDirInUse,
    Entry,
    HostClosed,
    HostConfig,
    Member,
    MultiraftError,
    OutcomeUnknown,
    ProposalDropped,
    ProposalTooLarge,
    ReadMode,
    StateMachine,
    StateMachineFailed,
    StorageFailed,
    open_host,
)

NAMES = """
NoLeader NotLeader ProposalDropped ProposalTooLarge StateMachineFailed OutcomeUnknown
GroupNotFound GroupExists NotMember MemberRemoved MembershipRejected HostClosed DataDirInUse
ClusterMismatch StorageFull StorageFailed CorruptRecord SnapshotInvalid ConfigError""".split()


class Echo(StateMachine):
    def apply(self, entries: Sequence[Entry]) -> list[object]:
        for entry in entries:
            if entry.data == b"bad":
                raise ZeroDivisionError("bad entry")
        return [bytes(entry.data) for entry in entries]

    def query(self, request: object) -> object:
        if request == "bad":
            raise KeyError("bad request")
        return request

    def snapshot(self) -> Iterable[bytes]:
        return []

    def restore(self, chunks: Iterable[bytes]) -> None:
        assert b"".join(chunks) == b""


class Counting(Echo):
    """Counts what it was given."""

    def __init__(self, group_id: int) -> None:
        self.count = 0

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        first = self.count + 1
        self.count += len(entries)
        return list(range(first, self.count + 1))

    def query(self, request: object) -> object:
        return self.count


def echo(group_id: int) -> Echo:
    return Echo()


async def configuration(folder: str) -> None:
    """A wrong value names its field, when it is made or at the latest when it is used."""
    good: dict[str, Any] = {"data_dir": f"{folder}/config", "listen": "127.0.0.1:0"}
    for field, value in [
        ("listen", "nonsense"),
        ("listen", "127.0.0.1:99999"),
        ("listen", "ftp://127.0.0.1:1"),
        ("advertise", "nonsense"),
        ("http", "nonsense"),
        ("tick_interval_s", 0),
        ("tick_interval_s", -1.0),
        ("election_ticks", 0),
        ("election_ticks", "ten"),
        ("heartbeat_ticks", 0),
        ("leader_wait_s", -1),
        ("max_message_bytes", 0),
        ("max_inflight_messages", 0),
        ("max_uncommitted_bytes", -1),
        ("segment_bytes", 0),
        ("cluster_id", ""),
        ("data_dir", ""),
    ]:
        try:
            async with open_host(HostConfig(**{**good, field: value}), machines=echo):
                pass
        except ConfigError as error:
            assert error.field == field, (field, value, error)
            assert error.reason, (field, value)
            assert field in str(error)
        else:
            raise AssertionError(f"{field}={value!r} was taken")
    # Fields that do not fit together.
    pairs: list[dict[str, Any]] = [
        {"read_mode": ReadMode.LEASE, "check_quorum": False},
        {"election_ticks": 3, "heartbeat_ticks": 3},
    ]
    for pair in pairs:
        try:
            async with open_host(HostConfig(**good, **pair), machines=echo):
                pass
        except ConfigError as error:
            assert error.field in pair, error
        else:
            raise AssertionError(f"{pair} was taken")


async def starting(folder: str) -> None:
    """What hinders a host from starting is raised bare, at once."""
    config = HostConfig(data_dir=f"{folder}/start", listen="127.0.0.1:0")
    async with open_host(config, machines=echo) as host:
        try:
            async with open_host(config, machines=echo):
                pass
        except DataDirInUse as error:
            assert "start" in str(error)
        else:
            raise AssertionError("opened a folder twice")
        taken = HostConfig(data_dir=f"{folder}/start2", listen=host.address)
        try:
            async with open_host(taken, machines=echo):
                pass
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
        except MultiraftError as error:
            assert host.address.split(":")[-1] in str(error)
        else:
            raise AssertionError("two hosts on one address")
    # The folder of the host that failed to bind is free again.
    async with open_host(HostConfig(data_dir=f"{folder}/start2", listen="127.0.0.1:0"), machines=echo):
        pass
    # The exceptions of the block leave it bare.
    try:
        async with open_host(config, machines=echo) as host:
            await host.create_group(1)
            raise LookupError("mine")
    except LookupError as error:
        assert str(error) == "mine"
    # Work under way when the block ends is done or told so.
    outcomes: list[object] = []
    async with trio.open_nursery() as nursery:
        async with open_host(config, machines=echo) as host:
            group = host.group(1)
            await group.wait_leader()

            async def work() -> None:
                try:
                    outcomes.append(await group.propose(b"late"))
                except HostClosed as error:
                    outcomes.append(error)

            for _ in range(20):
                nursery.start_soon(work)
            await trio.lowlevel.checkpoint()
    assert len(outcomes) == 20
    assert all(o == b"late" or isinstance(o, HostClosed) for o in outcomes), outcomes


async def proposing(folder: str) -> None:
    config = HostConfig(
        data_dir=f"{folder}/propose",
        listen="127.0.0.1:0",
        tick_interval_s=0.02,
        max_proposal_bytes=1000,
    )
    async with open_host(config, machines=echo) as host:
        group = await host.create_group(1)
        smaller = await host.create_group(2, max_proposal_bytes=100)
        for which, limit in ((group, 1000), (smaller, 100)):
            assert await which.propose(bytes(limit)) == bytes(limit)
            try:
                await which.propose(bytes(limit + 1))
            except ProposalTooLarge as error:
                assert error.size == limit + 1
                assert error.limit == limit
            else:
                raise AssertionError("took a proposal over the limit")
            try:
                await which.propose_many([b"fits", bytes(limit + 1)])
            except ProposalTooLarge as error:
                assert error.limit == limit
            else:
                raise AssertionError("took a proposal over the limit")
        for wrong in ("text", bytearray(b"may change later"), None, 5):
            try:
                await group.propose(wrong)  # type: ignore[arg-type]
            except TypeError as error:
                assert "bytes" in str(error)
                assert type(wrong).__name__ in str(error)
            else:
                raise AssertionError(f"took {wrong!r} for bytes")

        # An exception in query is the caller's; the group goes on.
        try:
            await group.query("bad")
        except KeyError:
            pass
        except MultiraftError as error:
            assert isinstance(error.__cause__, KeyError)
        else:
            raise AssertionError("lost the exception of query")
        assert await group.query("good") == "good"

        # An exception in apply stops that group, and no other.
        for _ in range(2):
            try:
                await group.propose(b"bad")
            except StateMachineFailed as error:
                chain = f"{error!r} {error.__cause__!r}"
                assert "ZeroDivisionError" in chain or "bad entry" in chain, chain
            else:
                raise AssertionError("apply failed and nobody said so")
        calls: list[Callable[[], Awaitable[object]]] = [
            group.read_barrier,
            lambda: group.query("x"),
            lambda: group.propose(b"x"),
        ]
        for call in calls:
            try:
                await call()
            except StateMachineFailed:
                pass
            else:
                raise AssertionError("a failed group works on")
        assert await smaller.propose(b"fine") == b"fine"


async def clusters(folder: str) -> None:
    """Hosts of different clusters refuse each other; strangers are named."""

    def config(name: str, cluster_id: str) -> HostConfig:
        return HostConfig(
            data_dir=f"{folder}/{name}",
            listen="127.0.0.1:0",
            cluster_id=cluster_id,
            tick_interval_s=0.02,
            leader_wait_s=0.5,
        )

    async with (
        open_host(config("mine", "mine"), machines=echo) as mine,
        open_host(config("theirs", "theirs"), machines=echo) as theirs,
    ):
        await theirs.create_group(1)
        try:
            with trio.fail_after(20):
                await mine.join_group(1, via=theirs.address)
        except ClusterMismatch as error:
            assert "mine" in str(error)
            assert "theirs" in str(error)
        else:
            raise AssertionError("joined another cluster")
        assert 1 not in mine.groups
        # Nobody there: the caller's timeout, or an error that names the address.
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            try:
                with trio.fail_after(1):
                    await mine.join_group(1, via=address)
            except trio.TooSlowError:
                pass
            except (MultiraftError, OSError) as error:
                assert address in str(error), repr(error)
            else:
                raise AssertionError("joined by nobody")
    # The same folder under another name.
    try:
        async with open_host(config("mine", "other"), machines=echo):
            pass
    except ClusterMismatch as error:
        assert "mine" in str(error)
        assert "other" in str(error)
    except MultiraftError as error:
        raise AssertionError("a wrong error") from error
    # Silence is also an answer if nothing was ever stored; with a group there it must be refused.


async def bounded(folder: str) -> None:
    """Without a quorum the log does not grow without bound."""
    config = HostConfig(
        data_dir=f"{folder}/bounded",
        listen="127.0.0.1:0",
        tick_interval_s=0.02,
        check_quorum=False,  # the leader stays leader, alone
        max_uncommitted_bytes=10_000,
        drain_s=0.2,  # what is on the way when this ends will never get there
    )
    async with open_host(config, machines=echo) as host:
        group = await host.create_group(1)
        await group.wait_leader()
        # A second voter that does not exist: from then on nothing commits.
        with trio.fail_after(20):
            await group.add_member(Member(2, "127.0.0.1:1"))
        dropped: list[ProposalDropped] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                try:
                    await group.propose(bytes(1000))
                except ProposalDropped as error:
                    dropped.append(error)

            with trio.move_on_after(20):
                while not dropped:
                    nursery.start_soon(one)
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert dropped
        assert dropped[0].reason


async def unknown(folder: str) -> None:
    """The host closes while a proposal waits for a quorum that is not there."""
    config = HostConfig(
        data_dir=f"{folder}/unknown",
        listen="127.0.0.1:0",
        tick_interval_s=0.02,
        check_quorum=False,
        drain_s=0.2,
    )
    outcomes: list[OutcomeUnknown] = []

    async with trio.open_nursery() as nursery, open_host(config, machines=echo) as host:
        group = await host.create_group(1)
        await group.wait_leader()
        await group.add_member(Member(2, "127.0.0.1:1"))

        async def one() -> None:
            try:
                await group.propose(b"?")
            except OutcomeUnknown as error:
                outcomes.append(error)

        before = group.status().last_index
        nursery.start_soon(one)
        while group.status().last_index == before:
            await trio.sleep(0.01)
    assert len(outcomes) == 1


async def full(folder: str) -> None:
    """The disk takes no more: nothing more is acknowledged, and all that was is there afterwards."""
    config = HostConfig(
        data_dir=f"{folder}/full",
        listen="127.0.0.1:0",
        tick_interval_s=0.02,
        segment_bytes=64 << 10,
        max_log_bytes=256 << 10,
    )
    taken = 0
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        async with open_host(config, machines=Counting) as host:
            group = await host.create_group(1)
            assert await group.propose(bytes(1000)) == 1
            taken = 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, unlimited[1]))
            while True:
                taken = cast("int", await group.propose(bytes(1000)))
    except StorageFailed as error:
        assert "full" in str(error) or "large" in str(error), str(error)
    else:
        raise AssertionError("wrote more than the disk takes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    async with open_host(config, machines=Counting) as host:
        kept = cast("int", await host.group(1).query(None))
        assert kept >= taken, (kept, taken)


async def damage(folder: str) -> None:
    """A byte that changed in the middle of the log is found, and named."""
    config = HostConfig(data_dir=f"{folder}/damage", listen="127.0.0.1:0", tick_interval_s=0.02)
    async with open_host(config, machines=echo) as host:
        group = await host.create_group(1)
        for number in range(20):
            await group.propose(b"MARK%04d" % number + bytes(500))
    damaged = 0
    for path in Path(config.data_dir).rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            at = content.find(b"MARK0005")
            if at >= 0:
                content[at] ^= 0xFF
                path.write_bytes(content)
                damaged += 1
    assert damaged == 1
    try:
        async with open_host(config, machines=echo):
            pass
    except CorruptRecord as error:
        assert error.segment is not None
        assert error.offset >= 0
        assert str(error.offset) in str(error)
    else:
        raise AssertionError("started from a damaged log")


async def main() -> None:
    for name in NAMES:
        assert issubclass(getattr(multiraft, name), MultiraftError), name
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):
        await configuration(folder)
        await starting(folder)
        await proposing(folder)
        await clusters(folder)
        await bounded(folder)
        await unknown(folder)
        await full(folder)
        await damage(folder)
    print("ok")


if __name__ == "__main__":
    trio.run(main)
