"""`open_host`: the one place that knows the concrete log, transport, clock and threads.

It puts the parts together, runs the scheduler's passes in one task, and takes everything down
again in an order that loses nothing: first the programs' pending work, then the links, then
the worker threads, then the log.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import cast

import attrs
import structlog
import trio

from multiraft.clock import HostClock
from multiraft.config import HostConfig, normalize_address
from multiraft.departed import Departed
from multiraft.environment import Environment
from multiraft.errors import (
    ClusterMismatch,
    ConfigError,
    GroupNotFound,
    MembershipRejected,
    MultiraftError,
    NotMember,
    StorageFailed,
)
from multiraft.events import EventReader
from multiraft.group import Group
from multiraft.identity import start_identity
from multiraft.interfaces import Executor, Files, MachineFactory
from multiraft.logs import default_to_stdlib
from multiraft.membership import GroupMeta, Membership, dialable, predefined
from multiraft.messages import Hello, JoinRequest
from multiraft.process import Young, tuned
from multiraft.routes import FRAME_BYTES_MAX
from multiraft.runner import Receiver, Runner
from multiraft.scheduler import Scheduler
from multiraft.starting import RecoveryCalls, check_group_id, random_id
from multiraft.statistics import PassHistogram, SchedulerStatistics
from multiraft.storage.files import OsFiles
from multiraft.storage.importer import Importer
from multiraft.storage.repair import Repair
from multiraft.storage.snapshots import SnapshotFiles
from multiraft.storage.store import Store, StoreStatistics, open_store
from multiraft.syncwatch import SyncWatch
from multiraft.transport.bounds import Bounds
from multiraft.transport.http import HttpTransport, open_transport
from multiraft.transport.link import LinkStatistics
from multiraft.transport.tls import load_tls, own_fault
from multiraft.types import GroupId, Member, MemberId, Role
from multiraft.waiters import TaskWaiter
from multiraft.workers import ThreadExecutor

ASK_AGAIN_S_MIN, ASK_AGAIN_S_MAX = 0.1, 2.0
"""How long a host that joins waits for an answer before it asks again."""

FRAME_ROOM_BYTES = 256 * 1024
"""What the messages of a frame may weigh beside their entries."""

LIMITS = (
    "max_uncommitted_bytes",
    "max_proposal_bytes",
    "snapshot_interval_entries",
    "snapshot_interval_bytes",
    "snapshot_keep_entries",
)
"""Limits of `HostConfig` that a group may have of its own."""

log = structlog.get_logger("multiraft")


@attrs.frozen
class HostStatistics:
    """What a host has done since it was opened."""

    scheduler: SchedulerStatistics
    log: StoreStatistics
    transport: tuple[LinkStatistics, ...]
    """One for each lane of each peer."""
    collections: int
    """How often garbage was looked for among young objects, which happens between passes (process.py)."""
    collection_ms_max: float


class Host(RecoveryCalls):
    """One open host. Made by `open_host`; all of its methods belong in the trio thread."""

    http_address: str | None = None
    """`host:port` of what is served on `HostConfig.http`, with the real port. None: nothing is."""

    def __init__(
        self,
        config: HostConfig,
        scheduler: Scheduler,
        store: Store,
        transport: HttpTransport,
        departed: Departed,
        importer: Importer,
        young: Young,
        spent: PassHistogram,
    ) -> None:
        self.config = config
        self._young = young
        self._spent = spent
        self._departed = departed
        self._importer = importer
        self._joins: dict[GroupId, trio.Lock] = {}
        """One call of `join_group` at a time for each group."""
        self._scheduler = scheduler
        self._store = store
        self._transport = transport

    @property
    def address(self) -> str:
        """`host:port` that other hosts dial, with the real port."""
        return self._transport.address

    @property
    def groups(self) -> Mapping[GroupId, Group]:
        """The groups on this host, by id: a live view."""
        return MappingProxyType(self._scheduler.groups)

    def group(self, group_id: GroupId) -> Group:
        """Raises: GroupNotFound."""
        try:
            return self._scheduler.groups[group_id]
        except (KeyError, TypeError):  # what cannot be a key is no group either
            raise GroupNotFound(group_id) from None

    async def create_group(
        self, group_id: GroupId, members: Sequence[Member] | None = None, **limits: int
    ) -> Group:
        """Make a group here.

        Args:
            group_id: Positive, below 2**63.
            members: A predefined cluster: the same list, in any order, on every host; this host
                finds itself by its address. Default: this host alone, with a random member id.
            **limits: The group's own value for any of `max_uncommitted_bytes`,
                `max_proposal_bytes`, `snapshot_interval_entries`, `snapshot_interval_bytes`,
                `snapshot_keep_entries`.

        Raises:
            GroupExists: It is here already.
            NotMember: This host's address is not in the list.
            MembershipRejected: This host's member in the list was here before and was removed.
            ConfigError: The id, the list or a limit makes no sense.
            GroupFailed: This host's log was salvaged, and the group may have been in it; only with
                `members`, for a random member id is a new one.
            StateMachineFailed: `machines` raised; nothing was made.
            StorageFailed, HostClosed: The host cannot take it.
        """
        if members is None:
            own = random_id()
            alone = [Member(own, self.address)]
            wanted = {check_group_id(group_id): self._place(group_id, alone, limits)}
            return (await self._create(wanted))[group_id]
        groups = await self.create_groups({check_group_id(group_id): members}, **limits)
        return groups[group_id]

    async def create_groups(
        self, groups: Mapping[GroupId, Sequence[Member]], **limits: int
    ) -> dict[GroupId, Group]:
        """Make many groups with few syncs; as `create_group` otherwise."""
        if not isinstance(groups, Mapping):
            raise ConfigError("groups", f"{groups!r} is not a mapping of group ids to lists of Members")
        wanted: dict[GroupId, tuple[Membership, GroupMeta]] = {}
        placed: dict[int, tuple[Sequence[Member], tuple[Membership, GroupMeta]]] = {}
        """By the identity of a list of members. Thousands of groups are made with the same list: looked
        through for each of them it would keep the whole host waiting. The list is kept, or another one
        might come to have its identity, from a mapping that makes them as it is asked."""
        for group_id, members in groups.items():
            check_group_id(group_id)
            if id(members) in placed:
                _, known = placed[id(members)]
                self._check_departed(group_id, *known)
            else:
                known = self._place(group_id, members, limits)
                placed[id(members)] = members, known
            wanted[group_id] = known
        self._scheduler.catalog.check_may_be_new(wanted)
        return await self._create(wanted)

    async def _create(self, wanted: Mapping[GroupId, tuple[Membership, GroupMeta]]) -> dict[GroupId, Group]:
        self._scheduler.check_open()
        waiter = TaskWaiter()
        self._scheduler.catalog.create_groups(wanted, waiter)
        return {group.id: group for group in cast("list[Group]", await waiter.wait())}

    async def join_group(self, group_id: GroupId, via: str, *, role: Role = Role.VOTER) -> Group:
        """Make this host a member of a group that other hosts carry.

        Asks again until it is answered: the caller's timeout ends it. If that, or a crash, leaves
        a group here that does not belong yet, joining once more goes on with it. A host that is
        a member already just gets its group.

        Args:
            group_id: The group.
            via: The address of any host with a member of it.
            role: `Role.VOTER`, `Role.LEARNER` or `Role.STAGING`.

        Returns:
            The group, with this member in `members`: it has caught up to where it was added.

        Raises:
            MembershipRejected: `via` does not carry the group, another change was under way, or a
                member has this host's address: one whose data was lost has to be removed first.
            MemberRemoved: The member of the group that is here was removed: `remove_group` first.
            ClusterMismatch: `via` is a host of another cluster, refuses this host's certificate, or is
                no multiraft host at all; the message says which.
            ConfigError: The id, the address or the role makes no sense.
            StateMachineFailed, StorageFailed, HostClosed: The host cannot take it.
        """
        lock = self._joins.setdefault(check_group_id(group_id), trio.Lock())
        try:
            async with lock:
                return await self._join(group_id, via, role)
        finally:
            if not lock.statistics().tasks_waiting:
                self._joins.pop(group_id, None)

    async def _join(self, group_id: GroupId, via: str, role: Role) -> Group:
        via = dialable(via, "via")
        if role not in (Role.VOTER, Role.LEARNER, Role.STAGING):
            raise ConfigError("role", f"a host joins as voter, learner or staging member, not as {role!r}")
        self._scheduler.check_open()
        group = self.groups.get(group_id)
        fresh = group is None
        own = random_id() if group is None else group.member_id
        request = JoinRequest(
            0, own, self.address, role is Role.VOTER, add=False, staging=role is Role.STAGING
        )
        if group is None:
            generation = await self._ask(via, group_id, request)
            waiter = TaskWaiter()
            self._scheduler.catalog.create_groups({group_id: (None, GroupMeta(own, generation))}, waiter)
            (group,) = cast("list[Group]", await waiter.wait())
        else:
            group.check_running()
            if own not in group.members:
                self._agree(group, await self._ask(via, group_id, request), via)
        if own not in group.members:
            request.add = True
            try:
                self._agree(group, await self._ask(via, group_id, request), via)
            except MembershipRejected:
                if fresh:
                    await self.remove_group(group_id)
                raise
        while own not in group.members:
            await group.watch_leader()
        await trio.lowlevel.checkpoint()
        return group

    def _agree(self, group: Group, generation: int, via: str) -> None:
        """Before we count as a member there: we must be of that generation.

        Raises:
            MembershipRejected: We are of another, and have state of it.
        """
        if generation == group.generation:
            return
        if group.membership.members:
            raise MembershipRejected(
                f"group {group.id} is at generation {generation:x} at {via}, and {group.generation:x} here: "
                "it was forced to go on alone, or restored; remove the group from this host, then join"
            )
        self._scheduler.adopt_generation(group, generation)

    async def _ask(self, via: str, group_id: GroupId, request: JoinRequest) -> int:
        """Ask until there is an answer; the group's generation."""
        joining = self._scheduler.joining
        patience = ASK_AGAIN_S_MIN
        while True:
            self._scheduler.check_open()
            waiter = TaskWaiter()
            number = joining.ask(via, group_id, attrs.evolve(request), waiter)
            try:
                with trio.move_on_after(patience):
                    return cast("int", await waiter.wait())
            finally:
                joining.forget(number)
            if refusal := self._transport.refusal(via):
                raise ClusterMismatch(refusal)
            patience = min(2 * patience, ASK_AGAIN_S_MAX)

    async def remove_group(self, group_id: GroupId) -> None:
        """Stop a group here and delete its data.

        The group's member here never comes back under its id: it has forgotten what it promised.

        Raises:
            GroupNotFound: It is not here.
        """
        self._scheduler.check_open()
        group = self.group(group_id)
        # Before anything is forgotten, so that no power cut comes in between.
        await trio.to_thread.run_sync(self._departed.add, group_id, group.member_id)
        self._scheduler.check_open()
        waiter = TaskWaiter()
        self._scheduler.catalog.remove_group(group_id, waiter)
        await waiter.wait()

    def events(self, *, limit: int | None = None) -> EventReader:
        """Iterate over what happens on this host, in all of its groups, from this call on.

        `async for event in host.events()` gets objects of the subclasses of `Event`. Any number of
        readers may listen. One that does not keep up loses the oldest; in their place it gets an
        `EventsMissed` with their number. Leaving the loop ends it.

        Args:
            limit: Events kept for this reader. Default: `HostConfig.max_queued_events`. Minimum: 1.

        Raises:
            ConfigError: At once: `limit` is no such number.
            HostClosed: While iterating, when all was read: the host was closed.
            StorageFailed, and others: Likewise: the host failed, which the last event, `HostFailed`,
                tells as well.
        """
        own = self.config.max_queued_events if limit is None else limit
        return self._scheduler.events.reader(own)

    def statistics(self) -> HostStatistics:
        """Counters of scheduler, log and transport."""
        spent = self._spent
        return HostStatistics(
            attrs.evolve(
                self._scheduler.statistics(),
                pass_cpu_ms_max=spent.max_ms,
                pass_cpu_histogram_ms=spent.buckets(),
            ),
            self._store.statistics(),
            tuple(self._transport.statistics()),
            self._young.looks,
            self._young.max_s * 1e3,
        )

    def __repr__(self) -> str:
        return f"<Host {self.address} {len(self.groups)} groups>"

    def _check_limits(self, limits: Mapping[str, int]) -> None:
        for name, value in limits.items():
            if name not in LIMITS:
                raise ConfigError(name, f"is no limit of a group; those are {', '.join(LIMITS)}")
            # As the host's own would be checked.
            attrs.evolve(self.config, **{name: value})  # type: ignore[arg-type]  # all of them are integers
        largest = _largest_message(self.config)
        if limits.get("max_proposal_bytes", 0) > largest:
            # It would be taken and never get anywhere, and the group with it.
            raise ConfigError(
                "max_proposal_bytes",
                f"hosts send each other up to {largest} bytes: raise HostConfig.max_proposal_bytes on all",
            )

    def _place(
        self, group_id: GroupId, members: Sequence[Member], limits: Mapping[str, int]
    ) -> tuple[Membership, GroupMeta]:
        self._check_limits(limits)
        membership = predefined(members)
        own = self._own_id(membership)
        if own is None:
            listed = ", ".join(member.address for member in membership.members.values())
            raise NotMember(
                f"group {group_id}: no member has this host's address, {self.address} "
                f"(set HostConfig.advertise to change it); the members are at {listed}"
            )
        meta = GroupMeta(own, limits=dict(limits))
        self._check_departed(group_id, membership, meta)
        return membership, meta

    def _check_departed(self, group_id: GroupId, membership: Membership, meta: GroupMeta) -> None:
        if (group_id, meta.member_id) in self._departed and len(membership.members) > 1:
            raise MembershipRejected(
                f"member {meta.member_id} of group {group_id} was removed from this host and has forgotten "
                "what it promised the others; a member that comes back needs a new id"
            )

    def _own_id(self, membership: Membership) -> MemberId | None:
        return next((m.id for m in membership.members.values() if m.address == self.address), None)


@asynccontextmanager
async def open_host(
    config: HostConfig, machines: MachineFactory, *, files: Files | None = None
) -> AsyncIterator[Host]:
    """Open a host: restart every group found in its data folder, and serve its peers.

    `config.http` is left to others: `multiraft.open_host` is this and the admin API.

    Closing waits up to `drain_s` for pending work; what is left fails with `HostClosed`.
    Exceptions leave bare, never in an ExceptionGroup. While a host is open the process has a
    short thread switch interval and collects cyclic garbage rarely (see `multiraft.process`).

    Args:
        config: What the host is told.
        machines: Called with a group id for each group's state machine. If it also has a
            `batch()` context manager, that is entered around all applies of one pass.
        files: The operating system's files, for tests that hold or fail them. Default: `OsFiles()`.

    Raises:
        ConfigError: A field's value, or a file of `tls`, cannot be used.
        AddressInUse: `listen` cannot be bound.
        DataDirInUse: Another open host has the data folder.
        ClusterMismatch: The data folder belongs to another cluster.
        CorruptRecord, StorageFailed: The data folder is damaged, or does not read.
    """
    if not isinstance(config, HostConfig):
        raise ConfigError("config", f"{config!r} is not a HostConfig")
    if not callable(machines):
        raise ConfigError("machines", f"{machines!r} cannot be called with a group id")
    default_to_stdlib()
    try:
        with tuned():
            async with AsyncExitStack() as stack:
                yield await _open(config, machines, OsFiles() if files is None else files, stack)
    except BaseExceptionGroup as group:
        error = _bare(group)
        raise error from error.__cause__


async def _open(config: HostConfig, machines: MachineFactory, files: Files, stack: AsyncExitStack) -> Host:
    """Put a host together; `stack` takes it down again, in reverse order."""
    deliver = trio.lowlevel.current_trio_token().run_sync_soon
    data_dir = _absolute(config.data_dir)
    receiver = Receiver()
    runner = Runner(receiver)
    source = random.Random(random.SystemRandom().getrandbits(64))
    # First of all: wrong files leave no trace in the data folder.
    tls = None if config.tls is None else await trio.to_thread.run_sync(load_tls, config.tls)

    def log_failed(error: MultiraftError) -> None:
        scheduler = receiver.scheduler
        if scheduler is not None:
            scheduler.fail(error)
        else:
            runner.fail(error)

    store = await trio.to_thread.run_sync(
        partial(
            open_store,
            files,
            data_dir,
            segment_bytes=config.segment_bytes,
            cache_bytes=config.cache_bytes,
            total_bytes=config.max_log_bytes,
            slow_sync_s=config.slow_sync_s,
            recovery=config.recovery,
            random=source.randrange,
            deliver=deliver,
            on_failure=log_failed,
        )
    )
    stack.push_async_callback(_in_thread, store.close)
    torn = store.recovery.torn
    if torn is not None:
        # Never acknowledged, so nothing is lost by it; but somebody may wonder.
        log.warning("cut a torn tail off the log", **attrs.asdict(torn))
    if store.repaired is not None:
        _report_repair(store.repaired)
    log_is_new = store.recovery.segments == 0
    identity = await trio.to_thread.run_sync(
        partial(start_identity, files, data_dir, config.cluster_id, _system_random, log_is_new=log_is_new)
    )
    if log_is_new and identity.epoch > 1:
        log.error("the log of this data folder is gone: the host starts anew, under a new host id")
    hello = Hello(identity.cluster_id, identity.host_id, identity.epoch, "")
    transport = await stack.enter_async_context(
        open_transport(
            listen=normalize_address(config.listen, "listen"),
            advertise=None if config.advertise is None else normalize_address(config.advertise, "advertise"),
            hello=hello,
            receiver=receiver,
            random=source.randrange,
            bounds=_bounds(config),
            tls=tls,
        )
    )
    fault = None if tls is None else own_fault(tls, transport.address.rpartition(":")[0])
    if fault is not None:
        # It may be others that are to change, as in the middle of a change of authorities.
        log.error("this host's own certificate will not do", address=transport.address, reason=fault)
    executors: list[Executor] = []
    for name in ("multiraft-apply", "multiraft-snapshots"):
        executor = ThreadExecutor(name, deliver)
        stack.push_async_callback(_in_thread, executor.close)
        executors.append(executor)
    snapshots = await trio.to_thread.run_sync(SnapshotFiles, files, data_dir)
    clock = HostClock()
    scheduler = Scheduler(
        config,
        Environment(
            clock=clock,
            random=source.randrange,
            store=store,
            snapshots=snapshots,
            transport=transport,
            apply_executor=executors[0],
            snapshot_executor=executors[1],
            machines=machines,
            hello=attrs.evolve(hello, address=transport.address),
            wake=runner.wake,
            failed=runner.fail,
        ),
    )
    try:
        scheduler.catalog.load_groups()
    except OSError as error:
        raise StorageFailed(f"reading the snapshots in {data_dir} failed: {error}") from error
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    stack.push_async_callback(_drain, config, scheduler, runner)
    receiver.scheduler = scheduler
    young = Young()
    watch = SyncWatch(scheduler.events, store.pace, config.slow_sync_s)
    nursery.start_soon(runner.run, scheduler, store, young)
    nursery.start_soon(runner.tick, scheduler, clock, watch)
    scheduler.events.log_to(log)
    log.info("host open", address=transport.address, groups=len(scheduler.groups), epoch=identity.epoch)
    for group in scheduler.groups.values():
        if group.failed is not None:
            log.error("group is stopped", group=group.id, reason=str(group.failed))
    _report_moved(scheduler.groups.values(), transport.address)
    departed = await trio.to_thread.run_sync(Departed, files, data_dir)
    importer = Importer(files, snapshots)
    return Host(config, scheduler, store, transport, departed, importer, young, runner.spent)


def _system_random(below: int) -> int:
    return random.SystemRandom().randrange(below)


def _report_moved(groups: Iterable[Group], address: str) -> None:
    """Others dial members where their groups say they are: a host that moved hears from nobody."""
    moved = [
        (group.id, own.address)
        for group in groups
        if group.failed is None
        and (own := group.membership.members.get(group.member_id)) is not None
        and own.address != address
    ]
    if moved:
        log.warning(
            "groups have this host at another address, where others will dial it: set listen or advertise "
            "to that, or update_member in each group",
            groups=len(moved),
            first=moved[0][0],
            there=moved[0][1],
            address=address,
        )


def _report_repair(repaired: Repair) -> None:
    for damage in repaired.damages:
        log.error("the log was damaged", segment=damage.segment, offset=damage.offset, reason=damage.reason)
    log.error(
        "salvaged the log",
        groups_whole=len(repaired.whole),
        groups_damaged=len(repaired.damaged),
        backup=repaired.backup,
    )


async def _drain(config: HostConfig, scheduler: Scheduler, runner: Runner) -> None:
    """Let pending work finish, for `drain_s` at most, then stop all groups."""
    scheduler.closing = True
    runner.wake()
    try:
        with trio.move_on_after(config.drain_s):
            await runner.idle.wait()
    finally:
        scheduler.close()


def _bounds(config: HostConfig) -> Bounds:
    """A frame holds one message of the largest size, or many that are smaller."""
    frame = _largest_message(config) + FRAME_BYTES_MAX + FRAME_ROOM_BYTES
    return attrs.evolve(
        Bounds(),
        max_frame_bytes=frame,
        max_snapshots_out=config.max_snapshots_sent,
        max_snapshots_in=config.max_snapshots_received,
    )


def _largest_message(config: HostConfig) -> int:
    return max(config.max_message_bytes, config.max_proposal_bytes)


def _absolute(path: str) -> str:
    return os.path.abspath(path)


async def _in_thread(close: Callable[[], None]) -> None:
    """Blocking clean-up, to its end even when cancelled: a log must be closed before it is gone."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(close)


def _bare(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that tells most: never a Cancelled if there is another. Notes name the rest."""
    found: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                collect(each)
        else:
            found.append(error)

    collect(group)
    telling = [error for error in found if not isinstance(error, trio.Cancelled)]
    if not telling:
        return found[0]
    for other in telling[1:]:
        telling[0].add_note(f"also raised: {other!r}")
    return telling[0]
