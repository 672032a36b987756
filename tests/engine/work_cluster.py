"""Three schedulers moved by hand in one process, and everything they do counted instead of timed.

Real cores, log and wire format; a disk in memory and a network that delivers at once. One round
lets every host that was woken run one pass, then delivers every frame. Nothing is random and
nothing depends on time, so the same work gives the same counts, on any machine.

Of Python's own work the calls of Python functions are counted (`sys.setprofile`): seconds vary by
a factor of three on shared machines, calls do not, and each costs about the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import attrs

from multiraft.config import HostConfig
from multiraft.environment import Environment
from multiraft.errors import MultiraftError
from multiraft.group import Group
from multiraft.interfaces import StateMachine
from multiraft.membership import GroupMeta, predefined
from multiraft.messages import Hello
from multiraft.raft.core import RaftRole
from multiraft.scheduler import Scheduler
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.snapshots import SnapshotFiles
from multiraft.storage.store import open_store
from multiraft.storage.writer import InlineWriter
from multiraft.transport.memory import MemoryNetwork, Passage
from multiraft.types import Entry, GroupId, Member

HOSTS = 3
ROUNDS_MAX = 1000
PAYLOAD = b"0123456789abcdef"


@attrs.define
class Counts:
    """What was done, in all or by one host; everything only grows."""

    calls: int = 0
    """Of Python functions, in passes and in taking frames."""
    passes: int = 0
    syncs: int = 0
    frames: int = 0
    """Sent."""
    frame_bytes: int = 0
    rounds: int = 0

    def __sub__(self, before: Counts) -> Counts:
        here, there = attrs.astuple(self), attrs.astuple(before)
        return Counts(*(a - b for a, b in zip(here, there, strict=True)))


class Tally(StateMachine):
    """The least there is to apply."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        self.count += len(entries)
        return [None] * len(entries)

    def snapshot(self) -> list[bytes]:
        return []


class Answers:
    """A waiter for all proposals of a wave."""

    def __init__(self) -> None:
        self.told = 0

    def resolve(self, _: object) -> None:
        self.told += 1

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


class WorkHost:
    """One host: a scheduler whose disk answers at once."""

    def __init__(self, cluster: WorkCluster, number: int) -> None:
        self.cluster = cluster
        self.counts = Counts()
        self.awake = False
        address = f"h{number}:1"
        files = MemoryFiles()
        hello = Hello("work", number, 1, address)
        config = HostConfig(data_dir="/data", listen=address)
        self.store = open_store(
            files, "/data", random=lambda n: n // 2, on_failure=self._failed, writer=InlineWriter
        )
        self.transport = cluster.network.open(hello, self)  # type: ignore[arg-type]  # by __getattr__
        self.scheduler = Scheduler(
            config,
            Environment(
                clock=cluster,
                random=lambda n: (number * n) // (HOSTS + 1),  # different timeouts on each host
                store=self.store,
                snapshots=SnapshotFiles(files, "/data"),
                transport=self.transport,
                apply_executor=self,
                snapshot_executor=self,
                machines=lambda _: Tally(),
                hello=hello,
                wake=self._wake,
                failed=self._failed,
            ),
        )
        files.fault = self._asked

    def __getattr__(self, name: str) -> object:
        """What the network calls is the scheduler's."""
        return getattr(self.scheduler, name)

    def _wake(self) -> None:
        self.awake = True

    def _failed(self, error: MultiraftError) -> None:
        raise AssertionError(error)

    def _asked(self, operation: str, _: str) -> OSError | None:
        """Before each operation on the disk."""
        self.counts.syncs += operation == "sync"
        return None

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """As the worker threads."""
        done(job(), None)

    def run_pass(self) -> None:
        self.awake = False
        with self.charged():
            more = self.scheduler.run_pass()
        self.counts.passes += 1
        self.awake = self.awake or more

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge the calls of the block to this host, if they are being counted."""
        if not self.cluster.counting:
            yield
            return
        calls = 0

        def profile(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(before)
            self.counts.calls += calls


class WorkCluster:
    """Three hosts, and groups that have a member on each."""

    def __init__(self) -> None:
        self.time = 0.0
        self._ticks = 0
        self.rounds = 0
        self.counting = False
        """Calls are counted, which makes them several times slower."""
        self._arriving: list[tuple[WorkHost | None, Callable[[], None]]] = []
        self._target: WorkHost | None = None
        self._by_address: dict[str, WorkHost] = {}
        self.network = MemoryNetwork(self._schedule, fate=self._sent)
        self.hosts = []
        for number in range(1, HOSTS + 1):
            host = WorkHost(self, number)
            self.hosts.append(host)
            self._by_address[host.transport.address] = host

    def now(self) -> float:
        return self.time

    def _sent(self, passage: Passage) -> Sequence[float]:
        """A frame leaves; the network schedules its arrival next."""
        counts = self._by_address[passage.source].counts
        counts.frames += 1
        counts.frame_bytes += passage.frame_bytes
        self._target = self._by_address[passage.target]
        return (0.0,)

    def _schedule(self, _delay_s: float, callback: Callable[[], None]) -> None:
        self._arriving.append((self._target, callback))
        self._target = None

    # --- what happens --------------------------------------------------------------------------

    def settle(self) -> None:
        """Round by round, until nobody has anything left to do."""
        for _ in range(ROUNDS_MAX):
            if not self.step():
                return
        raise AssertionError("the cluster never comes to rest")

    def step(self) -> bool:
        """One round. False: nobody had anything to do."""
        awake = [host for host in self.hosts if host.awake]
        if not awake and not self._arriving:
            return False
        self.rounds += 1
        for host in awake:
            host.run_pass()
        arriving, self._arriving = self._arriving, []
        for target, arrive in arriving:
            if target is None:
                arrive()
            else:
                with target.charged():
                    arrive()
        return True

    def create(self, groups: int, led: int | None = None) -> None:
        """Groups 1 to `groups`; the first `led` of them, by default all, are led by the first host."""
        members = [Member(n, host.transport.address) for n, host in enumerate(self.hosts, 1)]
        for number, host in enumerate(self.hosts, 1):
            wanted = {g: (predefined(members), GroupMeta(number)) for g in range(1, groups + 1)}
            host.scheduler.catalog.create_groups(wanted, Answers())
        self.settle()
        led = groups if led is None else led
        for host in self.hosts[1:]:
            for group_id in range(1, led + 1):
                group = host.scheduler.groups[group_id]
                if group.raft.role is RaftRole.LEADER:
                    group.raft.transfer_leadership(1)
                    host.scheduler.mark_dirty(group)
        self.settle()
        assert all(self.led(group_id).raft.role is RaftRole.LEADER for group_id in range(1, led + 1))

    def led(self, group_id: GroupId) -> Group:
        return self.hosts[0].scheduler.groups[group_id]

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self._ticks += 1
            # Just after it is due: neither this sum nor the scheduler's own is exact.
            self.time = (self._ticks + 0.001) * self.hosts[0].scheduler.config.tick_interval_s
            for host in self.hosts:
                host.awake = True
            self.settle()

    def write(self, groups: Sequence[GroupId], each: int = 1) -> None:
        """Propose so many on each of these groups, all at once, and let everything happen."""
        answers = Answers()
        first = self.hosts[0].scheduler
        for group_id in groups:
            group = self.led(group_id)
            for _ in range(each):
                group.proposals.queue(PAYLOAD, answers)
            first.mark_dirty(group)
        self.settle()
        assert answers.told == each * len(groups)

    def read(self, groups: Sequence[GroupId], each: int = 1) -> None:
        """Ask for so many read barriers on each of these groups, all at once."""
        answers = Answers()
        first = self.hosts[0].scheduler
        for group_id in groups:
            group = self.led(group_id)
            group.reads.queued += [answers] * each
            first.mark_dirty(group)
        self.settle()
        assert answers.told == each * len(groups)

    def counted(self, work: Callable[[], None]) -> tuple[Counts, list[Counts]]:
        """What `work` made the leader's host do, and each follower's; the rounds are everybody's."""
        before, rounds = [attrs.evolve(host.counts) for host in self.hosts], self.rounds
        self.counting = True
        try:
            work()
        finally:
            self.counting = False
        done = [host.counts - start for host, start in zip(self.hosts, before, strict=True)]
        for each in done:
            each.rounds = self.rounds - rounds
        return done[0], done[1:]


@attrs.frozen
class Cost:
    """What one unit of work made the leader's host do, and the busier of the two followers'."""

    leader_calls: float
    """Of Python functions: passes and the taking of frames; not the tasks and sockets around them."""
    follower_calls: float
    leader_bytes: float
    """Sent, to both followers together."""
    follower_bytes: float


def cost(leader: Counts, followers: Sequence[Counts], units: int) -> Cost:
    return Cost(
        leader.calls / units,
        max(each.calls for each in followers) / units,
        leader.frame_bytes / units,
        max(each.frame_bytes for each in followers) / units,
    )


def cluster_of(groups: int, led: int | None = None) -> WorkCluster:
    """A cluster at rest, whose first election and first writes are over."""
    cluster = WorkCluster()
    cluster.create(groups, led)
    everybody = range(1, (groups if led is None else led) + 1)
    for _ in range(2):
        cluster.write(everybody, 128)  # indexes take three bytes from here on
        cluster.read(everybody)
        cluster.tick(2)
    return cluster
