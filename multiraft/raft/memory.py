"""A stable log in memory: the `LogReader` of tests and of the simulator."""

from __future__ import annotations

from collections.abc import Sequence

from multiraft.errors import LogCompacted, LogUnavailable
from multiraft.messages import ConfState, HardState, Run, Snapshot
from multiraft.raft.runs import fitting, position, stretch
from multiraft.types import Index, Term

__all__ = ["MemoryLog", "SnapshotOutdated"]


class SnapshotOutdated(Exception):
    """The snapshot is not newer than the one the log has."""

    def __init__(self) -> None:
        super().__init__("requested index is older than the existing snapshot")


class MemoryLog:
    """Holds a compaction point and the runs behind it. Read by the core, written by its owner.

    Runs are values and every list that leaves is a copy, so nothing that was handed out is
    changed by later writes.
    """

    __slots__ = ("_dummy_index", "_dummy_term", "_hard_state", "_runs", "_snapshot")

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot()
        self._dummy_index: Index = 0
        self._dummy_term: Term = 0
        self._runs: list[Run] = []
        if snapshot is not None:
            self.apply_snapshot(snapshot)

    # --- LogReader -------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._snapshot.conf_state

    def first_index(self) -> Index:
        return self._dummy_index + 1

    def last_index(self) -> Index:
        return self._runs[-1].last if self._runs else self._dummy_index

    def term(self, index: Index) -> Term:
        if index < self._dummy_index:
            raise LogCompacted(index)
        if index == self._dummy_index:
            return self._dummy_term
        if index > self.last_index():
            raise LogUnavailable(index)
        return self._runs[position(self._runs, index)].term

    def runs(self, first: Index, last: Index, max_bytes: int) -> list[Run]:
        if first <= self._dummy_index:
            raise LogCompacted(first)
        if last > self.last_index():
            raise LogUnavailable(last)
        return fitting(stretch(self._runs, first, last), max_bytes) if first <= last else []

    def changed_at(self) -> Index:
        return self.last_index()  # nobody counts them: whoever asks has to look

    def snapshot(self) -> Snapshot:
        return self._snapshot

    # --- writing ---------------------------------------------------------------------------

    def set_hard_state(self, state: HardState) -> None:
        self._hard_state = state

    def append(self, runs: Sequence[Run]) -> None:
        """Store `runs`, replacing everything from the first one's index on.

        What lies at or below the compaction point is dropped. A gap is a bug.
        """
        if runs and runs[0].first == self.last_index() + 1:
            self._runs.extend(runs)
            return
        kept = [run for run in runs if run.last > self._dummy_index]
        if not kept:
            return
        first = max(kept[0].first, self._dummy_index + 1)
        kept[0] = kept[0].cut(first, kept[0].last)
        assert first <= self.last_index() + 1, "a log has no gaps"
        before = (
            stretch(self._runs, self._dummy_index + 1, first - 1) if first > self._dummy_index + 1 else []
        )
        self._runs = before + kept

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Start over behind `snapshot`. Raises: SnapshotOutdated."""
        if self._snapshot.index and self._snapshot.index >= snapshot.index:
            raise SnapshotOutdated
        self._snapshot = snapshot
        self._dummy_index = snapshot.index
        self._dummy_term = snapshot.term
        self._runs = []

    def create_snapshot(self, index: Index, conf_state: ConfState, data: bytes = b"") -> Snapshot:
        """Remember a snapshot of the state at `index`. Raises: SnapshotOutdated."""
        if index <= self._snapshot.index:
            raise SnapshotOutdated
        self._snapshot = Snapshot(index, self.term(index), conf_state, data)
        return self._snapshot

    def compact(self, index: Index) -> None:
        """Drop entries up to `index`, which becomes the compaction point. Raises: LogCompacted."""
        if index <= self._dummy_index:
            raise LogCompacted("requested index is unavailable due to compaction")
        assert index <= self.last_index(), "only what is there is compacted"
        term = self.term(index)
        self._runs = stretch(self._runs, index + 1, self.last_index()) if index < self.last_index() else []
        self._dummy_index, self._dummy_term = index, term
