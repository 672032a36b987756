"""Known bugs, to be planted in the real code: who trusts the simulator should see it catch them.

Each is a context manager that patches the code under test and puts it back. Most are faults that
real systems had; some this code had until the simulator found them. A patched function repeats as
little of the real one as it can, so that it goes on being that function with one bug in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs

from multiraft import intake
from multiraft.acquaintances import Acquaintances
from multiraft.apply import Applier, Work
from multiraft.departures import Departures
from multiraft.elections import Elections
from multiraft.errors import ProposalDropped
from multiraft.express import Express
from multiraft.group import Group
from multiraft.installer import Installer
from multiraft.messages import ConfChange, HardState, Message, MessageType, Run, Snapshot
from multiraft.proposals import ProposalTable
from multiraft.raft import confchange, core, follower, leader, leader_reads, steady
from multiraft.raft.core import RaftRole
from multiraft.raft.election import on_vote_request
from multiraft.raft.failures import ConfChangeRefused
from multiraft.raft.leader import become_leader
from multiraft.raft.log import RaftLog
from multiraft.raft.quorum import VoteResult
from multiraft.raft.ready import Ready
from multiraft.raft.state import State
from multiraft.raft.steady import acknowledge
from multiraft.raft.tracker import Tracker
from multiraft.scheduler import Scheduler
from multiraft.staging import Staging
from multiraft.storage.appender import Appender
from multiraft.storage.batch import Batch
from multiraft.storage.memory import MemoryFile
from multiraft.types import Index, MemberId, Term
from multiraft.writes import Held, Writes

Mutant = Callable[[], AbstractContextManager[None]]

MUTANTS: dict[str, Mutant] = {}

_MEMBERS: dict[str, Any] = {"change_every_s": 0.08, "spare_hosts": 2}

FOCUS: dict[str, dict[str, Any]] = {
    "leads_before_its_own_vote_is_durable": {
        "faults": ("stillborn",),
        "pre_vote": False,
        "check_quorum": False,
        "lease": False,
        "latency_s": 0.0005,
        "jitter_s": 0.0005,
        "groups": 6,
        "hosts": 3,
    },
    "lease_outlives_a_pause": {
        "faults": ("pause", "transfer"),
        "lease": True,
        "check_quorum": True,
        "reads_percent": 60,
    },
    "forwarded_proposals_of_any_term_are_taken": {
        "faults": ("transfer",),
        "fault_every_s": 0.08,
        "operation_every_s": 0.01,
        "latency_s": 0.03,
        "jitter_s": 0.1,
        "sync_s": 0.0005,
        "lossy": True,
        "groups": 1,
        "hosts": 3,
    },
    "capture_of_a_machine_that_is_ahead": {
        "faults": ("early_snapshot", "partition"),
        "durable": "batch",
        "snapshot_keep_entries": 0,
        "snapshot_interval_entries": 25,
    },
    "reads_need_no_quorum": {"faults": ("partition", "pause"), "reads_percent": 60},
    "follower_commits_all_the_leader_did": {"faults": ("partition", "pause"), "lossy": True},
    "capture_goes_to_the_worker": {"blocking": False, "snapshot_interval_entries": 7},
    "snapshot_files_are_not_synced": {"faults": ("crash",), "snapshot_interval_entries": 7},
    "a_change_is_taken_while_another_is_unapplied": {
        **_MEMBERS,
        "faults": ("partition", "one_way", "campaign"),
    },
    "several_voters_change_without_a_joint_configuration": _MEMBERS,
    "commits_are_counted_by_the_members_before": {**_MEMBERS, "faults": ("partition", "slow_disk")},
    "anybodys_vote_counts": {**_MEMBERS, "faults": ("partition", "campaign"), "pre_vote": False},
    "staging_members_are_promoted_at_once": _MEMBERS,
    "snapshots_bring_no_members": _MEMBERS,
    "removed_members_are_forgotten_by_a_restart": {
        **_MEMBERS,
        "faults": ("crash_all",),
        "hosts": 3,
        "spare_hosts": 0,
        "groups": 6,
    },
}
"""What to change in a plan so that the rarer bugs need fewer seeds."""


def planted(make: Callable[[], Iterator[None]]) -> Mutant:
    mutant = contextmanager(make)
    MUTANTS[make.__name__] = mutant
    return mutant


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """`owner.name` is `value` for a while."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def handler(role: RaftRole, kind: MessageType, value: Callable[[State, Message], None]) -> Iterator[None]:
    """The core's handler of `kind` in `role` is `value` for a while."""
    table = core._HANDLERS[role]
    before = table[kind]
    table[kind] = value
    try:
        yield
    finally:
        table[kind] = before


# --- what is promised before it is durable -------------------------------------------------------


def _split(group: Group, responses: list[Message]) -> tuple[list[Message], list[Message]]:
    own = [message for message in responses if message.to == group.member_id]
    return own, [message for message in responses if message.to != group.member_id]


@planted
def answers_before_the_sync() -> Iterator[None]:
    """Acknowledgements and votes leave with the pass that made them (§3.8; BEHAVIOURS 17)."""
    append = Express._append

    def hold(self: Writes, group: Group, responses: list[Message], snapshot: Snapshot | None) -> None:
        own, others = _split(group, responses)
        for message in others:
            group.host._post.route(group, message)  # type: ignore[attr-defined]  # reaching in
        group.unsynced += 1
        self.held.append(Held(group, own, snapshot))

    def answer(self: Express, group: Group, run: Run, leader: MemberId) -> None:
        append(self, group, run, leader)
        if leader != group.member_id:
            early = Message(MessageType.APP_RESP, leader, group.member_id, run.term, 0, run.last)
            self._post.route(group, early)

    with replaced(Writes, "hold", hold), replaced(Express, "_append", answer):
        yield


@planted
def leader_counts_itself_at_once() -> Iterator[None]:
    """A leader's own acknowledgement does not wait for its disk (etcd #14370)."""
    append = Express._append

    def hold(self: Writes, group: Group, responses: list[Message], snapshot: Snapshot | None) -> None:
        early = [m for m in responses if m.to == group.member_id and m.type is MessageType.APP_RESP]
        group.unsynced += 1
        self.held.append(Held(group, [m for m in responses if m not in early], snapshot))
        for message in early:
            group.raft.step(message)

    def count(self: Express, group: Group, run: Run, leader: MemberId) -> None:
        append(self, group, run, leader)
        if leader == group.member_id:
            acknowledge(group.raft, leader, run.term, run.last)

    with replaced(Writes, "hold", hold), replaced(Express, "_append", count):
        yield


@planted
def vote_is_not_persisted() -> Iterator[None]:
    """The term reaches the disk, the vote does not (§3.8; PySyncObj issue 84)."""
    real = Batch.hard_state

    def hard_state(self: Batch, group: int, state: HardState) -> None:
        real(self, group, attrs.evolve(state, vote=0))

    with replaced(Batch, "hard_state", hard_state):
        yield


@planted
def hard_state_is_not_persisted() -> Iterator[None]:
    """Entries reach the disk, term and vote do not."""
    real = Scheduler._write

    def write(self: Scheduler, group: Group, ready: Ready) -> None:
        if ready.runs or ready.snapshot is not None:
            ready.hard_state = None
        real(self, group, ready)

    with replaced(Scheduler, "_write", write):
        yield


@planted
def log_is_not_synced() -> Iterator[None]:
    """The log is written, but nobody waits for the disk."""

    def flush_and_sync(self: Appender) -> None:
        self._flush()
        self._unsynced = False
        self._durable = self._end

    with replaced(Appender, "_flush_and_sync", flush_and_sync):
        yield


@planted
def leads_before_its_own_vote_is_durable() -> Iterator[None]:
    """Elected by the others while its own disk stalls, it may be elected for that term again.

    First words are not waited for (acquaintances.py): they wait for the very disk that the vote is
    on, and so hide this where it is easiest to see, in the first elections of a group.
    """

    def on_vote(state: State, message: Message) -> None:
        state.tracker.record_vote(message.sender, not message.reject)
        result = state.tracker.tally()[2]
        if result is VoteResult.LOST:
            state.become_follower(state.term, 0)
        elif result is VoteResult.WON:
            become_leader(state)

    met = replaced(Acquaintances, "admit", lambda *_: True)
    # Nobody is asked again either: groups would have leaders before the fault strikes, and where the
    # others have the first entry of a leadership, their votes do not go to a log without it.
    asking = replaced(Elections, "_ask_again", lambda *_: None)
    with met, asking, handler(RaftRole.CANDIDATE, MessageType.VOTE_RESP, on_vote):
        yield


# --- elections -----------------------------------------------------------------------------------


@planted
def votes_for_everybody() -> Iterator[None]:
    """A second vote in one term (Figure 3.1, RequestVote, receiver's rule 2)."""
    real = on_vote_request

    def on_vote(state: State, message: Message) -> None:
        if message.term == state.term and state.role is RaftRole.FOLLOWER:
            state.vote = 0
        real(state, message)

    with handler(RaftRole.FOLLOWER, MessageType.VOTE, on_vote):
        yield


@planted
def votes_for_shorter_logs() -> Iterator[None]:
    """The voter does not compare logs (§3.6.1)."""
    with replaced(RaftLog, "up_to_date", lambda *_: True):
        yield


# --- the log -------------------------------------------------------------------------------------


@planted
def commits_older_terms_by_counting() -> Iterator[None]:
    """§3.6.2, Figure 3.7: an entry of an older term on a majority is not committed by that."""

    def advance(state: State) -> bool:
        index = state.tracker.committed()
        if index <= state.log.committed:
            return False
        state.log.commit_to(index)
        return True

    with replaced(leader, "advance_commit", advance), replaced(steady, "advance_commit", advance):
        yield


@planted
def follower_truncates_what_matches() -> Iterator[None]:
    """A late append cuts off entries behind it that were acknowledged (Figure 3.1, rule 3)."""

    def merge(self: RaftLog, runs: Sequence[Run]) -> None:
        fresh = [run for run in runs if run.last > self.committed]
        if fresh:
            first = max(fresh[0].first, self.committed + 1)
            self.append([fresh[0].cut(first, fresh[0].last), *fresh[1:]])

    with replaced(RaftLog, "merge", merge):
        yield


@planted
def follower_commits_all_the_leader_did() -> Iterator[None]:
    """The commit index is not capped at what the append vouches for (Figure 3.1, rule 5)."""
    real = follower.handle_append

    def on_append(state: State, message: Message) -> None:
        state.election_elapsed = 0
        state.leader = message.sender
        real(state, message)
        state.log.commit_to(min(message.commit, state.log.last_index))

    with handler(RaftRole.FOLLOWER, MessageType.APP, on_append):
        yield


@planted
def pagination_skips_entries() -> Iterator[None]:
    """What the byte limit cut off counts as handed out (etcd 8ecce32)."""
    real = RaftLog.take_committed

    def take(self: RaftLog, allow_unstable: bool) -> list[Run]:
        last = self.appliable(allow_unstable)
        found = real(self, allow_unstable)
        if found:
            self.applying = last
        return found

    with replaced(RaftLog, "take_committed", take):
        yield


# --- snapshots -----------------------------------------------------------------------------------


@planted
def received_snapshot_is_not_recorded() -> Iterator[None]:
    """The machine is restored, but the log goes on as if nothing had happened."""
    real = Scheduler._write

    def write(self: Scheduler, group: Group, ready: Ready) -> None:
        snapshot, ready.snapshot = ready.snapshot, None
        held = len(self._writes.held)
        real(self, group, ready)
        self._writes.held[held].snapshot = snapshot

    with replaced(Scheduler, "_write", write):
        yield


@planted
def snapshot_files_are_not_synced() -> Iterator[None]:
    """The log is compacted behind a file that a power cut takes away."""
    real = MemoryFile.sync

    def sync(self: MemoryFile) -> None:
        if not self._path.endswith(".tmp") or "/snapshots/" not in self._path:
            real(self)

    with replaced(MemoryFile, "sync", sync):
        yield


@planted
def capture_goes_to_the_worker() -> Iterator[None]:
    """A machine of the host's thread is captured in the worker's, under a later index."""

    def flush(self: Applier, now: Callable[[], float], deadline: float) -> None:
        if not self.waiting:
            return
        inline = [group for group in self.waiting if not group.machine.blocking]
        self._apply_inline(inline, now, deadline)
        if self.waiting and not self._busy:
            self._submit(list(self.waiting))

    with replaced(Applier, "flush", flush):
        yield


@planted
def capture_of_a_machine_that_is_ahead() -> Iterator[None]:
    """After a restart, a durable machine's state is filed under the index that was applied again."""
    with replaced(Applier, "_may_capture", staticmethod(lambda *_: True)):
        yield


# --- state machines ------------------------------------------------------------------------------


@planted
def durable_machines_are_fed_again() -> Iterator[None]:
    """`applied_index` counts for nothing after a restart."""
    real = Work._apply

    def apply(self: Work) -> None:
        if self.runs:
            self.group.machine_at = min(self.group.machine_at, self.runs[0].first - 1)
        real(self)

    with replaced(Work, "_apply", apply):
        yield


# --- reads ---------------------------------------------------------------------------------------


@planted
def reads_need_no_quorum() -> Iterator[None]:
    """A deposed leader answers from what it has (§6.4, step 3)."""
    with replaced(leader_reads, "_holds_lease", lambda _: True):
        yield


@planted
def reads_do_not_wait_for_the_term() -> Iterator[None]:
    """A new leader answers before it has committed anything itself (§6.4, step 1; etcd #7331)."""

    def on_read(state: State, message: Message) -> None:
        leader_reads._serve(state, message.sender or state.id, message.context)

    with handler(RaftRole.LEADER, MessageType.READ_INDEX, on_read):
        yield


@planted
def lease_outlives_a_pause() -> Iterator[None]:
    """A host that slept serves reads before it has counted the ticks that it slept through."""
    real = Scheduler._collect

    def collect(self: Scheduler, group: Group) -> None:
        self._behind = False
        real(self, group)

    with replaced(Scheduler, "_collect", collect):
        yield


@planted
def reads_do_not_wait_for_apply() -> Iterator[None]:
    """A confirmed read is answered at once, from whatever state the machine is in (§6.4, step 4)."""
    from multiraft.reads import ReadTable

    real = ReadTable.confirmed

    def confirmed(self: ReadTable, context: bytes, index: Index, applied: Index) -> None:
        real(self, context, index, max(index, applied))

    with replaced(ReadTable, "confirmed", confirmed):
        yield


# --- proposals -----------------------------------------------------------------------------------


@planted
def forwarded_proposals_are_taken_twice() -> Iterator[None]:
    """A run that is sent again after a broken link is appended again."""
    real = ProposalTable.take_forwarded

    def take(self: ProposalTable, run: Run, term: Term) -> bool:
        real(self, run, term)
        return True

    with replaced(ProposalTable, "take_forwarded", take):
        yield


@planted
def forwarded_proposals_of_any_term_are_taken() -> Iterator[None]:
    """A leader takes a run that was meant for an earlier one, whose proposer gave it up."""
    real = intake.Intake.step_forwarded

    def step(self: intake.Intake, group: Group, message: Message) -> None:
        if group.raft.role is RaftRole.LEADER:
            message.term = group.raft.term
        real(self, group, message)

    with replaced(intake.Intake, "step_forwarded", step):
        yield


@planted
def refusal_of_a_second_copy_is_believed() -> Iterator[None]:
    """A run that was sent twice counts as dropped although its first copy is in the log."""

    def refused(self: ProposalTable, sequence: int, reason: str) -> bool:
        if self._outstanding and (held := self._outstanding.pop(sequence, None)) is not None:
            self._fail(held.waiters, ProposalDropped(reason))
        return False

    with replaced(ProposalTable, "refused", refused):
        yield


@planted
def new_term_drops_what_is_being_applied() -> Iterator[None]:
    """Applied together with an entry of the next term, a proposal counts as overtaken by it."""
    real = Scheduler._applied

    def applied(self: Scheduler, work: Work) -> None:
        for run in work.runs:
            if run.term > work.group.applied_term:
                work.group.proposals.applied_term(run.term)
        real(self, work)

    with replaced(Scheduler, "_applied", applied):
        yield


# --- members -------------------------------------------------------------------------------------


@planted
def a_change_is_taken_while_another_is_unapplied() -> Iterator[None]:
    """The leader looks at the configuration that it has, not at what is in its log before (§4.1)."""

    def objection(state: State, change: ConfChange, pending: int) -> str | None:  # noqa: ARG001
        try:
            confchange.apply_change(state.tracker.membership, change)
        except ConfChangeRefused as error:
            return str(error)
        return None

    with (
        replaced(leader, "objection", objection),
        replaced(core.Raft, "changing", False),
        replaced(core.Raft, "settling", False),
        replaced(core.Raft, "concluding", False),
    ):
        yield


@planted
def several_voters_change_without_a_joint_configuration() -> Iterator[None]:
    """All steps of a change at once: old and new majorities need not overlap (§4.1, Figure 4.2)."""

    def apply(before: confchange.Membership, change: ConfChange) -> confchange.Membership:
        if confchange.leaves_joint(change):
            return confchange.leave_joint(before)
        draft = confchange._Draft(before)
        draft.apply(change.changes)
        return draft.finished(before.config.auto_leave)

    with replaced(core, "apply_change", apply), replaced(leader, "apply_change", apply):
        yield


@planted
def commits_are_counted_by_the_members_before() -> Iterator[None]:
    """Who was added does not count yet, and who was removed still does (§4.1)."""
    real = Tracker.install

    def install(self: Tracker, membership: confchange.Membership, last_index: Index) -> None:
        before = self._incoming
        real(self, membership, last_index)
        if before:
            self._incoming = before

    with replaced(Tracker, "install", install):
        yield


@planted
def anybodys_vote_counts() -> Iterator[None]:
    """A candidate counts the votes of learners as it counts those of voters (§4.2.1)."""

    def tally(self: Tracker) -> tuple[int, int, VoteResult]:
        granted = sum(self.votes.values())
        refused = len(self.votes) - granted
        needed = len(self.config.incoming) // 2 + 1
        if granted >= needed:
            return granted, refused, VoteResult.WON
        return granted, refused, VoteResult.LOST if refused >= needed else VoteResult.PENDING

    with replaced(Tracker, "tally", tally):
        yield


@planted
def staging_members_are_promoted_at_once() -> Iterator[None]:
    """Caught up or not, a staging member becomes a voter after an election timeout (§4.2.1)."""
    with (
        replaced(Staging, "_lack", staticmethod(lambda *_: "")),
        replaced(Staging, "_start", lambda *_: True),
    ):
        yield


@planted
def snapshots_bring_no_members() -> Iterator[None]:
    """Whoever is brought up by a snapshot goes on with the members that it knew (§5.1)."""
    real = Installer._install

    def install(self: Installer, group: Group, held: Held) -> None:
        self._members_changed = lambda *_: None
        real(self, group, held)

    with replaced(Installer, "_install", install):
        yield


@planted
def removed_members_are_forgotten_by_a_restart() -> Iterator[None]:
    """The last voter does not know after a power cut that the other one left, who votes no more."""
    configure, linger = Scheduler._configure, Departures.linger

    def forgetful(self: Scheduler, group: Group, run: Run) -> str | None:
        batch = self._writes.batch
        self._writes.batch = self._store.batch()  # what is written there is lost
        try:
            return configure(self, group, run)
        finally:
            self._writes.batch = batch

    def stop(self: Departures, group: Group) -> None:
        linger(self, group)
        if not self._ticks and group.removed is not None:
            group.stop(group.removed)

    with replaced(Scheduler, "_configure", forgetful), replaced(Departures, "linger", stop):
        yield
