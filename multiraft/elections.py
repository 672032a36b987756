"""Which groups of a host stand for election now: not all at once, and not all of them everywhere.

A host that starts with ten thousand groups, or loses a peer that led them, finds out within one
election timeout that nobody leads any of them. If all stood then, the hosts would be busy with the
votes for longer than an election timeout: candidates give up and ask anew, at higher terms, before
they see what was answered, and the groups never come to rest. (Three hosts with ten thousand groups
on two busy cores had elected less than a tenth of the leaders after a minute.) So there are *places*:
as many groups as have one stand, the others wait. An election timeout may always be longer, so waiting
is safe; and a place is given up after two of them, so nobody waits for ever behind groups that
cannot win. Who is next is drawn by lot: timers run out in much the same order on all hosts, and if
that were the order of their turns, all hosts would stand for the same groups and split the votes.
Where many groups lost their leader, chance would still have some members meet: so for each group one of
the members that are left stands first, and the others give it time.

Places also keep the work small enough to look after: whoever stands is asked for again when a
link comes up, or after half an election timeout, because requests that a link would not take,
or that came before the other host had the group, are lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from multiraft.group import Group
from multiraft.interfaces import Random
from multiraft.messages import NO_MEMBER, Envelope, Hello, HostMessage, Lane, Message, MessageType
from multiraft.raft.core import RaftRole
from multiraft.types import GroupId, MemberId, Role

PLACES: Final = 200
"""Groups of one host that stand at once. An election costs the hosts about a millisecond in all,
so three hosts that use all their places are done within an election timeout even on one core."""

PLACES_BEHIND: Final = PLACES // 10
"""The same while the host is behind. More groups that stand would be more work, of which it has too much
already: candidates and leaders alike would run out of time before they see the answers that wait. Not none,
or a host that is always behind would never lead anything."""

CROWD: Final = PLACES // 40
"""Groups of one host that stand, or wait to, from which on others give way to whose turn it is."""

LEARNER_TIMEOUTS: Final = 4
"""Election timeouts between two words of a learner that hears no leader."""

STRAYS_MAX: Final = 16384
"""Requests for votes that are kept for groups that are not here yet; the oldest go first."""

_VOTES: Final = (MessageType.VOTE, MessageType.PRE_VOTE)


class Elections:
    """The places, the line before them, and what candidates elsewhere asked too early."""

    def __init__(
        self,
        election_ticks: int,
        *,
        random: Random,
        moved: Callable[[Group], None],
        wake: Callable[[Group], None],
        receive: Callable[[Hello, Lane, list[Envelope]], None],
        is_behind: Callable[[], bool],
    ) -> None:
        """`receive` takes a frame as if it had just arrived. `is_behind`: the host has more to do than it
        gets done just now."""
        self._election_ticks = election_ticks
        self._random = random
        self._moved = moved
        self._wake = wake
        self._receive = receive
        self._is_behind = is_behind
        self._ticks = 0
        self._standing: dict[Group, int] = {}
        """Who has a place, and the tick at which it got that."""
        self._new: deque[Group] = deque()
        """Groups that were just made and whose member here is to lead. They stand first."""
        self._line: list[Group] = []
        """Groups whose timer has run out, in no order."""
        self._waiting: set[Group] = set()
        """Both of these."""
        self._strays: dict[GroupId, tuple[Hello, Envelope]] = {}

    # --- in line -------------------------------------------------------------------------------

    def timed_out(self, group: Group) -> bool:
        """The group's election timer has run out: it stands as soon as there is a place.

        True: it waits in line, and is woken when it is its turn. False: it has a place, or may not stand.
        """
        if group in self._waiting:
            return True
        if group.raft.is_learner:
            self._looks_for_leader(group)
            return False
        if group in self._standing or not group.raft.promotable or self._gives_way(group):
            return False
        self._waiting.add(group)
        self._line.append(group)
        return True

    def _looks_for_leader(self, group: Group) -> None:
        """A learner hears no leader. It may not stand, but does not believe in that one for ever.

        Its calls wait for another from now on, as they would elsewhere. And it says that it is there: a
        leader that has given it up rests, and would not know; who has removed it tells it so. Not often, as
        there may be no leader at all.

        By its leader's configuration it may be a voter by now, and free to vote for another. So its word must
        not confirm a read, nor renew a lease: it names no heartbeat, and those count by the one they answer.
        """
        raft = group.raft
        raft.become_follower(raft.term, NO_MEMBER)
        raft.election_timeout *= LEARNER_TIMEOUTS
        for member in group.routes:
            raft.messages.append(Message(MessageType.HEARTBEAT_RESP, member, group.member_id, raft.term))
        self._moved(group)

    def _gives_way(self, group: Group) -> bool:
        """Whether another member of a group that lost its leader is to stand first, as many stand now.

        A host that led thousands of groups is missed by all others at once. If they stood for them in any
        order, they would often meet at the same one and split its votes, for another election timeout.
        Asked once for each leader: then the timer is longer than a usual one can be.
        """
        raft = group.raft
        usual_max = 2 * self._election_ticks
        crowd = len(self._standing) + len(self._waiting)
        if crowd < CROWD or not raft.leader or raft.election_timeout >= usual_max:
            return False
        if _preferred(group, without=raft.leader) == group.member_id:
            return False
        # Twice as long as if all went well: who stands for what another is just about to win, spoils it.
        raft.election_timeout += usual_max + self._patience(2 * len(self._line))
        return True

    def leader_changed(self, group: Group) -> None:
        """The group's leader, or role, is another: if it does not stand any more the next one may."""
        if group in self._standing and not _stands(group):
            del self._standing[group]
            self.admit()

    def tick(self) -> None:
        """A tick has been counted: give up places, and give them away again."""
        self._ticks += 1
        for group, since in list(self._standing.items()):
            age = self._ticks - since
            if not _stands(group) or age >= 2 * self._election_ticks:
                del self._standing[group]
            elif age == max(1, self._election_ticks // 2):
                self._ask_again(group, None)
        self.admit()

    def admit(self) -> None:
        """Have groups stand as long as there are places."""
        if not self._waiting:
            return
        places = PLACES_BEHIND if self._is_behind() else PLACES
        while self._waiting and len(self._standing) < places:
            new = bool(self._new)
            group = self._new.popleft() if new else self._draw()
            self._waiting.discard(group)
            if group.failed is not None or group.raft.role is RaftRole.LEADER:
                continue
            self._wake(group)
            if group.bond is not None or (group.raft.leader if new else not timer_is_out(group)):
                continue  # a leader or another candidate was heard meanwhile
            self._standing[group] = self._ticks
            group.raft.time_out()
            self._moved(group)

    def _draw(self) -> Group:
        line = self._line
        number = self._random(len(line))
        line[number], line[-1] = line[-1], line[number]
        return line.pop()

    # --- starting ------------------------------------------------------------------------------

    def _patience(self, before: int) -> int:
        """Ticks to give whose turn it is, beyond a usual election timeout, if `before` others wait."""
        return self._election_ticks // 2 + before // (PLACES // 4)

    def created(self, groups: Iterable[Group]) -> None:
        """New groups: of each, one member stands at once, a different one from group to group.

        It saves the first election timeout and spreads leaders evenly. Nothing depends on it: if
        the others are not there yet, timeouts elect somebody.
        """
        patience = self._patience(len(self._new))
        for group in groups:
            if _preferred(group) == group.member_id:
                self._waiting.add(group)
                self._new.append(group)
            else:
                group.raft.election_timeout += patience
            stray = self._strays.pop(group.id, None)
            if stray is not None:
                peer, envelope = stray
                self._receive(peer, Lane.LIVENESS, [envelope])
        self.admit()

    def restarted(self, groups: list[Group]) -> None:
        """Groups found in the log. If all hosts have just started, the same spread: the member
        whose turn it is has a short election timeout, the others one that is longer the more
        groups have to be elected before it would be theirs to try."""
        patience = self._patience(len(groups) // 3)
        for group in groups:
            preferred = _preferred(group)
            if preferred == group.member_id:
                # One more than the promise to a lease from before the start lasts (raft/state.py,
                # `quiet_ticks`): while a group waits in line its core is not ticked.
                group.raft.election_timeout = self._election_ticks + 1
            elif preferred is not None:
                group.raft.election_timeout += patience

    # --- what gets lost ------------------------------------------------------------------------

    def reached(self, address: str) -> None:
        """The liveness lane to `address` is open (again): what was asked there may be lost."""
        for group in self._standing:
            for member, peer in group.routes.items():
                if peer.address == address:
                    self._ask_again(group, member)

    def stray(self, peer: Hello, group_id: GroupId, generation: int, message: HostMessage) -> None:
        """A message for a group that is not here. A request for a vote is kept for a while: the
        group is perhaps being made. Answered late, it is no different from one that was long
        on its way."""
        if type(message) is Message and message.type in _VOTES:
            self._strays.pop(group_id, None)
            while len(self._strays) >= STRAYS_MAX:
                del self._strays[next(iter(self._strays))]
            self._strays[group_id] = peer, (group_id, generation, message)

    def _ask_again(self, group: Group, member: MemberId | None) -> None:
        if group.failed is None:
            group.raft.ask_again(member)
            self._moved(group)


def timer_is_out(group: Group) -> bool:
    """Whether the next tick would make the group stand."""
    raft = group.raft
    return raft.election_elapsed + 1 >= raft.election_timeout and raft.role is not RaftRole.LEADER


def _stands(group: Group) -> bool:
    return group.failed is None and group.raft.role in (RaftRole.PRE_CANDIDATE, RaftRole.CANDIDATE)


def _preferred(group: Group, without: MemberId = NO_MEMBER) -> MemberId | None:
    """The voter that is to lead if nobody does, or if `without` is gone; None: the group has none."""
    members = group.membership.members.values()
    voters = sorted(m.id for m in members if m.role is Role.VOTER and m.id != without)
    return voters[group.id % len(voters)] if voters else None
