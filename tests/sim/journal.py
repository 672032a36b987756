"""What a host's log promises, kept beside the real log: durable now, and after each write under way.

The store that a scheduler gets is the real one behind a thin recorder. The record is what the
invariants compare with: what may have been promised, and what a restart must bring back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from multiraft.interfaces import GroupLog, WriteBatch
from multiraft.messages import HardState, Run, Snapshot
from multiraft.storage.collector import Collection
from multiraft.storage.store import Store
from multiraft.types import GroupId, Index, Term
from tests.sim.world import Violation


@attrs.define(eq=False)
class LogModel:
    """One group's log as terms alone. `terms[0]` belongs to `base`, the compaction point."""

    hard: HardState
    base: Index
    terms: list[Term]
    point: tuple[Index, Term]

    @property
    def last(self) -> Index:
        return self.base + len(self.terms) - 1

    def term(self, index: Index) -> Term | None:
        """None: not here, or compacted."""
        at = index - self.base
        return self.terms[at] if 0 <= at < len(self.terms) else None

    def copy(self) -> LogModel:
        return LogModel(self.hard, self.base, list(self.terms), self.point)

    def described(self) -> tuple[object, ...]:
        return (self.hard.term, self.hard.vote, self.hard.commit, self.base, tuple(self.terms), self.point)


Operation = Callable[[LogModel], None]


def _append(first: Index, last: Index, term: Term) -> Operation:
    def change(log: LogModel) -> None:
        if not log.base < first <= log.last + 1:
            raise Violation(f"append at {first} to a log of {log.base} to {log.last} leaves a gap")
        del log.terms[first - log.base :]
        log.terms += [term] * (last - first + 1)

    return change


def _hard_state(state: HardState) -> Operation:
    def change(log: LogModel) -> None:
        if state.term < log.hard.term:
            raise Violation(f"the term fell from {log.hard.term} to {state.term} (thesis Figure 3.1)")
        if state.term == log.hard.term and log.hard.vote not in (0, state.vote):
            raise Violation(f"the vote of term {state.term} went from {log.hard.vote} to {state.vote} (§3.4)")
        log.hard = state

    return change


def _restart(snapshot: Snapshot) -> Operation:
    def change(log: LogModel) -> None:
        log.base, log.terms = snapshot.index, [snapshot.term]
        log.point = (snapshot.index, snapshot.term)

    return change


def _compact(snapshot: Snapshot, base: Index) -> Operation:
    def change(log: LogModel) -> None:
        if base < log.base:
            return  # a later compaction was done first; the log passes such a record over
        if base > log.last:
            raise Violation(f"compaction up to {base} of a log that ends at {log.last}")
        del log.terms[: base - log.base]
        log.base = base
        log.point = (snapshot.index, snapshot.term)

    return change


class Journal:
    """The logs of one host's disk. It outlives the host's incarnations, as the disk does."""

    def __init__(self) -> None:
        self.durable: dict[GroupId, LogModel] = {}
        """What was reported durable: at least this survives whatever comes."""
        self.newest: dict[GroupId, LogModel] = {}
        """The same with all writes under way."""
        self.under_way: list[RecordingBatch] = []

    def begin(self, groups: Mapping[GroupId, GroupLog]) -> None:
        """A restart: compare what it found with what it had to find, and go on from there."""
        found = {group: _model_of(log) for group, log in groups.items()}
        if self.durable or self.under_way or found:
            self._check_recovered({group: log.described() for group, log in found.items()})
        self.durable = found
        self.newest = {group: log.copy() for group, log in found.items()}
        self.under_way = []

    def _check_recovered(self, found: dict[GroupId, tuple[object, ...]]) -> None:
        """Every batch that was reported durable is there, and of the others a prefix."""
        expected = {group: log.copy() for group, log in self.durable.items()}
        first = {group: log.described() for group, log in expected.items()}
        if first == found:
            return
        for batch in self.under_way:
            batch.apply(expected)
            if {group: log.described() for group, log in expected.items()} == found:
                return
        raise Violation(
            f"recovery found {found} where {first} was durable and {len(self.under_way)} batches under way"
        )


def _model_of(log: GroupLog) -> LogModel:
    base = log.first_index() - 1
    terms = [log.term(index) for index in range(base, log.last_index() + 1)]
    point = log.snapshot_point
    return LogModel(log.hard_state, base, terms, (point.index, point.term))


class RecordingBatch:
    """A `WriteBatch` that also says what it holds."""

    def __init__(self, real: WriteBatch, journal: Journal, on_append: Callable[[GroupId, Run], None]) -> None:
        self.real = real
        self._journal = journal
        self._on_append = on_append
        self._made: dict[GroupId, LogModel] = {}
        self._operations: list[tuple[GroupId, Operation]] = []
        self._removed: list[GroupId] = []

    def __bool__(self) -> bool:
        return bool(self.real)

    def apply(self, logs: dict[GroupId, LogModel]) -> None:
        for group, log in self._made.items():
            logs[group] = log.copy()
        for group, change in self._operations:
            change(logs[group])
        for group in self._removed:
            del logs[group]

    def _do(self, group: GroupId, change: Operation) -> None:
        self._operations.append((group, change))
        change(self._journal.newest[group])

    def create(self, group: GroupId, meta: bytes, state: HardState, snapshot: Snapshot) -> None:
        self.real.create(group, meta, state, snapshot)
        place = (snapshot.index, snapshot.term)
        self._made[group] = LogModel(state, snapshot.index, [snapshot.term], place)
        self._journal.newest[group] = self._made[group].copy()

    def meta(self, group: GroupId, meta: bytes) -> None:
        self.real.meta(group, meta)

    def append(self, group: GroupId, runs: Sequence[Run]) -> None:
        self.real.append(group, runs)
        for run in runs:
            self._on_append(group, run)
            self._do(group, _append(run.first, run.last, run.term))

    def hard_state(self, group: GroupId, state: HardState) -> None:
        self.real.hard_state(group, state)
        self._do(group, _hard_state(state))

    def snapshot(self, group: GroupId, snapshot: Snapshot) -> None:
        self.real.snapshot(group, snapshot)
        self._do(group, _restart(snapshot))

    def compact(self, group: GroupId, snapshot: Snapshot, index: Index) -> None:
        self.real.compact(group, snapshot, index)
        # The log never takes a base below the one that is durable now.
        self._do(group, _compact(snapshot, max(index, self._journal.durable[group].base)))

    def remove(self, group: GroupId) -> None:
        self.real.remove(group)
        self._removed.append(group)
        del self._journal.newest[group]


class RecordingStore:
    """A `LogStore`: the real one, and the journal told of all that goes through."""

    def __init__(self, real: Store, journal: Journal, on_append: Callable[[GroupId, Run], None]) -> None:
        self.real = real
        self._journal = journal
        self._on_append = on_append

    def groups(self) -> Mapping[GroupId, GroupLog]:
        return self.real.groups()

    def batch(self) -> RecordingBatch:
        return RecordingBatch(self.real.batch(), self._journal, self._on_append)

    def submit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        assert isinstance(batch, RecordingBatch)
        journal = self._journal

        def durable() -> None:
            assert journal.under_way[0] is batch, "batches are done in the order of submission"
            del journal.under_way[0]
            batch.apply(journal.durable)
            done()

        self.real.submit(batch.real, durable)
        journal.under_way.append(batch)

    def collect(self, *, max_bytes: int = 1 << 20, max_groups: int = 1000) -> Collection:
        return self.real.collect(max_bytes=max_bytes, max_groups=max_groups)

    def close(self) -> None:
        """Hosts of a simulation are never closed, only stopped."""
