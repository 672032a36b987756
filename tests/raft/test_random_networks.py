"""Whole groups under loss, delay, duplication, reordering, partitions and restarts.

Each seed decides everything, so a failure is replayed by its number. After every step the
promises of Figure 3.2 of the thesis are checked.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from multiraft.errors import ProposalDropped
from multiraft.messages import ConfChange, ConfChangeTransition, ConfChangeType, Message, MessageType, Run
from multiraft.raft.core import RaftRole
from multiraft.raft.failures import PeerNotFound
from multiraft.raft.ready import Ready
from multiraft.types import Index, MemberId, ReadMode, Term
from tests.raft.helpers import Member, make_member

Entry = tuple[Term, bytes]


class Chaos:
    """A group whose network, disks and clocks follow one seed."""

    def __init__(self, seed: int, count: int, *, members_change: bool = False) -> None:
        self.random = random.Random(seed)
        draw = self.random.random
        self.notices = draw() < 0.7
        in_async = draw() < 0.8
        check_quorum = draw() < 0.5
        lease = check_quorum and draw() < 0.3
        voters = tuple(range(1, count + 1))
        self.members = {
            member: make_member(
                member,
                voters=voters,
                election_ticks=10,
                async_storage_writes=in_async,
                pre_vote=draw() < 0.5,
                check_quorum=check_quorum,
                read_mode=ReadMode.LEASE if lease else ReadMode.QUORUM,
                commit_notices=self.notices,
                max_message_bytes=60,
                max_inflight_messages=3,
                max_apply_bytes=self.random.choice((40, 1 << 20)),
                step_down_on_removal=True,
            )
            for member in voters
        }
        self.flying: list[Message] = []
        self.writing: dict[MemberId, list[Ready]] = {member: [] for member in voters}
        self.cut: set[frozenset[MemberId]] = set()
        self.faulty = True
        self.members_change = members_change
        self.proposed = 0
        # What was ever seen to be true, to compare with.
        self.leaders: dict[Term, MemberId] = {}
        self.committed: list[Entry] = []
        self.reads: dict[bytes, Index] = {}
        self.seen_applied: dict[MemberId, int] = dict.fromkeys(voters, 0)
        self.seen_reads: dict[MemberId, int] = dict.fromkeys(voters, 0)

    # --- steps -------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.check()

    def step(self) -> None:
        choice = self.random.random()
        member = self.members[self.random.choice(list(self.members))]
        if choice < 0.45:
            self.deliver()
        elif choice < 0.70:
            self.serve(member)
        elif choice < 0.90:
            member.core.tick()
        elif choice < 0.985:
            self.request(member)
        elif self.faulty:
            self.break_something(member)

    def deliver(self) -> None:
        if not self.flying:
            return
        # Mostly in order: a network that only ever shuffles tests nothing but rejections.
        at = 0 if self.random.random() < 0.7 else self.random.randrange(len(self.flying))
        message = self.flying.pop(at)
        fate = self.random.random() if self.faulty else 1.0
        lost = frozenset((message.sender, message.to)) in self.cut or fate < 0.04
        if message.type is MessageType.SNAP:
            # Whoever carries snapshots has to say what became of them.
            self.members[message.sender].core.report_snapshot(message.to, not lost)
        if lost:
            return
        if fate < 0.08:
            self.flying.append(message)
        with contextlib.suppress(ProposalDropped, PeerNotFound):
            self.members[message.to].core.step(message)

    def serve(self, member: Member) -> None:
        """Write something, or finish the oldest write: writes are done in order."""
        writes = self.writing[member.id]
        in_async = member.config.async_storage_writes
        if member.core.has_ready() and (in_async or not writes) and self.random.random() < 0.6:
            writes.append(member.core.ready())
            self.flying += [] if not in_async else writes[-1].messages
        elif writes:
            ready = writes.pop(0)
            self.write(member, ready)
            if in_async:
                ready.messages = []
            self.flying += member.finish(ready)

    def write(self, member: Member, ready: Ready) -> None:
        if ready.hard_state is not None:
            member.log.set_hard_state(ready.hard_state)
        if ready.snapshot is not None:
            member.log.apply_snapshot(ready.snapshot)
            member.conf_state = ready.snapshot.conf_state
        if ready.runs:
            member.log.append(ready.runs)
        member.read_states += ready.read_states

    def request(self, member: Member) -> None:
        self.proposed += 1
        name = b"%d" % self.proposed
        choice = self.random.random()
        try:
            if choice < 0.6:
                payloads = [name] * self.random.choice((1, 1, 3))
                member.core.propose(Run.of(payloads))
            elif choice < 0.8:
                self.reads[name] = len(self.committed)
                member.core.read_index(name)
            elif choice < 0.85:
                member.core.transfer_leadership(self.random.choice(list(self.members)))
            elif self.members_change:
                member.core.propose_conf_change(self.change())
        except ProposalDropped:
            pass

    def change(self) -> ConfChange:
        kinds = (ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE, ConfChangeType.REMOVE_NODE)
        transition = self.random.choice(list(ConfChangeTransition))
        members = list(self.members)
        changes = tuple(
            (self.random.choice(kinds), self.random.choice(members)) for _ in range(self.random.randrange(3))
        )
        return ConfChange(changes, transition if changes else ConfChangeTransition.AUTO)

    def break_something(self, member: Member) -> None:
        choice = self.random.random()
        if choice < 0.3:
            self.writing[member.id].clear()  # a crash: what was not written is lost
            member.restart()
            self.seen_reads[member.id] = len(member.read_states)
        elif choice < 0.5 and member.core.applied > member.log.first_index():
            if not self.writing[member.id]:
                member.compact()
        elif choice < 0.75:
            self.cut.add(frozenset((member.id, self.random.choice(list(self.members)))))
        elif choice < 0.8:
            member.core.report_unreachable(self.random.choice(list(self.members)))
        elif choice < 0.85:
            member.core.report_snapshot(self.random.choice(list(self.members)), self.random.random() < 0.5)
        else:
            self.cut.clear()

    # --- promises ------------------------------------------------------------------------------

    def check(self) -> None:
        for member in self.members.values():
            self.check_election_safety(member)
            self.check_state_machine_safety(member)
            self.check_reads(member)
            self.check_positions(member)
        self.check_leader_completeness()

    def check_election_safety(self, member: Member) -> None:
        """Election Safety: at most one leader can be elected in a given term."""
        if member.core.role is RaftRole.LEADER:
            leader = self.leaders.setdefault(member.core.term, member.id)
            assert leader == member.id, f"two leaders of term {member.core.term}"

    def check_state_machine_safety(self, member: Member) -> None:
        """State Machine Safety: no two members apply different entries for the same index."""
        for index, term, payload in member.applied[self.seen_applied[member.id] :]:
            if index <= len(self.committed):
                assert self.committed[index - 1] == (term, payload)
            elif index == len(self.committed) + 1:
                self.committed.append((term, payload))
            else:
                raise AssertionError(f"{member.id} applies {index} before anybody applied what is below")
        self.seen_applied[member.id] = len(member.applied)

    def check_reads(self, member: Member) -> None:
        """A read is never answered with less than was applied somewhere when it was asked."""
        for state in member.read_states[self.seen_reads[member.id] :]:
            assert state.index >= self.reads[state.context]
        self.seen_reads[member.id] = len(member.read_states)

    def check_positions(self, member: Member) -> None:
        log = member.core.log
        assert log.applied <= log.applying <= log.committed <= log.last_index
        if member.core.role is RaftRole.LEADER:
            for progress in member.core.progress.values():
                assert progress.match < progress.next

    def check_leader_completeness(self) -> None:
        """Leader Completeness: what is committed is in the logs of all leaders of higher terms."""
        for member in self.members.values():
            core = member.core
            newest = core.role is RaftRole.LEADER and core.term == max(self.leaders, default=0)
            if newest and self.committed:
                index = len(self.committed)
                assert core.last_index >= index
                if index >= core.first_index:
                    assert core.log.term(index) == self.committed[-1][0]

    def check_log_matching(self) -> None:
        """Log Matching: logs with an equal entry are equal up to it."""
        logs = [member.core.log for member in self.members.values()]
        for first in logs:
            for second in logs:
                low = max(first.first_index, second.first_index)
                high = min(first.last_index, second.last_index)
                equal = [first.term(index) == second.term(index) for index in range(low, high + 1)]
                assert equal == sorted(equal, reverse=True)

    # --- and in the end, progress -----------------------------------------------------------------

    def heal(self) -> None:
        self.faulty = False
        self.cut.clear()
        for _ in range(6000):
            for member in self.members.values():
                self.serve(member)
            while self.flying:
                self.deliver()
            if self.random.random() < 0.2:
                for member in self.members.values():
                    member.core.tick()
            self.check()
            if self.converged():
                return
        raise AssertionError("the group does not come to rest")

    def converged(self) -> bool:
        leaders = [m for m in self.members.values() if m.core.role is RaftRole.LEADER]
        if len(leaders) != 1:
            return False
        core = leaders[0].core
        voters = {*core.conf_state().voters, *core.conf_state().learners, *core.conf_state().voters_outgoing}
        return core.applied == core.last_index and all(
            self.members[member].core.applied == core.applied for member in voters
        )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("seed", range(12))
def test_safety_holds_throughout_and_a_healed_group_converges(seed: int, count: int) -> None:
    chaos = Chaos(seed * 10 + count, count)
    chaos.run(8000)
    chaos.check_log_matching()
    chaos.heal()
    chaos.check_log_matching()
    assert chaos.committed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_safety_holds_while_members_come_and_go(seed: int) -> None:
    chaos = Chaos(1000 + seed, 5, members_change=True)
    chaos.run(8000)
    chaos.check_log_matching()
    assert chaos.committed


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        chaos = Chaos(77, 3)
        chaos.run(600)
        runs.append((chaos.committed, chaos.leaders, [repr(message) for message in chaos.flying]))
    assert runs[0] == runs[1]
