"""Cores with a log in memory, alone or joined by a network that does what a test says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import attrs

from multiraft.errors import ProposalDropped, SnapshotUnavailable
from multiraft.messages import (
    ConfChange,
    ConfState,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.core import CoreConfig, Raft, RaftRole
from multiraft.raft.failures import PeerNotFound
from multiraft.raft.memory import MemoryLog
from multiraft.raft.ready import ReadState, Ready
from multiraft.raft.runs import UNLIMITED, total_weight
from multiraft.types import Index, MemberId, Term

ELECTION_TICKS = 10


def entries(terms: Iterable[Term], first: Index = 1) -> list[Run]:
    """One run per entry, with the given terms and a payload that names the place."""
    return [
        Run.of([f"{term}/{index}".encode()], first=index, term=term)
        for index, term in enumerate(terms, start=first)
    ]


def log_terms(log: MemoryLog) -> list[Term]:
    """The term of every entry that a log holds."""
    return [log.term(index) for index in range(log.first_index(), log.last_index() + 1)]


class TestLog(MemoryLog):
    """A log whose snapshot can be made unavailable, and that counts how often it is read."""

    __slots__ = ("reads", "snapshot_unavailable")
    __test__ = False

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        super().__init__(snapshot)
        self.snapshot_unavailable = False
        self.reads = 0

    def snapshot(self) -> Snapshot:
        if self.snapshot_unavailable:
            raise SnapshotUnavailable
        return super().snapshot()

    def runs(self, first: Index, last: Index, max_bytes: int) -> list[Run]:
        self.reads += 1
        return super().runs(first, last, max_bytes)


class Member:
    """One core with its disk and its state machine, and the loop that serves it."""

    def __init__(self, config: CoreConfig, log: TestLog) -> None:
        self.config = config
        self.log = log
        self.lines: list[str] = []
        self.applied: list[tuple[Index, Term, bytes]] = []
        self.read_states: list[ReadState] = []
        self.conf_state = log.initial_state()[1]
        self._draws = random.Random(config.id)
        self.core = self._start()

    def _start(self) -> Raft:
        return Raft(
            self.config, self.log, self._draws.randrange, lambda _level, text: self.lines.append(text)
        )

    @property
    def id(self) -> MemberId:
        return self.core.id

    def restart(self) -> None:
        """Lose everything that is not on disk.

        What follows the snapshot is applied again: the configuration starts from there, too.
        """
        self.config = attrs.evolve(self.config, applied=self.log.first_index() - 1)
        self.conf_state = self.log.initial_state()[1]
        self.core = self._start()

    def take(self) -> Ready:
        """Take a Ready and write it, but report nothing."""
        ready = self.core.ready()
        if ready.hard_state is not None:
            self.log.set_hard_state(ready.hard_state)
        if ready.snapshot is not None:
            self.log.apply_snapshot(ready.snapshot)
            self.conf_state = ready.snapshot.conf_state
        if ready.runs:
            self.log.append(ready.runs)
        self.read_states += ready.read_states
        return ready

    def finish(self, ready: Ready) -> list[Message]:
        """Apply what a Ready commits and report its write. Returns what goes to others."""
        outgoing = list(ready.messages)
        for run in ready.committed:
            self._apply(run)
        if not self.config.async_storage_writes:
            self.core.advance()
            return outgoing
        if ready.committed:
            self.core.applied_to(ready.committed[-1].last, total_weight(ready.committed))
        for response in ready.responses:
            if response.to == self.id:
                with suppress(PeerNotFound):  # our own acknowledgement, and we were just removed
                    self.core.step(response)
            else:
                outgoing.append(response)
        return outgoing

    def _apply(self, run: Run) -> None:
        for offset, payload in enumerate(run.payloads):
            self.applied.append((run.first + offset, run.term, payload))
        if run.kind is not EntryKind.NORMAL:
            self.conf_state = self.core.apply_conf_change(ConfChange.decode(run.payloads[0]))

    def process(self) -> list[Message]:
        """Serve the core until it has nothing more. Returns what goes to others."""
        outgoing: list[Message] = []
        while self.core.has_ready():
            outgoing += self.finish(self.take())
        return outgoing

    def compact(self, index: Index | None = None) -> None:
        """Snapshot what was applied, up to `index`, and drop the log up to there."""
        at = self.core.applied if index is None else index
        self.log.create_snapshot(at, self.conf_state)
        self.log.compact(at)

    @property
    def payloads(self) -> list[bytes]:
        """What was proposed and applied here."""
        return [payload for _index, _term, payload in self.applied if payload]


def make_member(
    member: MemberId = 1,
    *,
    voters: Sequence[MemberId] = (1, 2, 3),
    learners: Sequence[MemberId] = (),
    terms: Sequence[Term] = (),
    start: Snapshot | None = None,
    state: HardState | None = None,
    **options: Any,
) -> Member:
    """A member whose log holds entries of `terms`, behind `start` if that is given."""
    log = TestLog(start or Snapshot(conf_state=ConfState(tuple(voters), tuple(learners))))
    if terms:
        log.append(entries(terms, log.first_index()))
    if state is not None:
        log.set_hard_state(state)
    settings: dict[str, Any] = {"async_storage_writes": True, "max_message_bytes": UNLIMITED, **options}
    return Member(CoreConfig(id=member, **settings), log)


def make_leader(
    member: MemberId = 1, *, voters: Sequence[MemberId] = (1, 2, 3), committed: bool = True, **options: Any
) -> Member:
    """A leader whose followers exist in name only; they have acknowledged all it has so far."""
    leader = make_member(member, voters=voters, **options)
    elect(leader)
    if committed:
        for other in leader.core.progress:
            if other != member:
                acknowledge(leader, other)
        leader.process()
    return leader


def elect(member: Member) -> None:
    """Let `member` win an election by the votes of everybody. What it sends is gone."""
    core = member.core
    core.campaign()
    member.process()
    for kind in (MessageType.PRE_VOTE_RESP, MessageType.VOTE_RESP):
        term = core.term + (kind is MessageType.PRE_VOTE_RESP)
        for other in sorted({*core.conf_state().voters, *core.conf_state().voters_outgoing} - {core.id}):
            if core.role.name in ("CANDIDATE", "PRE_CANDIDATE"):
                core.step(Message(kind, core.id, other, term))
        member.process()
    assert core.role.name == "LEADER"


def acknowledge(leader: Member, follower: MemberId, index: Index | None = None) -> None:
    """`follower` says that it has the leader's log up to `index`; None: all of it."""
    core = leader.core
    at = core.last_index if index is None else index
    core.step(Message(MessageType.APP_RESP, core.id, follower, core.term, index=at))


def reject(leader: Member, follower: MemberId, index: Index, hint: Index, hint_term: Term = 0) -> None:
    core = leader.core
    core.step(
        Message(
            MessageType.APP_RESP,
            core.id,
            follower,
            core.term,
            hint_term,
            index,
            reject=True,
            reject_hint=hint,
        )
    )


def append(
    core: Raft,
    *,
    sender: MemberId = 2,
    term: Term | None = None,
    index: Index = 0,
    log_term: Term = 0,
    commit: Index = 0,
    runs: Sequence[Run] = (),
) -> None:
    """Step an append into `core`."""
    at = core.term if term is None else term
    core.step(Message(MessageType.APP, core.id, sender, at, log_term, index, commit, list(runs)))


def role_of(core: Raft) -> RaftRole:
    """The role now; a call, because checkers believe that an attribute stays what it was."""
    return core.role


def only(messages: Iterable[Message], kind: MessageType) -> list[Message]:
    return [message for message in messages if message.type is kind]


class Network:
    """Members whose messages arrive in order, except where the network is broken.

    `lost` may be set to a function that says which messages are lost on the way.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = {member.id: member for member in members}
        self.queue: list[Message] = []
        self.cut: set[tuple[MemberId, MemberId]] = set()
        self.lost: Callable[[Message], bool] = lambda _message: False

    @classmethod
    def of(cls, count: int, **options: Any) -> Network:
        """Voters 1 to `count`, all with the same options."""
        voters = tuple(range(1, count + 1))
        return cls(make_member(member, voters=voters, **options) for member in voters)

    def __getitem__(self, member: MemberId) -> Member:
        return self.members[member]

    def core(self, member: MemberId) -> Raft:
        return self.members[member].core

    def isolate(self, member: MemberId) -> None:
        for other in self.members:
            self.cut |= {(member, other), (other, member)}

    def heal(self) -> None:
        self.cut.clear()
        self.lost = lambda _message: False

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            assert message.sender != message.to, "nobody writes to himself over the network"
            if (message.sender, message.to) not in self.cut and not self.lost(message):
                self.queue.append(message)

    def settle(self) -> None:
        """Serve everybody and deliver everything until nothing is left."""
        while True:
            for member in self.members.values():
                self.send(member.process())
            if not self.queue:
                return
            queue, self.queue = self.queue, []
            for message in queue:
                if message.to in self.members and (message.sender, message.to) not in self.cut:
                    self.step(message)

    def step(self, message: Message) -> None:
        """Deliver one message; what its receiver refuses is lost."""
        with suppress(ProposalDropped, PeerNotFound):
            self.members[message.to].core.step(message)

    def campaign(self, member: MemberId) -> None:
        self.core(member).campaign()
        self.settle()

    def propose(self, member: MemberId, *payloads: bytes) -> None:
        self.core(member).propose(Run.of(payloads))
        self.settle()

    def change(self, member: MemberId, change: ConfChange, v1: bool = False) -> None:
        self.core(member).propose_conf_change(change, v1)
        self.settle()

    def tick(self, member: MemberId, times: int = 1) -> None:
        for _ in range(times):
            self.core(member).tick()
            self.settle()

    def tick_all(self, times: int = 1) -> None:
        for _ in range(times):
            for member in self.members.values():
                member.core.tick()
            self.settle()

    @property
    def leaders(self) -> list[MemberId]:
        return [member.id for member in self.members.values() if member.core.role.name == "LEADER"]
