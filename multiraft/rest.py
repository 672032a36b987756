"""Who is awake: only those groups are ticked. A group that sleeps costs nothing until something happens.

Time is told to a core when it matters, not when it passes. A follower, or a candidate, sleeps until its
election timeout is over or a message comes; attached to its leader's host it *rests*: that host's
beats keep its timer (`Session.silent`), whatever the number of groups. A leader rests when it has no
business: nothing of its log is under way, and a quorum's hosts vouch for their members without
being asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from multiraft.config import HostConfig
from multiraft.elections import timer_is_out
from multiraft.group import Group
from multiraft.messages import Row
from multiraft.raft.core import Raft, RaftRole
from multiraft.raft.progress import REPLICATE
from multiraft.raft.quorum import VoteResult, joint_vote
from multiraft.routes import Peer
from multiraft.types import MemberId, ReadMode

if TYPE_CHECKING:
    from multiraft.sessions import Follower, Session

TURNS_MIN: Final = 32
"""Groups that are told of a tick between two looks at the clock."""

PATIENCE_TIMEOUTS: Final = 2
"""Election timeouts for which a leader waits for the word of a member whose host is there."""


class Rest:
    """The groups that are awake, and their ticks; and when the others are to be woken."""

    def __init__(
        self,
        config: HostConfig,
        *,
        moved: Callable[[Group], None],
        queue: Callable[[Session], None],
        timed_out: Callable[[Group], bool],
    ) -> None:
        """`timed_out`: the group's election timer has run out. True: it is in line, and woken in its turn."""
        self._election_ticks = config.election_ticks
        self._check_quorum = config.check_quorum
        self._leases = config.read_mode is ReadMode.LEASE
        self._moved = moved
        self.beat: Callable[[Group], None] = lambda _group: None
        """A leader's heartbeats are due (beats.py)."""
        self._queue = queue
        self._timed_out = timed_out
        self.ticked: dict[Group, None] = {}
        """Those that are awake."""
        self.due: dict[int, list[Group]] = {}
        """By tick: groups whose election timeout is over then, unless something comes in between."""
        self._turns: list[Group] = []
        """Who has not been told of the present tick, last one first."""
        self._rings: list[Group] = []
        """Likewise, of those that sleep until this tick."""
        self.ticks = 0
        """Tick intervals since the host was opened."""

    @property
    def ticking(self) -> bool:
        """Whether some groups have not been told yet that the present tick interval is over."""
        return bool(self._turns or self._rings)

    @property
    def awake(self) -> int:
        """How many groups are ticked."""
        return len(self.ticked)

    def count_at_rest(self, attached: int, leading: int) -> int:
        """How many groups rest, given how many are attached, and lead: whoever is awake does not rest."""
        awake = sum(1 for g in self.ticked if g.bond is not None or g.raft.role is RaftRole.LEADER)
        return max(0, attached + leading - awake)

    # --- waking ----------------------------------------------------------------------------------

    def wake(self, group: Group) -> None:
        """Something happened, or is about to: tell the core what time it is.

        Call it before the core hears what happened, so that it judges that by the right time.
        """
        if group.awake:
            return
        group.awake = True
        group.due = 0
        self.ticked[group] = None
        slept, group.state_since = self.ticks - group.state_since, self.ticks
        raft = group.raft
        if raft.role is RaftRole.LEADER:
            raft.slept(slept, self._answers(raft, slept) if self._leases else ())
        elif group.bond is not None:
            if raft.leader == group.bond_leader and raft.term == group.bond_term:
                raft.election_elapsed = group.bond.silent
        else:
            raft.waited(slept)

    def fold(self, group: Group) -> None:
        """Of a group that is awake: the beats of its leader's host count as heard from its leader."""
        session, raft = group.bond, group.raft
        if session is not None and raft.leader == group.bond_leader and raft.term == group.bond_term:
            raft.election_elapsed = min(raft.election_elapsed, session.silent)

    def _answers(self, raft: Raft, slept: int) -> list[tuple[MemberId, int]]:
        """Who vouched for a leader while it rested, and how many ticks ago that was asked."""
        found = []
        for member, progress in raft.tracker.others:
            follower = cast("Follower | None", progress.vouch)
            # What was acknowledged before the word came, vouches for nothing of it.
            if follower is not None and follower.session.acked > follower.since:
                ago = self.ticks - follower.session.acked_at
                if ago <= slept:
                    found.append((ago, member))
        return [(member, ago) for ago, member in sorted(found, reverse=True)]

    # --- ticks -----------------------------------------------------------------------------------

    def begin_tick(self) -> None:
        """A tick interval is over. `go_on` tells those who are awake: thousands may be."""
        assert not self.ticking, "one tick after the other"
        self.ticks += 1
        self._turns = list(reversed(self.ticked))
        self._rings = self.due.pop(self.ticks, [])[::-1]

    def go_on(self, now: Callable[[], float], deadline: float) -> bool:
        """Go on with the tick until `deadline`, for `TURNS_MIN` groups at least. True: all were told.

        Most of them go to sleep. Whoever was not told yet goes by the time of the last tick, so that nobody
        stands too early; who is woken meanwhile is told as it wakes.
        """
        turns, rings = self._turns, self._rings
        count = 0
        while turns or rings:
            if turns:
                group = turns.pop()
                if group.failed is None:
                    self._tick(group)
                else:
                    self._lie_down(group, self.ticks)
            else:
                self._ring(rings.pop())
            count += 1
            if count % TURNS_MIN == 0 and now() > deadline:
                break
        return not (turns or rings)

    def _ring(self, group: Group) -> None:
        if group.due == self.ticks and group.failed is None:
            self.wake(group)
            if timer_is_out(group) and self._timed_out(group):
                self._lie_down(group, self.ticks)

    def _tick(self, group: Group) -> None:
        raft = group.raft
        if raft.role is RaftRole.LEADER:
            log = raft.log
            if log.committed == log.last_index and self._may_rest(group):
                self._lie_down(group, self.ticks - 1)  # it has not been told of this tick
                return
            if raft.tick():
                self._moved(group)
            if raft.beat_due:
                self.beat(group)
            return
        raft.waited(1)
        session = group.bond
        if session is None:
            if not group.dirty:
                self._sleep(group)
            elif timer_is_out(group):
                self._timed_out(group)
        elif session.silent <= raft.election_elapsed:
            # Its leader's host was heard last, not the leader itself: from now on the beats count.
            raft.election_elapsed = session.silent
            if not raft.quiet_ticks and not group.dirty:
                self._lie_down(group, self.ticks)

    def _lie_down(self, group: Group, since: int) -> None:
        del self.ticked[group]
        group.awake = False
        group.state_since = since

    def _sleep(self, group: Group) -> None:
        """Until the election timeout of a member that hears no leader is over, and then in line."""
        raft = group.raft
        left = raft.election_timeout - 1 - raft.election_elapsed
        if left <= 0:
            if self._timed_out(group):
                # Thousands may be in line, for many timeouts. None of them is looked at before its turn.
                self._lie_down(group, self.ticks)
                return
            # It stands and gets nowhere, or may not stand. Look again later.
            left = max(1, self._election_ticks // 2)
        self._lie_down(group, self.ticks)
        group.due = self.ticks + left
        self.due.setdefault(group.due, []).append(group)

    # --- a leader's business -----------------------------------------------------------------------

    def _may_rest(self, group: Group) -> bool:
        """Whether a leader can do without ticks. What it has not told of its commits is told here."""
        raft = group.raft
        log = raft.log
        last = log.last_index
        if log.committed != last or log.applied != last or group.unsynced or group.dirty:
            return False
        if log.unstable.offset <= last or log.unstable.snapshot is not None:
            return False
        if raft.lead_transferee or raft.quiet_ticks or raft.joint or raft.reads.waiting:
            return False
        vouched: dict[MemberId, bool] = {raft.id: True}
        for member, progress in raft.tracker.others:
            follower = cast("Follower | None", progress.vouch)
            if follower is None or follower.session.over:
                if self._is_awaited(group, member, progress.recent_active):
                    return False
            elif progress.match != last or progress.state is not REPLICATE:
                return False
            else:
                if follower.told != last:
                    self._tell(group, follower)
                vouched[member] = True
        config = raft.tracker.config
        return joint_vote(config.incoming, config.outgoing, vouched) is VoteResult.WON

    def _is_awaited(self, group: Group, member: MemberId, active: bool) -> bool:
        """Whether heartbeats may bring a member's word: its host is there, and maybe it is, too."""
        peer: Peer | None = group.routes.get(member)
        if peer is not None and peer.session is not None:
            given = peer.session.led.get(group.id)
            late = given is not None and given.member == member and given.progress is None
            if late and self._count(group, cast("Follower", given)):
                return True  # not any more; but what it lacks must be looked at before its leader rests
        if active and self._check_quorum:
            return True  # it answered within an election timeout or two
        if peer is None or peer.session is None or not peer.session.is_open:
            return False
        # One that never says anything wakes its leader when it does: by a vote request, if by nothing else,
        # or by the word of a learner that looks for a leader (elections.py).
        return active or self.ticks - group.state_since < PATIENCE_TIMEOUTS * self._election_ticks

    @staticmethod
    def _count(group: Group, given: Follower) -> bool:
        """A word that came before its member was known to be at home on that host: is it by now?"""
        progress = group.raft.progress.get(given.member)
        if progress is None or group.hosts.get(given.member) != given.session.host_id:
            return False
        given.since = given.session.acked
        given.progress = progress
        progress.vouch = given
        progress.recent_active = True
        return True

    def _tell(self, group: Group, follower: Follower) -> None:
        """The commit index, in a row that arrives or ends the session."""
        follower.told = group.raft.committed
        session = follower.session
        session.say(Row.COMMITTED, group.id, group.generation, follower.term, group.member_id, follower.told)
        self._queue(session)
