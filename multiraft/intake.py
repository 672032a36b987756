"""What programs ask of groups, on its way into raft: proposals, read barriers, queries.

Calls that find no leader wait here, for `leader_wait_s` at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from multiraft.budget import HOST_LIMIT_REASON, Budget
from multiraft.config import HostConfig
from multiraft.errors import MembershipRejected, MultiraftError, NoLeader, NotLeader, ProposalDropped
from multiraft.group import Group
from multiraft.interfaces import Clock, Executor
from multiraft.messages import EntryKind, Message, Run
from multiraft.post import Post
from multiraft.proposals import LEADERSHIP_CHANGED, Waiter
from multiraft.raft.core import RaftRole
from multiraft.referee import Verdict, judge

PASS_BYTES_MAX = 16 << 20
"""Payload of one group that a pass proposes. The rest of a queue that grew while the log was behind
goes with the next ones: a batch has a limit, and so has what may be in memory twice."""

CROWD_GROUPS = 128
"""Groups with business in a pass from which on those wait their turn that have proposals under way."""

TURN_PROPOSALS = 64
"""Proposals that no group holds back: each costs next to nothing in a run with that many."""


class Intake:
    """The programs' side of a host's scheduler."""

    def __init__(
        self,
        config: HostConfig,
        clock: Clock,
        executor: Executor,
        post: Post,
        epoch: int,
        budget: Budget,
        *,
        mark_dirty: Callable[[Group], None],
        wake: Callable[[], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._executor = executor
        self._post = post
        self._budget = budget
        self._mark_dirty = mark_dirty
        self._wake = wake
        # The epoch makes numbers of this start differ from those of any other start.
        self._sequence = epoch << 40
        self._context = epoch << 40
        self._waiting: dict[Group, None] = {}
        """Groups in which somebody may wait for a leader, or for a read that got lost."""
        self._transferring: dict[Group, list[Message]] = {}
        """Forwarded proposals that came while leadership was handed over, in order."""
        self._handed_over: dict[Group, object] = {}
        """The last change that leadership was handed over for; it is not tried twice."""
        self.lead: Callable[[Group, Run], bool] = lambda _group, _run: False
        """The short way for runs of groups that are led here (express.py)."""
        self._queries: list[tuple[Group, object, Waiter]] = []
        self._asking: deque[list[tuple[Group, object, Waiter]]] = deque()
        """Queries that the worker has."""
        self.held_back: list[Group] = []
        """Groups whose proposals wait until the log has caught up."""
        self.crowd_groups = CROWD_GROUPS
        """Fewer in a simulator, whose hosts never have that many."""
        self.crowded = False
        """Set for a pass: so many groups have business that what a run costs matters."""
        self._holding: dict[Group, None] = {}
        """Groups whose proposals wait for those under way."""
        self.proposed_runs = 0

    @property
    def busy(self) -> bool:
        return bool(self._queries or self._asking)

    def stop(self, error: MultiraftError) -> None:
        """Nothing more will be done: tell those who wait for a query."""
        queries = [query for batch in (*self._asking, self._queries) for query in batch]
        self._asking.clear()
        self._queries = []
        for _, _, waiter in queries:
            waiter.fail(error)

    def watch(self, group: Group) -> None:
        """The group's leader changed: look after whoever waits there."""
        if group.proposals or group.reads:
            self._waiting[group] = None

    def tick(self, now: float) -> None:
        """Once per tick: give up on what waited too long, and hold nothing back for longer."""
        if self._holding:
            holding, self._holding = self._holding, {}
            for group in holding:
                if group.proposals.held and group.failed is None:
                    self._mark_dirty(group)
        if self._waiting:
            for group in list(self._waiting):
                self._expire(group, now)
        if self._transferring:
            transferring, self._transferring = self._transferring, {}
            for group, messages in transferring.items():
                if group.failed is None:
                    for message in messages:
                        self.step_forwarded(group, message)
                    self._mark_dirty(group)

    def propose(self, group: Group, log_is_behind: bool) -> None:
        raft, table = group.raft, group.proposals
        leads = raft.role is RaftRole.LEADER
        if not raft.leader or (leads and raft.lead_transferee):
            # Nobody to propose to; _tick gives up when it has lasted too long.
            self._wait(group)
            return
        if not leads and raft.term <= table.dead_term:
            # It would be refused again, and its tries be over before we hear of the new leader.
            self._wait(group)
            return
        table.deadline = None
        if not leads and not self._config.forward_proposals:
            table.expire_queued(NotLeader(group.leader))
            return
        if leads and log_is_behind:
            # The log is behind: let the batch grow instead of queueing more small ones.
            self.held_back.append(group)
            return
        if table.changes and not self._propose_changes(group, leads):
            return
        if table.outcomes is not None:
            return  # until its results are out: outcomes.py sees to it
        # A run costs as much with one proposal in it as with ten. With many groups at work, what
        # comes meanwhile had better be one run: until those under way are applied, or a tick.
        if self.crowded and table.worth_waiting(TURN_PROPOSALS):
            if not table.held:
                table.held = True
                self._holding[group] = None
            if group in self._holding:
                return
        table.held = False
        taken = 0
        while table.payloads or table.again:
            if taken >= PASS_BYTES_MAX:
                self._mark_dirty(group)
                break
            payloads, waiters, tries = table.take_queued()
            if not payloads:
                break
            sequence = self._sequence
            self._sequence += len(payloads)
            if leads:
                first, term = raft.log.last_index + 1, raft.term
                run = Run.of(payloads, first=first, term=term, origin=group.member_id, sequence=sequence)
            else:
                run = Run.of(payloads, origin=group.member_id, sequence=sequence)
            taken += run.size
            try:
                if not (leads and self.lead(group, run)):
                    raft.propose(run)
            except ProposalDropped as error:
                table.dropped(run, waiters, error)
                continue
            self.proposed_runs += 1
            table.proposed(run, raft.term, waiters, tries)

    def _propose_changes(self, group: Group, leads: bool) -> bool:
        """False: leadership is being handed over, so nothing may be proposed."""
        raft, table = group.raft, group.proposals
        while table.changes:
            queued = table.changes[0]
            if leads:
                verdict = self._judge(group, queued.payload, queued.waiter)
                if verdict is Verdict.WAIT:
                    self._wait(group)
                    return True
                if verdict is Verdict.HAND_OVER:
                    self._wait(group)
                    return False
                if isinstance(verdict, str):
                    table.changes.pop(0).waiter.fail(MembershipRejected(verdict))
                    continue
            table.changes.pop(0)
            kind = EntryKind.CONF_CHANGE_V2
            run = Run.of([queued.payload], kind, origin=group.member_id, sequence=self._sequence)
            self._sequence += 1
            try:
                raft.propose(run)
            except ProposalDropped as error:
                queued.waiter.fail(error)
                continue
            table.proposed(run, raft.term, [queued.waiter], queued.tries)
        return True

    def _judge(self, group: Group, payload: bytes, token: object) -> Verdict | str:
        verdict = judge(group, payload, may_hand_over=self._handed_over.get(group) != token)
        if verdict is Verdict.HAND_OVER:
            self._handed_over[group] = token
            self._mark_dirty(group)
        elif verdict is not Verdict.WAIT:
            self._handed_over.pop(group, None)
        return verdict

    def ask(self, group: Group) -> None:
        if not group.raft.leader:
            self._wait(group)
            return
        group.reads.deadline = None
        self._context += 1
        context = self._context.to_bytes(8, "big")
        group.reads.ask(context, self._clock.now())
        self._waiting[group] = None
        group.raft.read_index(context)

    def _wait(self, group: Group) -> None:
        deadline = self._clock.now() + self._config.leader_wait_s
        if group.proposals.queued and group.proposals.deadline is None:
            group.proposals.deadline = deadline
        if group.reads.queued and group.reads.deadline is None:
            group.reads.deadline = deadline
        self._waiting[group] = None

    def run_query(self, group: Group, request: object, waiter: Waiter) -> None:
        """Call the machine's `query`, in its worker thread if it is a blocking one."""
        if group.machine.blocking:
            self._queries.append((group, request, waiter))
            self._wake()
            return
        _answer(group, request, waiter)

    def flush_queries(self) -> None:
        if not self._queries:
            return
        queries, self._queries = self._queries, []
        self._asking.append(queries)
        answers: list[tuple[Waiter, object, BaseException | None]] = []

        def job() -> None:
            for group, request, waiter in queries:
                try:
                    answers.append((waiter, group.machine.query(request), None))
                except Exception as error:
                    answers.append((waiter, None, error))

        def done(_: None, __: BaseException | None) -> None:
            if not self._asking:
                return  # the host stopped, and they were told
            self._asking.popleft()
            for waiter, value, error in answers:
                if error is None:
                    waiter.resolve(value)
                else:
                    waiter.fail(error)  # type: ignore[arg-type]  # a query raises what it likes

        self._executor.submit(job, done)

    def _expire(self, group: Group, now: float) -> None:
        """Give up what has waited for a leader too long; ask again for reads that got lost."""
        config, table, reads = self._config, group.proposals, group.reads
        no_leader = NoLeader(
            "; ".join(
                (
                    f"group {group.id} has had no leader for {config.leader_wait_s:g} s",
                    *group.warnings.values(),
                )
            )
        )
        if table.deadline is not None and now >= table.deadline:
            table.expire_queued(no_leader)
        if reads.deadline is not None and now >= reads.deadline:
            reads.expire_queued(no_leader)
        since = group.no_leader_since
        if since is not None and now - since >= config.leader_wait_s:
            table.expire_outstanding("the group lost its leader before the result was known")
        if reads.ask_again(now - config.election_ticks * config.tick_interval_s):
            self._mark_dirty(group)
        if not table and not reads:
            del self._waiting[group]
        elif table.queued or reads.queued:
            if group.raft.leader:
                self._mark_dirty(group)
            else:
                self._wait(group)  # what the last leader left, if nothing else has the group looked at

    def step_forwarded(self, group: Group, message: Message) -> None:
        """A proposal from another member; see proposals.py for why the term must match."""
        raft = group.raft
        run = message.runs[0] if len(message.runs) == 1 else None
        if run is None or run.origin != message.sender or run.kind is EntryKind.CONF_CHANGE:
            return
        if raft.lead_transferee or group in self._transferring:
            self._transferring.setdefault(group, []).append(message)
            return
        if raft.role is not RaftRole.LEADER or message.term != raft.term:
            self._post.refuse(group, message.sender, run.sequence, LEADERSHIP_CHANGED)
        elif group.proposals.take_forwarded(run, raft.term):
            verdict: Verdict | str = Verdict.TAKE
            if run.kind:
                token = (raft.term, run.origin, run.sequence)
                verdict = self._judge(group, run.payloads[0], token)
                if verdict is Verdict.WAIT or verdict is Verdict.HAND_OVER:
                    self._transferring[group] = [message]
                    return
            # Refused or not: another copy of it must not be taken after a refusal has left.
            group.proposals.took_forwarded(run)
            if isinstance(verdict, str):
                self._post.refuse(group, message.sender, run.sequence, verdict)
                return
            if not self._budget.has_room(run.size):
                self._post.refuse(group, message.sender, run.sequence, f"at the leader: {HOST_LIMIT_REASON}")
                return
            try:
                placed = run if run.kind else run.placed(raft.log.last_index + 1, raft.term)
                if run.kind or not self.lead(group, placed):
                    raft.propose(run)
                group.proposals.carry(run, raft.term)
            except ProposalDropped as error:
                self._post.refuse(group, message.sender, run.sequence, error.reason)


def _answer(group: Group, request: object, waiter: Waiter) -> None:
    try:
        value = group.machine.query(request)
    except Exception as error:
        waiter.fail(error)
    else:
        waiter.resolve(value)
