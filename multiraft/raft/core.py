"""One member of one Raft group: messages and ticks in, `Ready` out. No clock, no I/O.

This file routes: terms first (thesis §3.3), then to what the present role does, which stands in
follower.py, candidate.py and leader.py. It also puts `Ready` together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from multiraft.errors import ProposalDropped
from multiraft.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_MEMBER,
    TRANSFER_CONTEXT,
    ConfChange,
    ConfState,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft import candidate, follower, leader
from multiraft.raft.confchange import apply_change
from multiraft.raft.config import CoreConfig
from multiraft.raft.election import in_lease, log_vote, on_vote_request, stand
from multiraft.raft.failures import PeerNotFound, StepLocalMessage
from multiraft.raft.leader_reads import recheck_reads, release_postponed
from multiraft.raft.progress import Progress
from multiraft.raft.ready import ReadState, Ready, SoftState
from multiraft.raft.replication import advance_commit, announce_commit, queue_notices, send_append
from multiraft.raft.runs import total_weight
from multiraft.raft.state import State
from multiraft.raft.trace import MESSAGE_NAMES, Level, RaftRole
from multiraft.types import Index, MemberId

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
_WRITTEN: Final = MessageType.STORAGE_APPEND_RESP
_GATE: Final = [
    _OWN if kind in _LOCAL else _RESPONSE if kind in _RESPONSES else _FREE for kind in MessageType
]

_FROM_LEADER: Final = frozenset(
    {MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP, MessageType.COMMIT}
)


class Raft(State):
    """A member's core.

    All methods are plain functions of the state: the same calls in the same order, with the same
    `random`, lead to the same state. After any of them `has_ready` says whether there is work.

    Args:
        config: Settings; checked here.
        log: What is on this member's disk, and will be after each `Ready` is written.
        random: For election timeouts. Members need sources of their own, or they stand together.
        logger: Takes what the core has to say. Default: nobody does, and no text is made.

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
        if message.term != self.term and message.term and not self._settle_term(message):
            return
        _HANDLERS[self.role][kind](self, message)

    def _step(self, message: Message) -> None:
        """Like `step`, for messages of our own making."""
        if message.term != self.term and message.term and not self._settle_term(message):
            return
        _HANDLERS[self.role][message.type](self, message)

    def _settle_term(self, message: Message) -> bool:
        """The message is of another term. Whether the role should still handle it."""
        if message.term > self.term:
            return self._meet_higher_term(message)
        self._meet_lower_term(message)
        return False

    def _meet_higher_term(self, message: Message) -> bool:
        kind = message.type
        if kind in (MessageType.VOTE, MessageType.PRE_VOTE):
            if message.context != TRANSFER_CONTEXT and in_lease(self):
                self._log_lease(message)
                return False
            if kind is MessageType.PRE_VOTE:
                return True  # asking does not move our term
        if kind is MessageType.PRE_VOTE_RESP and not message.reject:
            return True  # granted for a term that we are not in yet
        if self.logger is not None:
            self.logger(
                Level.INFO,
                f"{self.id:x} [term: {self.term}] received a {MESSAGE_NAMES[kind]} message with higher "
                f"term from {message.sender:x} [term: {message.term}]",
            )
        self.become_follower(message.term, message.sender if kind in _FROM_LEADER else NO_MEMBER)
        return True

    def _log_lease(self, message: Message) -> None:
        if self.logger is None:
            return
        self.logger(
            Level.INFO,
            f"{self.id:x} [logterm: {self.log.last_term}, index: {self.log.last_index}, vote: {self.vote:x}] "
            f"ignored {MESSAGE_NAMES[message.type]} from {message.sender:x} [logterm: {message.log_term}, "
            f"index: {message.index}] at term {self.term}: lease is not expired "
            f"(remaining ticks: {self.election_ticks - self.election_elapsed})",
        )

    def _meet_lower_term(self, message: Message) -> None:
        kind = message.type
        config = self.config
        if (config.check_quorum or config.pre_vote) and kind in (
            MessageType.HEARTBEAT,
            MessageType.APP,
            MessageType.COMMIT,
        ):
            # An outdated leader would be ignored for ever by a member whose term is higher
            # but whose votes nobody answers, because all hear that leader: the answer makes
            # it step down, and the group elects anew (§4.2.3 needs this to stay alive).
            self.answer_append(message.sender, 0)
        elif kind is MessageType.PRE_VOTE:
            # Who is behind has to learn it, or a group of mixed settings gets stuck.
            log_vote(self, message, granted=False)
            self.responses.append(
                Message(MessageType.PRE_VOTE_RESP, message.sender, self.id, self.term, reject=True)
            )
        elif kind is MessageType.STORAGE_APPEND_RESP:
            self._meet_old_write(message)
        elif self.logger is not None:
            self.logger(
                Level.INFO,
                f"{self.id:x} [term: {self.term}] ignored a {MESSAGE_NAMES[kind]} message with lower "
                f"term from {message.sender:x} [term: {message.term}]",
            )

    def _meet_old_write(self, message: Message) -> None:
        """A write of an earlier term is done. Its entries may not be what the disk ends up with.

        Say (index 5, term 1) is being written, a leader of term 2 replaces 5 by (5, 2), and one
        of term 3 puts (5, 1) back. When the first write is reported now, an entry (5, 1) is
        unstable, but (5, 2) is still to be written over it: taking the report for it would
        forget an entry that the disk then loses. The last write of our own term covers all.
        A snapshot is committed, so nothing replaces it.
        """
        if message.index and self.logger is not None:
            self.logger(
                Level.INFO,
                f"{self.id:x} [term: {self.term}] ignored entry appends from a MsgStorageAppendResp "
                f"message with lower term [term: {message.term}]",
            )
        if message.snapshot is not None:
            self.snapshot_stored(message.snapshot)

    def tick(self) -> None:
        """One tick interval has passed."""
        if self.role is RaftRole.LEADER:
            leader.tick(self)
            return
        self.election_elapsed += 1
        if self.election_elapsed >= self.election_timeout and self.promotable:
            self.election_elapsed = 0
            stand(self)

    def campaign(self) -> None:
        """Stand for election now, if this member may."""
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
            return
        tracker = self.tracker
        if self.id not in tracker.progress or self.is_learner:
            # Without the option it leads on, and proposes nothing, until somebody else stands:
            # in a joint change it may be the only one who can complete it (§4.2.2).
            if self.config.step_down_on_removal:
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
        assert self.advance_messages is None, "advance comes before the next Ready"
        if self.notices_due:
            queue_notices(self)
        log = self.log
        unstable = log.unstable
        in_async = self.config.async_storage_writes
        soft_state = None
        if self.accepted_role is not self.role or self.accepted_leader != self.leader:
            soft_state = self._take_soft_state()
        hard_state = None
        must_sync = False
        commit = log.committed
        if self.accepted_term != self.term or self.accepted_vote != self.vote:
            must_sync = True
            hard_state = self._take_hard_state()
        elif self.accepted_commit != commit:
            hard_state = self._take_hard_state()
        snapshot = unstable.snapshot
        if snapshot is not None:
            snapshot = unstable.fresh_snapshot
        committed = self._take_committed(not in_async) if commit > log.applying else []
        runs: list[Run] = []
        to_report = snapshot is not None or len(unstable.runs) > 0
        if to_report:
            runs = unstable.accept()
        read_states = self.read_states
        if read_states:
            self.read_states = []
        messages = self.messages
        self.messages = []
        responses = self.responses
        self.responses = []
        if not in_async:
            self.advance_messages = [answer for answer in responses if answer.to == self.id]
            messages += [answer for answer in responses if answer.to != self.id]
            responses = []
            if to_report:
                self.advance_messages.append(self._write_report(snapshot))
            if committed:
                self.advance_messages.append(
                    Message(MessageType.STORAGE_APPLY_RESP, self.id, APPLY_THREAD, runs=committed)
                )
        elif to_report and (runs or responses or hard_state is not None or snapshot is not None):
            responses.append(self._write_report(snapshot))
        return Ready(
            soft_state,
            hard_state,
            read_states,
            runs,
            snapshot,
            committed,
            messages,
            responses,
            must_sync or len(runs) > 0,
        )

    def _take_hard_state(self) -> HardState:
        self.accepted_term = self.term
        self.accepted_vote = self.vote
        self.accepted_commit = self.log.committed
        return HardState(self.term, self.vote, self.log.committed)

    def _take_soft_state(self) -> SoftState:
        self.accepted_role = self.role
        self.accepted_leader = self.leader
        return SoftState(self.leader, self.role)

    def _take_committed(self, allow_unstable: bool) -> list[Run]:
        committed = self.log.take_committed(allow_unstable)
        if self.uncommitted_bytes:
            start = self.term_start
            self.accepted_sizes += [(run.last, run.size) for run in committed if run.first >= start]
        return committed

    def _write_report(self, snapshot: Snapshot | None) -> Message:
        """What to tell us once this Ready is on disk.

        It names the end of the whole log, not of this write, which may hold no entries at all:
        writes are done in order, so all of it is on disk by then; and reports of earlier terms
        being ignored, the entries they were about would stay unstable for ever if later reports
        did not cover them.
        """
        log = self.log
        report = Message(_WRITTEN, self.id, APPEND_THREAD, self.term, log.last_term, log.last_index)
        if not log.unstable.runs:
            report.index = report.log_term = 0
        if snapshot is not None:
            report.snapshot = snapshot
        return report

    def applied_to(self, index: Index, weight: int) -> None:
        """Everything up to `index` was applied; `weight` is the sum of those runs' weights.

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
