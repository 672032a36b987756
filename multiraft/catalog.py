"""The groups of a host: found in the log at start, made, and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from multiraft.config import HostConfig
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
from multiraft.snapshots import INITIAL_INDEX, restore_machine
from multiraft.types import GroupId, Index, Role

_MEMBER_UNKNOWN = MEMBER_ID_MAX
"""Shown as the member id of a group of which the log kept nothing but its own id."""


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
        self._changing: set[GroupId] = set()
        """Being made or removed."""
        self._waiters: set[Waiter] = set()

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
            machine = self._machine(log.group)
            if log.damage:
                self._open_damaged(log, machine)
                continue
            trouble: MultiraftError | None = None
            file, stands = None, log.snapshot_point.index
            try:
                files = self._env.snapshots.files(log.group)
                file, stands = restore_machine(log, files, self._env.snapshots, machine)
            except MultiraftError as error:
                trouble = error
            except OSError:
                raise  # the disk's trouble is everybody's
            except Exception as error:
                trouble = StateMachineFailed(f"group {log.group}: restore: {error!r}")
                trouble.__cause__ = error
            group = self._open(log, machine, stands, restarted=True)
            group.snapshot_file = file
            if trouble is not None:
                if group.failed is None:
                    group.stop(trouble if group.removed is None else group.removed)
            elif group.failed is None and group.raft.conf_state().voters == (group.member_id,):
                group.raft.campaign()  # nobody else can lead, so there is nothing to wait for
                self._host.mark_dirty(group)
            if progress is not None:
                progress(count, len(logs))

    def create_groups(
        self,
        wanted: Mapping[GroupId, tuple[Membership | None, GroupMeta]],
        waiter: Waiter,
    ) -> None:
        """Make groups, durable with few syncs; `waiter` gets the list of them, in order.

        Without a membership: a blank member of a group that exists elsewhere. Its log starts
        before that of any other, so that its leader can only bring it up by a snapshot, which
        tells it the configuration; until then it is in none, and never stands for election.

        Raises:
            GroupExists: One of them is here; none was made.
            StateMachineFailed: The factory raised; none was made.
            HostClosed, StorageFailed: The host cannot take any.
        """
        for group_id in wanted:
            if group_id in self._groups or group_id in self._changing:
                raise GroupExists(group_id)
        # Before anything is written: a group whose machine cannot be made must not be in the log.
        machines: dict[GroupId, StateMachine] = {}
        try:
            for group_id in wanted:
                machines[group_id] = self._machine(group_id)
        except Exception as error:
            raise StateMachineFailed(f"the machine factory failed: {error!r}") from error
        batch = self._env.store.batch()
        for group_id, (membership, meta) in wanted.items():
            if membership is None:
                batch.create(group_id, meta.encode(), HardState(), Snapshot())
                continue
            # The same on every member whatever the order of the list: that makes it a cluster.
            point = Snapshot(INITIAL_INDEX, 1, membership.conf_state(), membership.encode())
            batch.create(group_id, meta.encode(), HardState(term=1, commit=INITIAL_INDEX), point)
        self._changing.update(wanted)
        self._waiters.add(waiter)

        def done() -> None:
            self._changing.difference_update(wanted)
            logs = self._env.store.groups()
            groups = [
                self._open(logs[group_id], machine, logs[group_id].snapshot_point.index)
                for group_id, machine in machines.items()
            ]
            for group in groups:
                if self._events.on:
                    self._events.emit(GroupCreated(group.id, group.member_id))
                if group.membership.members:
                    self._campaign_early(group)
            self._resolve(waiter, groups)

        def cleared(_: None, error: BaseException | None) -> None:
            if error is None:
                self._submit(batch, done)
            else:
                self._changing.difference_update(wanted)
                self._fail(waiter, StorageFailed(f"deleting snapshots of former groups failed: {error}"))

        # The power may have failed between the end of a former group's log and that of its files.
        # One that fits the new log by its index and term would be restored at the next start.
        self._executor.submit(lambda: self._delete_files(wanted), cleared)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a group to be made or removed."""
        return bool(self._waiters)

    def stop(self, error: MultiraftError) -> None:
        """Nothing more will be done: tell those who wait."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.fail(error)

    def _resolve(self, waiter: Waiter, value: object) -> None:
        if waiter in self._waiters:
            self._waiters.discard(waiter)
            waiter.resolve(value)

    def _fail(self, waiter: Waiter, error: MultiraftError) -> None:
        if waiter in self._waiters:
            self._waiters.discard(waiter)
            waiter.fail(error)

    def _delete_files(self, group_ids: Iterable[GroupId]) -> None:
        for group_id in group_ids:
            self._env.snapshots.remove(group_id)

    def _machine(self, group_id: GroupId) -> StateMachine:
        machine: object = self._env.machines(group_id)
        if not isinstance(machine, StateMachine):
            raise TypeError(f"machines({group_id}) returned {machine!r}, which is no StateMachine")
        return machine

    def _campaign_early(self, group: Group) -> None:
        """One member of a new group, a different one from group to group, stands at once.

        It saves the first election timeout and spreads leaders evenly. Nothing depends on it:
        if the others are not there yet, timeouts elect somebody.
        """
        voters = sorted(m.id for m in group.membership.members.values() if m.role is Role.VOTER)
        if voters[group.id % len(voters)] == group.member_id:
            group.raft.campaign()
            self._host.mark_dirty(group)

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
                self._fail(waiter, failure)
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
                self._resolve(waiter, None)
            else:
                self._fail(waiter, StorageFailed(f"deleting snapshots of group {group_id} failed: {error}"))

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
        core = CoreConfig(id=meta.member_id, applied=applied, restarted=True)
        raft = Raft(core, ServedLog(log, applied), self._env.random)
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
        config = self._config
        limits = meta.limits
        raft = Raft(
            CoreConfig(
                id=meta.member_id,
                election_ticks=config.election_ticks,
                heartbeat_ticks=config.heartbeat_ticks,
                applied=point.index,
                max_message_bytes=config.max_message_bytes,
                max_apply_bytes=config.max_apply_bytes,
                max_inflight_messages=config.max_inflight_messages,
                max_inflight_bytes=config.max_inflight_bytes,
                max_uncommitted_bytes=limits.get("max_uncommitted_bytes", config.max_uncommitted_bytes),
                pre_vote=config.pre_vote,
                check_quorum=config.check_quorum,
                read_mode=config.read_mode,
                async_storage_writes=True,
                step_down_on_removal=True,
                commit_notices=True,
                coalesce_beats=True,
                restarted=restarted,
            ),
            served,
            self._env.random,
        )
        membership = Membership.decode(point.data) if point.data else Membership({})
        group = Group(self._host, log.group, meta, membership, raft, log, machine)
        group.machine_at = max(stands, group.machine_at)
        served.serve(group)
        self._groups[group.id] = group
        if meta.removed:
            group.set_removed(MemberRemoved(f"member {meta.member_id} was removed from group {log.group}"))
            self._linger(group)
        self._post.connect(group)
        self._host.mark_dirty(group)
        return group
