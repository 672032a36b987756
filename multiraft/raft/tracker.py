"""The members of a group as one of them sees it: configuration, progress and votes.

Derived views (who else there is, which progress counts in which half) are made when the
configuration changes, so that nothing on the hot path sorts or filters.
"""

from __future__ import annotations

from collections.abc import Sequence

from multiraft.raft.confchange import Configuration, Membership
from multiraft.raft.inflights import Inflights
from multiraft.raft.progress import Progress
from multiraft.raft.quorum import VoteResult, joint_vote, majority_index
from multiraft.types import Index, MemberId

__all__ = ["Tracker"]


class Tracker:
    """Who is in the group, and what is known of each.

    Attributes:
        config: The configuration in force: the latest one applied.
        progress: By member id, ascending. The objects survive role and configuration changes.
        others: All of `progress` but our own, ascending: whom a broadcast goes to.
        votes: What was answered in the present election, by member.
    """

    __slots__ = (
        "_incoming",
        "_max_inflight_bytes",
        "_max_inflight_messages",
        "_outgoing",
        "_own_id",
        "config",
        "others",
        "progress",
        "votes",
    )

    def __init__(self, own_id: MemberId, max_inflight_messages: int, max_inflight_bytes: int) -> None:
        self._own_id = own_id
        self._max_inflight_messages = max_inflight_messages
        self._max_inflight_bytes = max_inflight_bytes
        self.config = Configuration()
        self.progress: dict[MemberId, Progress] = {}
        self.votes: dict[MemberId, bool] = {}
        # Tuples: they change with the configuration only, and a list is twice as large.
        self.others: Sequence[tuple[MemberId, Progress]] = ()
        self._incoming: tuple[Progress, ...] = ()
        self._outgoing: tuple[Progress, ...] = ()

    @property
    def membership(self) -> Membership:
        flags = {member: progress.is_learner for member, progress in self.progress.items()}
        return Membership(self.config, flags)

    def install(self, membership: Membership, last_index: Index) -> None:
        """Put `membership` in force.

        Members that stay keep their progress. A new one counts as active, or its leader could
        find itself without a quorum the moment it added somebody.
        """
        progress: dict[MemberId, Progress] = {}
        for member, is_learner in sorted(membership.learner.items()):
            known = self.progress.get(member)
            if known is None:
                window = Inflights(self._max_inflight_messages, self._max_inflight_bytes)
                known = Progress(max(last_index, 1), window)
            known.is_learner = is_learner
            progress[member] = known
        self.config = membership.config
        self.progress = progress
        self.others = tuple([each for each in progress.items() if each[0] != self._own_id])
        self._incoming = tuple([progress[member] for member in sorted(self.config.incoming)])
        self._outgoing = tuple([progress[member] for member in sorted(self.config.outgoing)])

    def forget_members(self) -> None:
        """Before a configuration from a snapshot: nothing of the present one carries over."""
        self.progress = {}

    # --- questions -------------------------------------------------------------------------

    @property
    def single_voter(self) -> bool:
        return len(self._incoming) == 1 and not self._outgoing

    def is_voter(self, member: MemberId) -> bool:
        return member in self.config.incoming or member in self.config.outgoing

    def committed(self) -> Index:
        """The highest index that a quorum has on disk."""
        voters = self._incoming
        if len(voters) == 3:  # by far the most common: the middle one
            one, two, index = voters[0].match, voters[1].match, voters[2].match
            if one > two:
                one, two = two, one
            if index < one:
                index = one
            elif index > two:
                index = two
        else:
            index = majority_index([progress.match for progress in voters])
        if self._outgoing:
            index = min(index, majority_index([progress.match for progress in self._outgoing]))
        return index

    def acknowledged(self, positions: dict[MemberId, int], own: int) -> int:
        """The highest of `positions` that a quorum has reached; our own is `own`."""
        lowest = own
        for half in (self.config.incoming, self.config.outgoing):
            if half:
                reached = [own if member == self._own_id else positions.get(member, 0) for member in half]
                lowest = min(lowest, majority_index(reached))
        return lowest

    def quorum_active(self) -> bool:
        """Whether a quorum answered since the last `start_activity_check`; learners don't count."""
        answers = {member: progress.recent_active for member, progress in self.progress.items()}
        # The leader needs no message to know of itself.
        answers[self._own_id] = True
        return joint_vote(self.config.incoming, self.config.outgoing, answers) is VoteResult.WON

    def start_activity_check(self) -> None:
        for _member, progress in self.others:
            progress.recent_active = progress.vouch is not None

    # --- votes -----------------------------------------------------------------------------

    def record_vote(self, member: MemberId, granted: bool) -> None:
        """The first answer of each member counts."""
        self.votes.setdefault(member, granted)

    def tally(self) -> tuple[int, int, VoteResult]:
        """Votes granted and refused by voters, and what they amount to."""
        granted = refused = 0
        for member, vote in self.votes.items():
            if self.is_voter(member):
                granted += vote
                refused += not vote
        return granted, refused, joint_vote(self.config.incoming, self.config.outgoing, self.votes)
