"""What two hosts' liveness lanes make together: a session, its beats, and what waits for them. Pure.

A session is a pair of *halves*, one number from each host, higher at every new try. A host is in the
session (mine, theirs) from when it hears from the other side that it knows `mine`, until either half
changes; as halves only grow, a session that was left is never entered again. Pulses are numbered
within their session: one that is missing ends it. So nothing here hangs on what a transport loses,
doubles or tells of its breaks; docs/liveness.md has the argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from multiraft.messages import PULSE_FIELDS, Pulse, Row
from multiraft.types import GroupId, Index, MemberId, Term

if TYPE_CHECKING:
    from multiraft.group import Group
    from multiraft.raft.progress import Progress
    from multiraft.routes import Peer

PULSE_ROWS_MAX: Final = 256
"""Rows in one pulse, which is handled at once: it takes its receiver about a millisecond."""


class Follower:
    """A leader's side of one attachment: the word of `member`, on the session's other host.

    Attributes:
        since: The newest beat that was acknowledged when the word came: that one, and those before,
            vouch for nothing of this.
        told: The commit index that the follower was last told in this session; it will know it, or
            the session ends.
        progress: What the core knows of the member; None if it is none (any more).
    """

    __slots__ = ("group", "member", "progress", "session", "since", "term", "told")

    def __init__(
        self, session: Session, group: Group, term: Term, member: MemberId, progress: Progress | None
    ) -> None:
        self.session = session
        self.group = group
        self.term = term
        self.member = member
        self.progress = progress
        self.since = session.acked
        self.told: Index = 0


@attrs.define(eq=False)
class Question:
    """A heartbeat with a context that a follower's host answers by acknowledging a beat."""

    follower: Follower
    context: bytes


class Session:
    """This host's end of what it has with one other host.

    Attributes:
        half, other: The name, see above. `other` is 0 until the peer was heard.
        host_id: Whose halves `other` are.
        is_open: Both sides know the name: the books may be used.
        over: Another one has its place. What stands in its books counts for nothing, but for one thing: how
            long ago the last beat was (partings.py takes the groups out, in turn).
        lane_up: Our stream is open, as far as is known: it may have been before the session was made.
        led: The leader's book: words of members at that host, by group.
        followed: The follower's book: groups whose member here gave its word to a leader there.
        silent: Ticks since the last beat was handled; 0 while `followed` is empty.
        unanswered: Ticks since the last acknowledgement was news; 0 while `led` is empty.
        acked: The newest beat that was acknowledged in this session; 0: none.
        acked_at: The tick at which that one was sent.
    """

    __slots__ = (
        "_answer_due",
        "_answered",
        "_asked",
        "_beat",
        "_beat_due",
        "_flying",
        "_heard",
        "_hello_due",
        "_new_half",
        "_questions",
        "_received",
        "_rows",
        "_sent",
        "_urgent",
        "acked",
        "acked_at",
        "followed",
        "half",
        "host_id",
        "is_open",
        "lane_up",
        "led",
        "other",
        "over",
        "peer",
        "queued",
        "silent",
        "unanswered",
    )

    def __init__(self, peer: Peer, new_half: Callable[[], int]) -> None:
        self.peer = peer
        self._new_half = new_half
        self.host_id = 0
        self.other = 0
        self.lane_up = True
        self.queued = False
        self.over = False
        self._beat = 0
        self.led: dict[GroupId, Follower] = {}
        self.followed: dict[GroupId, Group] = {}
        self.begin()

    # --- the session's beginning and end ---------------------------------------------------------

    def begin(self) -> None:
        """A new half of ours: what was, is over on both sides. The books must have been cleared."""
        self.half = self._new_half()
        self._start_over()

    def met(self, half: int) -> None:
        """A new half of theirs. The books must have been cleared."""
        assert half > self.other, "halves only grow"
        self.other = half
        self._start_over()

    def met_stranger(self, host_id: int) -> None:
        """Another host answers at this address. The books must have been cleared."""
        self.host_id = host_id
        self.other = 0
        self.begin()

    def _start_over(self) -> None:
        assert not self.led, "a session's books die with it"
        assert not self.followed, "a session's books die with it"
        self.is_open = False
        self._hello_due = True
        self._sent = self._received = 0
        self._heard = self._answered = self.acked = self.acked_at = 0
        self._rows: list[int] = []
        self._flying: deque[tuple[int, int]] = deque()
        """Beats without an acknowledgement, and the tick each was sent at."""
        self._questions: list[Question] = []
        self._asked: deque[tuple[int, list[Question]]] = deque()
        """Questions by the beat that asks them."""
        self._urgent = 0
        """A beat that is to be acknowledged at once, and was not yet."""
        self._beat_due = self._answer_due = False
        self.silent = self.unanswered = 0

    def opened(self) -> None:
        """The other side knows our half, and we know theirs."""
        self.is_open = True
        self.silent = self.unanswered = 0

    def close(self) -> list[Question]:
        """The session is over here; returns questions that it leaves without an answer."""
        left = [question for _, asked in self._asked for question in asked] + self._questions
        self._questions = []
        self._asked.clear()
        self._rows = []
        self.is_open = False
        return left

    def successor(self) -> Session:
        """The one that has this one's place from now on: it knows the other host, and its books are empty.

        This one must have been closed. Its books stay as they are, for those who stand in them.
        """
        assert not self.is_open, "closed before"
        self.over = True
        self._hello_due = False
        after = Session(self.peer, self._new_half)
        after.host_id, after.other, after.lane_up = self.host_id, self.other, self.lane_up
        after._beat = self._beat
        return after

    # --- out ---------------------------------------------------------------------------------------

    def say(
        self, what: Row, group: GroupId, generation: int, term: Term, leader: MemberId, last: int
    ) -> None:
        """Put a row into the next pulse."""
        self._rows += (int(what), group, generation, term, leader, last)

    def ask(self, follower: Follower, context: bytes) -> None:
        """Have the next beat ask `follower` what a heartbeat with `context` would."""
        self._questions.append(Question(follower, context))

    def tick(self) -> int:
        """A tick interval is over. Returns for how many the other side has kept us waiting.

        Nobody waits for beats who is attached to nobody, nor for answers to whom nobody is.
        """
        self.silent = self.silent + 1 if self.followed else 0
        self.unanswered = self.unanswered + 1 if self.led else 0
        return max(self.silent, self.unanswered)

    def interval_over(self) -> None:
        """It is time for a beat, and for an answer; or, without a session, to try for one once more."""
        if not self.is_open:
            self._hello_due = True
            return
        if self.led:
            self._beat_due = True
        if self._heard > self._answered:
            self._answer_due = True

    def pulses(self, tick: int) -> list[Pulse]:
        """What is to leave at the end of a pass. Attachments and detachments before any acknowledgement."""
        if not self.is_open:
            if not (self._hello_due and self.lane_up):
                return []
            self._hello_due = False
            return [Pulse(self.half, self.other, 0, 0, 0, False, [])]
        ask = bool(self._questions) and not self._urgent
        if not (self._rows or self._beat_due or self._answer_due or self._hello_due or ask):
            return []
        rows, self._rows = self._rows, []
        step = PULSE_FIELDS * PULSE_ROWS_MAX
        last = max(0, len(rows) - 1) // step * step
        # Parts without a beat: what they acknowledge was acknowledged before.
        pulses = [self._pulse(rows[at : at + step], 0, False) for at in range(0, last, step)]
        rows = rows[last:]
        if self._beat_due or ask:
            self._beat += 1
            self._flying.append((self._beat, tick))
            if ask:
                self._urgent = self._beat
                self._asked.append((self._beat, self._questions))
                self._questions = []
        beat = self._beat if self._beat_due or ask else 0
        pulses.append(self._pulse(rows, beat, ask, ack=self._heard))
        self._beat_due = self._answer_due = self._hello_due = False
        self._answered = self._heard
        return pulses

    def _pulse(self, rows: list[int], beat: int, urgent: bool, ack: int = 0) -> Pulse:
        self._sent += 1
        return Pulse(self.half, self.other, self._sent, beat, ack, urgent, rows)

    # --- in ----------------------------------------------------------------------------------------

    def follows(self, pulse: Pulse) -> bool | None:
        """Whether `pulse` is the next one. None: it came before; False: others are missing."""
        if pulse.number <= self._received:
            return None
        if pulse.number != self._received + 1:
            return False
        self._received = pulse.number
        return True

    def hear_ack(self, beat: int) -> list[Question]:
        """A beat was acknowledged, and all before it. Returns the questions that were asked by them."""
        if not self.acked < beat <= self._beat:
            return []
        flying = self._flying
        while flying and flying[0][0] <= beat:
            self.acked, self.acked_at = flying.popleft()
        self.unanswered = 0
        if self._urgent <= beat:
            self._urgent = 0
        answered: list[Question] = []
        while self._asked and self._asked[0][0] <= beat:
            answered += self._asked.popleft()[1]
        return answered

    def hear_beat(self, beat: int, urgent: bool) -> None:
        if beat > self._heard:
            self._heard = beat
            self.silent = 0
            if urgent:
                self._answer_due = True

    @property
    def has_questions(self) -> bool:
        """Questions wait for a beat that may leave."""
        return bool(self._questions) and not self._urgent
