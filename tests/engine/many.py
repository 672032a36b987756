"""Three hosts with thousands of groups in one process: memory for files and network, time by hand.

The schedulers, the logs and the bytes on the wire are the real ones. Nothing runs by itself: `turn`
lets everybody work until nobody has anything to do, and `now` is moved by the test.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from multiraft.config import HostConfig
from multiraft.environment import Environment
from multiraft.errors import MultiraftError
from multiraft.group import Group
from multiraft.interfaces import Receiver, SnapshotOffer, SnapshotSink, StateMachine
from multiraft.membership import GroupMeta, predefined
from multiraft.messages import Envelope, Hello, Lane
from multiraft.raft.core import RaftRole
from multiraft.scheduler import Scheduler
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.snapshots import SnapshotFiles
from multiraft.storage.store import open_store
from multiraft.storage.writer import InlineWriter
from multiraft.transport.memory import MemoryNetwork, Pump
from multiraft.types import Entry, GroupId, Member


class Nothing(StateMachine):
    """A machine without any state, so that what is counted is the engine's alone."""

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        return [None for _ in entries]

    def query(self, request: object) -> object:  # noqa: ARG002 - there is nothing to ask
        return None

    def snapshot(self) -> Iterable[bytes]:
        return []

    def restore(self, chunks: Iterable[bytes]) -> None:
        pass


class _Told:
    """Waits for groups to be made."""

    def resolve(self, value: object) -> None:
        pass

    def fail(self, error: Exception) -> None:
        raise error


class Later:
    """An executor whose jobs are done in `run`."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._jobs.append((job, done))

    def run(self) -> None:
        while self._jobs:
            job, done = self._jobs.popleft()
            done(job(), None)


class _Door(Receiver):
    """What the transport calls while the scheduler behind it comes and goes."""

    scheduler: Scheduler

    def receive(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        self.scheduler.receive(peer, lane, items)

    async def wait_room(self) -> None:
        return

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        self.scheduler.peer_up(peer, lane)

    def peer_down(self, address: str, lane: Lane, reason: str) -> None:
        self.scheduler.peer_down(address, lane, reason)

    def snapshot_sink(self, peer: Hello, offer: SnapshotOffer) -> SnapshotSink:
        return self.scheduler.snapshot_sink(peer, offer)

    def snapshot_received(self, peer: Hello, offer: SnapshotOffer, sink: SnapshotSink) -> None:
        self.scheduler.snapshot_received(peer, offer, sink)


class Hosts:
    """Three of them, at 127.0.0.1:1 to :3.

    Attributes:
        clock_s: What all hosts' clocks show.
        schedulers: One for each host.
    """

    def __init__(self, *, connect_s: float = 0.0) -> None:
        """`connect_s`: from the first dial until a lane is open."""
        self.clock_s = 0.0
        self._epoch = 0
        self._woken = False
        self._pump = Pump()
        self._network = MemoryNetwork(self._pump.schedule, connect_s=connect_s)
        self._machine = Nothing()
        self._files = [MemoryFiles() for _ in range(3)]
        self._executors: list[Later] = []
        self.schedulers: list[Scheduler] = []
        self._doors = [_Door() for _ in range(3)]
        self._open()

    def now(self) -> float:
        return self.clock_s

    def _wake(self) -> None:
        self._woken = True

    def _open(self) -> None:
        self._epoch += 1
        self._executors = []
        self._closers: list[list[Callable[[], None]]] = []
        self.schedulers = []
        for number, door in enumerate(self._doors, 1):
            self.schedulers.append(self._scheduler(number, door))

    def _close(self, place: int) -> None:
        scheduler = self.schedulers[place]
        scheduler.closing = True
        scheduler.close()
        for close in self._closers[place]:
            close()

    def restart(self) -> None:
        """Close all hosts, then open them again from their disks."""
        for place in range(len(self.schedulers)):
            self._close(place)
        self._open()
        for scheduler in self.schedulers:
            scheduler.catalog.load_groups()

    def restart_last(self) -> None:
        """Close the last host, and open it again."""
        self._close(-1)
        self._epoch += 1
        self.schedulers.pop()
        self._closers.pop()
        self.schedulers.append(self._scheduler(len(self._doors), self._doors[-1]))
        self.schedulers[-1].catalog.load_groups()

    def isolate_last(self, isolated: bool = True) -> None:
        """Carry nothing to and from the last host; or again."""
        change = self._network.cut if isolated else self._network.heal
        *others, last = (f"127.0.0.1:{number}" for number in range(1, len(self._doors) + 1))
        for other in others:
            change(other, last)
            change(last, other)

    def _scheduler(self, number: int, door: _Door) -> Scheduler:
        address = f"127.0.0.1:{number}"
        files = self._files[number - 1]
        source = random.Random(100 * self._epoch + number).randrange

        def failed(error: MultiraftError) -> None:
            raise error

        store = open_store(files, "/data", random=source, on_failure=failed, writer=InlineWriter)
        hello = Hello("many", number, self._epoch, address)
        transport = self._network.open(hello, door)
        self._closers.append([transport.close, store.close])
        executors = Later(), Later()
        self._executors += executors
        scheduler = Scheduler(
            HostConfig(data_dir="/data", listen=address),
            Environment(
                clock=self,
                random=source,
                store=store,
                snapshots=SnapshotFiles(files, "/data"),
                transport=transport,
                apply_executor=executors[0],
                snapshot_executor=executors[1],
                machines=lambda _: self._machine,
                hello=hello,
                wake=self._wake,
                failed=failed,
            ),
        )
        door.scheduler = scheduler
        return scheduler

    def create(self, group_ids: Iterable[GroupId], host: int | None = None) -> None:
        """Make groups with a member everywhere, on host number `host` alone; default: on all."""
        members = [Member(number, f"127.0.0.1:{number}") for number in (1, 2, 3)]
        ids = list(group_ids)
        for number, scheduler in enumerate(self.schedulers, 1):
            if host in (None, number):
                wanted = {id_: (predefined(members), GroupMeta(number)) for id_ in ids}
                scheduler.catalog.create_groups(wanted, _Told())

    def turn(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, then everybody work until there is nothing to do."""
        self.clock_s += seconds
        self._pump.run_for(seconds)
        self._woken = True
        while self._woken:
            self._woken = False
            for scheduler in self.schedulers:
                for executor in self._executors:
                    executor.run()
                self._woken |= scheduler.run_pass()
            self._pump.run_for(0.0)

    def until_led(self, groups: int, seconds: float) -> None:
        """Turn until every host knows a leader of each of `groups` groups."""
        end_s = self.clock_s + seconds
        while not self.led(groups):
            assert self.clock_s < end_s, f"not all led: {self.leaders()}"
            self.turn(0.02)

    def led(self, groups: int) -> bool:
        return all(sum(1 for g in s.groups.values() if g.raft.leader) == groups for s in self.schedulers)

    def leaders(self) -> list[int]:
        """How many groups each host leads."""
        return [
            sum(1 for group in s.groups.values() if group.raft.role is RaftRole.LEADER)
            for s in self.schedulers
        ]

    def groups(self) -> list[Group]:
        return [group for scheduler in self.schedulers for group in scheduler.groups.values()]
