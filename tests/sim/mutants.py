"""Known bugs, to be planted in the real code: who trusts the simulator should see it catch them. Here: what
is promised and kept, in elections, the log, snapshots and state machines. call_mutants.py has those in what
programs ask for, rest_mutants.py those in the protocol that lets groups rest.

Each is a context manager that patches the code under test and puts it back. Most are faults that
real systems had; some this code had until the simulator found them. A patched function repeats as
little of the real one as it can, so that it goes on being that function with one bug in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs

from multiraft.acquaintances import Acquaintances
from multiraft.apply import Applier, Work
from multiraft.elections import Elections
from multiraft.group import Group
from multiraft.messages import HardState, Message, MessageType, Run, Snapshot
from multiraft.raft import core, follower, leader, steady
from multiraft.raft.core import RaftRole
from multiraft.raft.election import on_vote_request
from multiraft.raft.leader import become_leader
from multiraft.raft.log import RaftLog
from multiraft.raft.quorum import VoteResult
from multiraft.raft.ready import Ready
from multiraft.raft.state import State
from multiraft.raft.steady import acknowledge
from multiraft.scheduler import Scheduler
from multiraft.storage.appender import Appender
from multiraft.storage.batch import Batch
from multiraft.storage.memory import MemoryFile
from multiraft.types import MemberId
from multiraft.writes import Held, Writes

Mutant = Callable[[], AbstractContextManager[None]]

MUTANTS: dict[str, Mutant] = {}

FOCUS: dict[str, dict[str, Any]] = {
    "leads_before_its_own_vote_is_durable": {
        "faults": ("stillborn",),
        "pre_vote": False,
        "check_quorum": False,
        "lease": False,
        "latency_s": 0.0005,
        "jitter_s": 0.0005,
        "groups": 6,
        "hosts": 3,
    },
    "capture_of_a_machine_that_is_ahead": {
        "faults": ("early_snapshot", "partition"),
        "durable": "batch",
        "snapshot_keep_entries": 0,
        "snapshot_interval_entries": 25,
    },
    "follower_commits_all_the_leader_did": {"faults": ("partition", "pause"), "lossy": True},
    "capture_goes_to_the_worker": {"blocking": False, "snapshot_interval_entries": 7},
    "snapshot_files_are_not_synced": {"faults": ("crash",), "snapshot_interval_entries": 7},
}
"""What to change in a plan so that the rarer bugs need fewer seeds."""


def planted(make: Callable[[], Iterator[None]]) -> Mutant:
    mutant = contextmanager(make)
    MUTANTS[make.__name__] = mutant
    return mutant


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """`owner.name` is `value` for a while."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def handler(role: RaftRole, kind: MessageType, value: Callable[[State, Message], None]) -> Iterator[None]:
    """The core's handler of `kind` in `role` is `value` for a while."""
    table = core._HANDLERS[role]
    before = table[kind]
    table[kind] = value
    try:
        yield
    finally:
        table[kind] = before


# --- what is promised before it is durable -------------------------------------------------------


def _split(group: Group, responses: list[Message]) -> tuple[list[Message], list[Message]]:
    own = [message for message in responses if message.to == group.member_id]
    return own, [message for message in responses if message.to != group.member_id]


@planted
def answers_before_the_sync() -> Iterator[None]:
    """Acknowledgements and votes leave with the pass that made them (§3.8; BEHAVIOURS 17)."""
    append = Writes.append

    def hold(self: Writes, group: Group, responses: list[Message], snapshot: Snapshot | None) -> None:
        own, others = _split(group, responses)
        for message in others:
            group.host._post.route(group, message)  # type: ignore[attr-defined]  # reaching in
        group.unsynced += 1
        self.held.append(Held(group, own, snapshot))

    def answer(self: Writes, group: Group, run: Run, leader: MemberId) -> None:
        append(self, group, run, leader)
        if leader != group.member_id:
            early = Message(MessageType.APP_RESP, leader, group.member_id, run.term, 0, run.last)
            group.host._post.route(group, early)  # type: ignore[attr-defined]  # reaching in

    with replaced(Writes, "hold", hold), replaced(Writes, "append", answer):
        yield


@planted
def leader_counts_itself_at_once() -> Iterator[None]:
    """A leader's own acknowledgement does not wait for its disk (etcd #14370)."""
    append = Writes.append

    def hold(self: Writes, group: Group, responses: list[Message], snapshot: Snapshot | None) -> None:
        early = [m for m in responses if m.to == group.member_id and m.type is MessageType.APP_RESP]
        group.unsynced += 1
        self.held.append(Held(group, [m for m in responses if m not in early], snapshot))
        for message in early:
            group.raft.step(message)

    def count(self: Writes, group: Group, run: Run, leader: MemberId) -> None:
        append(self, group, run, leader)
        if leader == group.member_id:
            acknowledge(group.raft, leader, run.term, run.last)

    with replaced(Writes, "hold", hold), replaced(Writes, "append", count):
        yield


@planted
def vote_is_not_persisted() -> Iterator[None]:
    """The term reaches the disk, the vote does not (§3.8; PySyncObj issue 84)."""
    real = Batch.hard_state

    def hard_state(self: Batch, group: int, state: HardState) -> None:
        real(self, group, attrs.evolve(state, vote=0))

    with replaced(Batch, "hard_state", hard_state):
        yield


@planted
def hard_state_is_not_persisted() -> Iterator[None]:
    """Entries reach the disk, term and vote do not."""
    real = Scheduler._write

    def write(self: Scheduler, group: Group, ready: Ready) -> None:
        if ready.runs or ready.snapshot is not None:
            ready.hard_state = None
        real(self, group, ready)

    with replaced(Scheduler, "_write", write):
        yield


@planted
def log_is_not_synced() -> Iterator[None]:
    """The log is written, but nobody waits for the disk."""

    def flush_and_sync(self: Appender) -> None:
        self._flush()
        self._unsynced = False
        self._durable = self._end

    with replaced(Appender, "_flush_and_sync", flush_and_sync):
        yield


@planted
def leads_before_its_own_vote_is_durable() -> Iterator[None]:
    """Elected by the others while its own disk stalls, it may be elected for that term again.

    First words are not waited for (acquaintances.py): they wait for the very disk that the vote is
    on, and so hide this where it is easiest to see, in the first elections of a group.
    """

    def on_vote(state: State, message: Message) -> None:
        state.tracker.record_vote(message.sender, not message.reject)
        result = state.tracker.tally()[2]
        if result is VoteResult.LOST:
            state.become_follower(state.term, 0)
        elif result is VoteResult.WON:
            become_leader(state)

    met = replaced(Acquaintances, "admit", lambda *_: True)
    # Nobody is asked again either: groups would have leaders before the fault strikes, and where the
    # others have the first entry of a leadership, their votes do not go to a log without it.
    asking = replaced(Elections, "_ask_again", lambda *_: None)
    with met, asking, handler(RaftRole.CANDIDATE, MessageType.VOTE_RESP, on_vote):
        yield


# --- elections -----------------------------------------------------------------------------------


@planted
def votes_for_everybody() -> Iterator[None]:
    """A second vote in one term (Figure 3.1, RequestVote, receiver's rule 2)."""
    real = on_vote_request

    def on_vote(state: State, message: Message) -> None:
        if message.term == state.term and state.role is RaftRole.FOLLOWER:
            state.vote = 0
        real(state, message)

    with handler(RaftRole.FOLLOWER, MessageType.VOTE, on_vote):
        yield


@planted
def votes_for_shorter_logs() -> Iterator[None]:
    """The voter does not compare logs (§3.6.1)."""
    with replaced(RaftLog, "up_to_date", lambda *_: True):
        yield


# --- the log -------------------------------------------------------------------------------------


@planted
def commits_older_terms_by_counting() -> Iterator[None]:
    """§3.6.2, Figure 3.7: an entry of an older term on a majority is not committed by that."""

    def advance(state: State) -> bool:
        index = state.tracker.committed()
        if index <= state.log.committed:
            return False
        state.log.commit_to(index)
        return True

    with replaced(leader, "advance_commit", advance), replaced(steady, "advance_commit", advance):
        yield


@planted
def follower_truncates_what_matches() -> Iterator[None]:
    """A late append cuts off entries behind it that were acknowledged (Figure 3.1, rule 3)."""

    def merge(self: RaftLog, runs: Sequence[Run]) -> None:
        fresh = [run for run in runs if run.last > self.committed]
        if fresh:
            first = max(fresh[0].first, self.committed + 1)
            self.append([fresh[0].cut(first, fresh[0].last), *fresh[1:]])

    with replaced(RaftLog, "merge", merge):
        yield


@planted
def follower_commits_all_the_leader_did() -> Iterator[None]:
    """The commit index is not capped at what the append vouches for (Figure 3.1, rule 5)."""
    real = follower.handle_append

    def on_append(state: State, message: Message) -> None:
        state.election_elapsed = 0
        state.leader = message.sender
        real(state, message)
        state.log.commit_to(min(message.commit, state.log.last_index))

    with handler(RaftRole.FOLLOWER, MessageType.APP, on_append):
        yield


@planted
def pagination_skips_entries() -> Iterator[None]:
    """What the byte limit cut off counts as handed out (etcd 8ecce32)."""
    real = RaftLog.take_committed

    def take(self: RaftLog, allow_unstable: bool) -> list[Run]:
        last = self.appliable(allow_unstable)
        found = real(self, allow_unstable)
        if found:
            self.applying = last
        return found

    with replaced(RaftLog, "take_committed", take):
        yield


# --- snapshots -----------------------------------------------------------------------------------


@planted
def received_snapshot_is_not_recorded() -> Iterator[None]:
    """The machine is restored, but the log goes on as if nothing had happened."""
    real = Scheduler._write

    def write(self: Scheduler, group: Group, ready: Ready) -> None:
        snapshot, ready.snapshot = ready.snapshot, None
        held = len(self._writes.held)
        real(self, group, ready)
        self._writes.held[held].snapshot = snapshot

    with replaced(Scheduler, "_write", write):
        yield


@planted
def snapshot_files_are_not_synced() -> Iterator[None]:
    """The log is compacted behind a file that a power cut takes away."""
    real = MemoryFile.sync

    def sync(self: MemoryFile) -> None:
        if not self._path.endswith(".tmp") or "/snapshots/" not in self._path:
            real(self)

    with replaced(MemoryFile, "sync", sync):
        yield


@planted
def capture_goes_to_the_worker() -> Iterator[None]:
    """A machine of the host's thread is captured in the worker's, under a later index."""

    def flush(self: Applier, deadline: float) -> None:
        self.behind = False
        self._apply_inline([*self.inline], deadline)
        self._submit()

    def submit(self: Applier) -> None:
        if self._busy:
            return
        waiting = [*self.blocking, *self.inline]
        self.blocking.clear()
        self.inline.clear()
        works = [work for group in waiting if (work := self._next_work(group)) is not None]
        if works:
            self._busy = True
            self._executor.submit(lambda: self._run(works), lambda _, error: self._done(works, error))

    with replaced(Applier, "flush", flush), replaced(Applier, "_submit", submit):
        yield


@planted
def capture_of_a_machine_that_is_ahead() -> Iterator[None]:
    """After a restart, a durable machine's state is filed under the index that was applied again."""
    with replaced(Applier, "_may_capture", staticmethod(lambda *_: True)):
        yield


# --- state machines ------------------------------------------------------------------------------


@planted
def machines_that_a_pass_has_no_time_for_are_forgotten() -> Iterator[None]:
    """What is committed for them stays in their queues until more is."""
    flush = Applier.flush

    def forget(self: Applier, deadline: float) -> None:
        flush(self, deadline)
        if self.behind:
            self.behind = False
            self.inline.clear()

    with replaced(Applier, "flush", forget):
        yield


@planted
def durable_machines_are_fed_again() -> Iterator[None]:
    """`applied_index` counts for nothing after a restart."""
    real = Work._apply

    def apply(self: Work) -> None:
        if self.runs:
            self.group.machine_at = min(self.group.machine_at, self.runs[0].first - 1)
        real(self)

    with replaced(Work, "_apply", apply):
        yield
