"""The scheduler: one plain object that moves every group of a host forward, pass by pass.

Arriving frames, finished writes and proposals only fill queues. A pass drains them, steps the
cores, and gathers what all groups have to say: one frame per peer and lane, one batch for the
log, one round of applying. Its cost follows the groups that have work, never those that exist.

    proposals, reads ─┐
    inbox (frames) ───┼─> step ─> dirty groups ─> ready ─┬─> routes ──> transport (at once)
    finished writes ──┘                                  ├─> batch ───> log ──> responses, later
                                                         └─> applier ─> results to waiters

What may leave when. A leader's appends, and anything else that promises nothing, leave at the
end of the pass, in parallel with the local sync (thesis §10.2.1). What promises durability
(append acknowledgements, votes, the leader's own acknowledgement: `Ready.responses`) waits for
the sync of the batch that holds what it promises, and of everything of that group before it.

There is no trio here and no clock of its own: the engine and the simulator both drive it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType

import attrs

from multiraft.acquaintances import Acquaintances
from multiraft.applied import Applied
from multiraft.apply import Applier
from multiraft.arrivals import Arrivals
from multiraft.beats import Beater
from multiraft.budget import Budget
from multiraft.catalog import Catalog
from multiraft.catchup import CatchUp
from multiraft.config import HostConfig
from multiraft.departures import Departures
from multiraft.elections import Elections
from multiraft.environment import Environment, Recalled
from multiraft.errors import (
    CorruptRecord,
    GroupFailed,
    GroupNotFound,
    HostClosed,
    MultiraftError,
    StorageFailed,
)
from multiraft.events import Events, GroupStopped, HostFailed, LeaderChanged, MembersChanged
from multiraft.express import Express
from multiraft.group import Group
from multiraft.inbox import MESSAGES_MAX, Inbox
from multiraft.installer import Installer
from multiraft.intake import Intake
from multiraft.joining import Joining
from multiraft.liveness import Liveness
from multiraft.membership import GroupMeta, Membership
from multiraft.messages import (
    Envelope,
    HardState,
    Hello,
    Lane,
    Message,
    MessageType,
    Snapshot,
)
from multiraft.outcomes import Outcomes
from multiraft.passplan import PassPlan
from multiraft.post import Post
from multiraft.proposals import Waiter
from multiraft.raft.core import RaftRole
from multiraft.raft.failures import (
    EntriesLost,
    PeerNotFound,
    RaftFailure,
    StepLocalMessage,
)
from multiraft.raft.ready import Ready
from multiraft.recovery import Recovery
from multiraft.rest import Rest
from multiraft.rhythm import Rhythm
from multiraft.snapshots import Snapshots
from multiraft.staging import Staging
from multiraft.statistics import SchedulerStatistics
from multiraft.ticker import Ticker, owed_ticks_max
from multiraft.types import GroupId, ReadMode
from multiraft.writes import Held, Stored, Writes

WRITES_IN_FLIGHT_MAX = 2
"""Batches at the log before proposals wait: one being synced, one filling up behind it."""

BACKLOG_MESSAGES = 1024
"""Messages and rows waiting for a pass above which a host is behind: some 50 ms of work."""

PASS_BYTES_MAX = 64 << 20
"""Payload for the log after which a pass leaves other groups to the next one."""

APPLY_UNTIL = 2.5
"""State machines are fed in a pass until it has taken so many times what it is planned for."""

CLOCK_CHECK_GROUPS = 32
"""Groups between two looks at the clock within a pass."""


class Scheduler:
    """All groups of one host. Implements `Receiver` and `GroupHost`."""

    def __init__(self, config: HostConfig, environment: Environment) -> None:
        self.config = config
        self._env = environment
        self._clock = environment.clock
        self._store = environment.store
        self.groups: dict[GroupId, Group] = {}
        self.failure: MultiraftError | None = None
        """Why the host does nothing any more."""
        self.closing = False
        self.budget = Budget(config.max_host_uncommitted_bytes)
        self.events = Events()

        self._inbox = Inbox()
        self._calls: deque[Callable[[], None]] = deque()
        self._dirty: list[Group] = []
        self._plan = PassPlan(config.max_pass_s)
        self._awake = False
        """Woken since the last pass, so that waking again costs nothing."""
        owed_max = owed_ticks_max(config.election_ticks, leases=config.read_mode is ReadMode.LEASE)
        self._ticker = Ticker(self._clock.now(), config.tick_interval_s, owed_max)
        interval_s = config.heartbeat_ticks * config.tick_interval_s
        self._rhythm = Rhythm(self._clock.now() + interval_s, interval_s)
        """When beats are due: a tick may be late, they may not."""
        self._tick_after: tuple[int, int, int] | None = None
        """A tick is due; it is counted when what had arrived till then is handled."""
        self._ticking = False
        """A tick is being counted; not all groups were told yet."""
        self._still = False
        """After the last pass nobody was awake, nor asleep until a certain tick: ticks come with beats."""
        self._collecting = False
        self._behind = False
        self._late_reads: list[tuple[Group, Message]] = []
        """Reads of other members that came while ticks were owed."""

        self._writes = Writes(
            self._store,
            written=self._written,
            call_soon=self._call_soon,
            call_next=self._call_next,
            failed=self.fail,
        )
        apply_executor = Recalled(environment.apply_executor, self._call_soon)
        snapshot_executor = Recalled(environment.snapshot_executor, self._call_soon)
        self._post = Post(
            environment.transport,
            environment.snapshots,
            self.groups,
            self.events,
            call_soon=self._call_soon,
            call_next=self._call_next,
            mark_dirty=self.mark_dirty,
        )
        self._acquaintances = Acquaintances(
            self._post,
            environment.hello.host_id,
            record=self._record_meta,
            again=self._step,
            failed=self._group_failed,
        )
        self._rest = Rest(
            config,
            moved=self._moved,
            queue=lambda session: self._liveness.queue(session),
            timed_out=lambda group: self._elections.timed_out(group),
        )
        self._liveness = Liveness(
            config,
            environment.hello,
            self.groups,
            self._post,
            self._rest,
            step=self._step_core,
            admit=self._acquaintances.admit,
            mark_dirty=self.mark_dirty,
            call_soon=self._call_soon,
        )
        self._post.carry = self._liveness.carry
        self._post.lane_lost = self._liveness.lost
        self._post.released = self._liveness.released
        self._beater = Beater(
            self.groups,
            self._post,
            step=self._step_core,
            admit=self._acquaintances.admit,
            foreign=self._acquaintances.foreign,
            mark_dirty=self.mark_dirty,
            wake=self._rest.wake,
            heard=self._liveness.heard,
        )
        self._intake = Intake(
            config,
            self._clock,
            apply_executor,
            self._post,
            environment.hello.epoch,
            self.budget,
            mark_dirty=self.mark_dirty,
            wake=self.wake,
        )
        self.joining = Joining(
            self.groups,
            self._post,
            environment.hello.epoch,
            environment.hello.address,
            mark_dirty=self.mark_dirty,
            call_soon=self._call_soon,
        )
        self._departures = Departures(config, self._post, self.events, record=self._record_meta)
        self._outcomes = Outcomes(mark_dirty=self.mark_dirty)
        self._applied = Applied(
            self._liveness,
            self._departures,
            self._outcomes,
            self._writes,
            members_changed=self._members_changed,
            mark_dirty=self.mark_dirty,
            moved=self._moved,
            stand=self.stand,
        )
        self._applier = Applier(
            environment.machines,
            apply_executor,
            self._clock,
            applied=self._applied.applied,
            applied_run=self._applied.applied_run,
            configure=self._applied.configure,
            failed=self._group_failed,
            store_failed=self.fail,
        )
        self._catch_up = CatchUp(config.election_ticks, self._clock, self._applier.add)
        self._snapshots = Snapshots(
            environment.snapshots,
            snapshot_executor,
            apply_executor,
            self._applier,
            self.events,
            compact=self._compact,
            store_failed=self.fail,
            group_failed=self._group_failed,
        )
        self._applied.snapshots = self._snapshots
        self._installer = Installer(
            self.groups,
            environment.snapshots,
            self._snapshots,
            self._post,
            self.events,
            is_stranger=self._acquaintances.is_stranger,
            step=self._step_core,
            release=self._release,
            members_changed=self._members_changed,
            mark_dirty=self.mark_dirty,
            call_soon=self._call_soon,
        )
        self.snapshot_sink = self._installer.snapshot_sink
        self.snapshot_received = self._installer.snapshot_received
        self._staging = Staging(config.election_ticks, config.tick_interval_s, mark_dirty=self.mark_dirty)
        self.staging_status = self._staging.status
        self._elections = Elections(
            config.election_ticks,
            random=environment.random,
            moved=self._moved,
            wake=self._rest.wake,
            receive=self.receive,
            is_behind=self._is_behind,
        )
        self.catalog = Catalog(
            config,
            environment,
            self,
            self.groups,
            self._post,
            self.events,
            snapshot_executor,
            apply_executor,
            self._writes.submit,
            self._elections,
            self._catch_up,
            linger=self._departures.linger,
        )
        self.recovery = Recovery(
            environment,
            self.groups,
            self.catalog,
            self._post,
            snapshot_executor,
            apply_executor,
            self._writes.submit,
        )
        self.run_query = self._intake.run_query
        self._express = Express(
            self.groups,
            self._post,
            self._writes,
            self._applier,
            self._catch_up,
            step=self._step,
            step_core=self._step_core,
            foreign=self._acquaintances.foreign,
            mark_dirty=self.mark_dirty,
            wake=self._rest.wake,
            heard=self._liveness.heard,
        )
        self._intake.lead = self._express.lead
        self._rest.beat = self._beater.gather
        self._liveness.take = self._beater.take = self._express.take
        self._arrivals = Arrivals(
            self.groups,
            self._inbox,
            self._clock,
            self._post,
            acquaintances=self._acquaintances,
            beater=self._beater,
            departures=self._departures,
            elections=self._elections,
            express=self._express,
            joining=self.joining,
            liveness=self._liveness,
            step=self._step,
            mark_dirty=self.mark_dirty,
        )
        self._leading: set[Group] = set()
        self._stopped: set[Group] = set()

    # --- the pass ------------------------------------------------------------------------------

    def run_pass(self) -> bool:
        """Do what there is to do, for about twice `max_pass_s` if there is that much. True: there is more.

        The order, and what bounds each part (whatever is left stays in line, and comes first the next
        time). T is `max_pass_s`, or down to half of it after passes that took much longer all the same
        (passplan.py): with very many groups at work what is not cut takes longer, and so does everything
        where others want the processor.

        1. what workers and the log have done, until 2 T; if that is not all, the pass ends there, as
           nothing may overtake it
        2. what has arrived, in pieces, the lane of liveness and votes first (inbox.py), until T, and
           one piece at least. Beats that are due by the clock are noted before, and leave with this pass; a
           tick that only waited for it, on a host at rest, is counted before
        3. a tick, if one is due and all that had arrived by then is handled: its groups until T, or for two
           fifths of T if that is longer. The next tick does not begin before all groups had this one
        4. groups whose session has ended or begun are told, until T, and one piece at least (partings.py)
        5. the groups that are dirty, oldest first, for T, but not beyond 2 T, and a fifth of T at least;
           no longer than that while state machines are behind
        6. what machines lack after a restart, in what is left of that, and one piece at least (catchup.py)
        7. state machines in this thread get what is committed, until 2.5 T, and one piece at least; beside
           others 256 results of a large run are handed out, and not in every pass (outcomes.py)
        8. what all of this has to say to others, and to the log

        The clock is looked at between pieces, and those are small: 32 messages or groups, 128 rows, 64
        entries and groups that are fed. So no part starves another, and no group the others of its part.
        What is not cut is what one machine is fed at a time, `max_apply_bytes` at most, and what one job of
        the worker finished.
        """
        started = self._clock.now()
        whole = self._plan.seconds
        deadline = started + whole
        calls = self._calls
        while calls:
            calls.popleft()()
            if calls and self._clock.now() > deadline + whole:
                break
        if self.failure is not None:
            return False
        if calls:
            # Nothing may overtake them: what they report came before anything that waits.
            self._finish_pass(started)
            return True
        tick_at = self._ticker.next_at
        if tick_at <= started and not self._ticking and self._tick_after is None:
            if self._still and started < tick_at + self.config.tick_interval_s:
                # It was due before this arrived, and only waited for a pass: who is heard now was not heard
                # before it. (Counted afterwards, it would be taken for a tick of silence since.)
                self._ticking = self._ticker.take(started)
                self._rest.begin_tick()
                self._go_on_ticking(deadline)
            else:
                self._tick_after = self._inbox.mark()
        rhythm, liveness = self._rhythm, self._liveness
        if rhythm.due_at <= started:
            rhythm.beaten(started)
            liveness.beat()
        self._arrivals.drain(deadline)
        if liveness.paced:
            liveness.paced = False
            rhythm.heard(started)
            if rhythm.due_at <= started:
                rhythm.beaten(started)
                liveness.beat()
        # Only after what arrived: a host that was paused must not time out a leader whose
        # messages are already here (LIVENESS of raft, thesis §6.4.1). But not after what came
        # later, or a stream of messages that never ceases would stop the heartbeats.
        if self._tick_after is not None and self._inbox.is_past(self._tick_after):
            self._tick_after = None
            if self._ticker.take(started):
                self._rest.begin_tick()
                self._ticking = True
        if self._ticking:
            self._go_on_ticking(deadline)
        # A host that was paused owes ticks. Until raft has had them it may believe in a lease that
        # is over, so nothing is read.
        self._behind = self._ticking or self._ticker.next_at <= started
        if self._late_reads and not self._behind:
            self._step_late_reads()
        partings = self._liveness.partings
        if partings.due:
            partings.go_on(self._clock.now, deadline)
        # A time of its own: were it what ticking and the inbox left over, a host that is behind
        # would take in more than it finishes, pass after pass, and never get out of that.
        now = self._clock.now()
        deadline = now + whole / 5
        if not self._applier.behind:
            deadline = max(deadline, min(now + whole, started + 2 * whole))
        self._collect_dirty(deadline)
        catch_up = self._catch_up  # after a restart only: not even a call for it in other passes
        if catch_up.awaited or catch_up.others:
            catch_up.take(deadline)
        self._finish_pass(started)
        rest = self._rest
        self._still = not (rest.ticked or rest.due)
        return bool(
            self._dirty
            or self._applier.behind
            or self._outcomes.groups
            or self._inbox.weight
            or self._calls
            or self._ticking
            or partings.due
            or catch_up.awaited
            or (catch_up.others and catch_up.busy)
            or self._ticker.next_at <= started
        )

    def _finish_pass(self, started: float) -> None:
        self._flush(started)
        self._plan.took(self._clock.now() - started, len(self.groups))
        # Whatever woke the scheduler during the pass is either done or in what its end looks at.
        self._awake = False

    @property
    def crowded(self) -> bool:
        """Whether the last pass had business of so many groups that fuller passes are cheaper."""
        return self._intake.crowded

    @property
    def ticks(self) -> int:
        """Tick intervals since the host was opened."""
        return self._rest.ticks

    @property
    def next_tick_at(self) -> float:
        return self._ticker.next_at

    @property
    def next_wake_at(self) -> float:
        """When the next pass is due if nothing else calls for one: for beats, or for a tick.

        While nobody is awake, or waits for a certain tick, nothing hangs on a tick but how soon a silence is
        noticed. Then it is counted with the next beats, within an interval: one wake-up instead of two.
        """
        tick_at = self._ticker.next_at
        if self._still:
            tick_at += self.config.tick_interval_s
        return min(self._rhythm.due_at, tick_at)

    def mark_dirty(self, group: Group) -> None:
        """The group has work: the next pass looks at it."""
        if not group.dirty:
            group.dirty = True
            self._dirty.append(group)
            if not group.awake:
                self._rest.wake(group)
            self.wake()

    def _is_behind(self) -> bool:
        """Whether more has arrived, or more ticks are due, than the passes keep up with."""
        late = self._clock.now() - self._ticker.next_at
        return self._inbox.weight > BACKLOG_MESSAGES or late > self.config.tick_interval_s

    def wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._env.wake()

    def _call_soon(self, call: Callable[[], None]) -> None:
        """Have `call` made at the start of the next pass: never between two of its steps."""
        self._calls.append(call)
        self.wake()

    def _call_next(self, calls: Sequence[Callable[[], None]]) -> None:
        """From within such a call: have these made in order, before all others that wait."""
        self._calls.extendleft(reversed(calls))

    def _collect_dirty(self, deadline: float) -> None:
        dirty, self._dirty = self._dirty, []
        intake = self._intake
        intake.crowded = len(dirty) >= intake.crowd_groups
        if dirty:
            self._outcomes.see(dirty, self._rest.ticks)
        self._writes.pass_bytes = 0
        for count, group in enumerate(dirty, 1):
            group.dirty = False
            if group.failed is None:
                self._collect(group)
            late = count % CLOCK_CHECK_GROUPS == 0 and self._clock.now() > deadline
            if late or self._writes.pass_bytes >= PASS_BYTES_MAX:
                # Those left go first next time, before whoever became dirty meanwhile.
                self._dirty = dirty[count:] + self._dirty
                break

    def _collect(self, group: Group) -> None:
        """Move one group forward: its proposals and reads in, its Ready out."""
        raft, proposals = group.raft, group.proposals
        if proposals.payloads or proposals.again or proposals.changes:
            self._intake.propose(group, self._writes.under_way >= WRITES_IN_FLIGHT_MAX)
        if group.reads.queued and group.reads.may_ask:
            if self._behind:
                self.mark_dirty(group)
            else:
                self._intake.ask(group)
        if raft.has_ready():
            self._handle(group, raft.ready())
        if group.replay_to:
            self._catch_up.want(group)

    def _handle(self, group: Group, ready: Ready) -> None:
        """Hand out one Ready: messages, what to write, what to apply."""
        if ready.soft_state is not None:
            self._leader_changed(group)
        route = self._post.route
        for message in ready.messages:
            route(group, message)
        if ready.runs or ready.snapshot is not None or ready.must_sync:
            self._write(group, ready)
        elif ready.responses:
            if group.unsynced:
                # They promise what an earlier batch holds: go with the next one, behind it.
                self._writes.hold(group, ready.responses, None)
            else:
                self._installer.deliver(group, Held(group, ready.responses, None))
        if ready.committed:
            self._applier.add(group, ready.committed)
        for state in ready.read_states:
            # A machine that is being restored, perhaps in a worker, is nothing to be asked: wait.
            applied = -1 if group.restoring else group.applied
            group.reads.confirmed(state.context, state.index, applied)

    def _write(self, group: Group, ready: Ready) -> None:
        batch = self._writes.batch
        if ready.snapshot is not None:
            batch.snapshot(group.id, ready.snapshot)
        if ready.runs:
            batch.append(group.id, ready.runs)
            for run in ready.runs:
                self._writes.pass_bytes += run.size
        # A commit index alone need not be durable: it is learned again from the leader, or from
        # the next election. So a commit costs no record, let alone a sync.
        state = ready.hard_state
        if state is not None and (state.term, state.vote) != group.promised:
            group.promised = (state.term, state.vote)
            batch.hard_state(group.id, state)
        elif any(run.kind for run in ready.runs):
            # With a configuration change goes the commit index. A leader proposes one only when
            # those before it are applied, so whoever has it on disk then knows those as committed,
            # and applies them before it stands for election. Without this a member that restarts
            # could stand under a configuration two changes old, whose majority need not overlap
            # with the present one's: two leaders. The commit index is within what this batch holds.
            raft = group.raft
            batch.hard_state(group.id, HardState(raft.term, raft.vote, raft.committed))
        self._writes.hold(group, ready.responses, ready.snapshot)

    def _flush(self, started: float) -> None:
        """The end of a pass: everything gathered goes out."""
        applier, outcomes = self._applier, self._outcomes
        if applier.inline:
            outcomes.see(applier.inline, self._rest.ticks)
        if applier.blocking:
            outcomes.see(applier.blocking, self._rest.ticks)
        applier.flush(started + APPLY_UNTIL * self._plan.seconds)
        if outcomes.groups:
            outcomes.hand_out(self._rest.ticks)
        self._intake.flush_queries()
        # What groups do not keep to any more is said before any acknowledgement of a beat leaves: all that
        # moves a core asks `Liveness.check` at once, be it the group's turn in this pass or not.
        self._liveness.flush()
        self._post.flush()
        self._writes.flush()

    def _written(self, held: Iterable[Held], stored: Iterable[Stored]) -> None:
        """A batch is on disk: what it allowed to be promised leaves now."""
        self._express.written(stored)
        for each in held:
            group = each.group
            group.unsynced -= 1
            if group.failed is not None:
                continue
            if each.snapshot is None and not self._installer.installing:
                self._release(group, each.responses)
            else:
                self._installer.deliver(group, each)
        if self._intake.held_back:
            back, self._intake.held_back = self._intake.held_back, []
            for group in back:
                self.mark_dirty(group)

    def _release(self, group: Group, responses: list[Message]) -> None:
        own, route = group.member_id, self._post.route
        raft = group.raft
        for message in responses:
            if message.to != own:
                route(group, message)
            else:
                self._take(group, message)
        # What a held log has on disk now is not ready, and yet may be wanted (catchup.py).
        if not group.dirty and (raft.has_ready() or group.replay_to):
            self.mark_dirty(group)

    def _leader_changed(self, group: Group) -> None:
        group.leader_changed()
        if group.raft.role is RaftRole.LEADER:
            self._leading.add(group)
        else:
            self._leading.discard(group)
            group.proposals.put_down()
        self._tell_leader(group)
        self._staging.watch(group)
        self._elections.leader_changed(group)
        self._catch_up.leader_changed(group)
        # Raft dropped the reads of the old leadership; ask the new leader, if there is one.
        group.reads.ask_again(float("inf"))
        if group.raft.leader:
            group.no_leader_since = None
            # The same leader may be heard again in the same term, with a link that broke between.
            self._post.resend(group)
            if group.proposals.queued or group.reads.queued:
                self.mark_dirty(group)
        else:
            group.no_leader_since = self._clock.now()
        self._intake.watch(group)

    def _tell_leader(self, group: Group) -> None:
        leader, term = group.leader, group.raft.term
        if leader != group.told_leader or (leader is not None and term != group.told_term):
            group.told_leader, group.told_term = leader, term
            if self.events.on:
                self.events.emit(LeaderChanged(group.id, leader, term))

    def _go_on_ticking(self, deadline: float) -> None:
        """Tell groups that a tick interval is over; when all were told, everybody else."""
        now = self._clock.now()
        if self._rest.go_on(self._clock.now, max(deadline, now + 0.4 * self.config.max_pass_s)):
            self._ticking = False
            self._tick(now)

    def _tick(self, now: float) -> None:
        self._elections.tick()
        self._catch_up.tick()
        self._liveness.tick()
        self._intake.tick(now)
        if self._snapshots.busy:
            self._snapshots.start()
        self._departures.tick()
        self._staging.tick()
        self._acquaintances.tick()
        if self.ticks % (10 * self.config.election_ticks) == 0:
            self._post.sweep()
            self.events.refresh()
        if self._collecting or self.ticks % self.config.election_ticks == 0:
            self._collect_segments()

    def _collect_segments(self) -> None:
        """One bounded step of the log's collector per tick, while there is something to do."""
        try:
            collection = self._store.collect()
        except (CorruptRecord, StorageFailed) as error:
            self.fail(error)
            return
        self._collecting = collection.more
        for group_id, _ in collection.laggards:
            group = self.groups.get(group_id)
            if group is not None and group.failed is None and group.applied > group.snapshot_index:
                self._snapshots.want(group, None)

    def peer_down(self, address: str, lane: Lane, reason: str) -> None:
        """Our stream to `address` is not open."""
        self._liveness.peer_down(address, lane)
        self._post.peer_down(address, lane, reason)

    def receive(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        """Queue one frame for the next pass."""
        self._inbox.put(peer, lane, items)
        self.wake()

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        """Our stream to another host is open (again)."""
        self._liveness.peer_up(peer, lane)
        self._post.peer_up(peer, lane)
        if lane is Lane.LIVENESS:
            self._call_soon(lambda: self._elections.reached(peer.address))

    @property
    def has_room(self) -> bool:
        """Whether streams may be read on."""
        return self._inbox.weight < MESSAGES_MAX

    def _step(self, peer: Hello, group: Group, message: Message) -> None:
        if message.to != group.member_id:
            # For another member of this group, that was here before. Who does not know may be out itself,
            # and a learner that is waits for its leader for ever.
            self._post.tell_if_removed(group, message.sender, peer)
            return
        if group.hosts.get(message.sender) != peer.host_id and not self._acquaintances.admit(
            peer, group, message
        ):
            return
        if message.sender not in group.routes and self._post.learn(group, message.sender, peer) is None:
            return
        kind = message.type
        if not group.awake:
            self._rest.wake(group)
        elif message.term != group.raft.term:
            self._rest.fold(group)  # what it means hangs on when the leader was last heard
        if kind is MessageType.PROP:
            self._intake.step_forwarded(group, message)
        elif kind is MessageType.READ_INDEX and (self._ticking or self._ticker.next_at <= self._clock.now()):
            self._late_reads.append((group, message))  # as with our own: see `run_pass`
        elif kind is not MessageType.SNAP:  # a snapshot arrives as a file, in a request of its own
            raft = group.raft
            self._take(group, message)
            if (
                (kind is MessageType.APP or kind is MessageType.HEARTBEAT)
                and group.bond_term != raft.term
                and message.term == raft.term
                and message.sender == raft.leader
            ):
                self._liveness.heard(group)
        if not group.dirty:
            self.mark_dirty(group)  # whether anything came of it is asked once, at its turn

    def _step_late_reads(self) -> None:
        reads, self._late_reads = self._late_reads, []
        for group, message in reads:
            if group.failed is None:
                self._step_core(group, message)
                self.mark_dirty(group)

    def _step_core(self, group: Group, message: Message) -> None:
        # Before the core hears something: it goes by the time that it is.
        if not group.awake:
            self._rest.wake(group)
        else:
            self._rest.fold(group)
        self._take(group, message)

    def _take(self, group: Group, message: Message) -> None:
        raft = group.raft
        try:
            raft.step(message)
        except MultiraftError as error:
            self._step_failed(group, error)
        if group.bond_term != raft.term or group.bond_leader != raft.leader:
            self._liveness.check(group)

    def stand(self, group: Group) -> None:
        """Have it stand for election now, if its member may."""
        group.raft.campaign()
        self._moved(group)

    def _moved(self, group: Group) -> None:
        """Its core did something by itself."""
        if group.bond_term:
            self._liveness.check(group)
        self.mark_dirty(group)

    def _step_failed(self, group: Group, error: MultiraftError) -> None:
        """What a core would not take."""
        if isinstance(error, EntriesLost):
            # Of a log that tears are cut off and damage stops, this is left: it is another log.
            self._group_failed(group, self._acquaintances.forgotten(group, str(error)))
        elif isinstance(error, RaftFailure):
            self._group_failed(group, GroupFailed(f"group {group.id}: {error}"))
        elif not isinstance(error, (PeerNotFound, StepLocalMessage)):
            raise error
        # Otherwise an answer that outlived a membership, or one that nobody may send.

    def _members_changed(self, group: Group, membership: Membership, complete: bool) -> None:
        leader, version = group.leader, group.membership.version
        group.membership = membership
        self._post.connect(group)
        group.members_changed(leader)
        if self.events.on and membership.version != version:
            # Not `group.members`: after a restart a removed member applies again what was before that.
            members = MappingProxyType(dict(membership.members))
            self.events.emit(MembersChanged(group.id, members, membership.version, complete))
        self._tell_leader(group)
        self._staging.watch(group)

    def want_snapshot(self, group: Group, waiter: Waiter | None) -> None:
        """Take a snapshot of the group as soon as may be."""
        self._snapshots.want(group, waiter)

    def adopt_generation(self, group: Group, generation: int) -> None:
        """A blank member, which knows nothing of its group yet, is to be of this generation."""
        group.meta = attrs.evolve(group.meta, generation=generation)
        group.generation = generation
        self._call_soon(lambda: self._record_meta(group, group.meta) if group.failed is None else None)

    def _record_meta(self, group: Group, meta: GroupMeta, done: Callable[[], None] | None = None) -> None:
        self._writes.batch.meta(group.id, meta.encode())
        if done is not None:
            self._writes.calls.append(done)

    def _compact(self, group: Group, snapshot: Snapshot, index: int) -> None:
        """The snapshot's file is durable: record it, and only then let older files go."""
        self._writes.batch.compact(group.id, snapshot, index)

        def done() -> None:
            if group.failed is None:
                self._snapshots.compacted(group)

        self._writes.submit_batch(done)

    def stopped(self, group: Group) -> None:
        """The group has failed, or was stopped on purpose: nobody may count on it any more."""
        self._leading.discard(group)
        if not isinstance(group.failed, GroupNotFound):  # then it is not here any more
            self._stopped.add(group)
        self._liveness.check(group)
        self._installer.forget(group)

    def _group_failed(self, group: Group, error: MultiraftError) -> None:
        """One group's trouble is its own: it stops here, and no other does."""
        if group.failed is None:
            group.stop(error)
            self.events.emit(GroupStopped(group.id, error))

    def fail(self, error: MultiraftError) -> None:
        """The host's trouble stops all of it: nothing more is acknowledged."""
        if self.failure is not None:
            return
        self.failure = error
        for group in self.groups.values():
            if group.failed is None:
                group.stop(error)
        self._stop_helpers(error)
        self.events.emit(HostFailed(error))
        self.events.end(error)
        self._env.failed(error)

    def _stop_helpers(self, error: MultiraftError) -> None:
        """Tell those who wait for something that belongs to no group, or left its group's tables."""
        self.catalog.stop(error)
        self._intake.stop(error)
        self.joining.stop(error)
        self._snapshots.stop(error)

    def check_open(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.closing:
            raise HostClosed("the host is closing")

    @property
    def pending(self) -> bool:
        """Whether anything that a caller waits for is under way."""
        return (
            self._writes.under_way > 0
            or bool(self._calls)
            or self._applier.busy
            or self._intake.busy
            or self.catalog.busy
            or self._snapshots.awaited
            or any(g.awaited for g in self._waiting_or_dirty())
        )

    def _waiting_or_dirty(self) -> Iterable[Group]:
        return (group for group in self.groups.values() if group.failed is None)

    def close(self) -> None:
        """Stop all groups; what still waits fails with `HostClosed`. Writes the last commits."""
        error = HostClosed("the host was closed")
        batch = self._store.batch()
        for group in self.groups.values():
            if group.failed is None:
                group.stop(error)
                # Not needed for safety; it saves a restarted host the wait for its leader.
                state = group.log.hard_state
                # Only up to where the log on disk is raft's own: what raft has replaced and not yet
                # handed out to be written still stands behind that.
                unstable = group.raft.log.unstable
                commit = min(group.raft.committed, unstable.offset - 1)
                if commit > state.commit and group.unsynced == 0 and unstable.snapshot is None:
                    batch.hard_state(group.id, attrs.evolve(state, commit=commit))
        self._stop_helpers(error)
        if self.failure is None:
            self.failure = error
            self.events.end(error)
            if batch:
                self._store.submit(batch, lambda: None)

    def statistics(self) -> SchedulerStatistics:
        """How much went through since the host was opened. Costs no more with more groups at rest."""
        leading = len(self._leading)
        self._stopped = {group for group in self._stopped if self.groups.get(group.id) is group}
        return SchedulerStatistics(
            groups=len(self.groups),
            at_rest=self._rest.count_at_rest(self._liveness.attached, leading),
            leading=leading,
            stopped=len(self._stopped),
            passes=self._plan.histogram.count,
            pass_ms_max=self._plan.histogram.max_ms,
            pass_histogram_ms=self._plan.histogram.buckets(),
            applied_entries=self._applied.entries,
            proposed_runs=self._intake.proposed_runs,
            snapshots_taken=self._snapshots.taken,
            lost_messages=self._post.lost_messages,
            inbox_messages=self._inbox.weight,
            uncommitted_bytes=self.budget.used,
        )
