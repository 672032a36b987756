"""What the beginning and the end of a session mean for each of its groups, told to them in pieces.

Two hosts may share a hundred thousand groups. When their session ends nothing of it is believed from that
moment (`Session.over`), but to wake each of its groups takes a second, and to look after all of them that
then are awake, every tick, takes longer than a tick: beats would come too late, and end the next session,
and so on. So they are told in turn: no more than `TURNS_TICK_MAX` of them in a tick, in pieces between
which a pass looks at the clock. docs/liveness.md ("In turn") has the argument why that may be late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from multiraft.group import Group
from multiraft.raft.core import RaftRole
from multiraft.rest import Rest
from multiraft.sessions import Follower, Question, Session
from multiraft.types import GroupId

TURNS_TICK_MAX: Final = 2000
"""Groups that are told in one tick interval: with what follows from it, some 30 ms of work of each host."""

PIECE_GROUPS: Final = 32
"""Groups between two looks at the clock."""

LOOKS: Final = 16
"""Groups that are looked at for each that may be told: most are led elsewhere, and cost little."""


@attrs.define(eq=False)
class Ending:
    """A session that is over, in whose books some groups still stand."""

    session: Session
    silent: bool
    """It ended because nothing was heard for an election timeout."""
    questions: list[Question]
    """Those it leaves without an answer."""


@attrs.define(eq=False)
class Opening:
    """A session that was opened, and groups that have a member on either side."""

    session: Session
    groups: list[GroupId]


class Partings:
    """Sessions of which not all groups were told yet that they are open, or over.

    Attributes:
        due: Somebody's turn is now.
    """

    def __init__(
        self,
        election_ticks: int,
        groups: Mapping[GroupId, Group],
        rest: Rest,
        ask_each: Callable[[list[Question]], None],
    ) -> None:
        """`ask_each` asks by ordinary heartbeats what beats will not answer."""
        self._election_ticks = election_ticks
        self._groups = groups
        self._rest = rest
        self._ask_each = ask_each
        self._endings: deque[Ending] = deque()
        self._openings: deque[Opening] = deque()
        self._turns = TURNS_TICK_MAX
        """That are left in this tick interval."""
        self.due = False

    def _look(self) -> None:
        self.due = self._turns > 0 and bool(self._endings or self._openings)

    @property
    def attached(self) -> int:
        """Followers here that stand in the books of sessions that are over."""
        return sum(len(ending.session.followed) for ending in self._endings)

    def ended(self, session: Session, silent: bool, questions: list[Question]) -> None:
        """The session is over, and its books are not empty."""
        self._endings.append(Ending(session, silent, questions))
        self._look()

    def opened(self, session: Session) -> None:
        """The session is open: leaders whose members are there are to wake up."""
        self._openings.append(Opening(session, list(session.peer.groups)))
        self._look()

    def tick(self) -> None:
        """A tick interval is over."""
        self._turns = TURNS_TICK_MAX
        for ending in self._endings:
            # Their groups go by it until it is their turn: the time since its last beat goes on.
            ending.session.silent += 1
        self.due = bool(self._endings or self._openings)

    def go_on(self, now: Callable[[], float], deadline: float) -> None:
        """Tell groups until `deadline`, and one piece at least. Only if one is `due`."""
        while self.due:
            piece = min(PIECE_GROUPS, self._turns)
            # Whoever is told that a session is open must know before that the one before is over.
            self._turns -= self._go_on_ending(piece) if self._endings else self._go_on_opening(piece)
            self._look()
            if now() > deadline:
                break

    def _go_on_ending(self, count: int) -> int:
        ending = self._endings[0]
        session, questions = ending.session, ending.questions
        done = 0
        while done < count:
            if questions:
                self._ask_each([questions.pop()])
            elif session.followed:
                self._set_free(session, session.followed.popitem()[1])
            elif session.led:
                self._unvouch(session.led.popitem()[1], ending.silent)
            else:
                self._endings.popleft()
                break
            done += 1
        return done

    def _set_free(self, session: Session, group: Group) -> None:
        if group.bond is not session:
            return  # it has left since
        # Its time goes on from the last beat or message that was handled.
        self._rest.wake(group)
        self._rest.fold(group)
        group.bond = None
        group.bond_term = 0

    def _unvouch(self, follower: Follower, silent: bool) -> None:
        group, progress = follower.group, follower.progress
        raft = group.raft
        if group.failed is not None or raft.role is not RaftRole.LEADER or raft.term != follower.term:
            return  # it has stepped down since, and then counts on nobody
        rested = not group.awake
        self._rest.wake(group)
        if progress is None or progress.vouch is not follower:
            return  # never counted; or the member has given its word again, in the session after this one
        progress.vouch = None
        if silent:
            progress.recent_active = False
            if rested:
                # Is there a quorum without it? Nobody was asked lately: look with the next tick. (One
                # that is awake asks all the time, and gives each a whole timeout to answer.)
                raft.election_elapsed = self._election_ticks - 1

    def _go_on_opening(self, count: int) -> int:
        opening = self._openings[0]
        groups = opening.groups
        done = 0
        for _ in range(LOOKS * count):
            if done == count:
                break
            if not groups or not opening.session.is_open:
                self._openings.popleft()
                break
            group = self._groups.get(groups.pop())
            if group is not None and group.raft.role is RaftRole.LEADER and group.failed is None:
                # Its heartbeats bring the attachment.
                self._rest.wake(group)
                # One that is awake for long has been patient with those who were there before.
                group.state_since = self._rest.ticks
                done += 1
        return done
