"""One simulated host: the real scheduler, log and snapshot files on a simulated machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from multiraft.environment import Environment
from multiraft.errors import MemberRemoved, MultiraftError, StorageFailed
from multiraft.events import EventReader
from multiraft.identity import start_identity
from multiraft.interfaces import MachineFactory, SnapshotOffer
from multiraft.membership import GroupMeta
from multiraft.messages import Envelope, Hello, Lane, Run
from multiraft.scheduler import Scheduler
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.snapshots import SnapshotFiles
from multiraft.storage.store import open_store
from multiraft.storage.writer import Work
from multiraft.types import GroupId
from tests.sim.disk import OPERATIONS_BEFORE_DEATH, SimExecutor, SimWriter, dies_after
from tests.sim.journal import Journal, RecordingStore
from tests.sim.machines import Chain, Drive, SharedDrive
from tests.sim.world import Violation, between, keep_everything

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

DATA_DIR = "/data"
EVENTS_MAX = 100_000


class SimHost:
    """A machine with a disk, and the host that runs on it, as long as it is up.

    Attributes:
        scheduler: None while the host is down.
        incarnation: Counts starts; whatever belongs to an earlier one is dead.
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.plan = cluster.plan
        self.number = number
        self.name = f"h{number}"
        self.address = f"{self.name}:1"
        self.config = self.plan.config(self.address)
        self.files = MemoryFiles()
        self.journal = Journal()
        self.drive = Drive()
        self.incarnation = 0
        self.scheduler: Scheduler | None = None
        self.hello = Hello("sim", 0, 0, self.address)
        self.machines: dict[GroupId, Chain] = {}
        self.founded: set[GroupId] = set()
        """Groups that were made here as the cluster's; never again, once they are durable."""
        self.events: EventReader | None = None
        """What happened on the host that the invariants have not seen yet."""
        self.disk_factor = 1.0
        self.disk_stuck_until = 0.0
        self.disk_failing = False
        self._random = self.world.random(f"{self.name}")
        self._paused_until = 0.0
        self._clock_ahead = 0.0
        self._in_pass = False
        self._pass_asked = False
        self._writer: SimWriter | None = None
        self._executors: list[SimExecutor] = []

    @property
    def alive(self) -> bool:
        return self.scheduler is not None

    @property
    def paused(self) -> bool:
        return self.alive and self.world.now < self._paused_until

    # --- the machine's own doings ------------------------------------------------------------

    def now(self) -> float:
        """The host's clock. Within a pass, each look may take a while."""
        if self._in_pass and self.plan.clock_step_s and not self.cluster.calm:
            self._clock_ahead = max(self._clock_ahead, self.world.now) + self.plan.clock_step_s
        return max(self.world.now, self._clock_ahead)

    def disk_delay(self) -> float:
        if self.cluster.calm:
            return 0.0005
        delay = self.plan.sync_s * between(self._random, 0.3, 1.7) * self.disk_factor
        return max(delay, self.disk_stuck_until - self.world.now)

    def hand_delay(self) -> float:
        return between(self._random, 0.0, 0.0005)

    def when_running(self, event: Callable[[], None]) -> None:
        incarnation = self.incarnation
        if not self.paused:
            event()
            return

        def later() -> None:
            if self.incarnation == incarnation:
                self.when_running(event)

        # Everything that waited comes at about the same time, in no particular order.
        self.world.at(self._paused_until + between(self._random, 0.0, 0.002), later)

    def _mine(self, event: Callable[[], None]) -> Callable[[], None]:
        """`event`, unless the host was stopped meanwhile; after its pause if it is paused."""
        incarnation = self.incarnation

        def guarded() -> None:
            if self.incarnation == incarnation and self.alive:
                self.when_running(event)

        return guarded

    # --- up and down -----------------------------------------------------------------------------

    def start(self) -> None:
        """Recover from the disk and go to work; or die once more on the way."""
        assert not self.alive
        self.incarnation += 1
        self._clock_ahead = 0.0
        self._pass_asked = False
        dying = self.cluster.draws_death_in_recovery()
        if dying:
            self.files.fault = dies_after(self._random.randrange(60))
        try:
            scheduler = self._open()
        except (OSError, MultiraftError) as error:
            if not dying:
                raise Violation(f"{self.name} cannot be started: {error!r}") from error
            self.files.fault = None
            self.world.log(self.name, "died in recovery")
            self.files.crash(self._random.randrange)
            self.drive.crash(self._random.randrange)
            self.incarnation += 1
            self.world.after(0.1, self.restart)
            return
        self.files.fault = None
        self.world.log(self.name, f"up, epoch {self.hello.epoch}, {len(scheduler.groups)} groups")
        self.scheduler = scheduler
        self.cluster.invariants.host_up(self)
        self._create_groups(scheduler)
        self._ask_for_pass()
        self._tick_at(scheduler.next_wake_at)
        self.cluster.network.host_up(self)

    def restart(self) -> None:
        if not self.alive:
            self.start()

    def _open(self) -> Scheduler:
        random = self.world.random(f"{self.name}/{self.incarnation}").randrange
        plan = self.plan
        incarnation = self.incarnation

        def writer(work: Work) -> SimWriter:
            self._writer = SimWriter(_Incarnation(self), work)
            return self._writer

        def failed(error: MultiraftError) -> None:
            if self.incarnation == incarnation and self.scheduler is not None:
                self.scheduler.fail(error)

        store = open_store(
            self.files,
            DATA_DIR,
            random=random,
            on_failure=failed,
            writer=writer,
            segment_bytes=plan.segment_bytes,
            cache_bytes=plan.cache_bytes,
            total_bytes=max(plan.total_bytes, 4 * plan.segment_bytes),
        )
        identity = start_identity(self.files, DATA_DIR, "sim", random)
        self.hello = Hello(identity.cluster_id, identity.host_id, identity.epoch, self.address)
        self._executors = [SimExecutor(_Incarnation(self)) for _ in range(2)]
        environment = Environment(
            clock=self,
            random=random,
            store=RecordingStore(store, self.journal, self._appended),
            snapshots=SnapshotFiles(self.files, DATA_DIR),
            transport=_Transport(self),
            apply_executor=self._executors[0],
            snapshot_executor=self._executors[1],
            machines=self._factory(),
            hello=self.hello,
            wake=self._ask_for_pass,
            failed=self._failed,
        )
        self.machines = {}
        scheduler = Scheduler(self.config, environment)
        if self.plan.seed % 2:
            scheduler._intake.crowd_groups = 1  # a simulated host has few groups; these are a crowd, too
        if self.plan.seed % 3 == 0:
            scheduler._outcomes.piece = 1  # nor do they ever have that many proposals under way
        self.events = scheduler.events.reader(EVENTS_MAX)
        self.journal.begin(store.groups())
        scheduler.catalog.load_groups()
        return scheduler

    def _factory(self) -> MachineFactory:
        plan = self.plan
        invariants = self.cluster.invariants
        drive = None if plan.durable == "memory" else self.drive

        def make(group: GroupId) -> Chain:
            padding = self._random.choice((0, 0, 500, 20_000))
            machine = Chain(
                group,
                drive,
                plan.blocking,
                padding,
                lambda machine, entry, state: invariants.applied(self, machine, entry, state),
                lambda machine, state: invariants.restored(self, machine, state),
            )
            self.machines[group] = machine
            return machine

        return SharedDrive(self.drive, make) if plan.durable == "batch" else make

    def _appended(self, group: GroupId, run: Run) -> None:
        self.cluster.invariants.appended(self, group, run)

    def _create_groups(self, scheduler: Scheduler) -> None:
        if self not in self.cluster.founders:
            return
        self.founded.update(scheduler.groups)
        missing = {
            group: (self.cluster.membership(group), GroupMeta(self.cluster.member_id(self, group)))
            for group in self.cluster.group_ids
            if group not in self.founded
        }
        if missing:
            scheduler.catalog.create_groups(missing, _Founder(self))

    def stop(self, *, power_lost: bool) -> None:
        """The host is gone at once, in the middle of whatever it was doing."""
        assert self.alive
        self.world.log(self.name, "power lost" if power_lost else "killed")
        self.cluster.clients.host_down(self)
        self.cluster.members.host_down(self)
        self.cluster.network.host_down(self)
        self.scheduler = None
        self.incarnation += 1
        self._paused_until = 0.0
        self.files.fault = None
        self.disk_failing = False
        assert self._writer is not None
        self._writer.die(self._random.randrange(OPERATIONS_BEFORE_DEATH))
        for executor in self._executors:
            executor.die(self._random.randrange(OPERATIONS_BEFORE_DEATH))
        random = self._random.randrange if power_lost else keep_everything
        self.files.crash(random)
        self.drive.crash(random)

    def pause(self, seconds: float) -> None:
        self.world.log(self.name, f"paused for {seconds:.3f}")
        self._paused_until = max(self._paused_until, self.world.now + seconds)

    def resume(self) -> None:
        self._paused_until = min(self._paused_until, self.world.now)

    def _failed(self, error: MultiraftError) -> None:
        if not self.disk_failing:
            raise Violation(f"{self.name} failed though its disk did not: {error!r}")
        self._die_of(error)

    def _die_of(self, error: BaseException) -> None:
        self.world.log(self.name, f"fails: {type(error).__name__}")
        incarnation = self.incarnation

        def die() -> None:
            if self.incarnation == incarnation and self.alive:
                self.stop(power_lost=self._random.random() < 0.5)
                self.world.after(between(self._random, 0.05, 1.0), self.restart)

        self.world.after(0.0, die)

    # --- passes ----------------------------------------------------------------------------------

    def _ask_for_pass(self) -> None:
        if not self._pass_asked:
            self._pass_asked = True
            delay = max(0.0, self._clock_ahead - self.world.now) + between(self._random, 0.0, 0.0003)
            self.world.after(delay, self._mine(self._run_pass))

    def _run_pass(self) -> None:
        scheduler = self.scheduler
        assert scheduler is not None
        self._pass_asked = False
        self._in_pass = True
        try:
            more = scheduler.run_pass()
        except (StorageFailed, OSError) as error:
            if not self.disk_failing:
                raise
            self._die_of(error)
            return
        finally:
            self._in_pass = False
        failures = [group.failed for group in scheduler.groups.values()]
        if self.disk_failing and any(e is not None and not isinstance(e, MemberRemoved) for e in failures):
            # A snapshot could not be read. A group that stopped is mended like a host: by a restart.
            self._die_of(StorageFailed("the disk failed under a state machine"))
            return
        self.cluster.invariants.after_pass(self)
        if more:
            self._ask_for_pass()

    def _tick_at(self, time: float) -> None:
        self.world.at(time, self._mine(self._tick))

    def _tick(self) -> None:
        scheduler = self.scheduler
        assert scheduler is not None
        scheduler.wake()
        self._tick_at(max(scheduler.next_wake_at, self.world.now + 0.2 * self.plan.tick_interval_s))


class _Incarnation:
    """A host as its disks see it: once it was stopped, nothing of theirs happens any more."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._number = host.incarnation
        self.world = host.world
        self.files = host.files
        self.disk_delay = host.disk_delay
        self.hand_delay = host.hand_delay

    def when_running(self, event: Callable[[], None]) -> None:
        if self._host.incarnation == self._number:
            self._host.when_running(event)


class _Founder:
    """Waits for the groups that a host of the first members makes."""

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def resolve(self, value: object) -> None:
        """The groups are durable. If they are ever gone, they were removed."""
        assert isinstance(value, list)
        self._host.founded.update(group.id for group in value)

    def fail(self, error: Exception) -> None:
        if not self._host.disk_failing:
            raise Violation(f"groups could not be made: {error!r}")


class _Transport:
    """A host's end of the network."""

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def send(self, address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        return self._host.cluster.network.send(self._host, address, lane, items)

    def send_snapshot(
        self,
        address: str,
        offer: SnapshotOffer,
        chunks: Callable[[int], Iterator[bytes]],
        done: Callable[[BaseException | None], None],
    ) -> None:
        self._host.cluster.network.send_snapshot(self._host, address, offer, chunks, done)

    def connect(self, address: str) -> None:
        self._host.cluster.network.connect(self._host, address)

    def release(self, address: str) -> None:
        """Links of a simulated network cost nothing; they stay."""
