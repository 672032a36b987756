"""Who is awake: only those groups are ticked. A group at rest costs nothing until something happens.

A follower rests while it is attached to its leader's host: that host's beats keep its election
timer (`Session.silent`), whatever the number of groups. A leader rests when it has no business: nothing
of its log is under way, and a quorum's hosts vouch for their members without being asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from multiraft.config import HostConfig
from multiraft.group import Group
from multiraft.messages import Row
from multiraft.raft.core import Raft, RaftRole
from multiraft.raft.progress import REPLICATE
from multiraft.raft.quorum import VoteResult, joint_vote
from multiraft.routes import Peer
from multiraft.types import MemberId, ReadMode

if TYPE_CHECKING:
    from multiraft.sessions import Follower, Session

STANDS_PER_TICK_MAX: Final = 1000
"""Groups that stand for election in one tick. The others wait for the next: when a host with thousands
of leaders dies, their followers' timers run out in the same few ticks."""

PATIENCE_TIMEOUTS: Final = 2
"""Election timeouts for which a leader waits for the word of a member whose host is there."""


class Rest:
    """The groups that are awake, and their ticks."""

    def __init__(
        self,
        config: HostConfig,
        *,
        mark_dirty: Callable[[Group], None],
        beat: Callable[[Group], None],
        queue: Callable[[Session], None],
    ) -> None:
        self._election_ticks = config.election_ticks
        self._leases = config.read_mode is ReadMode.LEASE
        self._mark_dirty = mark_dirty
        self._beat = beat
        self._queue = queue
        self._awake: dict[Group, None] = {}
        self.ticks = 0
        """Tick intervals since the host was opened."""

    @property
    def awake(self) -> int:
        """How many groups are ticked."""
        return len(self._awake)

    def wake(self, group: Group) -> None:
        """Something happened, or is about to: the core's time goes on from what it is now.

        Call it before the core hears what happened, so that it judges that by the right time.
        """
        if group.awake:
            return
        group.awake = True
        self._awake[group] = None
        slept, group.state_since = self.ticks - group.state_since, self.ticks
        raft = group.raft
        if raft.role is RaftRole.LEADER:
            raft.slept(slept, self._answers(raft, slept) if self._leases else ())
        else:
            self.fold(group)

    def fold(self, group: Group) -> None:
        """The beats of its leader's host count as heard by an attached follower."""
        session, raft = group.bond, group.raft
        if session is not None and raft.leader == group.bond_leader and raft.term == group.bond_term:
            if group.awake:
                raft.election_elapsed = min(raft.election_elapsed, session.silent)
            else:
                raft.election_elapsed = session.silent

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

    def tick(self) -> None:
        """A tick interval is over for all who are awake; some of them go to rest."""
        self.ticks += 1
        stood = 0
        for group in list(self._awake):
            raft = group.raft
            if group.failed is not None:
                self._lie_down(group)
            elif raft.role is RaftRole.LEADER:
                if self._may_rest(group):
                    self._lie_down(group)
                    group.state_since -= 1  # it has not been told of this tick
                    continue
                if raft.tick():
                    self._mark_dirty(group)
                if raft.beat_due:
                    self._beat(group)
            elif group.bond is not None:
                self._tick_attached(group, group.bond)
            elif (
                stood < STANDS_PER_TICK_MAX
                or raft.election_elapsed + 1 < raft.election_timeout
                or not raft.promotable
            ) and raft.tick():
                stood += 1
                self._mark_dirty(group)

    def _tick_attached(self, group: Group, session: Session) -> None:
        """Its leader's host was heard last, or the leader itself: whichever is later counts."""
        raft = group.raft
        if raft.quiet_ticks:
            raft.quiet_ticks -= 1
        raft.election_elapsed += 1
        if session.silent <= raft.election_elapsed:
            raft.election_elapsed = session.silent
            if not raft.quiet_ticks and not group.dirty:
                self._lie_down(group)

    def _lie_down(self, group: Group) -> None:
        del self._awake[group]
        group.awake = False
        group.state_since = self.ticks

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
            if follower is None:
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
        if peer is None or peer.session is None or not peer.session.is_open:
            return False
        # One that never says anything wakes its leader when it does: by a vote request, if by nothing else.
        return active or self.ticks - group.state_since < PATIENCE_TIMEOUTS * self._election_ticks

    def _tell(self, group: Group, follower: Follower) -> None:
        """The commit index, in a row that arrives or ends the session."""
        follower.told = group.raft.committed
        session = follower.session
        session.say(Row.COMMITTED, group.id, group.generation, follower.term, group.member_id, follower.told)
        self._queue(session)
