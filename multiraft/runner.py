"""Between trio and the scheduler: the task that runs its passes, and what the transport calls."""

from __future__ import annotations

from time import thread_time
from typing import Protocol

import outcome
import trio

from multiraft.clock import HostClock
from multiraft.errors import GroupNotFound, MultiraftError
from multiraft.interfaces import SnapshotOffer, SnapshotSink
from multiraft.messages import Envelope, Hello, Lane
from multiraft.process import Young
from multiraft.scheduler import Scheduler
from multiraft.statistics import PassHistogram
from multiraft.syncwatch import SyncWatch


class Log(Protocol):
    """The host's log, as far as is asked here."""

    @property
    def records(self) -> int:
        """Written since it was opened."""


class Receiver:
    """What the transport calls. Before the groups are loaded nobody is at home."""

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None
        self.room = trio.lowlevel.ParkingLot()

    def receive(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        if self.scheduler is not None:
            self.scheduler.receive(peer, lane, items)

    async def wait_room(self) -> None:
        while self.scheduler is not None and not self.scheduler.has_room:
            await self.room.park()

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        if self.scheduler is not None:
            self.scheduler.peer_up(peer, lane)

    def peer_down(self, address: str, lane: Lane, reason: str) -> None:
        if self.scheduler is not None:
            self.scheduler.peer_down(address, lane, reason)

    def snapshot_sink(self, peer: Hello, offer: SnapshotOffer) -> SnapshotSink:
        if self.scheduler is None:
            raise GroupNotFound(offer.group)
        return self.scheduler.snapshot_sink(peer, offer)

    def snapshot_received(self, peer: Hello, offer: SnapshotOffer, sink: SnapshotSink) -> None:
        if self.scheduler is not None:
            self.scheduler.snapshot_received(peer, offer, sink)


class Runner:
    """The task that runs the scheduler's passes, and the wake-up that it parks on."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parked: trio.lowlevel.Task | None = None
        self._failure: MultiraftError | None = None
        self.spent = PassHistogram()
        """The time that passes had of their thread."""
        self.idle = trio.Event()
        """Set once the scheduler is closing and nobody waits for anything."""

    def wake(self) -> None:
        if (task := self._parked) is not None:
            self._parked = None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def fail(self, error: MultiraftError) -> None:
        self._failure = error
        self.wake()

    async def run(self, scheduler: Scheduler, log: Log, young: Young) -> None:
        room = self._receiver.room
        young.look(log.records)  # what loading the groups made, before a pass rather than within one
        while True:
            began = thread_time()
            more = scheduler.run_pass()
            self.spent.add(thread_time() - began)
            young.look(log.records)
            if self._failure is not None:
                raise self._failure
            if scheduler.closing and not scheduler.pending:
                self.idle.set()
            if scheduler.has_room and room:
                room.unpark_all()
            if more:
                # Those who were woken, and the sockets, have their turn between two passes.
                await trio.lowlevel.checkpoint()
                if scheduler.crowded:
                    # All of them: trio runs those of a batch in any order, and after a part of them
                    # a pass would see a part of what they want.
                    await trio.lowlevel.checkpoint()
            else:
                self._parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def tick(self, scheduler: Scheduler, clock: HostClock, watch: SyncWatch) -> None:
        """Wake the scheduler whenever beats or a tick are due, and look at the log on the way.

        One task for both, as each moment at which an idle host wakes up costs it (rhythm.py).
        """
        while True:
            await clock.sleep_until(min(scheduler.next_wake_at, clock.now() + watch.pause_s))
            watch.look()
            if scheduler.next_wake_at <= clock.now():  # else what woke it meanwhile has seen to that
                scheduler.wake()
            await trio.lowlevel.checkpoint()
