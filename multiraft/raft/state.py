"""The state that all roles of a member share, and the few steps that all of them take.

What a message does to it depends on the role and stands in follower.py, candidate.py and
leader.py; whatever stands here is true of every role.
"""

from __future__ import annotations

from typing import Final

from multiraft.interfaces import LogReader, Random
from multiraft.messages import NO_MEMBER, HardState, Message, MessageType, Snapshot
from multiraft.raft.confchange import Membership, restore
from multiraft.raft.config import CoreConfig
from multiraft.raft.log import RaftLog
from multiraft.raft.read_index import ReadQueue
from multiraft.raft.ready import ReadState
from multiraft.raft.runs import UNLIMITED
from multiraft.raft.trace import Level, Logger, RaftRole, fail
from multiraft.raft.tracker import Tracker
from multiraft.types import Index, MemberId, ReadMode, Term

__all__ = ["State"]

APP_RESP: Final = MessageType.APP_RESP


class State:
    """One member's core, without behaviour of its own.

    Attributes:
        id, config, log, tracker, logger: As handed in or built once.
        term, vote, leader, role: Of the present term (thesis, Figure 3.1); 0: nobody.
        messages: To leave with the next Ready.
        responses: Likewise, but only when everything before them is on disk: what they say
            promises that (thesis §3.8). May be addressed to this member itself.
        read_states: Reads confirmed since the last Ready.
        reads: A leader's unconfirmed reads.
        election_elapsed: Ticks since the election timer was reset. On a leader: since the
            last check for a quorum.
        heartbeat_elapsed: A leader's ticks since its last heartbeat.
        quiet_ticks: No vote leaves for so many ticks: a lease may count on it (`restarted`).
        ticks: A leader's ticks since its election; leases count in it.
        election_timeout: What `election_elapsed` has to reach; drawn at every reset.
        lead_transferee: Whom leadership is being handed to; 0: nobody.
        lease_given_up: TimeoutNow was sent in this term: another leader may exist any moment.
        pending_conf_index: A configuration change may be unapplied up to this index.
        uncommitted_bytes: Payload bytes in the log, proposed by this leader and not applied.
        term_start: A leader's first entry of its term; 0 for others.
        beat_due: Plain heartbeats are due, and `take_beats` will be asked for them.
        awaited: Per member, the index up to which somebody there waits for entries to be applied:
            its own proposals and reads (`coalesce_beats`).
        notices_due: Some follower may have to be told the commit index (`commit_notices`).
        is_learner: As the configuration in force says of this member.
    """

    __slots__ = (
        "_random",
        "accepted_commit",
        "accepted_leader",
        "accepted_role",
        "accepted_sizes",
        "accepted_term",
        "accepted_vote",
        "advance_messages",
        "awaited",
        "beat_due",
        "config",
        "election_elapsed",
        "election_ticks",
        "election_timeout",
        "heartbeat_elapsed",
        "id",
        "is_learner",
        "lead_transferee",
        "leader",
        "lease_given_up",
        "log",
        "logger",
        "max_message_bytes",
        "messages",
        "notices_due",
        "pending_conf_index",
        "quiet_ticks",
        "read_states",
        "reads",
        "responses",
        "role",
        "term",
        "term_start",
        "ticks",
        "tracker",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(
        self,
        config: CoreConfig,
        log: LogReader,
        random: Random,
        logger: Logger | None = None,
        *,
        applied: Index | None = None,
    ) -> None:
        config.validate()
        self.config = config
        self.id = config.id
        self.logger = logger
        self._random = random
        self.election_ticks = config.election_ticks
        self.max_message_bytes = config.max_message_bytes
        self.log = RaftLog(log, config.max_apply_bytes or config.max_message_bytes, logger)
        self.tracker = Tracker(config.id, config.max_inflight_messages, config.max_inflight_bytes)
        self.reads = ReadQueue()
        self.messages: list[Message] = []
        self.responses: list[Message] = []
        self.read_states: list[ReadState] = []
        self.accepted_sizes: list[tuple[Index, int]] = []
        self.advance_messages: list[Message] | None = None
        self.term: Term = 0
        self.vote: MemberId = NO_MEMBER
        self.leader: MemberId = NO_MEMBER
        self.role = RaftRole.FOLLOWER
        self.is_learner = False
        self.election_elapsed = self.heartbeat_elapsed = self.ticks = 0
        self.election_timeout = 0
        in_doubt = config.restarted and config.read_mode is ReadMode.LEASE
        self.quiet_ticks = config.election_ticks if in_doubt else 0
        self.lead_transferee: MemberId = NO_MEMBER
        self.lease_given_up = False
        self.pending_conf_index: Index = 0
        self.uncommitted_bytes = 0
        self.term_start: Index = 0
        self.notices_due = False
        self.beat_due = False
        self.awaited: dict[MemberId, Index] = {}
        self._start(log, config.applied if applied is None else applied)

    def _start(self, storage: LogReader, applied: Index) -> None:
        hard_state, conf_state = storage.initial_state()
        self.install(restore(conf_state))
        self._load(hard_state)
        if applied > 0:
            self.log.applied_to(applied, 0)
        self.become_follower(self.term, NO_MEMBER)
        if self.logger is not None:
            peers = ",".join(f"{member:x}" for member in self.tracker.config.voters)
            self.logger(
                Level.INFO,
                f"newRaft {self.id:x} [peers: [{peers}], term: {self.term}, commit: {self.log.committed}, "
                f"applied: {self.log.applied}, lastindex: {self.log.last_index}, "
                f"lastterm: {self.log.last_term}]",
            )
        # What was loaded and what is so at the start is no news.
        self.accepted_term, self.accepted_vote = self.term, self.vote
        self.accepted_commit = self.log.committed
        self.accepted_leader = self.leader
        self.accepted_role = self.role

    def _load(self, state: HardState) -> None:
        if state == HardState():
            return
        log = self.log
        if not log.committed <= state.commit <= log.last_index:
            fail(
                self.logger,
                f"{self.id:x} state.commit {state.commit} is out of range "
                f"[{log.committed}, {log.last_index}]",
            )
        log.committed = state.commit
        self.term = state.term
        self.vote = state.vote

    # --- roles -----------------------------------------------------------------------------

    def become_follower(self, term: Term, leader: MemberId) -> None:
        """Follow `leader` (0: whoever shows up) in `term`, which is at least our own."""
        self.role = RaftRole.FOLLOWER
        self.reset(term)
        self.leader = leader
        if self.logger is not None:
            self.logger(Level.INFO, f"{self.id:x} became follower at term {self.term}")

    def reset(self, term: Term) -> None:
        """Forget what belongs to a role. The vote belongs to the term and stays with it."""
        if self.term != term:
            assert term > self.term, "terms never fall"
            self.term = term
            self.vote = NO_MEMBER
        self.leader = NO_MEMBER
        self.election_elapsed = self.heartbeat_elapsed = self.ticks = 0
        self.election_timeout = self.election_ticks + self._random(self.election_ticks)
        self.lead_transferee = NO_MEMBER
        self.lease_given_up = False
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.accepted_sizes.clear()
        self.term_start = 0
        self.notices_due = False
        self.beat_due = False
        if self.awaited:
            self.awaited = {}
        self.reads.clear()
        self.tracker.votes.clear()
        last_index = self.log.last_index
        for member, progress in self.tracker.progress.items():
            progress.start_over(last_index if member == self.id else 0, last_index + 1)

    @property
    def promotable(self) -> bool:
        """Whether this member may lead: a voter whose log is whole."""
        progress = self.tracker.progress.get(self.id)
        return progress is not None and not progress.is_learner and self.log.unstable.snapshot is None

    def install(self, membership: Membership) -> None:
        """Put a configuration in force."""
        self.tracker.install(membership, self.log.last_index)
        self.is_learner = membership.learner.get(self.id, False)
        if self.logger is not None:
            self.logger(Level.INFO, f"{self.id:x} switched to configuration {self.tracker.config}")

    # --- sending ---------------------------------------------------------------------------

    def answer_append(self, to: MemberId, index: Index) -> None:
        """Promise `to` that this log is equal to its own up to `index`, once that is on disk."""
        self.responses.append(Message(APP_RESP, to, self.id, self.term, 0, index))

    # --- storage ---------------------------------------------------------------------------

    def snapshot_stored(self, snapshot: Snapshot) -> None:
        """A received snapshot is on disk and applied. True in whatever term we are by now."""
        self.log.unstable.stable_snapshot_to(snapshot.index)
        self.log.applied_to(max(snapshot.index, self.log.applied), 0)

    def settle_sizes(self, applied: Index) -> None:
        """Give back the room of proposals that were applied."""
        sizes = self.accepted_sizes
        done = 0
        for last, size in sizes:
            if last > applied:
                break
            self.uncommitted_bytes -= size
            done += 1
        del sizes[:done]

    def reserve(self, size: int) -> bool:
        """Make room for proposals of `size` payload bytes; False: they would exceed the limit.

        Whatever its size, a proposal fits when nothing else is waiting; and what has no
        payload always fits, so that neither a new leader nor a leaving of joint
        configurations can be blocked.
        """
        limit = self.config.max_uncommitted_bytes or UNLIMITED
        if size and self.uncommitted_bytes and self.uncommitted_bytes + size > limit:
            return False
        self.uncommitted_bytes += size
        return True
