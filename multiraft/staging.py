"""Staging members: learners that their leader makes voters by itself once they have caught up.

A voter that is behind is worse than none: while it catches up the others are fewer than a majority
needs, or have to wait for it (thesis §4.2.1). The thesis lets a new server catch up in rounds, and counts it
as caught up when a round takes less than an election timeout. Seen from the leader that is: it has
all that the leader had an election timeout ago. So a staging member is caught up if

1. it is being replicated to: the end of its log is known, and no snapshot is on its way;
2. it has nine tenths of the leader's log, by index;
3. it has everything that the leader's log held an election timeout ago: that bounds its lag in time, however
   busy or long the log is.

When that begins the leader writes an empty entry, so that there is something to keep up with in an idle
group, too. The member is promoted when it was caught up at every tick of one election timeout and has that
entry: its disk and its links were in order within that time. The clock is the leader's own, so a new leader
starts it again. The promotion is an ordinary membership change: judged by the referee, never proposed while
another one is under way, and tied to the version of the membership it was decided on. It is proposed to
nobody but this leader's own log, and nobody repeats it elsewhere: if it is lost with the leadership, the
next leader decides anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from multiraft.errors import ProposalDropped
from multiraft.group import Group
from multiraft.membership import Change, Step, Verb
from multiraft.messages import EntryKind, Run
from multiraft.raft.core import RaftRole
from multiraft.raft.progress import REPLICATE, SNAPSHOT, Progress
from multiraft.referee import UNDER_WAY, Verdict, judge
from multiraft.status import StagingStatus
from multiraft.types import Index, MemberId, Role, Term

PAUSE_TIMEOUTS_MAX: Final = 64
"""Election timeouts between two tries at most; the first pause is one, and each is twice the last."""

NONE: Final[Mapping[MemberId, StagingStatus]] = MappingProxyType({})


@attrs.define(eq=False)
class _Candidate:
    """One staging member as its leader sees it. Times are ticks."""

    still: int = 0
    """Ticks in a row at which it was caught up."""
    proof: Index = 0
    """The entry that was written when it was caught up first."""
    proof_at: int = -1
    again_at: int = 0
    pause: int = 0
    proposed: bool = False
    match: Index = 0
    needed: Index = 0
    reason: str = "its leader has not looked yet"


@attrs.define(eq=False)
class _Led:
    """A group that leads here and has staging members."""

    term: Term
    marks: deque[Index]
    """The last index of the leader's log at the last ticks, oldest first: one election timeout of them."""
    candidates: dict[MemberId, _Candidate]


class Staging:
    """The staging members of the groups that this host leads; no other group costs anything."""

    def __init__(
        self, election_ticks: int, tick_interval_s: float, *, mark_dirty: Callable[[Group], None]
    ) -> None:
        self._election_ticks = election_ticks
        self._tick_interval_s = tick_interval_s
        self._mark_dirty = mark_dirty
        self._led: dict[Group, _Led] = {}
        self._ticks = 0

    def watch(self, group: Group) -> None:
        """The group's leader, or its members, may have changed."""
        raft = group.raft
        ids = (
            [id_ for id_, member in group.membership.members.items() if member.role is Role.STAGING]
            if raft.role is RaftRole.LEADER and group.failed is None
            else ()
        )
        if not ids:
            self._led.pop(group, None)
            return
        led = self._led.get(group)
        if led is None or led.term != raft.term:
            led = self._led[group] = _Led(raft.term, deque(maxlen=self._election_ticks + 1), {})
        before = led.candidates
        led.candidates = {id_: before.get(id_) or _Candidate() for id_ in ids}

    def tick(self) -> None:
        """Look at the candidates, once per tick."""
        self._ticks += 1
        if self._led:
            for group, led in list(self._led.items()):
                if group.failed is not None or group.raft.role is not RaftRole.LEADER:
                    del self._led[group]
                else:
                    self._look(group, led)

    def status(self, group: Group) -> Mapping[MemberId, StagingStatus]:
        """Why the staging members of a group that leads here are not promoted yet."""
        led = self._led.get(group)
        if led is None:
            return NONE
        interval = self._tick_interval_s
        return MappingProxyType(
            {
                id_: StagingStatus(each.match, each.needed, each.still * interval, each.reason)
                for id_, each in led.candidates.items()
            }
        )

    def _look(self, group: Group, led: _Led) -> None:
        raft = group.raft
        last = raft.last_index
        led.marks.append(last)
        needed = max(-(-9 * last // 10), led.marks[0])
        for id_, candidate in led.candidates.items():
            progress = raft.progress.get(id_)
            if progress is None:
                continue  # the change that adds it is not applied by the core yet
            candidate.match, candidate.needed = progress.match, needed
            lack = self._lack(candidate, progress)
            if lack:
                candidate.still, candidate.reason = 0, lack
                continue
            if candidate.still == 0 and not self._start(group, candidate):
                continue
            candidate.still += 1
            if candidate.still <= self._election_ticks or candidate.match < candidate.proof:
                candidate.reason = "it has to stay caught up for an election timeout"
            elif raft.settling or raft.changing or raft.lead_transferee or group.proposals.changes:
                candidate.reason = "being promoted" if candidate.proposed else UNDER_WAY
            elif self._ticks >= candidate.again_at:
                self._promote(group, id_, candidate)

    def _start(self, group: Group, candidate: _Candidate) -> bool:
        """A candidate's clock starts: write what it has to keep up with. Not more than once per timeout."""
        if candidate.proof and self._ticks - candidate.proof_at < self._election_ticks:
            return True
        try:
            placed = group.raft.propose(Run.of([b""]))
        except ProposalDropped as error:
            candidate.reason = f"refused: {error.reason}"
            return False
        assert placed is not None, "a leader forwards nothing"
        candidate.proof, candidate.proof_at = placed.last, self._ticks
        self._mark_dirty(group)
        return True

    @staticmethod
    def _lack(candidate: _Candidate, progress: Progress) -> str:
        """Why a member is not caught up; empty: it is."""
        if progress.state is SNAPSHOT:
            return "a snapshot is on its way to it"
        if candidate.match < candidate.needed:
            return f"it is behind: it has {candidate.match} of {candidate.needed}"
        if progress.state is not REPLICATE:
            return "nothing is known of its log yet"
        return ""

    def _promote(self, group: Group, id_: MemberId, candidate: _Candidate) -> None:
        candidate.pause = min(2 * candidate.pause or 1, PAUSE_TIMEOUTS_MAX)
        candidate.again_at = self._ticks + candidate.pause * self._election_ticks
        change = Change((Step(Verb.PROMOTE, id_),), group.membership.version)
        payload = change.conf_change().encode()
        verdict = judge(group, payload, may_hand_over=False)
        if verdict is not Verdict.TAKE:
            candidate.reason = f"refused: {verdict if isinstance(verdict, str) else UNDER_WAY}"
            return
        try:
            # Without an origin: nobody waits for it, and nobody proposes it once more.
            group.raft.propose(Run.of([payload], EntryKind.CONF_CHANGE_V2))
        except ProposalDropped as error:
            candidate.reason = f"refused: {error.reason}"
            return
        candidate.proposed, candidate.reason = True, "being promoted"
        self._mark_dirty(group)
