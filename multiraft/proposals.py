"""Proposals on their way: queued here, handed to raft, and matched with what was applied.

Every run that a program proposes carries a tag, the proposer's member id and a sequence
number, whether it is appended here or forwarded. The tag is in the log, so a proposer
recognizes its entries when it applies them, and nothing else has to tell it their index.

Why the outcome is exact. A run is proposed for one term: here, it is appended at the core's
own term; forwarded, the leader refuses it unless it leads at the very term that the message
names. So if the run is in the log at all, its entries have that term. Terms never decrease
along a log (thesis §3.5), so once an entry of a higher term is applied and the run was not
seen, it is nowhere before it, and cannot come after: it was certainly dropped. Only a jump by
snapshot hides which entries were applied; then the outcome is unknown.

A run that was certainly dropped because leadership changed is proposed again, under a new
number, a few times: the caller need not know. A refusal for any other reason is the caller's.

A forwarded run may be lost with its connection while the leader stays, or find no route to it. It
is sent again when the link is back, or the route is there (post.py); a leader remembers, for as
long as it leads, the last number it took from each member, and takes none twice. Members send
their runs in order, so one number is enough.

Membership changes are runs like any other, with the same marks and so the same exactness. What
the leader refuses never gets into the log: see referee.py. A joint change is done when the joint
configuration is left; once entered that is certain, so its callers only wait (thesis §4.3).
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs

from multiraft.budget import Budget
from multiraft.errors import (
    MembershipRejected,
    MultiraftError,
    OutcomeUnknown,
    ProposalDropped,
    outcome_unknown,
)
from multiraft.messages import Run
from multiraft.types import MemberId, Term

RUN_BYTES_MAX = 256 * 1024
"""Payload of one run. Larger batches become several runs, so that cutting a run at a message
limit, which decodes and encodes it again, stays cheap."""


LEADERSHIP_CHANGED = "leadership changed first"
"""Why a leader refuses a run that was meant for another term."""

TRIES_MAX = 5
"""Times a run is proposed before a change of leadership fails it. A group that changes leaders
that often is in trouble, and its callers should hear of it."""


class Waiter(Protocol):
    """Whoever waits for an outcome; exactly one of the two is called, once."""

    def resolve(self, value: object) -> None: ...

    def fail(self, error: Exception) -> None: ...


def listens(waiter: Waiter) -> bool:
    """Whether `waiter` still wants its outcome: one whose task was cancelled says that it does not."""
    return bool(getattr(waiter, "listening", True))


@attrs.define(eq=False)
class Outstanding:
    """A run that was handed to raft. `waiters` has one for each entry not yet applied."""

    run: Run
    term: Term
    waiters: list[Waiter]
    tries: int
    resent: bool = False
    """A first copy of it may have reached the leader, so a refusal of the second proves nothing."""


@attrs.define(eq=False)
class QueuedChange:
    """A membership change that waits to be handed to raft: an encoded `ConfChange`."""

    payload: bytes
    waiter: Waiter
    tries: int = 0


class ProposalTable:
    """The proposals of one group on one host."""

    __slots__ = (
        "_budget",
        "_carried_term",
        "_completing",
        "_outstanding",
        "_taken",
        "_taken_term",
        "_withdrawn",
        "again",
        "carried_bytes",
        "changes",
        "dead_term",
        "deadline",
        "held",
        "held_bytes",
        "outcomes",
        "payloads",
        "waiters",
    )

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = Budget(0) if budget is None else budget
        self.held_bytes = 0
        """Payload of the group that was proposed here and has no outcome yet, queued or under way."""
        self.carried_bytes = 0
        """As leader: payload that other members had appended here and that is not applied here yet."""
        self._carried_term: Term = 0
        self.payloads: list[bytes] = []
        """Queued: not yet handed to raft. Parallel to `waiters`."""
        self.waiters: list[Waiter] = []
        self.changes: list[QueuedChange] = []
        """Queued membership changes. Apart, so that one that has to wait holds nothing up."""
        self._completing: list[Waiter] | None = None  # joint changes that were entered
        self.again: list[Outstanding] | None = None
        """Runs to be proposed once more: dropped by a change of leadership."""
        self._outstanding: dict[int, Outstanding] | None = None  # by sequence
        self.outcomes: deque[tuple[Waiter, object]] | None = None
        """Results that leave in pieces (outcomes.py), in the log's order. None: nobody waits for that."""
        self._withdrawn: set[Waiter] | None = None
        self._taken: dict[MemberId, int] | None = None  # as leader: last sequence per member
        self._taken_term: Term = 0
        self.dead_term: Term = 0
        """Whom we took for the leader of this term does not lead it any more, and nobody will: until
        we hear of a later one there is nobody to forward to."""
        self.held = False
        """What is queued waits until what is under way is applied."""
        self.deadline: float | None = None
        """When waiting for a leader ends; None while one is known or nobody waits."""

    def __bool__(self) -> bool:
        return (
            bool(self.payloads)
            or bool(self._outstanding)
            or bool(self.again)
            or bool(self.changes)
            or bool(self._completing)
        )

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for one of these. Looks at them: for closing, not for passes."""
        runs = itertools.chain((self._outstanding or {}).values(), self.again or ())
        return any(
            map(
                listens,
                itertools.chain(
                    self.waiters,
                    (queued.waiter for queued in self.changes),
                    self._completing or (),
                    itertools.chain.from_iterable(run.waiters for run in runs),
                    (waiter for waiter, _ in self.outcomes or ()),
                ),
            )
        )

    @property
    def queued(self) -> bool:
        """Whether there is something for raft."""
        return bool(self.payloads) or bool(self.again) or bool(self.changes)

    def worth_waiting(self, enough: int) -> bool:
        """Whether fewer than `enough` are queued behind several that are under way."""
        under_way = self._outstanding
        if not under_way or self.again or len(self.payloads) >= enough:
            return False
        # Behind a single one there is nothing to be had: where each group has one or two, that would
        # only cut a pass for all of them into two.
        return len(under_way) > 1 or len(next(iter(under_way.values())).waiters) > 1

    def queue(self, payload: bytes, waiter: Waiter) -> None:
        self.payloads.append(payload)
        self.waiters.append(waiter)
        self.held_bytes += len(payload)
        self._budget.used += len(payload)

    def withdraw(self, waiter: Waiter) -> None:
        """Whoever waits gave up. What is still queued for it is never proposed.

        Only noted here: thousands may give up at once, and each would search the whole queue.
        """
        if self.payloads:
            if self._withdrawn is None:
                self._withdrawn = set()
            self._withdrawn.add(waiter)

    def withdraw_change(self, waiter: Waiter) -> None:
        """Whoever waits for a change gave up. If it is still queued it is never proposed."""
        self.changes = [queued for queued in self.changes if queued.waiter is not waiter]

    def take_queued(self) -> tuple[list[bytes], list[Waiter], int]:
        """Take queued proposals for one run, as many as one holds, and how often they were tried.

        None at all, if all of them were withdrawn.
        """
        if self._withdrawn:
            gone, self._withdrawn = self._withdrawn, None
            kept = [pair for pair in zip(self.payloads, self.waiters, strict=True) if pair[1] not in gone]
            before = sum(map(len, self.payloads))
            self.payloads, self.waiters = [each for each, _ in kept], [waiter for _, waiter in kept]
            self._let_go(before - sum(map(len, self.payloads)))
        if self.again:
            held = self.again.pop(0)
            return held.run.payloads, held.waiters, held.tries
        payloads, waiters = self.payloads, self.waiters
        total = 0
        for count, payload in enumerate(payloads):
            total += len(payload)
            if total > RUN_BYTES_MAX and count:
                self.payloads, self.waiters = payloads[count:], waiters[count:]
                return payloads[:count], waiters[:count], 0
        self.payloads, self.waiters = [], []
        return payloads, waiters, 0

    def dropped(self, run: Run, waiters: list[Waiter], error: MultiraftError) -> None:
        """Raft did not take what was taken off the queue for it."""
        self._let_go(run.size)
        self._fail(waiters, error)

    def proposed(self, run: Run, term: Term, waiters: list[Waiter], tries: int = 0) -> None:
        """Remember a run that raft appended, or is forwarding, at `term`."""
        if self._outstanding is None:
            self._outstanding = {}
        self._outstanding[run.sequence] = Outstanding(run, term, waiters, tries + 1)

    def applied(self, run: Run, results: Sequence[object], *, at_once: bool = True) -> None:
        """Entries tagged as ours were applied: wake those who wait for them, or keep that for `hand_out`."""
        if not self._outstanding:
            return
        found = self._outstanding.pop(run.sequence, None)
        if found is None:
            return
        self._let_go(run.size)
        waiters = found.waiters
        if not self.outcomes and (at_once or waiters[0] is waiters[-1]):
            for waiter, result in zip(waiters, results, strict=False):
                waiter.resolve(result)
        else:
            if self.outcomes is None:
                self.outcomes = deque()
            self.outcomes += zip(waiters, results, strict=False)
        if len(found.waiters) > len(results):
            # The run was cut on its way here; the rest comes under the number of its first entry.
            # Not `cut` from the run: it may be sent once more, so it has no place in the log yet.
            rest = Run.of(
                found.run.payloads[run.count :],
                origin=found.run.origin,
                sequence=found.run.sequence + run.count,
            )
            self._outstanding[rest.sequence] = Outstanding(
                rest, found.term, found.waiters[run.count :], found.tries, found.resent
            )

    def hand_out(self, most: int) -> None:
        """Wake so many of those whose results are kept.

        Who waits for several in a row counts once, and who was cancelled meanwhile not at all.
        """
        outcomes, woken = self.outcomes, None
        while outcomes:
            waiter, result = outcomes[0]
            if waiter is not woken and listens(waiter):
                if not most:
                    return
                most -= 1
                woken = waiter
            outcomes.popleft()
            waiter.resolve(result)

    def changed(self, run: Run, refused: str | None) -> None:
        """A membership change tagged as ours was applied, or did not fit and changed nothing."""
        if not self._outstanding or (found := self._outstanding.pop(run.sequence, None)) is None:
            return
        if refused is not None:
            self._fail(found.waiters, MembershipRejected(refused))
            return
        if self._completing is None:
            self._completing = []
        self._completing += found.waiters

    def completed(self) -> None:
        """No joint change is under way: those that were applied are done."""
        if self._completing:
            waiters, self._completing = self._completing, None
            for waiter in waiters:
                waiter.resolve(None)

    def applied_term(self, term: Term) -> bool:
        """An entry of `term` was applied: what was proposed before that term never will be.

        Returns whether any of it is queued again.
        """
        if not self._outstanding:
            return False
        late = sorted(key for key, held in self._outstanding.items() if held.term < term)
        again = False
        for key in late:
            again |= self._try_again(self._outstanding.pop(key))
        return again

    def refused(self, sequence: int, reason: str) -> bool:
        """The leader says that it did not append the run; whether it is queued again."""
        if not self._outstanding or (held := self._outstanding.get(sequence)) is None:
            return False
        if reason == LEADERSHIP_CHANGED:
            self.dead_term = max(self.dead_term, held.term)
        if reason == LEADERSHIP_CHANGED and held.resent:
            # The first copy may be in the log all the same. The log will tell: either the run
            # is applied, or an entry of a higher term is.
            return False
        del self._outstanding[sequence]
        if reason == LEADERSHIP_CHANGED:
            return self._try_again(held)
        self._end(held, MembershipRejected(reason) if held.run.kind else ProposalDropped(reason))
        return False

    def lost(self, sequence: int) -> None:
        """The run could not be sent, though later ones may get through: it must not wait."""
        if self._outstanding and (held := self._outstanding.pop(sequence, None)) is not None:
            reason = "too much is queued for the leader"
            self._end(held, OutcomeUnknown(reason) if held.resent else ProposalDropped(reason))

    def _try_again(self, held: Outstanding) -> bool:
        if held.tries >= TRIES_MAX:
            self._end(held, ProposalDropped(LEADERSHIP_CHANGED))
            return False
        if held.run.kind:
            self.changes += [QueuedChange(held.run.payloads[0], each, held.tries) for each in held.waiters]
            return True
        if self.again is None:
            self.again = []
        self.again.append(held)
        return True

    def skipped(self) -> None:
        """A snapshot replaced the log: which of ours it holds cannot be seen."""
        self._fail_outstanding(OutcomeUnknown("a snapshot replaced the log before the result was known"))

    def expire_queued(self, error: MultiraftError) -> None:
        payloads, waiters, self.payloads, self.waiters = self.payloads, self.waiters, [], []
        self._let_go(sum(map(len, payloads)))
        again, self.again = self.again, None
        changes, self.changes = self.changes, []
        self.deadline = None
        self._fail([queued.waiter for queued in changes], error)
        for held in again or ():
            self._end(held, error)
        self._fail(waiters, error)

    def expire_outstanding(self, reason: str) -> None:
        self._fail_outstanding(OutcomeUnknown(reason))

    def fail_all(self, error: MultiraftError, *, unknown: str) -> None:
        """The group stops: queued proposals fail with `error`; the outcome of those under way is unknown.

        Who has a result gets it: what was applied was committed.
        """
        self.hand_out(sys.maxsize)
        self.expire_queued(error)
        completing, self._completing = self._completing, None
        self._fail(completing or [], outcome_unknown(error, unknown))
        self._fail_outstanding(outcome_unknown(error, unknown))
        self.put_down()

    def to_resend(self, term: Term) -> Iterator[Run]:
        """Runs of `term` to forward once more, in order, after the link to the leader was lost."""
        for _, held in sorted((self._outstanding or {}).items()):
            if held.term == term:
                held.resent = True
                yield held.run

    def take_forwarded(self, run: Run, term: Term) -> bool:
        """As leader at `term`: whether a forwarded run is new and in order to be appended."""
        if self._taken is None or self._taken_term != term:
            self._taken, self._taken_term = {}, term
        return self._taken.get(run.origin, -1) < run.sequence

    def took_forwarded(self, run: Run) -> None:
        assert self._taken is not None
        self._taken[run.origin] = run.sequence + run.count - 1

    def _fail_outstanding(self, error: MultiraftError) -> None:
        if self._outstanding:
            held, self._outstanding = self._outstanding, None
            for outstanding in held.values():
                self._end(outstanding, error)

    # --- what it all weighs ----------------------------------------------------------------------

    def has_room(self, size: int, limit: int) -> bool:
        """Whether `size` more bytes keep within the group's `limit`: always, if there are none."""
        return self.held_bytes + size <= limit or not self.held_bytes

    def carry(self, run: Run, term: Term) -> None:
        """As leader at `term`: another member's run was appended here."""
        if run.kind:
            return
        if self._carried_term != term:
            self.put_down()
            self._carried_term = term
        self.carried_bytes += run.size
        self._budget.used += run.size

    def carried(self, run: Run) -> None:
        """Another member's run was applied here."""
        if run.term == self._carried_term:
            size = min(run.size, self.carried_bytes)
            self.carried_bytes -= size
            self._budget.used -= size

    def put_down(self) -> None:
        """Not the leader any more: what others had appended here is somebody else's care."""
        self._budget.used -= self.carried_bytes
        self.carried_bytes = 0

    def _let_go(self, size: int) -> None:
        self.held_bytes -= size
        self._budget.used -= size

    def _end(self, held: Outstanding, error: MultiraftError) -> None:
        if not held.run.kind:
            self._let_go(held.run.size)
        self._fail(held.waiters, error)

    @staticmethod
    def _fail(waiters: list[Waiter], error: MultiraftError) -> None:
        for waiter in waiters:
            waiter.fail(error)
