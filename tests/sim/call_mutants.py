"""Planted bugs in what programs ask for: reads, proposals, and changes of members. See mutants.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from multiraft import intake
from multiraft.applied import Applied
from multiraft.apply import Work
from multiraft.departures import Departures
from multiraft.errors import ProposalDropped
from multiraft.group import Group
from multiraft.installer import Installer
from multiraft.messages import ConfChange, Message, MessageType, Run
from multiraft.outcomes import Outcomes
from multiraft.proposals import ProposalTable
from multiraft.raft import confchange, core, leader, leader_reads
from multiraft.raft.core import RaftRole
from multiraft.raft.failures import ConfChangeRefused
from multiraft.raft.quorum import VoteResult
from multiraft.raft.state import State
from multiraft.raft.tracker import Tracker
from multiraft.scheduler import Scheduler
from multiraft.staging import Staging
from multiraft.types import Index, Term
from multiraft.writes import Held
from tests.sim.mutants import FOCUS, handler, planted, replaced

_MEMBERS: dict[str, Any] = {"change_every_s": 0.08, "spare_hosts": 2}

FOCUS |= {
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
    "reads_need_no_quorum": {"faults": ("partition", "pause"), "reads_percent": 60},
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

STALE_READS = (
    "reads_need_no_quorum",
    "reads_do_not_wait_for_the_term",
    "lease_outlives_a_pause",
    "reads_do_not_wait_for_apply",
)
"""Those that let clients read what was overwritten before they asked."""


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
    real = Applied.applied

    def applied(self: Applied, work: Work) -> None:
        for run in work.runs:
            if run.term > work.group.applied_term:
                work.group.proposals.applied_term(run.term)
        real(self, work)

    with replaced(Applied, "applied", applied):
        yield


@planted
def only_the_first_piece_of_results_is_handed_out() -> Iterator[None]:
    """The others wait until more of the group's are."""

    def hand_out(self: Outcomes, _tick: int) -> None:
        for group in self.groups:
            group.proposals.hand_out(self.piece)
        self.groups.clear()

    with replaced(Outcomes, "hand_out", hand_out):
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
    configure, linger = Applied.configure, Departures.linger

    def forgetful(self: Applied, group: Group, run: Run) -> str | None:
        batch = self._writes.batch
        self._writes.batch = self._writes._store.batch()  # what is written there is lost
        try:
            return configure(self, group, run)
        finally:
            self._writes.batch = batch

    def stop(self: Departures, group: Group) -> None:
        linger(self, group)
        if not self._ticks and group.removed is not None:
            group.stop(group.removed)

    with replaced(Applied, "configure", forgetful), replaced(Departures, "linger", stop):
        yield
