"""One group on this host: what programs hold, and the state that the scheduler keeps for it.

The public part is thin: a call puts something into a table, wakes the scheduler and parks. All
decisions are made in the scheduler's pass. Names with a leading underscore belong to this file;
those without, but not documented as public, belong to the scheduler and its helpers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import attrs
import trio

from multiraft.budget import GROUP_LIMIT_REASON, HOST_LIMIT_REASON, Budget
from multiraft.changes import MembershipCalls
from multiraft.errors import (
    HostClosed,
    MemberRemoved,
    MembershipRejected,
    MultiraftError,
    NoLeader,
    ProposalDropped,
    ProposalTooLarge,
    SnapshotUnavailable,
    TransferFailed,
    fresh,
)
from multiraft.membership import Change, GroupMeta, Membership, is_member_id
from multiraft.messages import Run
from multiraft.proposals import ProposalTable, QueuedChange, Waiter, listens
from multiraft.raft.core import Raft, RaftRole
from multiraft.reads import ReadTable
from multiraft.status import GroupStatus, PeerStatus, SnapshotInfo, StagingStatus
from multiraft.types import GroupId, Index, Member, MemberId, Role, Term
from multiraft.waiters import Leadership, ManyWaiter, QueryWaiter, TaskWaiter

if TYPE_CHECKING:
    from multiraft.config import HostConfig
    from multiraft.interfaces import GroupLog, SnapshotFile, StateMachine
    from multiraft.sessions import Session


WARNINGS_MAX = 16
"""Warnings that a group keeps for its status."""


class GroupHost(Protocol):
    """What a group asks of the host that carries it."""

    config: HostConfig
    budget: Budget
    """What proposals of all groups may weigh together."""
    closing: bool
    """Nothing new is taken on."""

    @property
    def ticks(self) -> int:
        """Tick intervals since the host was opened."""

    def mark_dirty(self, group: Group) -> None:
        """The group has work: the next pass looks at it."""

    def stopped(self, group: Group) -> None:
        """The group has failed, or was stopped on purpose: nobody may count on it any more."""

    def run_query(self, group: Group, request: object, waiter: Waiter) -> None:
        """Call the machine's `query`, in its worker thread if it is a blocking one."""

    def want_snapshot(self, group: Group, waiter: Waiter | None) -> None:
        """Take a snapshot of the group as soon as may be."""

    def staging_status(self, group: Group) -> Mapping[MemberId, StagingStatus]:
        """Why staging members of a group that leads here are not promoted yet."""


class Group(MembershipCalls):
    """One Raft group on this host.

    Attributes:
        id: The group's id.
        member_id: The id of this host's member.
    """

    __slots__ = (
        "_watchers",
        "applied",
        "applied_term",
        "apply_queue",
        "applying",
        "asked_snapshot",
        "awake",
        "bond",
        "bond_leader",
        "bond_term",
        "bytes_since_snapshot",
        "capture_waiters",
        "dirty",
        "due",
        "failed",
        "generation",
        "host",
        "hosts",
        "id",
        "leader_version",
        "limits",
        "log",
        "machine",
        "machine_at",
        "max_proposal_bytes",
        "max_uncommitted_bytes",
        "member_id",
        "membership",
        "meta",
        "no_leader_since",
        "on_drained",
        "promised",
        "proposals",
        "raft",
        "reads",
        "removed",
        "replay_to",
        "restoring",
        "routes",
        "snapshot_file",
        "snapshot_index",
        "snapshot_interval_bytes",
        "snapshot_interval_entries",
        "state_since",
        "told_leader",
        "told_term",
        "unsynced",
        "warnings",
    )

    def __init__(
        self,
        host: GroupHost,
        id: GroupId,  # noqa: A002 - the name of the public attribute
        meta: GroupMeta,
        membership: Membership,
        raft: Raft,
        log: GroupLog,
        machine: StateMachine,
    ) -> None:
        self.id = id
        self.meta = meta
        """As last given to the log."""
        self.hosts: Mapping[MemberId, int] = meta.hosts
        """The host ids that members are bound to, on disk: see acquaintances.py."""
        self.warnings: dict[object, str] = {}
        self.member_id = meta.member_id
        self.generation = meta.generation
        self.limits = meta.limits
        self.host = host
        self.membership = membership
        self.raft = raft
        self.log = log
        self.machine = machine
        self.proposals = ProposalTable(host.budget)
        self.reads = ReadTable()
        self.routes: dict[MemberId, Any] = {}
        self.dirty = False
        self.awake = False
        """It is ticked: see rest.py."""
        self.due = 0
        """While it sleeps: the tick at which it is to be woken; see rest.py."""
        self.state_since = host.ticks
        """The tick, by the host's count, since when it has been awake, or at rest."""
        # Attachments (liveness.py). A follower's: to whom, at which term, in which session. A leader's: the
        # term at which members may be attached to it, and itself. No term: there is none.
        self.bond: Session | None = None
        self.bond_term: Term = 0
        self.bond_leader: MemberId = 0
        self.unsynced = 0
        """Batches with something of this group that are submitted but not yet on disk."""
        self.promised = (raft.term, raft.vote)
        """Term and vote as last given to the log."""
        self.failed: MultiraftError | None = None
        self.removed: MemberRemoved | None = None
        """This member is out; it may linger a little before it stops."""
        self.restoring = False
        # Applying. machine_at <= the worker's progress; applied is what the core was told.
        self.apply_queue: list[Run] = []
        self.applying = False
        """Something taken off `apply_queue` is not finished yet."""
        self.on_drained: Callable[[], None] | None = None
        """Called once when everything queued has been applied."""
        self.applied: Index = raft.applied
        self.applied_term: Term = 0
        self.machine_at: Index = raft.applied
        """Entries up to here are in the state machine; written by whoever runs `apply`."""
        self.replay_to: Index = 0
        """While its log is held: where that ended when the host started (catchup.py)."""
        # Snapshots.
        self.snapshot_file: SnapshotFile | None = None
        self.snapshot_index: Index = log.snapshot_point.index
        self.max_proposal_bytes = self.limit("max_proposal_bytes")
        self.max_uncommitted_bytes = self.limit("max_uncommitted_bytes")
        self.snapshot_interval_entries = self.limit("snapshot_interval_entries")
        self.snapshot_interval_bytes = self.limit("snapshot_interval_bytes")
        self.bytes_since_snapshot = 0
        self.asked_snapshot = False
        self.capture_waiters: list[Waiter] = []
        self.no_leader_since: float | None = None
        self.leader_version = 0
        self.told_leader: Member | None = None
        """As the last event had it; and the term."""
        self.told_term: Term = 0
        self._watchers: trio.lowlevel.ParkingLot | None = None

    def __repr__(self) -> str:
        return (
            f"<Group {self.id} member {self.member_id} {self.raft.role.name.lower()} term {self.raft.term}>"
        )

    # --- what programs call ------------------------------------------------------------------

    async def propose(self, data: bytes) -> object:
        """Replicate `data` and return what this host's `apply` returned for it.

        Works on any member. A checkpoint. Cancelled while there is no leader, it is never proposed;
        cancelled later, it may be applied all the same.

        Raises:
            ProposalTooLarge: Above `max_proposal_bytes`.
            ProposalDropped: Certainly not applied, and never will be.
            OutcomeUnknown: It may have been applied, or may yet be. If the group stopped while the
                proposal was under way, it is also an instance of the error that stopped it.
            NoLeader: There was no leader for `leader_wait_s`; certainly not applied.
            NotLeader: Forwarding is off and this host does not lead.
            StateMachineFailed, StorageFailed, HostClosed: The group cannot go on here.
            TypeError: `data` is not bytes.
        """
        self._admit((data,))
        waiter = TaskWaiter()
        self.proposals.queue(data, waiter)
        self.host.mark_dirty(self)
        try:
            return await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        except trio.Cancelled:
            self.proposals.withdraw(waiter)
            raise

    async def propose_many(self, data: Sequence[bytes]) -> list[object]:
        """Replicate several proposals in order, as one batch where it fits; their results.

        Raises:
            As `propose`; the error of the first one that failed. The others may be applied.
        """
        if isinstance(data, (bytes, bytearray, memoryview, str)):
            raise TypeError(f"proposals come as a sequence of bytes objects, not as {type(data).__name__}")
        data = list(data)
        if not data:
            self.check_running()
            await trio.lowlevel.checkpoint()
            return []
        self._admit(data)
        waiter = ManyWaiter(len(data))
        for each in data:
            self.proposals.queue(each, waiter)
        self.host.mark_dirty(self)
        try:
            return await waiter.wait()
        except trio.Cancelled:
            self.proposals.withdraw(waiter)
            raise

    async def query(self, request: object) -> object:
        """Answer `request` from this host's state machine, linearizably (thesis §6.4).

        Sees every write that was acknowledged, anywhere, before this call. Works on leader,
        follower and learner, and bypasses the log.

        Raises:
            NoLeader: There was no leader for `leader_wait_s`.
            Exception: Whatever the machine's `query` raised.
        """
        self.check_running()
        waiter = QueryWaiter(self, request)
        self.reads.queued.append(waiter)
        self.host.mark_dirty(self)
        return await trio.lowlevel.wait_task_rescheduled(waiter.abort)

    async def read_barrier(self) -> None:
        """Return once this host has applied all that was acknowledged before the call.

        Raises:
            NoLeader: There was no leader for `leader_wait_s`.
        """
        self.check_running()
        waiter = TaskWaiter()
        self.reads.queued.append(waiter)
        self.host.mark_dirty(self)
        await waiter.wait()

    def stale_query(self, request: object) -> object:
        """Answer from this host's state machine as it is, which may be behind.

        Raises:
            SnapshotUnavailable: The state is just being replaced by a received snapshot.
        """
        self.check_running()
        if self.restoring:
            raise SnapshotUnavailable("the state is being replaced by a snapshot just now")
        return self.machine.query(request)

    @property
    def leader(self) -> Member | None:
        """The member that leads, as far as this host knows."""
        return self.membership.members.get(self.raft.leader)

    @property
    def members(self) -> Mapping[MemberId, Member]:
        """The members by id, as of the last applied configuration.

        This host's own is shown as removed as soon as that is known: it may be told before it can apply
        its removal, and often never gets to apply it.
        """
        members = dict(self.membership.members)
        if self.removed is not None and self.member_id in members:
            members[self.member_id] = attrs.evolve(members[self.member_id], role=Role.REMOVED)
        return MappingProxyType(members)

    def status(self) -> GroupStatus:
        """How the group stands on this host."""
        raft = self.raft
        progress: dict[MemberId, PeerStatus] = {}
        if raft.role is RaftRole.LEADER:
            for member, p in raft.progress.items():
                progress[member] = PeerStatus(p.match, p.next, p.state.name.lower(), p.recent_active)
        return GroupStatus(
            id=self.id,
            member_id=self.member_id,
            term=raft.term,
            leader=self.leader,
            role=raft.role.name.lower(),
            commit=raft.committed,
            applied=self.applied,
            first_index=raft.first_index,
            last_index=raft.last_index,
            last_term=raft.log.last_term,
            snapshot_index=self.snapshot_index,
            members=self.members,
            version=self.membership.version,
            progress=MappingProxyType(progress),
            staging=self.host.staging_status(self),
            at_rest=self.at_rest,
            failed=None if (error := self.failed or self.removed) is None else str(error),
            generation=self.generation,
            warnings=tuple(self.warnings.values()),
        )

    @property
    def at_rest(self) -> bool:
        """Whether it has no business: it needs no ticks, however long nothing happens."""
        leads = self.raft.role is RaftRole.LEADER
        return not self.awake and self.failed is None and (leads or self.bond is not None)

    def leadership(self) -> Leadership:
        """Iterate over the leader: the present one first, then the one after every change.

        Level-triggered: a slow reader skips states that are over, but never misses the last one.
        `async for leader in group.leadership()` gets a `Member`, or None while there is none.

        Raises:
            HostClosed: The group or its host stopped; or why the group did.
        """
        return Leadership(self)

    async def wait_leader(self) -> Member:
        """Return the leader as soon as one is known.

        Raises:
            HostClosed: The group or its host stopped; or why the group did.
        """
        self.check_running()
        while (leader := self.leader) is None:
            await self.watch_leader()
        await trio.lowlevel.checkpoint()
        return leader

    async def transfer_leadership(self, to: MemberId) -> None:
        """Hand leadership to voter `to` and return once it leads (thesis §3.10).

        Works on any member. Proposals made meanwhile wait.

        Raises:
            MembershipRejected: `to` is not a voter of the group.
            TransferFailed: It did not lead within two election timeouts.
            NoLeader: There was no leader for `leader_wait_s`.
        """
        self.check_running()
        member = self.membership.members.get(to) if is_member_id(to) else None
        if member is None or member.role is not Role.VOTER:
            raise MembershipRejected(f"member {to!r} is not a voter of group {self.id}")
        config = self.host.config
        with trio.move_on_after(config.leader_wait_s):
            await self.wait_leader()
        if self.leader is None:
            raise NoLeader(f"group {self.id} has no leader")
        election_s = config.election_ticks * config.tick_interval_s
        asks_until = trio.current_time() + election_s
        with trio.move_on_after(2 * election_s) as waiting:
            while self.leader != member:
                # Again and again, as the request may be lost on its way to the leader, and the leader may
                # be another one by now. One that hands over to `to` already does not begin anew. Not in
                # the second half: what begins there might hold up proposals after we gave up.
                again_s = inf
                if trio.current_time() < asks_until:
                    self.raft.transfer_leadership(to)
                    self.host.mark_dirty(self)
                    again_s = config.heartbeat_ticks * config.tick_interval_s
                with trio.move_on_after(again_s):
                    await self.watch_leader()
        if waiting.cancelled_caught:
            raise TransferFailed(f"member {to} did not take over group {self.id} in time")

    async def step_down(self) -> None:
        """If this member leads, hand leadership to the voter that is furthest ahead.

        Returns once that voter leads, or at once if this member does not lead.

        Raises:
            MembershipRejected: There is no other voter.
            TransferFailed: It did not lead within two election timeouts.
        """
        self.check_running()
        if self.raft.role is not RaftRole.LEADER:
            await trio.lowlevel.checkpoint()
            return
        voters = {member.id for member in self.membership.members.values() if member.role is Role.VOTER}
        others = {id_: p for id_, p in self.raft.progress.items() if id_ in voters - {self.member_id}}
        if not others:
            raise MembershipRejected(f"group {self.id} has no other voter to lead it")
        await self.transfer_leadership(
            max(others, key=lambda id_: (others[id_].recent_active, others[id_].match))
        )

    async def snapshot(self) -> SnapshotInfo:
        """Take a snapshot now, without stopping the group.

        Raises:
            StateMachineFailed: The state machine could not be captured.
            StorageFailed: The file could not be written.
        """
        self.check_running()
        waiter = TaskWaiter()
        self.host.want_snapshot(self, waiter)
        file = cast("SnapshotFile", await waiter.wait())
        return SnapshotInfo(file.path, file.snapshot.index, file.snapshot.term, file.file_bytes)

    # --- what the scheduler calls --------------------------------------------------------------

    def warn(self, key: object, text: str) -> bool:
        """Keep a warning for `status`; whether it is a new one. The oldest go."""
        new = key not in self.warnings
        self.warnings[key] = text
        if len(self.warnings) > WARNINGS_MAX:
            del self.warnings[next(iter(self.warnings))]
        return new

    def leader_changed(self) -> None:
        self.leader_version += 1
        if self._watchers is not None:
            self._watchers.unpark_all()

    def members_changed(self, leader: Member | None) -> None:
        """The members are others now; the leader was `leader` by what was known of it."""
        if self.leader != leader:
            self.leader_changed()
        elif self._watchers is not None:
            self._watchers.unpark_all()

    def set_removed(self, error: MemberRemoved) -> None:
        """This member was removed: programs can do nothing more with it."""
        self.removed = error
        self._tell_all(error)

    def stop(self, error: MultiraftError) -> None:
        """No more work here: everybody who waits is told. Called once; `failed` keeps the error."""
        assert self.failed is None
        self.failed = error
        self._tell_all(error)
        self.host.stopped(self)

    def _tell_all(self, error: MultiraftError) -> None:
        self.proposals.fail_all(error, unknown=f"{error} before the result was known")
        self.reads.fail_all(error)
        waiters, self.capture_waiters = self.capture_waiters, []
        for waiter in waiters:
            waiter.fail(error)
        self.leader_changed()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for something here, who was not cancelled meanwhile."""
        return self.proposals.awaited or self.reads.awaited or any(map(listens, self.capture_waiters))

    def limit(self, name: str) -> int:
        """A limit of this group: its own, or the host's."""
        own = self.limits.get(name)
        return cast("int", getattr(self.host.config, name)) if own is None else own

    # --- helpers -----------------------------------------------------------------------------

    def _admit(self, data: Sequence[bytes]) -> None:
        """Whether these may be queued. Raises: As `propose`."""
        host, table = self.host, self.proposals
        if self.removed is not None or self.failed is not None or host.closing:
            self.check_running()
        limit, size = self.max_proposal_bytes, 0
        for each in data:
            if not isinstance(each, bytes):
                raise TypeError(f"a proposal is bytes, not {type(each).__name__}")
            if len(each) > limit:
                raise ProposalTooLarge(len(each), limit)
            size += len(each)
        if not host.budget.has_room(size):
            raise ProposalDropped(HOST_LIMIT_REASON)
        if not table.has_room(size, self.max_uncommitted_bytes):
            raise ProposalDropped(GROUP_LIMIT_REASON)
        if len(table.payloads) + len(data) > host.config.max_queued_proposals:
            raise ProposalDropped("too many proposals are queued (max_queued_proposals)")

    async def _propose_change(self, change: Change) -> None:
        self.check_running()
        waiter = TaskWaiter()
        self.proposals.changes.append(QueuedChange(change.conf_change().encode(), waiter))
        self.host.mark_dirty(self)
        try:
            await waiter.wait()
        except trio.Cancelled:
            self.proposals.withdraw_change(waiter)
            raise

    def check_running(self) -> None:
        if self.removed is not None:
            raise fresh(self.removed)
        if self.failed is not None:
            raise fresh(self.failed)
        if self.host.closing:
            raise HostClosed("the host is closing")

    async def watch_leader(self) -> None:
        """Return after the next change of leader. Raises: Why the group stopped."""
        self.check_running()
        if self._watchers is None:
            self._watchers = trio.lowlevel.ParkingLot()
        await self._watchers.park()
