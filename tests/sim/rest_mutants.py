"""Planted bugs in the protocol that lets groups rest: each leaves one rule of docs/liveness.md out."""

from __future__ import annotations

from collections.abc import Iterator

from multiraft.errors import MultiraftError
from multiraft.group import Group
from multiraft.liveness import Liveness
from multiraft.messages import Message, MessageType, Pulse, Row
from multiraft.raft.state import State
from multiraft.rest import Rest
from multiraft.scheduler import Scheduler
from multiraft.sessions import Follower, Question, Session
from multiraft.types import GroupId, MemberId, Term
from tests.sim.mutants import FOCUS, planted, replaced

FOCUS["silence_wakes_nobody"] = {"faults": ("kill", "campaign"), "lossy": False}

BY_SEEDS = ("silence_wakes_nobody",)
"""Those that random runs catch within a few seeds; for the others it takes a scene."""

SHOWN_BY = {
    "attachments_are_never_refused": "a_word_for_a_leader_that_fell_is_given_back",
    "stale_detaches_count": "a_stale_release_is_ignored",
    "detaches_wait_for_a_tick": "a_vote_is_known_before_the_beat_is_answered",
    "beats_answer_for_who_left": "a_vote_is_known_before_the_beat_is_answered",
    "missing_pulses_do_not_matter": "a_pulse_that_is_missing_is_missed",
    "reads_take_any_beat": "a_beat_from_before_the_read_answers_nothing",
    "silence_wakes_nobody": "followers_of_a_silent_host_elect_another",
    "leaders_rest_without_a_quorum": "a_leader_without_a_quorum_steps_down",
    "what_a_late_word_lacks_is_not_looked_at": "a_late_word_of_a_member_that_lacks_entries_lets_nobody_rest",
    "commits_are_not_told": "members_hear_of_the_last_commit_before_they_rest",
    "promise_dies_with_the_term": "a_lease_holds_against_a_late_refusal",
    "promise_is_forgotten_at_rest": "a_lease_holds_against_a_candidate",
    "attachments_outlive_their_session": "the_liveness_lane_breaks_alone",
    "words_are_forgotten_at_once": "a_lease_holds_before_a_follower_is_told_of_the_end",
    "sessions_that_are_over_are_asked": "nobody_answers_before_it_is_told_of_the_end",
}
"""Planted bugs, and a scene of scenes.py that comes out wrong with each."""


@planted
def attachments_are_never_refused() -> Iterator[None]:
    """Rule 1: who gives its word to one that does not lead is not told so."""
    real = Session.say

    def say(self: Session, what: Row, *row: int) -> None:
        if what is not Row.RELEASED:
            real(self, what, *row)

    with replaced(Session, "say", say):
        yield


@planted
def detaches_wait_for_a_tick() -> Iterator[None]:
    """Rule 3: what a follower does not keep to any more is said later than it could be."""
    real_check, real_tick = Liveness.check, Liveness.tick
    late: list[tuple[Liveness, Group]] = []

    def check(self: Liveness, group: Group) -> None:
        late.append((self, group))

    def tick(self: Liveness) -> None:
        mine = [entry for entry in late if entry[0] is self]
        for entry in mine:
            late.remove(entry)
            real_check(self, entry[1])
        real_tick(self)

    with replaced(Liveness, "check", check), replaced(Liveness, "tick", tick):
        yield


@planted
def what_a_message_did_is_not_looked_at() -> Iterator[None]:
    """Rule 3: a core was told of another term, or voted, and its word for the term before stands."""

    def take(self: Scheduler, group: Group, message: Message) -> None:
        try:
            group.raft.step(message)
        except MultiraftError as error:
            self._step_failed(group, error)

    with replaced(Scheduler, "_take", take):
        yield


@planted
def what_a_core_did_itself_is_not_looked_at() -> Iterator[None]:
    """Rule 3: likewise, when a core stood for election, or stepped down."""

    with replaced(Scheduler, "_moved", Scheduler.mark_dirty):
        yield


@planted
def beats_answer_for_who_left() -> Iterator[None]:
    """A beat's acknowledgement counts for a member whose word does not stand any more."""

    def answered(self: Liveness, questions: list[Question]) -> None:
        for question in questions:
            follower = question.follower
            group = follower.group
            answer = Message(
                MessageType.HEARTBEAT_RESP,
                group.member_id,
                follower.member,
                follower.term,
                context=question.context,
            )
            self._step(group, answer)
            self._mark_dirty(group)

    with replaced(Liveness, "_answered", answered):
        yield


@planted
def reads_take_any_beat() -> Iterator[None]:
    """A read is confirmed by a beat that was sent before it was asked."""

    def ask(self: Session, follower: Follower, context: bytes) -> None:
        question = Question(follower, context)
        if self._flying:
            self._asked.appendleft((self._flying[0][0], [question]))
        else:
            self._questions.append(question)

    with replaced(Session, "ask", ask):
        yield


@planted
def stale_detaches_count() -> Iterator[None]:
    """Rule 2: a detachment of an earlier term ends the present attachment."""
    real = Liveness._released

    def released(self: Liveness, session: Session, group_id: GroupId, generation: int, term: Term) -> None:
        group = session.followed.get(group_id)
        real(self, session, group_id, generation, term if group is None else group.bond_term)

    with replaced(Liveness, "_released", released):
        yield


@planted
def missing_pulses_do_not_matter() -> Iterator[None]:
    """Pulses that are missing are not missed."""

    def follows(self: Session, pulse: Pulse) -> bool | None:
        self._received = max(self._received, pulse.number)
        return True

    with replaced(Session, "follows", follows):
        yield


@planted
def silence_wakes_nobody() -> Iterator[None]:
    """A session ends, and the groups that were attached in it sleep on."""
    real = Liveness._end

    def end(self: Liveness, session: Session, *, silent: bool = False) -> Session:
        session.followed = {}
        return real(self, session, silent=silent)

    with replaced(Liveness, "_end", end):
        yield


@planted
def promise_dies_with_the_term() -> Iterator[None]:
    """Rule 7: who heard a leader votes for another as soon as something clears term and leader."""
    real = State.reset

    def reset(self: State, term: Term) -> None:
        quiet = self.quiet_ticks
        real(self, term)
        self.quiet_ticks = quiet

    with replaced(State, "reset", reset):
        yield


@planted
def promise_is_forgotten_at_rest() -> Iterator[None]:
    """A member at rest does not count the beats of its leader's host as heard."""
    real = Rest.wake

    def wake(self: Rest, group: Group) -> None:
        asleep, since = not group.awake, group.state_since
        real(self, group)
        if asleep and group.bond is not None:
            group.raft.election_elapsed = self.ticks - since

    with replaced(Rest, "wake", wake), replaced(Rest, "fold", lambda *_: None):
        yield


@planted
def leaders_rest_without_a_quorum() -> Iterator[None]:
    """A leader of whom nobody is left rests, rather than ask itself whether it leads."""

    def may_rest(_: Rest, group: Group) -> bool:
        return group.raft.log.applied == group.raft.last_index

    with replaced(Rest, "_may_rest", may_rest):
        yield


@planted
def what_a_late_word_lacks_is_not_looked_at() -> Iterator[None]:
    """Rule 1: a word counts now, and its leader rests though that member is behind."""
    real = Rest._is_awaited

    def is_awaited(self: Rest, group: Group, member: MemberId, active: bool) -> bool:
        progress = group.raft.progress[member]
        before = progress.vouch
        awaited = real(self, group, member, active)
        return awaited if progress.vouch is before else active

    with replaced(Rest, "_is_awaited", is_awaited):
        yield


@planted
def commits_are_not_told() -> Iterator[None]:
    """A leader rests without having told the commit index."""
    with replaced(Rest, "_tell", lambda *_: None):
        yield


@planted
def attachments_outlive_their_session() -> Iterator[None]:
    """Rule 4: a follower keeps its word over the end of the session, which its leader's host forgot."""
    real = Liveness._end

    def end(self: Liveness, session: Session, *, silent: bool = False) -> Session:
        after = real(self, session, silent=silent)
        session.followed = {}
        return after

    with replaced(Liveness, "_end", end):
        yield


@planted
def words_are_forgotten_at_once() -> Iterator[None]:
    """A session's end takes the words back, and tells nobody until when they were kept."""
    real = Liveness._end

    def end(self: Liveness, session: Session, *, silent: bool = False) -> Session:
        for group in session.followed.values():
            group.bond, group.bond_term = None, 0
        return real(self, session, silent=silent)

    with replaced(Liveness, "_end", end):
        yield


@planted
def sessions_that_are_over_are_asked() -> Iterator[None]:
    """A read goes along with the next beat of a session that has none any more."""
    real = Liveness.carry

    def carry(self: Liveness, group: Group, message: Message) -> bool:
        progress = group.raft.progress.get(message.to)
        session = getattr(None if progress is None else progress.vouch, "session", None)
        if session is None or not session.over:
            return real(self, group, message)
        session.over = False
        try:
            return real(self, group, message)
        finally:
            session.over = True

    with replaced(Liveness, "carry", carry):
        yield
