"""One member of one Raft group: messages and ticks in, `Ready` out. No clock, no I/O.

This file routes: terms first (terms.py), then to what the present role does, which stands in
follower.py, candidate.py and leader.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from multiraft.errors import ProposalDropped
from multiraft.messages import (
    APPLY_THREAD,
    NO_MEMBER,
    ConfChange,
    ConfState,
    EntryKind,
    Message,
    MessageType,
    Run,
)
from multiraft.raft import candidate, follower, leader
from multiraft.raft.confchange import apply_change
from multiraft.raft.config import CoreConfig
from multiraft.raft.election import ask_again, in_lease, on_vote_request, stand
from multiraft.raft.failures import PeerNotFound, StepLocalMessage
from multiraft.raft.leader_reads import recheck_reads, release_postponed
from multiraft.raft.outgoing import take_ready
from multiraft.raft.progress import REPLICATE, Progress
from multiraft.raft.ready import ReadState, Ready
from multiraft.raft.replication import (
    advance_commit,
    announce_commit,
    send_append,
    send_heartbeats,
    take_beats,
)
from multiraft.raft.runs import total_weight
from multiraft.raft.state import State
from multiraft.raft.terms import settle_term
from multiraft.raft.trace import Level, RaftRole
from multiraft.types import Index, MemberId, ReadMode, Term

__all__ = ["CoreConfig", "Level", "Raft", "RaftRole", "ReadState", "Ready"]

_Handler = Callable[[State, Message], None]

_LOCAL: Final = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
    }
)
_RESPONSES: Final = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
    }
)
_FREE, _RESPONSE, _OWN = 0, 1, 2
_GATE: Final = [
    _OWN if kind in _LOCAL else _RESPONSE if kind in _RESPONSES else _FREE for kind in MessageType
]


class Raft(State):
    """A member's core.

    All methods are plain functions of the state: the same calls in the same order, with the same
    `random`, lead to the same state. After any of them `has_ready` says whether there is work.

    Args:
        config: Settings; checked here.
        log: What is on this member's disk, and will be after each `Ready` is written.
        random: For election timeouts. Members need sources of their own, or they stand together.
        logger: Takes what the core has to say. Default: nobody does, and no text is made.
        applied: In place of `config.applied`, so that members with equal settings can share them.

    Raises:
        ConfigError: A setting cannot be used.
        RaftFailure: The log contradicts itself.
    """

    __slots__ = ()

    # --- looking ---------------------------------------------------------------------------

    @property
    def committed(self) -> Index:
        return self.log.committed

    @property
    def applied(self) -> Index:
        return self.log.applied

    @property
    def last_index(self) -> Index:
        return self.log.last_index

    @property
    def first_index(self) -> Index:
        return self.log.first_index

    @property
    def progress(self) -> Mapping[MemberId, Progress]:
        """What is known of each member; means something on a leader only. Do not change it."""
        return self.tracker.progress

    def status(self) -> dict[MemberId, Progress]:
        """A copy of `progress` on a leader; empty on others."""
        if self.role is not RaftRole.LEADER:
            return {}
        return {member: progress.copy() for member, progress in self.tracker.progress.items()}

    def conf_state(self) -> ConfState:
        return self.tracker.config.conf_state()

    @property
    def joint(self) -> bool:
        """Whether the configuration in force is a joint one."""
        return self.tracker.config.joint

    @property
    def settling(self) -> bool:
        """On a leader: changes of earlier leaders may be unapplied, so nobody knows of any yet."""
        return self.log.applied < self.pending_conf_index < self.term_start

    @property
    def changing(self) -> bool:
        """On a leader that is not `settling`: a change is under way."""
        return self.pending_conf_index > self.log.applied or self.tracker.config.joint

    @property
    def concluding(self) -> bool:
        """On a leader: the last change is committed, so that others may have applied it, but not here."""
        return self.log.applied < self.pending_conf_index <= self.log.committed

    def objection(self, change: ConfChange) -> str | None:
        """On a leader: why `change` would be refused now; None: it would not."""
        return leader.objection(self, change, self.pending_conf_index)

    def commit_to_current_term(self) -> bool:
        """Whether a leader has committed an entry of its own term, so knows all that is committed."""
        return self.role is RaftRole.LEADER and self.log.committed >= self.term_start

    # --- in --------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take one message from another member, or one of `Ready.responses` addressed to us.

        Raises:
            StepLocalMessage: It is of a kind that only this member may produce.
            PeerNotFound: It answers something, and its sender is no member here.
            ProposalDropped: It is a proposal that was refused; it will never be applied.
            RaftFailure: It proves our log wrong. Stop this member.
        """
        kind = message.type
        gate = _GATE[kind]
        if gate and message.sender < APPLY_THREAD:
            if gate == _OWN:
                raise StepLocalMessage
            if message.sender not in self.tracker.progress:
                raise PeerNotFound
        # Term 0: of our own making, or for whoever leads.
        if message.term != self.term and message.term and not settle_term(self, message):
            return
        _HANDLERS[self.role][kind](self, message)

    def _step(self, message: Message) -> None:
        """Like `step`, for messages of our own making."""
        if message.term != self.term and message.term and not settle_term(self, message):
            return
        _HANDLERS[self.role][message.type](self, message)

    def tick(self) -> bool:
        """One tick interval has passed. Returns whether anything but a beat may have come of it."""
        if self.role is RaftRole.LEADER:
            if self.quiet_ticks:
                self.quiet_ticks -= 1
            leader.tick(self)
            return bool(self.messages) or self.role is not RaftRole.LEADER
        self.waited(1)
        if self.election_elapsed < self.election_timeout or not self.promotable:
            return False
        self.time_out()
        return True

    def time_out(self) -> None:
        """The election timer has run out, or a host that counts for itself says so: stand."""
        self.election_elapsed = 0
        stand(self)

    def ask_again(self, member: MemberId | None = None) -> None:
        """As a (pre-)candidate: ask for votes again where none was given or refused yet.

        The requests may be lost. `member`: only there. Default: everywhere.
        """
        ask_again(self, member)

    def take_beats(self) -> list[tuple[MemberId, Index]]:
        """With `beat_due` set: members to beat for, and the commit index to tell each.

        Hosts put the beats of many groups into one message; `hear_beat` and `hear_beat_ack` take
        them at the other ends, without a message object for each.
        """
        return take_beats(self)

    def hear_beat(self, leader: MemberId, term: Term, commit: Index) -> bool:
        """A beat from `leader`. True: heard, and the leader is to be told so; False: nothing was
        done, as it is not from the leader that we follow: step a HEARTBEAT in its place."""
        if term != self.term or leader != self.leader or self.role is not RaftRole.FOLLOWER:
            return False
        if commit > self.log.last_index:
            return False  # our log lost entries: stepping fails this group, and no other
        self.election_elapsed = 0
        self.log.commit_to(commit)
        return True

    def hear_beat_ack(self, member: MemberId, term: Term) -> bool:
        """A follower's answer to a beat. False: nothing was done, step a HEARTBEAT_RESP instead."""
        if term != self.term or self.role is not RaftRole.LEADER:
            return False
        progress = self.tracker.progress.get(member)
        if progress is None or progress.match < self.log.last_index or progress.state is not REPLICATE:
            return False
        progress.recent_active = True
        progress.flow_paused = False
        return True

    def waited(self, ticks: int) -> None:
        """On any but a leader: so many ticks have passed, too few or too early to stand for election."""
        self.election_elapsed += ticks
        self.quiet_ticks = max(0, self.quiet_ticks - ticks)

    def slept(self, ticks: int, answers: Sequence[tuple[MemberId, int]] = ()) -> None:
        """On a leader: `ticks` have passed without `tick`. The next check for a quorum is a whole election
        timeout away.

        `answers`, ascending by the second part: members that vouched for us at this term, and how many
        ticks before now that was asked of them, at most `ticks`. A lease may count from there.
        """
        self.ticks += ticks
        self.election_elapsed = 0
        for member, ago in answers:
            self.reads.acknowledge(member, self.reads.beat(self.ticks - ago), self.tracker)

    def leader_gone(self, leader: MemberId, term: Term) -> None:
        """`leader` itself says that it does not lead at `term` any more: it holds us to nothing."""
        if self.role is RaftRole.FOLLOWER and self.term == term and self.leader == leader:
            self.leader = NO_MEMBER

    def campaign(self) -> None:
        """Stand for election now, if this member may."""
        if self.config.promise and self.config.read_mode is ReadMode.LEASE and in_lease(self):
            return  # the leader's lease counts on us, and our own vote would be the first to break it
        stand(self)

    # --- requests of our own host ------------------------------------------------------------

    def propose(self, run: Run) -> Run | None:
        """Append `run`, or forward it to the leader.

        Returns:
            The run as it was placed in the log; None if it was forwarded.

        Raises:
            ProposalDropped: It will never be applied.
        """
        if self.role is RaftRole.LEADER:
            return leader.propose(self, (run,))[0]
        self._step(Message(MessageType.PROP, NO_MEMBER, self.id, runs=(run,)))
        return None

    def propose_conf_change(self, change: ConfChange, v1: bool = False) -> Index | None:
        """Propose a change of configuration.

        Returns:
            The index where it, or an empty entry in its place if it is not allowed now, went
            into the log; None if it was forwarded. Only the entry that is applied there tells.

        Raises:
            ProposalDropped: It will never be applied.
        """
        kind = EntryKind.CONF_CHANGE if v1 else EntryKind.CONF_CHANGE_V2
        placed = self.propose(Run.of([change.encode()], kind))
        return None if placed is None else placed.first

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Put a committed change in force. Call it when its entry is applied, before `applied_to`.

        Raises:
            ConfChangeRefused: It does not fit the configuration, which stays.
        """
        self.install(apply_change(self.tracker.membership, change))
        self._settle_configuration()
        return self.conf_state()

    def _settle_configuration(self) -> None:
        if self.role is not RaftRole.LEADER:
            standing = self.role is not RaftRole.FOLLOWER
            if standing and self.config.step_down_on_removal and not self.promotable:
                # Others may not know the change yet and elect it all the same.
                self.become_follower(self.term, NO_MEMBER)
            return
        tracker = self.tracker
        if self.id not in tracker.progress or self.is_learner:
            # Without the option it leads on, and proposes nothing, until somebody else stands:
            # in a joint change it may be the only one who can complete it (§4.2.2).
            if self.config.step_down_on_removal:
                if self.config.coalesce_beats:
                    # Our last word: that the change is committed. Who does not know would have to
                    # be elected by the configuration before, with the votes of those who leave.
                    send_heartbeats(self, 0)
                self.become_follower(self.term, NO_MEMBER)
            return
        # Fewer acknowledgements may suffice now; and who is new has to hear of us at once.
        committed = self.log.committed
        advanced = advance_commit(self)
        if advanced:
            if committed < self.term_start:
                release_postponed(self)
            announce_commit(self)
        if not advanced or self.config.commit_notices:
            for member, progress in tracker.others:
                send_append(self, member, progress, even_empty=False)
        recheck_reads(self)
        if self.lead_transferee and not tracker.is_voter(self.lead_transferee):
            self.lead_transferee = NO_MEMBER

    def read_index(self, context: bytes) -> None:
        """Ask for the index that a read has to wait for; a `ReadState` with `context` answers.

        `context` is not empty. No answer at all is possible (no leader, a lost message, a new
        leader): ask again after a while.
        """
        assert context, "an answer without context could not be told from a malformed one"
        self._step(Message(MessageType.READ_INDEX, NO_MEMBER, NO_MEMBER, context=context))

    def transfer_leadership(self, to: MemberId) -> None:
        """Ask for `to` to become leader. Gives up by itself after an election timeout."""
        self._step(Message(MessageType.TRANSFER_LEADER, NO_MEMBER, to))

    def forget_leader(self) -> None:
        """On a follower: be free to vote for somebody else in this term's successor."""
        self._step(Message(MessageType.FORGET_LEADER))

    def report_unreachable(self, member: MemberId) -> None:
        """What was last sent to `member` did not get there."""
        self._step(Message(MessageType.UNREACHABLE, NO_MEMBER, member))

    def report_snapshot(self, member: MemberId, ok: bool) -> None:
        """The snapshot for `member` was transferred, or failed to be."""
        self._step(Message(MessageType.SNAP_STATUS, NO_MEMBER, member, reject=not ok))

    # --- out -------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready` would return anything."""
        log = self.log
        unstable = log.unstable
        if self.messages or self.responses or self.notices_due or self.read_states:
            return True
        if len(unstable.runs) > unstable.in_progress:
            return True
        return (
            self.accepted_commit != log.committed
            or self.accepted_term != self.term
            or self.accepted_vote != self.vote
            or self.accepted_role is not self.role
            or self.accepted_leader != self.leader
            or (log.committed > log.applying and log.has_committed(not self.config.async_storage_writes))
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
        )

    def ready(self) -> Ready:
        """Take everything new. What it holds is handed out once.

        With asynchronous writes several may be under way. Otherwise `advance` must follow, after
        the Ready is written and its entries are applied.
        """
        return take_ready(self)

    def applied_to(self, index: Index, weight: int) -> bool:
        """Everything up to `index` was applied; `weight` is the sum of those runs' weights.

        Returns: Whether that may have let anything follow. Cheaper to know than `has_ready`.

        Raises: RaftFailure when that was not handed out or was reported before.
        """
        log = self.log
        log.applied_to(max(log.applied, index), weight)
        if self.accepted_sizes:
            self.settle_sizes(index)
        if (
            self.role is RaftRole.LEADER
            and self.tracker.config.auto_leave
            and log.applied >= self.pending_conf_index
        ):
            self._leave_joint()
        return log.committed > log.applying or bool(self.messages) or bool(self.responses)

    def _leave_joint(self) -> None:
        """Complete a joint change (thesis §4.3). Its entry being pending keeps it from being repeated."""
        try:
            leader.propose(self, (Run.of([ConfChange().encode()], EntryKind.CONF_CHANGE_V2),))
        except ProposalDropped:
            self._say_leaving(Level.DEBUG, "not initiating", ": raft proposal dropped")
        else:
            self._say_leaving(Level.INFO, "initiating", "")

    def _say_leaving(self, level: Level, what: str, end: str) -> None:
        if self.logger is not None:
            self.logger(
                level,
                f"{what} automatic transition out of joint configuration {self.tracker.config}{end}",
            )

    def advance(self) -> None:
        """Sync mode: the last Ready is written, its messages are sent and its entries applied."""
        assert not self.config.async_storage_writes, "asynchronous writes report by themselves"
        assert self.advance_messages is not None, "advance follows a Ready"
        reports, self.advance_messages = self.advance_messages, None
        for report in reports:
            self._step(report)


def _on_write_report(state: State, message: Message) -> None:
    if message.index:
        state.log.stable_to(message.index, message.log_term)
    if message.snapshot is not None:
        state.snapshot_stored(message.snapshot)


def _on_apply_report(state: State, message: Message) -> None:
    assert isinstance(state, Raft)
    if message.runs:
        state.applied_to(message.runs[-1].last, total_weight(message.runs))


def _ignore(_state: State, _message: Message) -> None:
    """The message means nothing to the role."""


def _table(handlers: Mapping[MessageType, _Handler]) -> list[_Handler]:
    """Handlers of one role by message type."""
    common: dict[MessageType, _Handler] = {
        MessageType.VOTE: on_vote_request,
        MessageType.PRE_VOTE: on_vote_request,
        MessageType.STORAGE_APPEND_RESP: _on_write_report,
        MessageType.STORAGE_APPLY_RESP: _on_apply_report,
    }
    full = {**common, **handlers}
    return [full.get(kind, _ignore) for kind in MessageType]


_HANDLERS: Final = [
    _table(handlers)
    for _role, handlers in sorted(
        {
            RaftRole.FOLLOWER: follower.HANDLERS,
            RaftRole.CANDIDATE: candidate.CANDIDATE_HANDLERS,
            RaftRole.LEADER: leader.HANDLERS,
            RaftRole.PRE_CANDIDATE: candidate.PRE_CANDIDATE_HANDLERS,
        }.items()
    )
]
