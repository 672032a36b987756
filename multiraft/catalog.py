"""The groups of a host: found in the log at start, made, and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from multiraft.catchup import CatchUp
from multiraft.config import HostConfig
from multiraft.elections import Elections
from multiraft.environment import Environment
from multiraft.errors import (
    GroupExists,
    GroupFailed,
    GroupNotFound,
    MemberRemoved,
    MultiraftError,
    StateMachineFailed,
    StorageFailed,
)
from multiraft.events import Events, GroupCreated, GroupRemoved
from multiraft.group import Group, GroupHost
from multiraft.interfaces import UNKNOWN_GROUPS, Executor, GroupLog, StateMachine, WriteBatch
from multiraft.membership import MEMBER_ID_MAX, GroupMeta, Membership
from multiraft.messages import HardState, Snapshot
from multiraft.post import Post
from multiraft.proposals import Waiter
from multiraft.raft.core import CoreConfig, Raft
from multiraft.served import ServedLog
from multiraft.snapshots import INITIAL_INDEX, Standing, restore_failure, restore_machine
from multiraft.types import GroupId, Index, MemberId

_MEMBER_UNKNOWN = MEMBER_ID_MAX
"""Shown as the member id of a group of which the log kept nothing but its own id."""

CORE_CONFIGS_MAX = 1024
"""Settings of cores that are kept to be shared: thousands of groups are made with the same."""


CREATE_BATCH_GROUPS = 100
"""Groups made per write to the log: few syncs, and neither a write nor the pass that opens them all
(some 0.1 ms each) holds up the others long."""


class Catalog:
    """Makes, opens and removes groups; the scheduler runs them."""

    def __init__(
        self,
        config: HostConfig,
        environment: Environment,
        host: GroupHost,
        groups: dict[GroupId, Group],
        post: Post,
        events: Events,
        executor: Executor,
        apply_executor: Executor,
        submit: Callable[[WriteBatch, Callable[[], None]], None],
        elections: Elections,
        catch_up: CatchUp,
        *,
        linger: Callable[[Group], None],
    ) -> None:
        self._config = config
        self._env = environment
        self._host = host
        self._groups = groups
        self._post = post
        self._events = events
        self._executor = executor
        self._apply_executor = apply_executor
        self._submit = submit
        self._linger = linger
        self._elections = elections
        self._catch_up = catch_up
        self._changing: set[GroupId] = set()
        """Being made or removed."""
        self._waiters: set[Waiter] = set()
        self._core_configs: dict[tuple[MemberId, int, bool], CoreConfig] = {}

    def load_groups(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Bring back every group found in the log. May block: call it before anything runs.

        A group whose state cannot be brought back (a snapshot that is missing or damaged, a
        machine that raises or is ahead of its log) is there, and stopped: its trouble is its own.

        Raises:
            OSError: The disk does not read.
        """
        logs = self._env.store.groups()
        for count, log in enumerate(logs.values(), 1):
            if log.group == UNKNOWN_GROUPS:
                continue
            machine = self.machine(log.group)
            if log.damage:
                self._open_damaged(log, machine)
                continue
            trouble: MultiraftError | None = None
            standing = Standing(None, log.snapshot_point.index, restore=False)
            try:
                files = self._env.snapshots.files(log.group)
                standing = restore_machine(log, files, self._env.snapshots, machine)
            except MultiraftError as error:
                trouble = error
            except OSError:
                raise  # the disk's trouble is everybody's
            except Exception as error:
                trouble = restore_failure(log.group, error)
            group = self.bring_back(log, machine, standing)
            if trouble is not None and group.failed is None:
                group.stop(trouble if group.removed is None else group.removed)
            if progress is not None:
                progress(count, len(logs))
        running = [group for group in self._groups.values() if group.failed is None]
        self._elections.restarted(running)
        self._catch_up.restarted(running)

    def bring_back(self, log: GroupLog, machine: StateMachine, standing: Standing) -> Group:
        """Open a group that is in the log; `machine` stands where `standing` says."""
        group = self._open(log, machine, standing.index, restarted=True)
        group.snapshot_file = standing.file
        if group.failed is None and group.raft.conf_state().voters == (group.member_id,):
            group.raft.campaign()  # nobody else can lead, so there is nothing to wait for
            self._host.mark_dirty(group)
        return group

    def create_groups(
        self,
        wanted: Mapping[GroupId, tuple[Membership | None, GroupMeta]],
        waiter: Waiter,
    ) -> None:
        """Make groups, durable with few syncs; `waiter` gets the list of them, in order.

        Their ids are taken and their machines made before the first is written, so that only a host
        that stops in between leaves a part of them.

        Without a membership: a blank member of a group that exists elsewhere. Its log starts
        before that of any other, so that its leader can only bring it up by a snapshot, which
        tells it the configuration; until then it is in none, and never stands for election.

        Raises:
            GroupExists: One of them is here; none was made.
            StateMachineFailed: The factory raised; none was made.
            HostClosed, StorageFailed: The host cannot take any.
        """
        self.check_free(wanted)
        # Before anything is written: a group whose machine cannot be made must not be in the log.
        machines: dict[GroupId, StateMachine] = {}
        try:
            for group_id in wanted:
                machines[group_id] = self.machine(group_id)
        except Exception as error:
            raise StateMachineFailed(f"the machine factory failed: {error!r}") from error
        self.reserve(wanted, waiter)
        ids = list(wanted)
        made: list[Group] = []
        beginnings: dict[tuple[int, int], tuple[bytes, HardState, Snapshot]] = {}
        """By the identity of a membership and a meta, which thousands of groups may share."""

        def beginning(membership: Membership | None, meta: GroupMeta) -> tuple[bytes, HardState, Snapshot]:
            key = id(membership), id(meta)
            known = beginnings.get(key)
            if known is None:
                known = beginnings[key] = (meta.encode(), *_beginning(membership))
            return known

        def write() -> None:
            here = len(made)
            part = {group_id: wanted[group_id] for group_id in ids[here : here + CREATE_BATCH_GROUPS]}
            if not part:
                self.resolve(waiter, made)
            elif waiter in self._waiters:  # otherwise the host stopped meanwhile
                batch = self._env.store.batch()
                for group_id, (membership, meta) in part.items():
                    batch.create(group_id, *beginning(membership, meta))
                self._submit(batch, lambda: opened(part))

        def opened(part: Iterable[GroupId]) -> None:
            self._changing.difference_update(part)
            logs = self._env.store.groups()
            opened_now: list[Group] = []
            for group_id in part:
                log = logs[group_id]
                group = self._open(log, machines[group_id], log.snapshot_point.index)
                if self._events.on:
                    self._events.emit(GroupCreated(group.id, group.member_id))
                made.append(group)
                opened_now.append(group)
            self._elections.created(opened_now)
            write()

        def cleared(_: None, error: BaseException | None) -> None:
            if error is None:
                write()
            else:
                failure = StorageFailed(f"deleting snapshots of former groups failed: {error}")
                self.give_up(wanted, waiter, failure)

        # The power may have failed between the end of a former group's log and that of its files.
        # One that fits the new log by its index and term would be restored at the next start.
        self._executor.submit(lambda: self._delete_files(wanted), cleared)

    def reserve(self, group_ids: Iterable[GroupId], waiter: Waiter) -> None:
        """Keep others from making groups of these ids; `resolve` or `give_up` ends it.

        Raises:
            GroupExists: One of them is here, or is being made or removed; nothing was reserved.
        """
        self.check_free(group_ids)
        self._changing.update(group_ids)
        self._waiters.add(waiter)

    def check_free(self, group_ids: Iterable[GroupId]) -> None:
        """Raises: GroupExists when one of the ids is in use."""
        for group_id in group_ids:
            if group_id in self._groups or group_id in self._changing:
                raise GroupExists(group_id)

    def release(self, group_id: GroupId) -> None:
        """The group is here now, or not any more."""
        self._changing.discard(group_id)

    def give_up(self, group_ids: Iterable[GroupId], waiter: Waiter, error: MultiraftError) -> None:
        """Nothing comes of what was reserved."""
        self._changing.difference_update(group_ids)
        self.fail(waiter, error)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a group to be made or removed."""
        return bool(self._waiters)

    def stop(self, error: MultiraftError) -> None:
        """Nothing more will be done: tell those who wait."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.fail(error)

    def resolve(self, waiter: Waiter, value: object) -> None:
        """Tell `waiter`, unless the host stopped and it was told so."""
        if waiter in self._waiters:
            self._waiters.discard(waiter)
            waiter.resolve(value)

    def fail(self, waiter: Waiter, error: MultiraftError) -> None:
        """As `resolve`."""
        if waiter in self._waiters:
            self._waiters.discard(waiter)
            waiter.fail(error)

    def _delete_files(self, group_ids: Iterable[GroupId]) -> None:
        for group_id in group_ids:
            self._env.snapshots.remove(group_id)

    def machine(self, group_id: GroupId) -> StateMachine:
        """A new machine for a group. Raises: whatever the factory does."""
        machine: object = self._env.machines(group_id)
        if not isinstance(machine, StateMachine):
            raise TypeError(f"machines({group_id}) returned {machine!r}, which is no StateMachine")
        return machine

    def remove_group(self, group_id: GroupId, waiter: Waiter) -> None:
        """Stop a group and delete its data; `waiter` gets None when it is gone for good.

        Raises:
            GroupNotFound: It is not here.
        """
        group = self._groups.pop(group_id, None)
        if group is None:
            raise GroupNotFound(group_id)
        if group.failed is None:
            group.stop(GroupNotFound(group_id))
        self._post.disconnect(group)
        self._changing.add(group_id)
        self._waiters.add(waiter)

        def discarded(_: None, error: BaseException | None) -> None:
            if error is not None:
                failure = StorageFailed(f"deleting the state of group {group_id} failed: {error!r}")
                self.fail(waiter, failure)
                return
            batch = self._env.store.batch()
            batch.remove(group_id)
            self._submit(
                batch, lambda: self._executor.submit(lambda: self._env.snapshots.remove(group_id), deleted)
            )

        def deleted(_: None, error: BaseException | None) -> None:
            self._changing.discard(group_id)
            if error is None:
                if self._events.on:
                    self._events.emit(GroupRemoved(group_id))
                self.resolve(waiter, None)
            else:
                self.fail(waiter, StorageFailed(f"deleting snapshots of group {group_id} failed: {error}"))

        # The machine's state first: found without a log it would pass for applied. Then the log,
        # and only then the files, for a group in the log must have the snapshot it stands on.
        if group.machine.blocking:
            self._apply_executor.submit(group.machine.discard, discarded)
        elif group.restoring:
            # A worker is at it; what it restores must not outlive this.
            self._executor.submit(group.machine.discard, discarded)
        else:
            try:
                group.machine.discard()
            except Exception as error:
                discarded(None, error)
            else:
                discarded(None, None)

    def check_may_be_new(self, group_ids: Iterable[GroupId]) -> None:
        """Raises: GroupFailed when a group of a given id may have been here, unknown to the log.

        Made anew with the member id it had, it could vote twice in one term and would lack what
        it acknowledged. A member id that nobody used yet is safe, so that is not asked for here.
        """
        lost = self._env.store.groups().get(UNKNOWN_GROUPS)
        unknown = next((group_id for group_id in group_ids if group_id not in self._groups), None)
        if lost is not None and unknown is not None:
            raise GroupFailed(
                f"group {unknown} may have been on this host before its log was damaged ({lost.damage}), "
                "and must not start anew under its old member id: make it on a host with an empty data "
                "folder, under new member ids"
            )

    def _open_damaged(self, log: GroupLog, machine: StateMachine) -> None:
        """Show a group that must not take part: it may have lost its vote, or what it acknowledged.

        It is never connected, and `failed` from the start, so nothing reaches its core.
        """
        meta = GroupMeta.decode(log.meta) if log.meta else GroupMeta(_MEMBER_UNKNOWN)
        point = log.snapshot_point
        membership = Membership.decode(point.data) if point.data else Membership({})
        applied = min(point.index, log.last_index())
        core = self._core_config(meta, restarted=True)
        raft = Raft(core, ServedLog(log, applied), self._env.random, applied=applied)
        group = Group(self._host, log.group, meta, membership, raft, log, machine)
        group.stop(
            GroupFailed(
                f"group {log.group} is stopped on this host: {log.damage}. Remove the group here, remove "
                "this member from it, and bring it back under a new member id; or restore this host from "
                "its peers"
            )
        )
        self._groups[group.id] = group

    def _open(self, log: GroupLog, machine: StateMachine, stands: Index, *, restarted: bool = False) -> Group:
        meta = GroupMeta.decode(log.meta)
        point = log.snapshot_point
        served = ServedLog(log, min(stands, log.last_index()))
        core = self._core_config(meta, restarted=restarted)
        raft = Raft(core, served, self._env.random, applied=point.index)
        membership = Membership.decode(point.data) if point.data else Membership({})
        group = Group(self._host, log.group, meta, membership, raft, log, machine)
        group.machine_at = max(stands, group.machine_at)
        served.serve(group)
        self._groups[group.id] = group
        if meta.removed:
            group.set_removed(MemberRemoved(f"member {meta.member_id} was removed from group {log.group}"))
            self._linger(group)
        self._post.connect(group)
        self._host.mark_dirty(group)  # if only for its time to begin
        return group

    def _core_config(self, meta: GroupMeta, *, restarted: bool) -> CoreConfig:
        """The settings of a core: one object for all groups whose settings are equal."""
        config = self._config
        uncommitted = meta.limits.get("max_uncommitted_bytes", config.max_uncommitted_bytes)
        key = meta.member_id, uncommitted, restarted
        known = self._core_configs.get(key)
        if known is None:
            if len(self._core_configs) >= CORE_CONFIGS_MAX:
                self._core_configs.clear()
            known = self._core_configs[key] = CoreConfig(
                id=meta.member_id,
                election_ticks=config.election_ticks,
                heartbeat_ticks=config.heartbeat_ticks,
                max_message_bytes=config.max_message_bytes,
                max_apply_bytes=config.max_apply_bytes,
                max_inflight_messages=config.max_inflight_messages,
                max_inflight_bytes=config.max_inflight_bytes,
                max_uncommitted_bytes=uncommitted,
                pre_vote=config.pre_vote,
                check_quorum=config.check_quorum,
                read_mode=config.read_mode,
                async_storage_writes=True,
                step_down_on_removal=True,
                commit_notices=True,
                coalesce_beats=True,
                promise=config.check_quorum,
                restarted=restarted,
            )
        return known


def _beginning(membership: Membership | None) -> tuple[HardState, Snapshot]:
    """Where a new group's log starts: see `Catalog.create_groups`."""
    if membership is None:
        return HardState(), Snapshot()
    # The same on every member whatever the order of the list: that makes it a cluster.
    point = Snapshot(INITIAL_INDEX, 1, membership.conf_state(), membership.encode())
    return HardState(term=1, commit=INITIAL_INDEX), point
