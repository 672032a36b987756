"""The short way does what the long way does: compared state by state, in all that chaos leads to.

Whenever one of the functions of steady.py takes a case, a copy of the core goes the long way, by
message and Ready; then both must be equal, and so must what they hand out. And groups that take
the short way whenever they can keep the promises of Raft.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import attrs
import pytest

from multiraft.errors import ProposalDropped
from multiraft.messages import APPEND_THREAD, EntryKind, Message, MessageType, Run
from multiraft.raft.core import Raft, RaftRole
from multiraft.raft.failures import PeerNotFound
from multiraft.raft.inflights import _NOTHING
from multiraft.raft.ready import Ready
from multiraft.raft.runs import total_weight
from multiraft.raft.state import State
from multiraft.raft.steady import acknowledge, follow, lead, stored, take_committed
from multiraft.types import Index, MemberId, Term
from tests.raft.helpers import Member, make_leader, make_member
from tests.raft.test_random_networks import Chaos

OPAQUE = {"_logger", "logger", "_random", "_storage", "config"}


def seen(value: Any) -> Any:
    """All there is to a core, as plain values."""
    if isinstance(value, Run):
        return (value.first, value.last, value.term, value.kind, value.blob, value.origin, value.sequence)
    if isinstance(value, dict):
        return {key: seen(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [seen(each) for each in value]
    if attrs.has(type(value)):
        return [seen(getattr(value, field.name)) for field in attrs.fields(type(value))]
    slots = [name for each in type(value).__mro__ for name in getattr(each, "__slots__", ())]
    if slots and type(value).__module__.startswith("multiraft."):
        return {name: seen(getattr(value, name)) for name in slots if name not in OPAQUE}
    return value


def twin(core: Raft) -> Raft:
    """A copy that shares the log on disk, which none of the steps compared here changes."""
    shared = {id(core.log._storage): core.log._storage, id(core._random): core._random}
    shared |= {id(_NOTHING): _NOTHING}  # told by its identity
    shared |= {id(core.logger): core.logger, id(core.config): core.config}
    return copy.deepcopy(core, shared)


@attrs.define(eq=False)
class Short:
    """A write on the short way: what will be on disk, and whom to tell."""

    run: Run
    leader: MemberId
    committed: list[Run]


class SteadyChaos(Chaos):
    """Takes the short way wherever it goes, and compares where the long way has nothing older to say."""

    def __init__(self, seed: int, count: int) -> None:
        super().__init__(seed, count)
        for member in self.members.values():
            member.config = attrs.evolve(
                member.config,
                async_storage_writes=True,
                commit_notices=True,
                coalesce_beats=True,
                max_message_bytes=self.random.choice((60, 1 << 20)),
            )
            member.restart()
        self.queues: dict[MemberId, list[Ready | Short]] = {member: [] for member in self.members}
        self.compared = dict.fromkeys(("lead", "follow", "stored", "acknowledge"), 0)

    def step(self) -> None:
        """Calmer than the base class: it takes a while without trouble until a case is steady."""
        choice, member = self.random.random(), self.members[self.random.choice(list(self.members))]
        if choice < 0.05:
            self.request(member)
        elif choice < 0.4:
            self.deliver()
        elif choice < 0.8:
            self.serve(member)
        else:
            super().step()

    # --- comparing ---------------------------------------------------------------------------

    def long_way(self, member: Member) -> Raft | None:
        """A copy to go the long way; None: something older waits, so that its Ready would hold more."""
        return None if member.core.has_ready() else twin(member.core)

    def compare(self, what: str, short: State, long: State) -> None:
        assert seen(short) == seen(long), what
        self.compared[what] += 1

    # --- the leader ----------------------------------------------------------------------------

    def request(self, member: Member) -> None:
        core = member.core
        if core.role is not RaftRole.LEADER or self.random.random() < 0.3:
            super().request(member)
            return
        self.proposed += 1
        payloads = [b"%d" % self.proposed] * self.random.choice((1, 1, 3))
        run = Run.of(payloads, first=core.last_index + 1, term=core.term, origin=core.id, sequence=1)
        long, anchor_term, commit = self.long_way(member), core.log.last_term, core.committed
        members = lead(core, run)
        if members is None:
            with contextlib.suppress(ProposalDropped):
                core.propose(run)
            return
        sent = [
            Message(MessageType.APP, to, core.id, core.term, anchor_term, run.first - 1, commit, [run])
            for to in members
        ]
        if long is not None:
            long.propose(run)
            ready = long.ready()
            assert seen(ready.messages) == seen(sent)
            assert seen(ready.runs) == seen([run])
            assert ready.hard_state is None
            assert ready.committed == []
            assert seen(ready.responses) == seen(self.promises(core, run, core.id))
            self.compare("lead", core, long)
        self.flying += sent
        self.queues[member.id].append(Short(run, core.id, []))

    @staticmethod
    def promises(core: Raft, run: Run, leader: MemberId) -> list[Message]:
        report = MessageType.STORAGE_APPEND_RESP
        return [
            Message(MessageType.APP_RESP, leader, core.id, run.term, 0, run.last),
            Message(report, core.id, APPEND_THREAD, run.term, run.term, run.last),
        ]

    # --- what arrives ----------------------------------------------------------------------------

    def deliver(self) -> None:
        if self.flying and self.random.random() < 0.9:
            message = self.flying[0]
            if frozenset((message.sender, message.to)) not in self.cut:
                if message.type is MessageType.APP and self.short_append(message):
                    del self.flying[0]
                    return
                if message.type is MessageType.APP_RESP and not message.reject:
                    del self.flying[0]
                    self.take_ack(self.members[message.to], message.sender, message.term, message.index)
                    return
        super().deliver()

    def short_append(self, message: Message) -> bool:
        member = self.members[message.to]
        core, runs = member.core, message.runs
        if len(runs) != 1 or runs[0].kind is not EntryKind.NORMAL or runs[0].term != message.term:
            return False
        run, long = runs[0], self.long_way(member)
        place = (message.log_term, message.index, message.commit)
        if not follow(core, message.sender, message.term, *place, run):
            return False
        committed = take_committed(core) if core.committed > core.log.applying else []
        if long is not None:
            long.step(message)
            ready = long.ready()
            assert ready.messages == []
            assert seen(ready.runs) == seen([run])
            assert seen(ready.committed) == seen(committed)
            assert seen(ready.responses) == seen(self.promises(core, run, message.sender))
            self.compare("follow", core, long)
        self.queues[member.id].append(Short(run, message.sender, committed))
        return True

    def take_ack(self, member: Member, sender: MemberId, term: Term, index: Index) -> None:
        core = member.core
        message = Message(MessageType.APP_RESP, core.id, sender, term, 0, index)
        long = self.long_way(member)
        if acknowledge(core, sender, term, index) is None:
            with contextlib.suppress(PeerNotFound):
                core.step(message)
        elif long is not None:
            long.step(message)
            self.compare("acknowledge", core, long)

    # --- the disk --------------------------------------------------------------------------------

    def serve(self, member: Member) -> None:
        core, queue = member.core, self.queues[member.id]
        if core.beat_due:
            self.flying += [
                Message(MessageType.HEARTBEAT, to, core.id, core.term, commit=commit)
                for to, commit in core.take_beats()
            ]
        if core.has_ready() and self.random.random() < 0.6:
            ready = core.ready()
            queue.append(ready)
            self.flying += ready.messages
            ready.messages = []
        elif queue:
            done = queue.pop(0)
            if isinstance(done, Short):
                self.finish(member, done)
            else:
                self.write(member, done)
                self.flying += member.finish(done)

    def finish(self, member: Member, done: Short) -> None:
        core, run = member.core, done.run
        member.log.append([run])
        for each in done.committed:
            member._apply(each)
        if done.committed:
            core.applied_to(done.committed[-1].last, total_weight(done.committed))
        long = self.long_way(member)
        current = stored(core, run.term, run.last)
        if long is not None:
            long.step(self.promises(core, run, done.leader)[1])
            self.compare("stored", core, long)
        if current and done.leader == core.id:
            self.take_ack(member, core.id, run.term, run.last)
        elif current:
            self.flying.append(self.promises(core, run, done.leader)[0])

    def break_something(self, member: Member) -> None:
        # Hosts whose beats are coalesced write no commit index; what a snapshot holds is committed.
        state, compacted = member.log.initial_state()[0], member.log.first_index() - 1
        member.log.set_hard_state(attrs.evolve(state, commit=max(state.commit, compacted)))
        # `writing` is what the rules of the base class look at: whether something is under way.
        queue = self.queues[member.id]
        self.writing[member.id] = queue  # type: ignore[assignment]
        super().break_something(member)
        self.writing[member.id] = []


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_the_short_way_does_what_the_long_way_does(seed: int, count: int) -> None:
    chaos = SteadyChaos(seed * 10 + count, count)
    chaos.run(10000)
    chaos.check_log_matching()
    chaos.heal()
    chaos.check_log_matching()
    assert chaos.committed
    often = 5 if count > 1 else 0
    assert min(chaos.compared.values()) >= often, chaos.compared


# --- cases that chaos meets too seldom ---------------------------------------------------------


OPTIONS: dict[str, Any] = {"commit_notices": True, "coalesce_beats": True}


def placed(core: Raft, *payloads: bytes) -> Run:
    return Run.of(payloads, first=core.last_index + 1, term=core.term, origin=core.id, sequence=1)


def test_a_report_of_an_earlier_term_proves_nothing() -> None:
    """The entry may have been replaced, and put back by a leader that is elected later (terms.py)."""
    member = make_leader(**OPTIONS)
    core = member.core
    run, term = placed(core, b"x"), core.term
    assert lead(core, run) == [2, 3]
    core.step(Message(MessageType.HEARTBEAT, core.id, 2, term + 1))
    assert not stored(core, term, run.last)
    assert core.log.unstable.runs == [run]


def test_nothing_is_led_above_the_limit_of_uncommitted_bytes() -> None:
    core = make_leader(max_uncommitted_bytes=10, **OPTIONS).core
    assert lead(core, placed(core, b"12345678")) is not None
    before = seen(core)
    assert lead(core, placed(core, b"12345678")) is None
    assert seen(core) == before


def test_a_full_window_is_not_sent_into() -> None:
    core = make_leader(max_inflight_messages=1, **OPTIONS).core
    assert lead(core, placed(core, b"1")) == [2, 3]
    assert lead(core, placed(core, b"2")) == []
    # A heartbeat's answer lets one append through, but not into a full window.
    core.step(Message(MessageType.HEARTBEAT_RESP, core.id, 2, core.term))
    assert lead(core, placed(core, b"3")) is None


def test_a_leader_that_hands_over_leads_nothing_more() -> None:
    core = make_leader(**OPTIONS).core
    core.transfer_leadership(2)
    assert lead(core, placed(core, b"x")) is None


def test_an_append_of_another_leader_or_term_or_place_is_not_followed() -> None:
    follower = make_member(1, **OPTIONS)
    core = follower.core
    core.step(Message(MessageType.APP, 1, 2, 5, 0, 0, 0, [Run.of([b""], first=1, term=5)]))
    follower.process()
    run = Run.of([b"x"], first=2, term=5, origin=2, sequence=7)
    before = seen(core)
    for leader, term, anchor_term, anchor in (
        (3, 5, 5, 1),
        (2, 4, 5, 1),
        (2, 6, 5, 1),
        (2, 5, 4, 1),
        (2, 5, 5, 2),
    ):
        assert not follow(core, leader, term, anchor_term, anchor, 0, run)
        assert seen(core) == before
    assert follow(core, 2, 5, 5, 1, 9, run)
    assert core.committed == 2, "what the append vouches for, and no more"


def test_an_answer_counts_in_its_own_term_only() -> None:
    core = make_leader(**OPTIONS).core
    run = placed(core, b"x")
    assert lead(core, run) == [2, 3]
    assert acknowledge(core, 2, core.term - 1, run.last) is None
    assert acknowledge(core, 9, core.term, run.last) is None
    assert acknowledge(core, 2, core.term, run.last) is False
    assert core.committed == run.first - 1
    assert acknowledge(core, 3, core.term, run.last) is True
    assert core.committed == run.last


def test_older_terms_are_not_committed_by_counting() -> None:
    """Thesis, Figure 3.7: until something of its own term is committed the long way decides."""
    core = make_leader(terms=(1, 1), committed=False, **OPTIONS).core
    assert acknowledge(core, 2, core.term, 2) is None


def test_nothing_overtakes_an_append_that_has_not_left() -> None:
    core = make_leader(**OPTIONS).core
    core.propose(Run.of([b"x"]))
    core.ready()
    core.messages.append(Message(MessageType.APP, 2, 1, core.term))
    assert lead(core, placed(core, b"y")) is None
